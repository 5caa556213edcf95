"""A process's output on its way to the log and to those who are attached (moby `daemon/logger/copier.go`, `stream/`).

One pump a stream. It never takes more from the container than the log and the slowest client can hold, and never
takes a byte out of the kernel before it is in the log (`labkit.kernel.pipes`).
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from dataclasses import dataclass, field
from typing import Protocol

from labkit.engine import logs
from labkit.engine.clock import rfc3339
from labkit.kernel import pipes

STREAM_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}
MOST_PIECES = 64
"""How many pieces without a line break may wait in the stage: it holds at most 256, however small they are."""


def frame(stream: str, data: bytes) -> bytes:
    """Data in the multiplexed format of attach and logs (Engine API, ContainerAttach): stream, length, bytes."""
    return struct.pack(">BxxxI", STREAM_NUMBERS[stream], len(data)) + data


class LogFile:
    """The json-file log of one container, and those who wait for it to grow."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self.end = os.fstat(self.fd).st_size
        self.grown = asyncio.Event()

    def append(self, data: bytes) -> None:
        written = 0
        while written < len(data):
            written += os.pwrite(self.fd, data[written:], self.end + written)
        self.end += written
        self.wake()

    def truncate(self, end: int) -> None:
        os.ftruncate(self.fd, end)
        self.end = end

    def wake(self) -> None:
        """Let followers look again."""
        self.grown.set()
        self.grown = asyncio.Event()

    def close(self) -> None:
        self.wake()
        os.close(self.fd)


class Connection(Protocol):
    """A client's raw stream, as the API server hands it over."""

    gone: asyncio.Event

    @property
    def congested(self) -> bool: ...
    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...


@dataclass(eq=False, slots=True)
class Attachment:
    """A client that gets the output as it comes. `multiplexed` where there is no terminal."""

    connection: Connection
    streams: frozenset[str]
    multiplexed: bool
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, stream: str, data: bytes) -> None:
        if stream in self.streams and not self.connection.gone.is_set():
            self.connection.write(frame(stream, data) if self.multiplexed else data)


class Output:
    """All output of one process: its pumps, its log, its attachments. `ended` is set when every stream has ended."""

    def __init__(self, log: LogFile | None) -> None:
        self.log = log
        self.attachments: set[Attachment] = set()
        self.pumps: list[Pump] = []
        self.ended = asyncio.Event()
        self.hurried = False

    def add(
        self, stream: str, source: int, stage: tuple[int, int], mark: pipes.Mark | None, scratch: tuple[int, int]
    ) -> None:
        """Begin to pump one stream. `source` and `stage` are closed at its end."""
        pump = Pump(self, stream, source, stage, mark, scratch)
        self.pumps.append(pump)
        pump.begin()

    def hurry(self) -> None:
        """Wait for no client any more: the container has ended, and what its pipes hold is all that comes.

        Otherwise a client that has stopped reading would keep the container from ever being seen to have ended.
        """
        self.hurried = True
        for pump in self.pumps:
            pump.hurry()

    def finish(self, pump: Pump) -> None:
        self.pumps.remove(pump)
        if not self.pumps:
            self.close()

    def close(self) -> None:
        """No more output comes: let everybody go who waits for it."""
        self.ended.set()
        for attachment in self.attachments:
            attachment.done.set()

    def spread(self, stream: str, data: bytes) -> list[Attachment]:
        """Send fresh output to who is attached; returns those that can't take more right now."""
        for attachment in self.attachments:
            attachment.send(stream, data)
        return [one for one in self.attachments if one.connection.congested]


class Pump:
    """Moves one stream: container's pipe, stage, log and attachments."""

    def __init__(
        self,
        output: Output,
        stream: str,
        source: int,
        stage: tuple[int, int],
        mark: pipes.Mark | None,
        scratch: tuple[int, int],
    ) -> None:
        self.output, self.stream, self.source, self.stage = output, stream, source, stage
        self.mark, self.scratch = mark, scratch
        self.pieces = 0
        self.staged = 0
        self.loop = asyncio.get_running_loop()
        self.resuming: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Settle what a killed daemon left half done, then listen."""
        self.staged = pipes.waiting(self.stage[0])
        if self.mark and self.output.log and (unfinished := self.mark.unfinished()):
            staged, log_end = unfinished
            if staged == self.staged:
                self.output.log.truncate(log_end)
            self.mark.clear()
        if self.staged:
            self.store(pipes.copy(self.stage[0], self.scratch, self.staged), final=False)
        os.set_blocking(self.source, False)
        self.loop.add_reader(self.source, self.advance)

    def advance(self) -> None:
        """Take what the container has written."""
        try:
            moved = pipes.move(self.source, self.stage[1])
        except BlockingIOError:
            return
        data = pipes.copy(self.stage[0], self.scratch, self.staged + moved)
        fresh = data[self.staged :]
        self.staged += moved
        self.pieces += 1
        busy = self.output.spread(self.stream, fresh) if fresh else []
        self.store(data, final=moved == 0 or self.pieces >= MOST_PIECES)
        if moved == 0:
            self.end()
        elif busy and not self.output.hurried:
            self.loop.remove_reader(self.source)
            self.resuming = self.loop.create_task(self.resume(busy))

    def store(self, data: bytes, final: bool) -> None:
        """Write what can be written to the log, then take it out of the stage."""
        log = self.output.log
        if log is None:
            lines, held = b"", len(data)
        else:
            lines, held = logs.encode(data, self.stream, rfc3339(time.time_ns()), final)
        if not held:
            return
        if log and self.mark:
            self.mark.set(self.staged, log.end)
        if log:
            log.append(lines)
        taken = len(os.read(self.stage[0], held))
        assert taken == held
        if self.mark:
            self.mark.clear()
        self.staged -= held
        self.pieces = 0

    async def resume(self, busy: list[Attachment]) -> None:
        """Go on when the clients that couldn't take more have taken it, or have gone."""
        for attachment in busy:
            await attachment.connection.drain()
        self.resuming = None
        self.loop.add_reader(self.source, self.advance)

    def hurry(self) -> None:
        """Go on without waiting."""
        if self.resuming:
            self.resuming.cancel()
            self.resuming = None
            self.loop.add_reader(self.source, self.advance)

    def end(self) -> None:
        """The stream has ended: every process that could write to it has closed it."""
        self.loop.remove_reader(self.source)
        for fd in (self.source, *self.stage):
            os.close(fd)
        if self.mark:
            self.mark.close()
        self.output.finish(self)
