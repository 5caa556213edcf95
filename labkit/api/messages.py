"""Requests and answers of the Engine API, as the API modules see them.

Query parameters follow dockerd's rules (moby `api/server/httputils`): what counts as true, what a `filters`
parameter looks like. An answer is a value: a `Response` (all at once), a `Stream` (chunked) or a `Hijack`
(the connection becomes a raw byte stream, as attach and exec need it).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from labkit.api import bodies
from labkit.api.streams import Hijacked
from labkit.errors import InvalidParameter
from labkit.trace import TraceContext, continue_trace

T = TypeVar("T")

BODY_LIMIT = 4 << 20
_FALSE = ("", "0", "no", "false", "none")


async def _no_body() -> AsyncIterator[bytes]:
    """The body of a request that has none."""
    nothing: tuple[bytes, ...] = ()
    for piece in nothing:
        yield piece


class Request:
    """One HTTP request. `path` has no version prefix; `version` is the one that the client asked for."""

    def __init__(
        self,
        method: str,
        path: str,
        version: tuple[int, int],
        query: dict[str, list[str]],
        headers: dict[str, str],
        gone: asyncio.Event,
        chunks: AsyncIterator[bytes] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.version = version
        self.params: dict[str, str] = {}
        self.query = query
        self.headers = headers
        self.gone = gone
        self._chunks = chunks

    @cached_property
    def context(self) -> TraceContext:
        """The span of this request, below the client's if the client sent a `traceparent`."""
        return continue_trace(self.headers.get("traceparent"))

    def text(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        values = self.query.get(name)
        return values[0] if values else default

    def flag(self, name: str, default: bool = False) -> bool:
        """A query parameter as a truth value, by dockerd's rule (`httputils.BoolValueOrDefault`)."""
        if name not in self.query:
            return default
        return self.text(name).strip().lower() not in _FALSE

    def number(self, name: str, default: int | None = None) -> int | None:
        """A query parameter as an integer; an empty one counts as absent, as for dockerd."""
        text = self.text(name)
        if not text:
            return default
        try:
            return int(text)
        except ValueError:
            raise InvalidParameter(f'invalid value for {name}: parsing "{text}": invalid syntax') from None

    def filters(self) -> dict[str, list[str]]:
        """The `filters` parameter: a JSON map of lists, or (older clients) of {value: true} maps."""
        text = self.text("filters")
        if not text:
            return {}
        try:
            decoded = msgspec.json.decode(text, type=dict[str, list[str] | dict[str, bool]] | None)
        except msgspec.MsgspecError as error:
            raise InvalidParameter(f"invalid filters: {error}") from None
        return {
            name: values if isinstance(values, list) else [value for value, wanted in values.items() if wanted]
            for name, values in (decoded or {}).items()
        }

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives; nothing more is read from the client than is taken here. Once only."""
        return _no_body() if self._chunks is None else self._chunks

    async def body(self, limit: int = BODY_LIMIT) -> bytes:
        """The whole body, of at most `limit` bytes."""
        pieces, size = [], 0
        async for piece in self.chunks():
            size += len(piece)
            if size > limit:
                raise InvalidParameter(f"request body is too large: more than {limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    async def json(self, type: type[T]) -> T:
        """The body as a value of `type`; `type()` if there is no body."""
        body = await self.body()
        if not body.strip():
            return type()
        check_json_type(self.headers.get("content-type", ""))
        return bodies.decode(body, type)


def check_json_type(content_type: str) -> None:
    """Refuse a body that doesn't say that it is JSON, as dockerd does (`httputils.CheckForJSON`)."""
    media_type = content_type.split(";")[0].strip().lower()
    if not media_type:
        raise InvalidParameter("malformed Content-Type header (): mime: no media type")
    if media_type != "application/json":
        raise InvalidParameter(f"unsupported Content-Type header ({content_type}): must be 'application/json'")


@dataclass(frozen=True)
class Response:
    """An answer that is known as a whole."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Stream:
    """An answer that is sent in pieces. Its headers are sent before the first piece is awaited.

    `length` is the number of bytes where it is known: they go out as they are then, instead of in HTTP's chunks.

    The iterator is always started, and always closed or cancelled when the client goes: what a route acquires
    before it answers is safely released in a `finally` of the generator.
    """

    chunks: AsyncIterator[bytes]
    content_type: str = "application/json"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None


@dataclass(frozen=True)
class Hijack:
    """An answer after which the connection is a raw byte stream that `run` reads and writes (Engine API, attach)."""

    run: Callable[[Hijacked], Awaitable[None]]
    content_type: str = "application/vnd.docker.raw-stream"


Answer = Response | Stream | Hijack


def json_response(value: Any, status: int = 200) -> Response:
    """A response with `value` as JSON."""
    return Response(status, msgspec.json.encode(value))


def error_response(status: int, message: str) -> Response:
    """The Engine API's `ErrorResponse`."""
    return json_response({"message": message}, status)


_REASONS = {
    101: "UPGRADED",
    200: "OK",
    201: "Created",
    204: "No Content",
    206: "Partial Content",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    406: "Not Acceptable",
    409: "Conflict",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}


def status_line(status: int) -> str:
    """The first line of an answer (RFC 9112, section 4)."""
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\n"


def header_lines(headers: tuple[tuple[str, str], ...]) -> str:
    """Header lines. A line break in a value would let it forge headers: a programming error."""
    text = "".join(f"{name}: {value}\r\n" for name, value in headers)
    if text.count("\r") != len(headers) or text.count("\n") != len(headers):
        raise ValueError(f"line break in an HTTP header: {headers!r}")
    return text
