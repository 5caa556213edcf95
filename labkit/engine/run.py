"""One run of a process, of a container's init or of an exec: from before its start until it is reaped.

Clients may attach before the process exists, so the run exists first. A container that is started again gets
a new run.
"""

from __future__ import annotations

import asyncio
import os
import signal as signals
from dataclasses import dataclass

from labkit.engine import stdio
from labkit.engine.logging.logger import Logger
from labkit.engine.output import Output
from labkit.errors import Conflict, KernelError
from labkit.kernel import pipes, syscalls
from labkit.kernel.stdio import set_window_size
from labkit.trace import TraceContext

_SCRATCH: list[tuple[int, int]] = []


def scratch() -> tuple[int, int]:
    """The pipe through which staged output is looked at; one serves the whole daemon."""
    if not _SCRATCH:
        _SCRATCH.append(pipes.make_pipe())
    return _SCRATCH[0]


@dataclass(frozen=True, slots=True)
class Asked:
    """A signal that was sent to a process: by which request (`verb`, trace ID), of a `client` or the `daemon`."""

    verb: str
    signal: int
    by: str
    trace: str


class Run:
    """A process's descriptors and output. `began` and `exited` are set once; `code` is its exit status.

    `context` is the trace of what its end belongs to: of its start, or of who stops it.
    `asked` are the signals that the engine has sent it, `memory_events` how often it was told to be out of memory.
    """

    def __init__(self, log: Logger | None, terminal: bool) -> None:
        self.output = Output(log)
        self.has_terminal = terminal
        self.pid = 0
        self.pidfd = -1
        self.stdin = -1
        self.terminal = -1
        self.code: int | None = None
        self.context: TraceContext | None = None
        self.asked: list[Asked] = []
        self.memory_events = 0
        self.began = asyncio.Event()
        self.exited = asyncio.Event()

    @property
    def running(self) -> bool:
        return self.began.is_set() and not self.exited.is_set()

    def begin(self, pid: int, pidfd: int, descriptors: dict[str, int], marks: str) -> None:
        """Take over a process: pump its output, be ready for its input. `marks` is a path prefix, empty for no log."""
        self.pid, self.pidfd = pid, pidfd
        if "terminal" in descriptors:
            self.terminal = os.dup(descriptors["terminal"])
            self.stdin = os.dup(descriptors["terminal"])
        else:
            self.stdin = descriptors.get("stdin", -1)
        if self.stdin >= 0:
            os.set_blocking(self.stdin, False)
        sources = stdio.outputs(descriptors)
        for stream, source in sources.items():
            stage = descriptors[f"{stream}-staged"], descriptors[f"{stream}-stage"]
            mark = pipes.Mark.open(f"{marks}.{stream}") if marks else None
            self.output.add(stream, source, stage, mark, scratch())
        self.output.begin()
        self.began.set()

    async def write(self, data: bytes) -> None:
        """Write to the process's standard input, at the speed at which it reads. Its having ended is fine."""
        view = memoryview(data)
        while view and self.stdin >= 0:
            try:
                view = view[os.write(self.stdin, view) :]
            except BlockingIOError:
                await stdio.writable(self.stdin)
            except OSError:  # EPIPE, EIO: nobody reads any more; dockerd drops such input too
                return

    def close_stdin(self) -> None:
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def signal(self, number: int) -> None:
        """Send a signal to the process. Raises Conflict if it has ended."""
        if self.pidfd < 0:
            raise Conflict("the process is not running")
        try:
            syscalls.pidfd_send_signal(self.pidfd, number)
        except KernelError as error:
            raise Conflict(f"the process has ended ({error.errno_name})") from error

    def kill(self) -> None:
        self.signal(signals.SIGKILL)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its new size; without a terminal there is nothing to tell."""
        if self.terminal >= 0:
            set_window_size(self.terminal, rows, columns)

    def end(self, code: int) -> None:
        """The process is reaped and its exit status recorded."""
        self.code = code
        self.close_stdin()
        for fd in (self.terminal, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self.terminal = self.pidfd = -1
        self.output.close()
        self.exited.set()
