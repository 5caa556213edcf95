"""Processes that another runtime leaves to the spawner: a container's init after `RUNTIME create`, and orphans.

To be given the former, the spawner is a subreaper (prctl(2), PR_SET_CHILD_SUBREAPER); so it gets all orphans of
containers without a pid namespace of their own too, and buries them.
"""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Callable

from labkit.kernel import constants as c
from labkit.kernel import syscalls
from labkit.kernel.oci_runtime import CreateByRuntime, receive_terminal


class Orphans:
    """Takes the statuses of children that nobody waits for. `owned` gives the pids of those that somebody does."""

    def __init__(self, selector: selectors.BaseSelector, owned: Callable[[], set[int]]) -> None:
        self._owned = owned
        syscalls.prctl(c.PR_SET_CHILD_SUBREAPER, 1)
        self._woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        selector.register(self._woken, selectors.EVENT_READ, self.bury)

    def bury(self) -> None:
        """Some child has ended. One that is owned may stand before others: they are buried after it."""
        try:
            os.read(self._woken, 1 << 10)
        except BlockingIOError:
            pass  # called without a signal
        while children_ended := _next_ended():
            if children_ended in self._owned():
                return
            os.waitpid(children_ended, 0)


def _next_ended() -> int:
    """The pid of a child that has ended, which stays as it is; 0 if there is none."""
    try:
        status = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return status.si_pid if status else 0


def take_created(
    runtime: CreateByRuntime, status: int, descriptors: dict[str, int], kept: dict[str, int]
) -> tuple[int, int]:
    """The init of a container that a runtime has created, started: pid and pidfd. `kept` gets its terminal.

    Raises KernelError with what the runtime says, OSError or ValueError for what it has left.
    """
    if status:
        raise runtime.failure("create")
    pid, pidfd = runtime.created()
    try:
        if runtime.terminal:
            kept["terminal"] = receive_terminal(descriptors["console"])
            os.close(descriptors.pop("console"))
        runtime.start()
    except BaseException:
        syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        raise
    return pid, pidfd
