"""Where a command reads and writes: a terminal's descriptors here, a notebook cell in `labkit.notebook`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from labkit.errors import InvalidParameter

if TYPE_CHECKING:
    from labkit.cli.live import Live
    from labkit.cli.progress import ProgressDisplay

STDOUT, STDERR = 1, 2


class Streams(ABC):
    """The three standard streams, and what is known of them."""

    stdin: int | None = None  # a descriptor, if there is input
    stdin_is_terminal = False
    stdout_is_terminal = False
    stderr_is_terminal = False
    has_terminal = True  # a tty can be asked for, even if standard input isn't one
    takes_archives = True  # bytes that are no text may be written to standard output
    displays = False  # what is more than text can be shown
    no_tty = "the input device is not a TTY"
    interrupts = 0  # how many SIGINT and SIGTERM have been forwarded
    patience = 3  # so many SIGINT or SIGTERM end a command whatever its container does

    @abstractmethod
    def write(self, stream: int, data: bytes | memoryview) -> None:
        """Writes to STDOUT or STDERR, all of it, at once."""

    def out(self, text: str) -> None:
        self.write(STDOUT, text.encode("utf-8", "surrogateescape"))

    def err(self, text: str) -> None:
        self.write(STDERR, text.encode("utf-8", "surrogateescape"))

    def show(self, value: object) -> None:
        """Shows a value whose `str()` says all; as more than text if it `displays`."""
        self.out(f"{value}\n")

    def progress(self, stream: int) -> ProgressDisplay:
        """Where the progress of a pull is shown that is told on this stream."""
        from labkit.cli.progress import Lines

        return Lines(self.out if stream == STDOUT else self.err)

    def live(self) -> Live:
        """Where a text is shown that is replaced again and again."""
        from labkit.cli.live import Redrawn

        return Redrawn(self.out)

    @property
    def asks(self) -> bool:
        """Whether there is somebody to ask."""
        return self.stdin_is_terminal

    def ask(self, prompt: str, hidden: bool = False) -> str:
        """A line that the user types, unseen if `hidden`; empty at the end of the input. InvalidParameter if nobody is
        there to ask."""
        raise InvalidParameter(f"nobody can be asked here: {prompt}")

    def signals(self) -> list[int]:
        """The signals that a container attached to these streams gets in our place."""
        return []

    def lingers(self, container: str) -> str:
        """What to say, if anything, when a container still runs a second after a signal was forwarded to it."""
        return ""

    @property
    def width(self) -> int:
        """Columns that help is wrapped to."""
        return 80


class TerminalStreams(Streams):
    """Descriptors 0, 1 and 2, unbuffered: what a container writes is seen when it writes it."""

    stdin = 0

    def __init__(self) -> None:
        self.stdin_is_terminal = os.isatty(0)
        self.stdout_is_terminal = os.isatty(1)
        self.stderr_is_terminal = os.isatty(2)
        self.takes_archives = not self.stdout_is_terminal

    def signals(self) -> list[int]:
        from labkit.client.signals import forwarded_signals

        return forwarded_signals()

    def write(self, stream: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(stream, view) :]

    def progress(self, stream: int) -> ProgressDisplay:
        if not (self.stdout_is_terminal if stream == STDOUT else self.stderr_is_terminal):
            return super().progress(stream)
        from labkit.cli.progress import Bars

        return Bars(self.out if stream == STDOUT else self.err, stream)

    def ask(self, prompt: str, hidden: bool = False) -> str:
        if not self.stdin_is_terminal:
            return super().ask(prompt, hidden)
        from labkit.client.terminal import read_line

        self.out(prompt)
        typed = read_line(self.stdin, echo=not hidden)
        if hidden:
            self.out("\n")
        return typed

    @property
    def width(self) -> int:
        try:
            return os.get_terminal_size(0).columns or 80
        except OSError:
            return 80
