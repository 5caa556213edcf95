"""Signals to processes that the engine knows (pidfd_send_signal(2), kill(2), signal(7))."""

from __future__ import annotations

import select
import signal
from dataclasses import dataclass
from typing import ClassVar

from labkit.kernel import syscalls
from labkit.plan import Context, Operation, Result


def signal_name(number: int) -> str:
    """The name of a signal, such as SIGTERM or SIGRTMIN+3; its number if it has none."""
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def ends_within(pidfd: int, seconds: float) -> bool:
    """Wait for the end of a process. By poll(2): select(2) takes no descriptor above 1023."""
    end = select.poll()
    end.register(pidfd, select.POLLIN)
    return bool(end.poll(seconds * 1000))


@dataclass(frozen=True, slots=True)
class SendSignal(Operation):
    """Send a signal to a process through its descriptor (`pidfd` of the context): a pid could be another's by now."""

    pid: int
    number: int
    man: ClassVar[str] = "pidfd_send_signal(2)"

    def run(self, context: Context) -> Result:
        syscalls.pidfd_send_signal(context.descriptors["pidfd"], self.number)
        return None

    def describe(self) -> str:
        return f"send {signal_name(self.number)} to process {self.pid}"

    def shell(self) -> str:
        return f"kill -{signal_name(self.number).removeprefix('SIG')} {self.pid}"
