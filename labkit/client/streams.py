"""Container streams on the wire: Docker's multiplexed frames, detach keys, and the pump of an attached stream.

Engine API `ContainerAttach`, "Stream format": without a tty each piece of output has an 8-byte header, stream
(1 stdout, 2 stderr) and big-endian length; with a tty the bytes are raw. The pump is one poll(2) loop over
standard input, the connection and the signals that arrive, so that no thread is needed in a command or a cell.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

from labkit.client.engine import Answer
from labkit.client.signals import SignalPipe
from labkit.errors import InvalidParameter, Unavailable

STDOUT, STDERR = 1, 2
Write = Callable[[int, bytes | memoryview], None]  # (STDOUT or STDERR, data)

_HEADER = 8
_READ = 64 * 1024
_LINGER = 1000  # milliseconds
_STDIN_AHEAD = 1024 * 1024  # standard input read ahead of what the container has taken


class Demultiplexer:
    """Takes a multiplexed stream in pieces of any size, gives (stream, data) as far as it has come."""

    def __init__(self) -> None:
        self._head = b""
        self._stream = 0
        self._remaining = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, memoryview]]:
        """The payloads in `data`, in order; a frame's beginning is given without waiting for its end."""
        view = memoryview(data)
        while view:
            if self._remaining:
                piece = view[: self._remaining]
                self._remaining -= len(piece)
                view = view[len(piece) :]
                yield self._stream, piece
                continue
            missing = _HEADER - len(self._head)
            self._head += bytes(view[:missing])
            view = view[missing:]
            if len(self._head) == _HEADER:
                self._begin(self._head)
                self._head = b""

    def _begin(self, head: bytes) -> None:
        if head[0] > 3 or head[1:4] != b"\0\0\0":
            raise Unavailable(f"unrecognized stream: {head[0]}: the engine did not multiplex its output")
        # Stream 3 carries an error of the engine itself; it is said where errors are said.
        self._stream = STDOUT if head[0] in (0, STDOUT) else STDERR
        self._remaining = int.from_bytes(head[4:], "big")


def write_stream(answer: Answer, multiplexed: bool, write: Write) -> None:
    """Writes a streamed body (logs) to its end."""
    demultiplexer = Demultiplexer()
    for chunk in answer.chunks():
        for stream, data in demultiplexer.feed(chunk) if multiplexed else [(STDOUT, memoryview(chunk))]:
            write(stream, data)


def parse_detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` as the bytes that a terminal sends; InvalidParameter for a key that isn't one."""
    keys = bytearray()
    for key in text.split(","):
        name = key.removeprefix("ctrl-").lower() if key.lower().startswith("ctrl-") else ""
        if len(key) == 1:
            keys += key.encode()
        elif len(name) == 1 and "@" <= name.upper() <= "_":
            keys.append(ord(name.upper()) - 64)
        else:
            raise InvalidParameter(f"invalid detach keys ({text}): Unknown character: '{key}'")
    return bytes(keys)


class DetachKeys:
    """Watches typed bytes for the detach sequence and holds back what may yet become it."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the sequence is complete."""
        passed = bytearray()
        for byte in data:
            if byte == self._sequence[self._matched]:
                self._matched += 1
                if self._matched == len(self._sequence):
                    self._matched = 0
                    return bytes(passed), True
                continue
            passed += self._sequence[: self._matched]
            self._matched = 1 if byte == self._sequence[0] else 0
            if not self._matched:
                passed.append(byte)
        return bytes(passed), False


class Attachment(NamedTuple):
    """What an attached stream is joined to on the user's side. `stdin` is a descriptor, or None."""

    write: Write
    stdin: int | None = None
    tty: bool = False
    detach_keys: bytes = b""
    signals: SignalPipe | None = None
    on_signal: Callable[[int], None] | None = None
    on_lingering: Callable[[], None] | None = None  # called once if the stream outlives a signal by a second


class AttachedStream:
    """A hijacked connection, pumped until the container's side ends or the user detaches."""

    def __init__(self, answer: Answer, attachment: Attachment) -> None:
        self._answer = answer
        self._sock = answer.connection.sock
        self._to = attachment
        self._stdin = attachment.stdin
        self._to_send = bytearray()
        self._signalled = False
        self._demultiplexer = None if attachment.tty else Demultiplexer()
        self._keys = DetachKeys(attachment.detach_keys) if attachment.detach_keys else None

    def pump(self) -> bool:
        """Moves bytes both ways until the output ends. True if the user detached instead."""
        self._sock.setblocking(False)
        try:
            self._output(bytes(self._answer.connection.pending))
            if self._stdin is None:
                self._end_input()
            while (state := self._turn()) is None:
                pass
            return state
        finally:
            self._answer.close()

    def _turn(self) -> bool | None:
        """Waits for one thing to do and does it; the result of `pump` once there is one."""
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN | (select.POLLOUT if self._sending() else 0))
        if self._stdin is not None and len(self._to_send) < _STDIN_AHEAD:
            poll.register(self._stdin, select.POLLIN)
        if self._to.signals:
            poll.register(self._to.signals.descriptor, select.POLLIN)
        ready = poll.poll(_LINGER if self._signalled else None)
        if not ready and self._to.on_lingering:
            self._signalled = False
            self._to.on_lingering()
        for descriptor, events in ready:
            if descriptor == self._stdin:
                if self._take_input(descriptor):
                    return True
            elif descriptor == self._sock.fileno():
                if events & select.POLLOUT:
                    self._send()
                if events & ~select.POLLOUT and not self._receive():
                    return False
            elif self._to.signals and self._to.on_signal:
                for number in self._to.signals.read():
                    self._to.on_signal(number)
                    self._signalled = self._to.on_lingering is not None
        return None

    def _sending(self) -> bool:
        """Whether something waits for room in the connection; under TLS, encrypted already."""
        return bool(self._to_send or getattr(self._sock, "unsent", b""))

    def _take_input(self, descriptor: int) -> bool:
        try:
            data = os.read(descriptor, _READ)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""  # the terminal is gone (ioctl_tty(2)): nothing more will be typed
        if not data:
            self._stdin = None
            self._end_input()
            return False
        detached = False
        if self._keys:
            data, detached = self._keys.feed(data)
        self._to_send += data
        self._send()
        return detached

    def _end_input(self) -> None:
        """Half-closes once everything is sent: the container sees the end of its input, its output goes on."""
        if self._to_send:
            return
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return  # already closed by the engine; its output tells the rest

    def _send(self) -> None:
        try:
            if not isinstance(self._sock, socket.socket):
                self._sock.flush()
            while self._to_send:
                del self._to_send[: self._sock.send(self._to_send)]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._to_send.clear()  # the container no longer reads; what it still writes is wanted
        if self._stdin is None:
            self._end_input()

    def _receive(self) -> bool:
        try:
            data = self._sock.recv(256 * 1024)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        self._output(data)
        return bool(data)

    def _output(self, data: bytes) -> None:
        if self._demultiplexer is None:
            if data:
                self._to.write(STDOUT, data)
            return
        for stream, piece in self._demultiplexer.feed(data):
            self._to.write(stream, piece)
