"""The Engine API client of the `labkit` command and of the magics: requests, answers, streams, spans.

Docker's own client library has the same place. Paths carry no version: an unversioned path means the
engine's newest API (Engine API, "Versioning"), which saves the `_ping` that negotiation needs. All
requests of a client share one trace; each is a span of it (W3C Trace Context).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from labkit import errors
from labkit.client.transport import Connection, connect, parse_host, percent_encode

if TYPE_CHECKING:
    from labkit.client.tls import Security
    from labkit.trace import Span, TraceContext

Query = Mapping[str, str | int | bool | Sequence[str] | None]
Body = bytes | Mapping[str, Any] | Iterable[bytes] | None

_ERRORS: dict[int, type[errors.LabkitError]] = {
    error.status: error
    for error in (
        errors.InvalidParameter,
        errors.Unauthorized,
        errors.Forbidden,
        errors.NotFound,
        errors.Conflict,
        errors.NotImplementedByLabkit,
        errors.Unavailable,
    )
}


def encode_query(query: Query) -> str:
    """`?name=value&…`, or nothing; False and None are left out, True is 1, a list repeats its name."""
    pairs: list[tuple[str, str]] = []
    for name, value in query.items():
        if value is None or value is False:
            continue
        values = [value] if isinstance(value, str | int) else value
        pairs += [(name, "1" if item is True else str(item)) for item in values]
    encoded = "&".join(f"{name}={percent_encode(value)}" for name, value in pairs)
    return f"?{encoded}" if encoded else ""


def encode_filters(filters: Sequence[tuple[str, str]]) -> str | None:
    """The `filters` parameter (a JSON map of lists), or None if there are none."""
    grouped: dict[str, list[str]] = {}
    for name, value in filters:
        grouped.setdefault(name, []).append(value)
    return json.dumps(grouped, separators=(",", ":")) if grouped else None


class Answer:
    """An answer whose body is read as it comes. Read it to the end, or close it."""

    def __init__(self, client: Client, connection: Connection, record: _Record) -> None:
        self._client = client
        self._record = record
        self.connection = connection
        self.status, self.headers = connection.read_head()
        record.attributes["http.response.status_code"] = self.status

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces, as they arrive."""
        try:
            yield from self._pieces()
        except (
            BaseException
        ):  # also when the reader stops early: what is left of the body must not be read as an answer
            self.close()
            raise
        self._finish()

    def _pieces(self) -> Iterator[bytes]:
        length = self.headers.get("content-length")
        if self.status in (101, 204, 304) or self._record.method == "HEAD":
            return
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            yield from self.connection.read_chunks()
        elif length is None:
            while data := self.connection.read():
                yield data
        else:
            remaining = int(length)
            while remaining:
                if not (data := self.connection.read(remaining)):
                    raise errors.Unavailable(f"{self.connection.host}: unexpected EOF")
                remaining -= len(data)
                yield data

    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks())

    def json(self) -> Any:
        """The whole body, decoded; None if there is none."""
        return json.loads(self.body() or b"null")

    def lines(self) -> Iterator[bytes]:
        """The body line by line, as lines are completed."""
        rest = b""
        for chunk in self.chunks():
            *complete, rest = (rest + chunk).split(b"\n")
            yield from complete
        if rest:
            yield rest

    def messages(self) -> Iterator[Any]:
        """The JSON messages of a progress or event stream, one a line."""
        for line in self.lines():
            if line.strip():
                yield json.loads(line)

    def _finish(self) -> None:
        self._client._ended(self._record)
        delimited = "content-length" in self.headers or "transfer-encoding" in self.headers
        if (delimited or self.status in (204, 304)) and self.headers.get("connection", "").lower() != "close":
            self._client.adopt(self.connection)
        else:
            self.connection.close()

    def close(self) -> None:
        """Ends the exchange, and with it the connection, wherever it stands."""
        self._client._ended(self._record)
        self.connection.close()


class _Record:
    """What becomes a span. Light, because a command needs no span unless someone asks."""

    def __init__(self, method: str, path: str) -> None:
        self.method = method
        self.path = path
        self.span_id = os.urandom(8).hex()
        self.began = time.time_ns()
        self.ended = 0
        self.error = ""
        self.attributes: dict[str, Any] = {"http.request.method": method, "url.path": path}


class Exchange(NamedTuple):
    """A request that was sent and whose answer hasn't been read."""

    connection: Connection
    record: _Record


