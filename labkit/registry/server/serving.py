"""The HTTP side of the registry: HTTP/1.1 with keep-alive on threads of the standard library's server (RFC 9110, 9112).

A request's body is a stream, chunked or not, that endpoints read as far as they want; an answer's is bytes or a part of
a file, which sendfile(2) moves from the page cache to the socket: a blob costs Python no copy, to one client or thirty.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from os import close
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from labkit.errors import LabkitError
from labkit.registry.server.refusals import Refused

log = logging.getLogger("labkit.registry")

CHUNK = 1 << 18  # bytes of a body read at a time
PATIENCE = 60  # seconds without a byte after which a client is given up
_LINE_LIMIT = 4096  # bytes of a chunk's head
_DRAIN = 1 << 16  # bytes of an unread body that are cheaper to read than a new connection is
_LINGER = 5  # seconds for a client to notice that it needn't send the rest


class Content(Protocol):
    """An answer's body that isn't in memory."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    def pieces(self) -> Iterator[tuple[int, int, int]]:
        """Descriptor, offset and length of what can be sent now, until all is sent.

        Raises ConnectionError if the rest will never come.
        """

    def narrowed(self, start: int, end: int) -> Content:
        """The same body from one offset to another."""

    def close(self) -> None:
        """Gives its descriptors back."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes of an open file as an answer's body."""

    descriptor: int
    start: int
    size: int

    def pieces(self) -> Iterator[tuple[int, int, int]]:
        yield self.descriptor, self.start, self.size

    def narrowed(self, start: int, end: int) -> FilePart:
        return replace(self, start=start, size=end - start)

    def close(self) -> None:
        close(self.descriptor)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. Its length is that of its body, also when that isn't sent (HEAD)."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | Content = b""

    @property
    def size(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.size


class Body:
    """The body of a request. `size` is its length in bytes; None if it comes in chunks."""

    def __init__(self, headers: Message, file: BufferedIOBase, proceed: Callable[[], None]) -> None:
        self._file = file
        self._proceed = proceed
        self.size: int | None = 0
        lengths, encodings = headers.get_all("Content-Length", []), headers.get_all("Transfer-Encoding", [])
        if len(lengths) + len(encodings) > 1:  # another server on the way might read another one of them
            raise Refused("SIZE_INVALID", "the request's length is ambiguous")
        if encodings:
            if encodings[0].strip().lower() != "chunked":
                raise Refused("SIZE_INVALID", f"unknown Transfer-Encoding: {encodings[0]!r}")
            self.size = None
        elif length := "".join(lengths).strip():
            if not (length.isascii() and length.isdigit()):
                raise Refused("SIZE_INVALID", f"invalid Content-Length: {length!r}")
            self.size = int(length)
        self.complete = self.size == 0
        self._left = self.size or 0

    def __iter__(self) -> Iterator[bytes]:
        """What hasn't been read yet. Raises Refused (SIZE_INVALID) if it ends early."""
        if self.complete:
            return
        self._proceed()
        if self.size is None:
            while self._begin_chunk():
                yield from self._rest()
                self._line()
        else:
            yield from self._rest()
        self.complete = True

    def _rest(self) -> Iterator[bytes]:
        while self._left:
            chunk = self._file.read1(min(CHUNK, self._left))
            if not chunk:
                raise Refused("SIZE_INVALID", "the request's body ends early")
            self._left -= len(chunk)
            yield chunk

    def _line(self) -> bytes:
        line = self._file.readline(_LINE_LIMIT)
        if not line.endswith(b"\n"):
            raise Refused("SIZE_INVALID", "the request's body ends early, or has a bad chunk")
        return line.strip()

    def _begin_chunk(self) -> bool:
        digits = self._line().partition(b";")[0].strip()
        if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
            raise Refused("SIZE_INVALID", "the request's body has a bad chunk")
        self._left = int(digits, 16)
        if not self._left:
            while self._line():
                pass  # trailers
        return self._left > 0

    def read(self, limit: int) -> bytes:
        """All of it. Raises Refused, with status 413, if that is more than `limit` bytes."""
        too_long = Refused("SIZE_INVALID", f"the body has more than {limit} bytes", status=413)
        if (self.size or 0) > limit:
            raise too_long
        found = bytearray()
        for chunk in self:
            found += chunk
            if len(found) > limit:
                raise too_long
        return bytes(found)

    def skip(self) -> bool:
        """Reads past what is left, if that is little; whether another request can follow."""
        if not self.complete and self.size is not None and self._left <= _DRAIN:
            with contextlib.suppress(Refused):  # it ends early
                for _ in self:
                    pass
        return self.complete


@dataclass(frozen=True, slots=True)
class Request:
    """One request; the path is decoded."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Message
    body: Body


@dataclass(slots=True)
class _Counter:
    """How many requests are under way."""

    number: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        with self.changed:
            self.number += 1
        try:
            yield
        finally:
            with self.changed:
                self.number -= 1
                self.changed.notify_all()


class Server(ThreadingHTTPServer):
    """Listens at an address and answers with `application`; with `tls`, only to who speaks TLS."""

    request_queue_size = 1024  # a class starts to pull in the same second
    allow_reuse_address = True

    def __init__(
        self, address: tuple[str, int], application: Callable[[Request], Answer], tls: ssl.SSLContext | None = None
    ) -> None:
        self.application = application
        self.tls = tls
        self.under_way = _Counter()
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, Connection)

    def server_bind(self) -> None:
        """Without the base's look-up of the machine's name, which may ask a name server that isn't there."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """On the connection's own thread: a client that doesn't finish its handshake holds up nobody."""
        request.settimeout(PATIENCE)
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        with self.tls.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients come and go; anything else is a mistake of ours and goes to the log with its trace."""
        error = sys.exception()
        gone = isinstance(error, (ConnectionError, TimeoutError, ssl.SSLError))
        log.log(logging.DEBUG if gone else logging.ERROR, "%s: %r", client_address[0], error, exc_info=not gone)

    def drain(self, seconds: float) -> None:
        """Waits until the requests under way are answered, at most so long."""
        with self.under_way.changed:
            self.under_way.changed.wait_for(lambda: self.under_way.number == 0, seconds)


class Connection(BaseHTTPRequestHandler):
    """One client's connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server
    _expects = False

    def handle_expect_100(self) -> bool:
        """The go-ahead is sent when an endpoint reads the body: one that refuses spares the client its sending."""
        self._expects = True
        return True

    def _continue(self) -> None:
        if self._expects:
            self._expects = False
            self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _serve(self) -> None:
        with self.server.under_way.one():
            self._send(self._answer())
        if self.close_connection:
            self._linger()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve

    def _answer(self) -> Answer:
        try:
            body = Body(self.headers, self.rfile, self._continue)
        except Refused as error:
            self.close_connection = True  # where the next request would begin can't be known
            return refusal(error)
        try:
            answer = self.server.application(self._request(body))
        except Refused as error:
            answer = refusal(error)
        except LabkitError as error:
            log.error("%s %s: %s", self.command, self.path, error)
            answer = refusal(Refused("UNKNOWN", str(error), status=error.status))
        if self._expects or not body.skip():
            self.close_connection = True  # whether the client still sends the body can't be known
        return answer

    def _request(self, body: Body) -> Request:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        return Request(self.command, unquote(parts.path), query, self.headers, body)

    def _send(self, answer: Answer) -> None:
        try:
            self.connection.sendall(self._head(answer))
            if self.command != "HEAD" and answer.size:
                self._send_body(answer.body)
        finally:
            if not isinstance(answer.body, bytes):
                answer.body.close()
        log.info('%s "%s %s" %d %d', self.client_address[0], self.command, self.path, answer.status, answer.size)

    def _send_body(self, body: bytes | Content) -> None:
        if isinstance(body, bytes):
            self.connection.sendall(body)
            return
        for descriptor, start, size in body.pieces():
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                if self.connection.sendfile(file, start, size) != size:
                    raise ConnectionAbortedError("the file became shorter while it was sent")

    def _head(self, answer: Answer) -> bytes:
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        lines.append(f"Date: {formatdate(usegmt=True)}")
        lines.append("Docker-Distribution-API-Version: registry/2.0")
        lines.append("X-Content-Type-Options: nosniff")
        if answer.status not in (204, 304):
            lines.append(f"Content-Length: {answer.size}")
        if self.close_connection:
            lines.append("Connection: close")
        return "\r\n".join((*lines, "\r\n")).encode("latin-1")

    def _linger(self) -> None:
        """Reads on for a moment after the answer: closing at once would reset the connection, and lose it."""
        with contextlib.suppress(OSError):  # the client has left, or sends on and on: either way this is the end
            self.connection.shutdown(socket.SHUT_WR)
            end = time.monotonic() + _LINGER
            while (left := end - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(CHUNK):
                    break

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def refusal(error: Refused) -> Answer:
    """The answer that says no."""
    return Answer(error.status, (("Content-Type", "application/json"), *error.headers), error.document())
