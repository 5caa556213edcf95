"""One client's connection to the Engine API: HTTP/1.1 on an asyncio transport (RFC 9112).

Heads are parsed whole (`heads`); bodies are framed here, so that every byte after a request stays where it
is: for the next request of a pipeline, or for the raw stream that attach and exec make of the connection.
One task a connection answers its requests in order.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import lru_cache
from typing import cast

import msgspec

import labkit
from labkit.api.busypoll import BusyPoll
from labkit.api.heads import REPEATED_LIMIT, Head, HeadParser, whole_head
from labkit.api.messages import (
    Answer,
    Hijack,
    Request,
    Response,
    Stream,
    error_response,
    header_lines,
    status_line,
)
from labkit.api.routing import API_VERSION, Router, check_version
from labkit.api.streams import Body, Hijacked, Inbox, Outbox
from labkit.errors import InvalidParameter, LabkitError, NotFound

log = logging.getLogger(__name__)

HEAD_LIMIT = 1 << 20  # as Go's net/http, thus dockerd: build arguments and filters travel in the URL
DISCARD_LIMIT = 16 << 20  # an unread body up to this size is read away; beyond it the connection is closed
WRITE_BUFFER = 256 << 10
WRITTEN_AT_ONCE = 64 << 10

_JSON_STREAMS = ("application/json", "application/x-ndjson")

Observer = Callable[[Request, int, int, int], None]


@lru_cache
def _head(status: int, content_type: str, headers: tuple[tuple[str, str], ...] = ()) -> str:
    """The beginning of an answer's head, as dockerd sends it."""
    kind = header_lines((("Content-Type", content_type),)) if content_type else ""
    return (
        f"{status_line(status)}Api-Version: {API_VERSION[0]}.{API_VERSION[1]}\r\n{kind}Docker-Experimental: false\r\n"
        f"Ostype: linux\r\nServer: labkit/{labkit.__version__} (linux)\r\n{header_lines(headers)}"
    )


def _response(response: Response, keep_alive: bool, bodiless: bool = False) -> bytes:
    """An answer as bytes. `bodiless` tells the body's length and leaves the body out (HEAD)."""
    empty = response.status in (204, 304)
    head = _head(response.status, "" if empty else response.content_type, response.headers)
    length = "" if empty else f"Content-Length: {len(response.body)}\r\n"
    connection = "" if keep_alive else "Connection: close\r\n"
    body = b"" if empty or bodiless else response.body
    return f"{head}{length}{connection}\r\n".encode("latin-1") + body


Immediate = Callable[[bytes], tuple[Head, bytes] | None]


def immediate_answers(router: Router) -> Immediate:
    """What finds, for the bytes of a request, its head and its answer (empty: still to be made).

    None for a request that isn't all there, or isn't one, or has to wait for its answer. The last ones are remembered.
    """

    @lru_cache(256)
    def find(data: bytes) -> tuple[Head, bytes] | None:
        head = whole_head(data)
        route = router.immediate(head.method, head.path) if head else None
        if not (head and route):
            return None
        if not route.constant:
            return head, b""
        try:
            check_version(head.version)
        except InvalidParameter:
            return None
        made = route.answer(Request(head.method, head.path, head.version, head.query, head.fields, asyncio.Event()))
        assert isinstance(made, Response)
        return head, _response(made, keep_alive=True)

    return find


