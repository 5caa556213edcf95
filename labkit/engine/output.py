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
from labkit.engine.logging.logger import Logger
from labkit.kernel import pipes

STREAM_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}
MOST_PIECES = 64
"""How many pieces without a line break may wait in the stage: it holds at most 256, however small they are."""


def frame(stream: str, data: bytes) -> bytes:
    """Data in the multiplexed format of attach and logs (Engine API, ContainerAttach): stream, length, bytes."""
    return struct.pack(">BxxxI", STREAM_NUMBERS[stream], len(data)) + data


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

    def __init__(self, log: Logger | None) -> None:
        self.log = log
        self.attachments: set[Attachment] = set()
        self.pumps: list[Pump] = []
        self.ended = asyncio.Event()
        self.hurried = False
        self.closing: asyncio.Task[None] | None = None

    def add(
        self, stream: str, source: int, stage: tuple[int, int], mark: pipes.Mark | None, scratch: tuple[int, int]
    ) -> None:
        """One more stream to pump from `begin` on. `source` and `stage` are closed at its end."""
        self.pumps.append(Pump(self, stream, source, stage, mark, scratch))

    def begin(self) -> None:
        """Settle what a killed daemon left half done, all of it before anything is written; then pump."""
        for pump in self.pumps:
            pump.settle()
        for pump in list(self.pumps):
            pump.begin()
        if not self.pumps:
            self.close()

    def hurry(self) -> None:
        """Wait for no client any more: the container has ended, and what its pipes hold is all that comes.

        Otherwise a client that has stopped reading would keep the container from ever being seen to have ended.
        """
        self.hurried = True
        if self.log:
            self.log.hurry()
        for pump in self.pumps:
            pump.hurry()

    def finish(self, pump: Pump) -> None:
        self.pumps.remove(pump)
        if not self.pumps:
            if self.log:
                self.closing = asyncio.get_running_loop().create_task(self._settle(self.log))
            else:
                self.close()

    async def _settle(self, log: Logger) -> None:
        await log.settled()
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
        self.stuck = self.over = False
        self.loop = asyncio.get_running_loop()
        self.resuming: asyncio.Task[None] | None = None

    def settle(self) -> None:
        """Cut off the log what a killed daemon had begun to write, if it is still in the stage."""
        self.staged = pipes.waiting(self.stage[0])
        if self.mark and self.output.log and (unfinished := self.mark.unfinished()):
            staged, log_end = unfinished
            if staged == self.staged:
                self.output.log.truncate(log_end)
            self.mark.clear()

    def begin(self) -> None:
        """Log what is in the stage, then listen."""
        if self.staged:
            self.store(final=False)
        os.set_blocking(self.source, False)
        self.go_on([])

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
        self.over = moved == 0
        busy = self.output.spread(self.stream, fresh) if fresh else []
        self.store(self.over or self.pieces >= MOST_PIECES, data)
        if self.over and not self.stuck:
            self.end()
        elif self.stuck or (busy and not self.output.hurried):
            self.loop.remove_reader(self.source)
            self.go_on(busy)

    def store(self, final: bool, staged: bytes | None = None) -> None:
        """Write what can be written to the log, then take it out of the stage. `stuck` says that not all could be."""
        data = pipes.copy(self.stage[0], self.scratch, self.staged) if staged is None else staged
        log, left = self.output.log, len(data)
        if log is None:
            self.take(len(data))
        else:
            left = logs.complete(data, final)
            for entries, raw in log.pieces(data, self.stream, time.time_ns(), final):
                if self.mark:
                    self.mark.set(self.staged, log.end)
                log.append(entries)
                self.take(raw)
                left -= raw
            self.stuck = left > 0

    def take(self, size: int) -> None:
        """Take out of the stage what is in the log."""
        if size:
            taken = len(os.read(self.stage[0], size))
            assert taken == size
            self.staged -= size
            self.pieces = 0
        if self.mark:
            self.mark.clear()

    def go_on(self, busy: list[Attachment]) -> None:
        """Listen (again): at once, or when the log and the busy clients can take more."""
        if self.stuck or busy:
            self.resuming = self.loop.create_task(self.resume(busy))
        else:
            self.loop.add_reader(self.source, self.advance)

    async def resume(self, busy: list[Attachment]) -> None:
        """Go on when the log takes what it couldn't, and the clients have taken theirs, or have gone."""
        while self.stuck and self.output.log:
            await self.output.log.ready()
            self.store(self.over or self.pieces >= MOST_PIECES)
        for attachment in busy:
            if not self.output.hurried:
                await attachment.connection.drain()
        self.resuming = None
        if self.over:
            self.end()
        else:
            self.loop.add_reader(self.source, self.advance)

    def hurry(self) -> None:
        """Go on without waiting for clients."""
        if self.resuming and not self.stuck:
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
