"""`docker search` and `docker login`: what the engine asks of a registry besides images.

Docker Hub's search API (`index.docker.io/v1/search`); where another registry has none, its catalogue is searched.
Logging in is a request to `/v2/` that must succeed (dockerd's `registry/auth.go`, `registry/search.go`; its words).
"""

from __future__ import annotations

import http
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from urllib.parse import urlencode, urlsplit

import msgspec

from labkit.errors import InvalidParameter, LabkitError, Unauthorized, Unavailable
from labkit.registry.auth import parse_challenges
from labkit.registry.cancelling import Cancelled
from labkit.registry.credentials import ANONYMOUS, Credentials
from labkit.registry.endpoints import DEFAULT, HUB, Settings
from labkit.registry.exchange import Observe, unobserved
from labkit.registry.faults import registry_error
from labkit.registry.listing import catalog
from labkit.registry.session import Session
from labkit.registry.transport import PATIENT, Patience, Request, Unreachable
from labkit.trace import TraceContext

_INDEX = "index.docker.io"  # where Docker Hub answers searches
_LIMIT = 25
_LARGEST = 100
_ANSWER_LIMIT = 8 << 20  # bytes
_TRUE, _FALSE = frozenset(("true", "1")), frozenset(("false", "0"))
_SUCCEEDED = "Login Succeeded"


class SearchResult(msgspec.Struct, frozen=True):
    """One repository that was found (Engine API `ImageSearch`)."""

    name: str = ""
    description: str = ""
    is_official: bool = False
    is_automated: bool = False
    star_count: int = 0


class _Entry(msgspec.Struct, frozen=True):
    """A result as the index tells it: what it doesn't know may be null."""

    name: str
    description: str | None = None
    is_official: bool | None = None
    is_automated: bool | None = None
    star_count: int | None = None

    def result(self) -> SearchResult:
        flags = bool(self.is_official), bool(self.is_automated)
        return SearchResult(self.name, self.description or "", *flags, self.star_count or 0)


class _Found(msgspec.Struct, frozen=True):
    results: tuple[_Entry, ...] | None = None


class Wanted(msgspec.Struct, frozen=True):
    """The filters of a search."""

    stars: int = 0
    is_official: bool | None = None
    is_automated: bool | None = None

    def fits(self, result: SearchResult) -> bool:
        return (
            result.star_count >= self.stars
            and self.is_official in (None, result.is_official)
            and self.is_automated in (None, result.is_automated)
        )


def wanted(filters: Mapping[str, Sequence[str]]) -> Wanted:
    """The filters is-automated, is-official and stars. Raises InvalidParameter, as dockerd words it."""
    for name in filters:
        if name not in ("is-automated", "is-official", "stars"):
            raise InvalidParameter(f"invalid filter '{name}'")
    stars = 0
    for value in filters.get("stars", ()):
        if not (value.isascii() and value.isdecimal()):
            raise InvalidParameter(f"invalid filter 'stars={value}'")
        stars = max(stars, int(value))
    return Wanted(stars, _boolean(filters, "is-official"), _boolean(filters, "is-automated"))


def _boolean(filters: Mapping[str, Sequence[str]], name: str) -> bool | None:
    values = set(filters.get(name, ()))
    if not values:
        return None
    if values <= _TRUE:
        return True
    if values <= _FALSE:
        return False
    raise InvalidParameter(f"invalid filter '{name}=[{' '.join(sorted(values))}]'")


def split_term(term: str) -> tuple[str, str]:
    """The registry and what to search there: HOST/TERM, or Docker Hub. Raises InvalidParameter."""
    if "://" in term:
        raise InvalidParameter(f"invalid repository name: repository name ({term}) should not have a scheme")
    first, slash, rest = term.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return (HUB if first in (HUB, _INDEX) else first), rest.removeprefix("library/")
    return HUB, term.removeprefix("library/")