class Connection(asyncio.Protocol):
    """One accepted connection, from its first byte to its last."""

    def __init__(
        self,
        router: Router,
        immediate: Immediate,
        connections: set[Connection],
        busypoll: BusyPoll,
        observe: Observer | None,
    ) -> None:
        self._router = router
        self._immediate = immediate
        self._connections = connections
        self._busypoll = busypoll
        self._observe = observe
        self._outbox = Outbox()
        self._gone = asyncio.Event()
        self._streaming = False
        self._hijacked: Hijacked | None = None
        self._idle = False

    # The transport's side (asyncio.Protocol)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(WRITE_BUFFER)
        plain = transport.get_extra_info("sslcontext") is None
        self._socket = transport.get_extra_info("socket").fileno() if plain else -1
        self._inbox = Inbox(self._transport)
        self._connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        if not (self._idle and not self._outbox.congested and self._answer_at_once(data)):
            self._busypoll.asked()
            self._inbox.feed(data)

    def eof_received(self) -> bool:
        """The client sends no more. While its connection is a raw stream, it may still want the output."""
        self._inbox.end()
        if self._hijacked is not None:
            self._hijacked.watch_hangup()
        else:
            self._client_gone()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._inbox.end()
        self._outbox.resume()
        if self._hijacked is not None:
            self._hijacked.vanish()
        self._client_gone()

    def pause_writing(self) -> None:
        self._outbox.pause()

    def resume_writing(self) -> None:
        self._outbox.resume()

    def stop(self) -> asyncio.Task[None]:
        """End the connection, whatever it is doing; the task returned ends when its route has."""
        self._task.cancel()
        self._transport.abort()
        return self._task

    def _client_gone(self) -> None:
        """As Go's net/http, and so dockerd, take the end of the client's data: a stream has lost its reader."""
        if not self._gone.is_set():
            self._gone.set()
            if self._streaming:
                self._task.cancel()

    # One request after the other

    async def _serve(self) -> None:
        """Answer requests until the client or an error ends the connection."""
        try:
            while (head := await self._read_head()) is not None:
                if not await self._exchange(head):
                    break
        except InvalidParameter as error:
            await self._send_response(error_response(400, str(error)), keep_alive=False)
        finally:
            self._transport.close()

    async def _read_head(self) -> Head | None:
        """The next request's head; None at the end of the stream. What follows the head stays in the inbox."""
        parser, size, seam = HeadParser(), 0, b""
        while parser.head is None:
            self._idle = not size
            data = await self._inbox.read()
            self._idle = False
            if not data:
                return None
            index = (seam + data).find(b"\r\n\r\n")
            if index >= 0:
                end = index + 4 - len(seam)
                self._inbox.put_back(data[end:])
                data = data[:end]
            seam = (seam + data)[-3:]
            size += len(data)
            if size > HEAD_LIMIT:
                raise InvalidParameter(f"request header is too large: more than {HEAD_LIMIT} bytes")
            parser.feed(data)
        return parser.head

    def _answer_at_once(self, data: bytes) -> bool:
        """Answer a request that has come whole, if its route needn't wait: with no turn of the event loop.

        False for everything else, and for all that is wrong: the task answers that. A client that is answered before it
        waits needn't be woken, which is most of what a ping takes: all that can be done later is.
        """
        found = self._immediate(data) if len(data) <= REPEATED_LIMIT else None
        if found is None:
            return False
        began = time.time_ns()
        head, answer = found
        if answer:
            self._write(answer)
        request = self._request(head, None)
        made = self._answer_now(request)
        if not answer:
            self._write(_response(made, keep_alive=True))
        self._busypoll.asked()
        self._busypoll.answered(self._report(request, made.status, began) - began)
        return True

    async def _exchange(self, head: Head) -> bool:
        """Answer one request. True if the connection can carry another one."""
        body = self._body(head)
        request = self._request(head, body)
        began = time.time_ns()
        answer = await self._answer(request)
        if isinstance(answer, Hijack):
            await self._hijack(request, answer, body, began)
            return False
        # A client that waits in vain for "100 Continue" may send its body or its next request: can't be told.
        unasked = body is not None and not body.begun and "expect" in head.fields
        keep_alive = head.keep_alive and not unasked
        if isinstance(answer, Stream):
            return await self._send_stream(request, answer, head, began) and keep_alive and await self._discard(body)
        ended = self._report(request, answer.status, began)
        await self._send_response(answer, keep_alive, bodiless=head.method == "HEAD")
        self._busypoll.answered(ended - began)
        return keep_alive and await self._discard(body)

    def _request(self, head: Head, body: Body | None) -> Request:
        return Request(head.method, head.path, head.version, head.query, head.fields, self._gone, body)

    async def _answer(self, request: Request) -> Answer:
        """What the route says; an error as its status and Docker's ErrorResponse."""
        try:
            made = self._route(request)
            return await made if isinstance(made, Awaitable) else made
        except Exception as error:  # noqa: BLE001 - the border: a bug in one route must not end the daemon
            return _failure(request, error)

    def _answer_now(self, request: Request) -> Response:
        """The same, of a route that is immediate."""
        try:
            made = self._route(request)
            assert isinstance(made, Response)
            return made
        except Exception as error:  # noqa: BLE001 - as above
            return _failure(request, error)

    def _route(self, request: Request) -> Answer | Awaitable[Answer]:
        found = self._router.find(request.method, request.path)
        if found is None:  # for a known path with another method too: dockerd says the same then
            raise NotFound("page not found")
        route, request.params = found
        check_version(request.version)
        return route.answer(request)

    def _report(self, request: Request, status: int, began: int) -> int:
        """Tell the observer; returns when the answer was made."""
        ended = time.time_ns()
        if self._observe is not None:
            self._observe(request, status, began, ended)
        return ended

    # Bodies

    def _body(self, head: Head) -> Body | None:
        """The body by the head's framing (RFC 9112, section 6). llhttp has refused a head with two framings."""
        coding, length = head.fields.get("transfer-encoding"), head.fields.get("content-length", "0")
        if "host" not in head.fields and not head.http10:
            raise InvalidParameter("missing required Host header")
        if coding is not None and coding.lower() != "chunked":
            raise InvalidParameter(f"unsupported transfer encoding: {coding}")
        if coding is None and int(length) == 0:
            return None
        return Body(self._inbox, int(length) if coding is None else None, lambda: self._continue(head))

    def _continue(self, head: Head) -> None:
        if head.fields.get("expect", "").lower() == "100-continue" and not head.http10:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _discard(self, body: Body | None) -> bool:
        """Read away what the route left of the body. False if that is too much or malformed."""
        if body is None:
            return True
        left = DISCARD_LIMIT
        try:
            async for piece in body:
                left -= len(piece)
                if left < 0:
                    return False
        except InvalidParameter:
            return False  # the request was answered already; all that is left to do is to hang up
        return True

    # Answers

    async def _send(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._write(data)
            await self._outbox.drain()

    def _write(self, data: bytes) -> None:
        """Send a small piece right now if nothing waits before it: uvloop would do so when the loop comes round."""
        if self._socket >= 0 and len(data) <= WRITTEN_AT_ONCE and not self._transport.get_write_buffer_size():
            try:
                data = data[os.write(self._socket, data) :]
            except BlockingIOError:
                pass  # the client's buffer is full: the transport waits for room
            except ConnectionError:
                return  # the client is gone, which the transport will notice
        if data:
            self._transport.write(data)

    async def _send_response(self, response: Response, keep_alive: bool, bodiless: bool = False) -> None:
        await self._send(_response(response, keep_alive, bodiless))

    async def _send_stream(self, request: Request, stream: Stream, head: Head, began: int) -> bool:
        """Send a stream piece by piece. True if it came to its end."""
        chunked = stream.length is None and not head.http10
        framing = "" if stream.length is None else f"Content-Length: {stream.length}\r\n"
        framing += "Transfer-Encoding: chunked\r\n" if chunked else ""
        framing += "" if head.keep_alive else "Connection: close\r\n"
        begin = _head(stream.status, stream.content_type, stream.headers)
        await self._send(f"{begin}{framing}\r\n".encode("latin-1"))
        try:
            whole = await self._pump(request, stream, chunked)
        finally:
            self._report(request, stream.status, began)
        if whole and chunked:
            await self._send(b"0\r\n\r\n")
        return whole

    async def _pump(self, request: Request, stream: Stream, chunked: bool) -> bool:
        """Send a stream's pieces. True if it came to its end, or to an error that it could tell the client."""
        self._streaming = True
        if self._gone.is_set():
            self._task.cancel()  # takes effect where the iterator first waits: it was started, so it cleans up
        try:
            async for data in stream.chunks:
                await self._send_piece(data, chunked)
                if self._transport.is_closing():
                    return False
        except Exception as error:  # noqa: BLE001 - as above; the head is sent already
            message = _log_failure(request, error)
            if stream.content_type.split(";")[0] not in _JSON_STREAMS:
                return False
            line = msgspec.json.encode({"errorDetail": {"message": message}, "error": message})
            await self._send_piece(line + b"\r\n", chunked)
        finally:
            self._streaming = False
            if isinstance(stream.chunks, AsyncGenerator):
                await stream.chunks.aclose()
        return True

    async def _send_piece(self, data: bytes, chunked: bool) -> None:
        if data:  # an empty chunk would end the stream
            await self._send(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)

    async def _hijack(self, request: Request, hijack: Hijack, body: Body | None, began: int) -> None:
        """Hand the raw connection to the route, after the head that dockerd sends."""
        await self._discard(body)
        self._hijacked = Hijacked(self._transport, self._inbox, self._outbox)
        upgrade = request.headers.get("upgrade") if "upgrade" in request.headers.get("connection", "").lower() else None
        status = 101 if upgrade else 200
        switch = f"Connection: Upgrade\r\nUpgrade: {upgrade}\r\n" if upgrade else ""
        # Not drained: the route must join its process before the client can have seen this and asks for a start.
        self._transport.write(f"{_head(status, hijack.content_type)}{switch}\r\n".encode("latin-1"))
        if self._inbox.ended:
            self._hijacked.watch_hangup()
        try:
            await hijack.run(self._hijacked)
        except Exception as error:  # noqa: BLE001 - as above
            _log_failure(request, error)  # the head is sent: all that is left is to end the stream
        finally:
            self._report(request, status, began)


def _failure(request: Request, error: Exception) -> Response:
    """A route's error as the client gets it."""
    message = _log_failure(request, error)
    return error_response(error.status if isinstance(error, LabkitError) else 500, message)


def _log_failure(request: Request, error: Exception) -> str:
    """Log what a route raised, with a traceback if it is a bug. Returns the message for the client."""
    if not isinstance(error, LabkitError):
        log.error("%s %s: %s", request.method, request.path, error, exc_info=error)
    elif error.status >= 500:
        log.error("%s %s: %s", request.method, request.path, error)
    return str(error) or type(error).__name__
