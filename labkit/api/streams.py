"""The two directions of a client's connection, with back-pressure.

`Inbox` holds what arrived and was not yet taken, and stops reading from the socket while that is much;
`Body` takes one request's body out of it.
`Hijacked` is a connection that became a raw stream (101 UPGRADED): `docker attach`, `docker exec`. Its client may
close its sending half (shutdown(2), SHUT_WR: the end of stdin) and still wants the output.
"""

from __future__ import annotations

import asyncio
import re
import select
from collections import deque
from collections.abc import Callable
from typing import cast

from labkit.errors import InvalidParameter

READ_AHEAD = 256 << 10
LINE_LIMIT = 8 << 10

_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?", re.DOTALL)


class Inbox:
    """Bytes from the client, in order. The protocol feeds it; one reader at a time takes from it."""

    def __init__(self, transport: asyncio.ReadTransport) -> None:
        self._transport = transport
        self._pieces: deque[bytes] = deque()
        self._offset = 0  # what of the first piece was taken already
        self._size = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False

    def feed(self, data: bytes) -> None:
        """Called by the protocol when `data` has arrived."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > READ_AHEAD and not self._paused:
            self._transport.pause_reading()
            self._paused = True
        self._wake()

    def end(self) -> None:
        """Called by the protocol when nothing more can arrive."""
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _more(self) -> bool:
        """Wait for bytes; False at the end of the stream."""
        while not self._pieces and not self.ended:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return bool(self._pieces)

    def put_back(self, data: bytes) -> None:
        """Return the last part of what `read` gave without a limit: it belongs to the next message."""
        if data:
            self._pieces.appendleft(data)
            self._size += len(data)

    async def read(self, limit: int = 1 << 30) -> bytes:
        """The next bytes, as few as have arrived and at most `limit`; b"" at the end of the stream."""
        if not self._pieces and not await self._more():
            return b""
        first = self._pieces[0]
        if self._offset == 0 and len(first) <= limit:
            piece = self._pieces.popleft()
        else:
            piece = first[self._offset : self._offset + limit]
            self._offset += len(piece)
            if self._offset == len(first):
                self._pieces.popleft()
                self._offset = 0
        self._size -= len(piece)
        if self._paused and self._size < READ_AHEAD // 2:
            self._transport.resume_reading()
            self._paused = False
        return piece

    async def line(self) -> bytes:
        """A line without its CRLF, of at most `LINE_LIMIT` bytes."""
        line = b""
        while not line.endswith(b"\n"):
            if not await self._more():
                raise InvalidParameter("unexpected EOF")
            end = self._pieces[0].find(b"\n", self._offset)
            line += await self.read(LINE_LIMIT if end < 0 else end + 1 - self._offset)
            if len(line) > LINE_LIMIT:
                raise InvalidParameter(f"malformed chunked encoding: a line of more than {LINE_LIMIT} bytes")
        if not line.endswith(b"\r\n"):
            raise InvalidParameter("malformed chunked encoding: a line without CR")
        return line[:-2]


class Body:
    """A request's body, as an iterator over what arrives: `length` bytes, or chunked if that is None.

    RFC 9112, sections 6.2 and 7.1. `begin` is called once, before the first byte is awaited.
    """

    def __init__(self, inbox: Inbox, length: int | None, begin: Callable[[], None]) -> None:
        self._inbox = inbox
        self._chunked = length is None
        self._left = length or 0  # of the body, or of the present chunk
        self._begin = begin
        self._broken = False
        self._in_chunk = False
        self.begun = False
        self.ended = False

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        if self._broken:
            raise InvalidParameter("the request body is malformed")
        if not self.begun:
            self.begun = True
            self._begin()
        # Stays set if the reader is cancelled or the framing is wrong: where the next byte belongs is lost then.
        self._broken = True
        if not self._left and not self.ended:
            self._left = await self._next_chunk() if self._chunked else 0
            self.ended = not self._left
        data = b"" if self.ended else await self._inbox.read(self._left)
        if not data and not self.ended:
            raise InvalidParameter("unexpected EOF")
        self._left -= len(data)
        self._broken = False
        if self.ended:
            raise StopAsyncIteration
        return data

    async def _next_chunk(self) -> int:
        """The size of the next chunk; 0 after the last one and its trailers."""
        if self._in_chunk and await self._inbox.line():
            raise InvalidParameter("malformed chunked encoding: no line break after a chunk")
        self._in_chunk = True
        line = await self._inbox.line()
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise InvalidParameter(f"malformed chunked encoding: invalid chunk size {line[:32]!r}")
        size = int(match[1], 16)
        while not size and await self._inbox.line():
            pass  # trailers
        return size


class Outbox:
    """Whether the client takes what is written (the protocol's pause_writing and resume_writing)."""

    def __init__(self) -> None:
        self._resumed = asyncio.Event()
        self._resumed.set()

    def pause(self) -> None:
        self._resumed.clear()

    def resume(self) -> None:
        self._resumed.set()

    @property
    def congested(self) -> bool:
        return not self._resumed.is_set()

    async def drain(self) -> None:
        """Wait until the transport has room again. Returns at once when the client is gone."""
        if not self._resumed.is_set():
            await self._resumed.wait()


class Hijacked:
    """A raw stream to the client. `gone` is set when nobody is there to read it any more."""

    def __init__(self, transport: asyncio.Transport, inbox: Inbox, outbox: Outbox) -> None:
        self._transport = transport
        self._inbox = inbox
        self._outbox = outbox
        self._hangup: select.epoll | None = None
        self.gone = asyncio.Event()
        # Pause writing on any unsent byte: drain then means "sent", so a buffer can be used again after it.
        transport.set_write_buffer_limits(0)

    async def read(self) -> bytes:
        """The next bytes from the client; b"" when it closed its half."""
        return await self._inbox.read()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`, which must not be changed before `drain` has returned."""
        if not self.gone.is_set() and not self._transport.is_closing():
            self._transport.write(data)

    @property
    def congested(self) -> bool:
        """Whether the client hasn't taken yet what was written."""
        return self._outbox.congested

    async def drain(self) -> None:
        """Wait until everything written has been sent (or the client is gone)."""
        await self._outbox.drain()

    def write_eof(self) -> None:
        """Close our sending half: the client sees the end of the output."""
        if not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Send what is buffered, then close both directions."""
        self._transport.close()

    def watch_hangup(self) -> None:
        """After the client's end of stream: tell `gone` from a half-close.

        The transport no longer watches the socket then. An empty event mask still reports EPOLLHUP and EPOLLERR
        (epoll_ctl(2)): the peer has closed its other half too.
        """
        if self._hangup is not None or self._transport.is_closing():
            return
        descriptor = cast("int", self._transport.get_extra_info("socket").fileno())
        self._hangup = select.epoll()
        self._hangup.register(descriptor, 0)
        asyncio.get_running_loop().add_reader(self._hangup.fileno(), self.vanish)

    def vanish(self) -> None:
        """The client is gone: set `gone` and stop watching."""
        self.gone.set()
        self._outbox.resume()
        if self._hangup is not None:
            asyncio.get_running_loop().remove_reader(self._hangup.fileno())
            self._hangup.close()
            self._hangup = None