class Client:
    """An engine at `host` (`unix:///path` or `tcp://host:port`), and one trace of what was asked of it."""

    def __init__(self, host: str, security: Security | None = None) -> None:
        self.address = parse_host(host, security)
        self.trace_id = os.urandom(16).hex()
        self._root_id = os.urandom(8).hex()
        self._records: list[_Record] = []
        self._idle: list[Connection] = []

    @property
    def host(self) -> str:
        return self.address.host

    @property
    def trace(self) -> TraceContext:
        """The root of this client's trace: the command or magic that makes the requests."""
        from labkit.trace import TraceContext

        return TraceContext(self.trace_id, self._root_id)

    @property
    def spans(self) -> list[Span]:
        """The spans of the requests that have ended, in the order in which they were made."""
        from labkit.trace import Span, TraceContext

        return [
            Span(
                TraceContext(self.trace_id, record.span_id, self._root_id),
                f"{record.method} {record.path}",
                "client",
                record.began,
                record.ended,
                record.attributes,
                (),
                record.error,
            )
            for record in self._records
            if record.ended
        ]

    def request(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Asks, and returns the answer once its head is there. An error status becomes the error it stands for.

        A mapping is sent as JSON, bytes with their length, anything else that iterates as it comes, in chunks.
        """
        return self.answer(self.begin(method, path, query, body, headers))

    def begin(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
    ) -> Exchange:
        """Asks without waiting: several engine actions can be under way at once. Ends with `answer`."""
        record = _Record(method, path)
        self._records.append(record)
        try:
            connection = self._idle.pop() if self._idle else Connection(connect(self.address), self.host)
            fields = {"Traceparent": f"00-{self.trace_id}-{record.span_id}-01", **(headers or {})}
            content = _content(body, fields)
            connection.send(_head(method, path + encode_query(query or {}), fields), content)
        except errors.LabkitError as error:
            self._failed(record, error)
            raise
        return Exchange(connection, record)

    def answer(self, exchange: Exchange) -> Answer:
        """Waits for the answer's head; raises the error that its status stands for."""
        try:
            answer = Answer(self, exchange.connection, exchange.record)
        except errors.LabkitError as error:
            self._failed(exchange.record, error)
            exchange.connection.close()
            raise
        if answer.status >= 400:
            raise self._error(answer)
        return answer

    def get(self, path: str, query: Query | None = None) -> Any:
        """The JSON that a GET answers."""
        return self.request("GET", path, query).json()

    def post(self, path: str, query: Query | None = None, body: Body = None) -> Any:
        """The JSON that a POST answers; None if it answers nothing."""
        return self.request("POST", path, query, body).json()

    def hijack(self, path: str, query: Query | None = None, body: Body = None) -> Answer:
        """A POST after which the connection is a raw two-way stream (Engine API `ContainerAttach`, "Hijacking")."""
        return self.request("POST", path, query, body, {"Connection": "Upgrade", "Upgrade": "tcp"})

    def _error(self, answer: Answer) -> errors.LabkitError:
        text = answer.body().decode("utf-8", "replace").strip()
        try:
            message = str(json.loads(text)["message"]).strip()
        except (ValueError, KeyError, TypeError):
            message = text or f"status {answer.status}"
        error = _ERRORS.get(answer.status, errors.LabkitError)(f"Error response from daemon: {message}")
        answer._record.error = str(error)
        return error

    def _failed(self, record: _Record, error: errors.LabkitError) -> None:
        record.error = str(error)
        self._ended(record)

    def _ended(self, record: _Record) -> None:
        record.ended = record.ended or time.time_ns()

    def adopt(self, connection: Connection) -> None:
        """Keeps an open, idle connection for the next request."""
        self._idle.append(connection)

    def close(self) -> None:
        """Ends the connections that are kept for further requests."""
        while self._idle:
            self._idle.pop().close()


def _content(body: Body, headers: dict[str, str]) -> bytes | Iterable[bytes]:
    """The body's bytes; adds the headers that describe it."""
    if isinstance(body, Mapping):
        headers["Content-Type"] = "application/json"
        body = json.dumps(body, separators=(",", ":")).encode()
    if body is None or isinstance(body, bytes):
        headers["Content-Length"] = str(len(body or b""))
        return body or b""
    headers["Transfer-Encoding"] = "chunked"
    headers.setdefault("Content-Type", "application/x-tar")
    return body


def _head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {target} HTTP/1.1\r\nHost: docker\r\nUser-Agent: labkit\r\n{fields}\r\n".encode("latin-1")
