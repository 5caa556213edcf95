"""HTTP as registries need it, on urllib3: redirects by hand, retries with back-off, all told and cancellable.

RFC 9110 for redirects, Range and Retry-After. A request is answered or raises Unreachable (no connection: another
address may do) or Broken (the connection ended in the middle). What an answer's status means, its caller decides.
"""

from __future__ import annotations

import os
import random
import ssl
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from urllib.parse import unquote, urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

import labkit
from labkit import certificates
from labkit.errors import Forbidden, LabkitError, Unavailable
from labkit.registry.cancelling import Cancelled
from labkit.registry.endpoints import Endpoint, load_certificates
from labkit.registry.exchange import Exchange, Observe, shown_received, shown_sent, shown_url
from labkit.registry.proxies import proxy_for
from labkit.trace import TraceContext

PIECE = 1 << 18  # bytes that are read at once; fits the second-level cache
_REDIRECTS = 10
_REDIRECTED = {301: "GET", 302: "GET", 303: "GET", 307: "", 308: ""}
PASSING = frozenset((429, 500, 502, 503, 504))  # what a later try may mend
_BROKEN = (urllib3.exceptions.HTTPError, OSError)

Body = bytes | Callable[[], Iterable[bytes]] | None
"""What a request carries; a function gives it anew for each try."""


class Unreachable(Unavailable):
    """No connection came about."""


class Broken(Unavailable):
    """The connection ended before the answer was complete."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait and how often to try. In seconds."""

    connect: float = 15.0
    read: float = 60.0
    attempts: int = 5
    pause: float = 0.3
    longest: float = 60.0

    def pause_after(self, failures: int, retry_after: float | None = None) -> float | None:
        """The pause before the next try; None if there is none, or the server wants one longer than ours."""
        if failures >= self.attempts or (retry_after or 0) > self.longest:
            return None
        if retry_after is not None:
            return retry_after
        pause = min(self.longest, self.pause * float(1 << failures - 1))
        return pause * random.uniform(0.75, 1.25)


PATIENT = Patience()


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `purpose` says in the trace what it is for."""

    method: str
    url: str
    purpose: str
    headers: dict[str, str]
    body: Body = None
    repeatable: bool = True

    def made(self) -> bytes | Iterable[bytes] | None:
        return self.body() if callable(self.body) else self.body


def retry_after(value: str | None, now: datetime) -> float | None:
    """The seconds that a Retry-After header asks for, in either form; None where there is none that makes sense."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - now).total_seconds())


def origin(url: str) -> tuple[str, str, int]:
    """Whom one talks to (RFC 6454). Raises Forbidden for a URL that isn't HTTP."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        raise Forbidden(f"malformed URL: {shown_url(url)}") from None
    if not port or not parts.hostname:
        raise Forbidden(f"refusing to go to {shown_url(url)}: it isn't http or https")
    return parts.scheme, parts.hostname, port


def resolved(url: str, location: str) -> str:
    """The URL that a Location or Link header of an answer names. Raises Forbidden if it gives up the encryption."""
    try:
        target = urljoin(url, location)
    except ValueError:
        raise Forbidden("malformed URL in the registry's answer") from None
    if origin(target)[0] == "http" and origin(url)[0] == "https":
        raise Forbidden(f"refusing to follow the redirect from https to {shown_url(target)}: it isn't encrypted")
    return target


def redirected(request: Request, status: int, location: str) -> Request:
    """The request to make instead, without credentials if it goes to another origin. Raises Forbidden."""
    url = resolved(request.url, location)
    headers = dict(request.headers)
    if origin(url) != origin(request.url):
        headers.pop("Authorization", None)
    return replace(request, url=url, headers=headers, method=_REDIRECTED[status] or request.method)


def _is_redirect(request: Request, status: int) -> bool:
    """A redirect that would make a GET of a request with a body isn't followed."""
    return status in _REDIRECTED and (request.method in ("GET", "HEAD") or not _REDIRECTED[status])