def search(
    term: str,
    limit: int = 0,
    filters: Mapping[str, Sequence[str]] | None = None,
    settings: Settings = DEFAULT,
    credentials: Credentials = ANONYMOUS,
    observe: Observe = unobserved,
    cancelled: Cancelled | None = None,
    context: TraceContext | None = None,
    patience: Patience = PATIENT,
) -> list[SearchResult]:
    """The repositories that a registry finds, at most `limit` (25 if 0).

    Where Docker Hub can't be reached, its mirrors' catalogues are searched. Raises InvalidParameter, and what a
    Repository raises.
    """
    if not 0 <= limit <= _LARGEST:
        raise InvalidParameter(f"limit {limit} is outside the range of [1, {_LARGEST}]")
    fits, limit = wanted(filters or {}).fits, limit or _LIMIT
    domain, what = split_term(term)

    def session(host: str) -> Session:
        return Session(host, settings, credentials, observe, cancelled or Cancelled(), context, patience=patience)

    with closing(session(_INDEX if domain == HUB else domain)) as index:
        try:
            found = _searched(index, what, limit)
        except Unreachable:
            if domain != HUB or not settings.mirrors:
                raise
            with closing(session(HUB)) as mirrors:
                found = _listed(mirrors, what)
        else:
            found = _listed(index, what) if found is None else found
        return [result for result in found if fits(result)][:limit]


def _searched(session: Session, what: str, limit: int) -> Iterator[SearchResult] | None:
    """What the registry's search API finds; None if it has none."""
    path = f"/v1/search?{urlencode({'q': what, 'n': limit})}"
    with session.ask("GET", path, f"search for {what}", ("registry:catalog:search",)) as answer:
        if answer.status in (404, 405, 410) and session.domain != _INDEX:
            return None
        if answer.status != 200:
            raise registry_error(answer)
        body = answer.read(_ANSWER_LIMIT, "the list of search results")
    try:
        found = msgspec.json.decode(body, type=_Found).results or ()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LabkitError(f"the registry's search results can't be read: {error}") from error
    return (entry.result() for entry in found)


def _listed(session: Session, what: str) -> Iterator[SearchResult]:
    """What the registry's catalogue holds that has the term in its name."""
    names = (name for page in catalog(session) for name in page if what.lower() in name)
    hub = session.domain == HUB
    for name in names:
        official = hub and name.startswith("library/")
        yield SearchResult(name.removeprefix("library/") if hub else f"{session.domain}/{name}", is_official=official)


def server_domain(server: str) -> str:
    """The registry that a `serveraddress` names, which may be a URL; Docker Hub's old index is Docker Hub."""
    host = urlsplit(server if "://" in server else f"//{server}").netloc
    return HUB if host in ("", HUB, _INDEX, "registry-1.docker.io") else host


def login(
    server: str,
    credentials: Credentials,
    settings: Settings = DEFAULT,
    observe: Observe = unobserved,
    cancelled: Cancelled | None = None,
    context: TraceContext | None = None,
    patience: Patience = PATIENT,
) -> tuple[str, str]:
    """Tries the credentials; returns the status to show and the identity token, where the registry gives one.

    Raises Unauthorized where they are refused.
    """
    stop = cancelled or Cancelled()
    session = Session(server_domain(server), settings, credentials, observe, stop, context, True, patience)
    with closing(session):
        with session.ask("GET", "/v2/", "what the registry asks for", (), proven=False) as answer:
            if answer.status == 200:
                return _SUCCEEDED, ""
            if answer.status != 401:
                raise registry_error(answer)
            challenges = parse_challenges(answer.headers.getlist("WWW-Authenticate"))
        place, url = session.place, answer.request.url
        try:
            value, identity = place.authorizer.login(challenges)
        except Unauthorized as error:
            raise Unauthorized(f'Get "{url}": {error}') from error
        headers = {"Authorization": value} if value else {}
        with place.transport.send(Request("GET", url, "log in", headers)) as answer:
            if answer.status != 200:
                said = f"login attempt to {url} failed with status: {answer.status} {_phrase(answer.status)}"
                raise (Unauthorized if answer.status < 500 else Unavailable)(said)
        return _SUCCEEDED, identity


def _phrase(status: int) -> str:
    return next((entry.phrase for entry in http.HTTPStatus if entry.value == status), "")
