"""One HTTP request that was made of a registry, as data for the trace: a pull explains itself by these.

Secrets never get in: credentials and tokens are named but hidden, and of a URL's query only what the distribution
specification and Docker's token protocol define is shown (a storage service's signed links are passwords).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from labkit.trace import TraceContext

HIDDEN = "(hidden)"
_SHOWN_QUERY = frozenset(
    ("account", "artifactType", "client_id", "digest", "from", "last", "mount", "n", "offline_token", "q", "scope")
) | {"service"}
_SENT = ("Accept", "Authorization", "Content-Length", "Content-Range", "Content-Type", "Range")
_RECEIVED = (
    *("Content-Length", "Content-Range", "Content-Type", "Docker-Content-Digest", "Link", "Location", "Range"),
    *("Retry-After", "WWW-Authenticate"),
)
_RECEIVED_FAMILIES = ("oci-", "ratelimit-", "docker-ratelimit-")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer. Times are nanoseconds since the epoch; `ended` is when the body was consumed.

    `status` is 0 where no answer came. `size` counts the bytes of the body: the answer's, or the request's where the
    request carried it. `context` is the span that the request's `traceparent` named.
    """

    method: str
    url: str
    purpose: str
    status: int
    began: int
    ended: int
    sent: tuple[tuple[str, str], ...]
    received: tuple[tuple[str, str], ...]
    size: int
    error: str = ""
    context: TraceContext | None = None


Observe = Callable[[Exchange], None]


def unobserved(exchange: Exchange) -> None:
    """Tells nobody."""


def shown_url(url: str) -> str:
    """The URL without user information, and without the values of queries that may be secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(malformed URL)"
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = "&".join(
        f"{quote(key)}={quote(value, safe='/:,@') if key in _SHOWN_QUERY else HIDDEN}" for key, value in pairs
    )
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


def _shown_authorization(value: str) -> str:
    """The scheme, and for Basic whose password it is."""
    scheme, _, secret = value.partition(" ")
    if scheme.lower() != "basic":
        return f"{scheme} {HIDDEN}"
    try:
        user = base64.b64decode(secret, validate=True).decode().partition(":")[0]
    except ValueError:  # not base64, or not UTF-8
        return f"{scheme} {HIDDEN}"
    return f"{scheme} {user}:{HIDDEN}"


def shown_sent(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Those of a request's headers that explain it."""
    shown = {name: headers[name] for name in _SENT if name in headers}
    if "Authorization" in shown:
        shown["Authorization"] = _shown_authorization(shown["Authorization"])
    return tuple(shown.items())


def shown_received(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Those of an answer's headers that explain it."""
    shown = {name: headers[name] for name in _RECEIVED if name in headers}
    shown |= {name: value for name, value in headers.items() if name.lower().startswith(_RECEIVED_FAMILIES)}
    if "Location" in shown:
        shown["Location"] = shown_url(shown["Location"])
    if "Link" in shown:
        target, bracket, rest = shown["Link"].partition(">")
        shown["Link"] = "<" + shown_url(target.lstrip(" <")) + bracket + rest
    return tuple(shown.items())
