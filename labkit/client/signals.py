"""Signals as data: while a SignalPipe is open, signals that arrive are read from a descriptor (pipe(2), signal(7)).

The command forwards them to the container, as `docker run` does with --sig-proxy; a notebook cell takes the
interrupt of its kernel the same way, so that Ctrl-C never cuts an answer in two.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from types import FrameType
from typing import Any

# Not forwarded: what can't be caught, what reports on the command itself, and what faults of the command raise.
_OWN = {"SIGKILL", "SIGSTOP", "SIGCHLD", "SIGPIPE", "SIGURG", "SIGTTIN", "SIGTTOU"}
_FAULTS = {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS"}


def forwarded_signals() -> list[int]:
    """All signals that a command passes on to its container."""
    kept = {getattr(signal, name) for name in _OWN | _FAULTS}
    return sorted(int(number) for number in signal.valid_signals() if number not in kept)


def signal_name(number: int) -> str:
    """The name that the Engine API's `signal` parameter takes; real-time signals are passed by number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


class SignalPipe:
    """A context in which the given signals do nothing but arrive at `descriptor`. Main thread only (signal(2))."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = list(numbers)
        self._before: dict[int, Any] = {}
        self.descriptor = -1
        self._write = -1

    def __enter__(self) -> SignalPipe:
        self.descriptor, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in self._numbers:
            self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        for number, action in self._before.items():
            signal.signal(number, action if action is not None else signal.SIG_DFL)
        os.close(self.descriptor)
        os.close(self._write)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        os.write(self._write, bytes([number]))

    def read(self) -> list[int]:
        """The signals that have arrived since the last call."""
        try:
            return list(os.read(self.descriptor, 256))
        except BlockingIOError:
            return []
