"""The fork server: a copy of the spawner that does nothing but fork the children that are parked.

After a fork, each page that either process writes to is copied first, and in Python every look at an object writes. A
spawner that forked children itself would copy some hundred of its pages after each, in the middle of the next start.
The fork server waits between two forks, so hardly a page of it changes. Its children are the spawner's: CLONE_PARENT
(clone(2)).
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from typing import NoReturn

from labkit.errors import KernelError
from labkit.kernel import constants as c
from labkit.kernel import syscalls
from labkit.runtime import channel
from labkit.runtime.parking import Kind, Parked, wait
from labkit.trace import RECORDER


@dataclass(slots=True)
class ForkServer:
    """The spawner's end. `asked` is the kind of child asked for, and a /proc/self/mountinfo opened before its fork."""

    pid: int
    socket: socket.socket
    asked: tuple[Kind, int] | None = None

    def fileno(self) -> int:
        """Readable when there is an answer."""
        return self.socket.fileno()

    def has_ended(self) -> bool:
        """Whether it will never answer again."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False

    def ask(self, kind: Kind) -> None:
        """Ask for a child. Raises OSError if there is no room for its descriptors, or nobody to ask."""
        mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        try:
            channel.send(self.socket, {"flags": kind.flags, "first": kind.first, "last": kind.last})
        except OSError:
            os.close(mounts)
            raise
        self.asked = kind, mounts

    def answer(self) -> Parked:
        """The child that was asked for. Raises KernelError if the fork failed, OSError if the server has ended."""
        assert self.asked
        (kind, mounts), self.asked = self.asked, None
        try:
            received = channel.receive(self.socket)
            if not received:
                raise ConnectionResetError("the fork server has ended")
            message, fds = received
            if "error" in message:
                raise KernelError(*message["error"])
            pidfd, control = _both(message["pid"], fds)
        except (KernelError, OSError):
            os.close(mounts)
            raise
        return Parked(kind, message["pid"], pidfd, socket.socket(fileno=control), message["calls"], mounts)

    def end(self) -> None:
        """Have it end, and bury it."""
        if self.asked:
            os.close(self.asked[1])
        self.socket.close()
        os.waitpid(self.pid, 0)


def start() -> ForkServer:
    """Fork the fork server. Raises KernelError, OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            pid, pidfd = syscalls.clone3(0)
        except KernelError:
            ours.close()
            raise
        if pid == 0:
            try:
                close_all_but(theirs.fileno())
                _serve(theirs)
            finally:
                os._exit(127)  # whatever went wrong: there must be no second spawner
        os.close(pidfd)
    return ForkServer(pid, ours)


def _both(pid: int, fds: list[int]) -> tuple[int, int]:
    """A child's pidfd and control socket. If there was no room for both the child ends, and is buried."""
    if len(fds) == 2:
        return fds[0], fds[1]
    for fd in fds:
        os.close(fd)
    os.waitpid(pid, 0)
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def close_all_but(kept: int) -> None:
    """Close what the spawner keeps for containers: a pipe ends only when every copy of its end is closed."""
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def _serve(spawner: socket.socket) -> NoReturn:
    while received := channel.receive(spawner):
        kind = Kind(**received[0])
        try:
            control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with control, theirs:
                _fork(kind, spawner, control, theirs)
        except (KernelError, OSError) as error:
            known = error if isinstance(error, KernelError) else KernelError("fork", error.errno or 0)
            channel.send(spawner, {"error": (known.call, known.errno, known.hint)})
    os._exit(0)


def _fork(kind: Kind, spawner: socket.socket, control: socket.socket, theirs: socket.socket) -> None:
    calls = RECORDER.start()
    try:
        pid, pidfd = syscalls.clone3(kind.flags | c.CLONE_PARENT)
    finally:
        RECORDER.stop()
    if pid == 0:
        try:
            close_all_but(theirs.fileno())
            wait(kind, theirs)
        finally:
            os._exit(127)
    try:
        channel.send(spawner, {"pid": pid, "calls": calls}, (pidfd, control.fileno()))
    finally:
        os.close(pidfd)