class Transport:
    """The connections to one endpoint, and to where it redirects. All methods may be called from any thread."""

    def __init__(
        self,
        endpoint: Endpoint,
        observe: Observe,
        cancelled: Cancelled,
        context: TraceContext | None = None,
        patience: Patience = PATIENT,
    ) -> None:
        self.endpoint = endpoint
        self.patience = patience
        self.cancelled = cancelled
        self._observe = observe
        self._context = context
        self.answered = False
        self._tls = load_certificates(_watched_tls(cancelled), endpoint)
        self._pools: dict[str, urllib3.PoolManager] = {}

    def close(self) -> None:
        for pool in self._pools.values():
            pool.clear()

    def send(self, request: Request) -> Answer:
        """The answer, after redirects and retries; its body isn't read yet. Close it.

        Raises Unreachable, Broken, Forbidden, and Unavailable when cancelled.
        """
        failures = 0
        while True:
            self.cancelled.check()
            try:
                answer = self._follow(request)
            except (Unreachable, Broken):
                failures += 1
                pause = self.patience.pause_after(failures)
                if pause is None or not self.answered or not request.repeatable:
                    raise
            else:
                if answer.status not in PASSING or not request.repeatable:
                    return answer
                failures += 1
                asked = retry_after(answer.headers.get("Retry-After"), datetime.now(UTC))
                pause = self.patience.pause_after(failures, asked)
                if pause is None:
                    return answer
                answer.drain()
            self.cancelled.wait(pause)

    def _follow(self, request: Request) -> Answer:
        for _ in range(_REDIRECTS + 1):
            answer = self._once(request)
            location = answer.headers.get("Location")
            if not _is_redirect(request, answer.status) or not location:
                return answer
            answer.drain()
            request = redirected(request, answer.status, location)
        raise LabkitError(f'{request.method.title()} "{shown_url(request.url)}": stopped after {_REDIRECTS} redirects')

    def _once(self, request: Request) -> Answer:
        """One request on the wire."""
        headers = {"User-Agent": f"labkit/{labkit.__version__}", "Accept-Encoding": "identity", **request.headers}
        context = self._context.child() if self._context else None
        if context:
            headers["traceparent"] = context.traceparent()
        origin(request.url)  # raises for what isn't HTTP
        began = time.time_ns()
        told = Exchange(
            request.method, shown_url(request.url), request.purpose, 0, began, began, shown_sent(headers), (), 0
        )
        told = replace(told, context=context)
        try:
            response = self._pool(request.url).urlopen(
                request.method,
                request.url,
                body=request.made(),
                headers=headers,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=self.patience.connect, read=self.patience.read),
            )
        except _BROKEN as error:
            failure = self._failure(request, error)
            traceback.clear_frames(error.__traceback__)  # they hold half an answer, and with it an open connection
            self._observe(replace(told, ended=time.time_ns(), error=str(failure)))
            self.cancelled.check()
            raise failure from None  # its cause may name a URL in full
        self.answered = True
        return Answer(request, response, told, self._observe, self.cancelled)

    def _failure(self, request: Request, error: Exception) -> Unavailable:
        """The error in the words of Go's net/http."""
        url = shown_url(request.url)
        host, port = origin(request.url)[1:]
        kind: type[Unavailable]
        if isinstance(error, urllib3.exceptions.NameResolutionError):
            said, kind = f"dial tcp: lookup {host}: no such host", Unreachable
        elif isinstance(error, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError):
            said, kind = f"dial tcp {host}:{port}: {_connect_error(error)}", Unreachable
        elif isinstance(error, urllib3.exceptions.SSLError):
            said, kind = f"tls: failed to verify or establish the connection: {error}", Unreachable
        elif isinstance(error, urllib3.exceptions.ProxyError):
            said, kind = f"proxyconnect tcp: {error}", Unreachable
        elif isinstance(error, urllib3.exceptions.ReadTimeoutError):
            said, kind = f"no answer within {self.patience.read:g} seconds", Broken
        else:
            said, kind = "unexpected EOF", Broken
        if kind is Unreachable and url.startswith(self.endpoint.url):
            url = f"{self.endpoint.url}/v2/"  # it isn't this path that failed
        return kind(f'{request.method.title()} "{url}": {said}')

    def _pool(self, url: str) -> urllib3.PoolManager:
        """The connections for a URL: direct ones, or those through a proxy."""
        proxy = proxy_for(url, os.environ)
        if proxy not in self._pools:
            if not proxy:
                pool = urllib3.PoolManager(maxsize=16, ssl_context=self._tls)
            else:
                userinfo = unquote(urlsplit(proxy).netloc.rpartition("@")[0])
                headers = urllib3.make_headers(proxy_basic_auth=userinfo) if userinfo else None
                pool = urllib3.ProxyManager(proxy, maxsize=16, ssl_context=self._tls, proxy_headers=headers)
            pool.pool_classes_by_scheme = _watched_pools(self.cancelled)
            self._pools[proxy] = pool
        return self._pools[proxy]


def _connect_error(error: Exception) -> str:
    """What connect(2) said, as Go tells it."""
    if isinstance(error.__cause__, OSError) and error.__cause__.errno:
        return f"connect: {os.strerror(error.__cause__.errno).lower()}"
    return "i/o timeout"


def _watched_pools(cancelled: Cancelled) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's pools with connections that end when it is cancelled."""

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            cancelled.watch(self.sock)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class Secure(HTTPSConnection):
        """Its sockets are watched from the handshake on."""

        def connect(self) -> None:
            super().connect()
            self.is_verified = True  # or needn't be, by --insecure-registry: no warning at each request

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _watched_tls(cancelled: Cancelled) -> ssl.SSLContext:
    """A context with the system's authorities, whose sockets end when it is cancelled."""

    class Watched(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            cancelled.watch(self)
            super().do_handshake(block)

    context = certificates.trusting()
    context.sslsocket_class = Watched
    return context


class Answer:
    """A response whose body is still to be read. A context manager; its exchange is told when it is closed."""

    def __init__(
        self,
        request: Request,
        response: urllib3.BaseHTTPResponse,
        told: Exchange,
        observe: Observe,
        cancelled: Cancelled,
    ) -> None:
        self.request = request
        self.status = response.status
        self.headers = response.headers
        self._response = response
        self._told = told
        self._observe: Observe | None = observe
        self._cancelled = cancelled
        self._size = 0
        self._error = ""

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, LabkitError):
            self._error = self._error or str(error)
        self.close()

    def pieces(self) -> Iterator[bytes]:
        """The body. Raises Broken where it ends early, or stays away."""
        while True:
            try:
                piece = self._response.read(PIECE, decode_content=False)
            except _BROKEN as error:
                self._cancelled.check()
                late = isinstance(error, urllib3.exceptions.ReadTimeoutError)
                self._error = "no data within the time allowed" if late else "unexpected EOF"
                raise Broken(f'{self.request.method.title()} "{self._told.url}": {self._error}') from None
            if not piece:
                return
            self._size += len(piece)
            yield piece

    def read(self, limit: int, what: str) -> bytes:
        """The whole body. Raises LabkitError if it is longer than `limit` bytes, Broken."""
        body = bytearray()
        for piece in self.pieces():
            body += piece
            if len(body) > limit:
                raise LabkitError(f"{what} is larger than the {limit} bytes that are allowed ({self._told.url})")
        return bytes(body)

    def drain(self, limit: int = 1 << 16) -> bytes:
        """What of the body is worth reading for an error's text, then closes."""
        body = b""
        with self:
            try:
                body = self.read(limit, "answer")
            except (Broken, LabkitError):
                pass  # the status tells enough
        self._cancelled.check()
        return body

    def close(self) -> None:
        """Keeps the connection for the next request if the body was read, ends it otherwise."""
        if self._observe is None:
            return
        observe, self._observe = self._observe, None
        if self._response.length_remaining == 0:
            self._response.read()  # nothing more, but it makes the connection free
        if not self._response.closed:
            self._response.close()
        self._response.release_conn()
        received = shown_received(self.headers)
        ended, sent = time.time_ns(), int(dict(self._told.sent).get("Content-Length", 0))
        observe(
            replace(
                self._told,
                status=self.status,
                ended=ended,
                received=received,
                size=sent or self._size,
                error=self._error,
            )
        )
