"""The lender: a copy of the spawner that makes children, and lends each its memory until the child's exec.

Its children are the spawner's: CLONE_PARENT (clone(2)). It does nothing else, so that nobody waits for it while its
memory is lent (`labkit.kernel.lending`), and keeps no descriptor of a container. It is worth little: where a child was
killed at its work the lender ends, and the next one is forked.

A process that traces such a child has the lender's memory, and with it the host. The child can't be traced without
CAP_SYS_PTRACE, since the spawner isn't dumpable and neither is what it forks; containers that have that capability
enter by a fork (`CloneIntoPidNamespace.guarded`), and so do all where fs.suid_dumpable says that a change of the user
makes a process dumpable (proc_sys_fs(5)).
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from functools import partial
from socket import AF_UNIX, MSG_DONTWAIT, SOCK_SEQPACKET, socket, socketpair
from typing import Any, NoReturn

from labkit.errors import KernelError
from labkit.kernel import constants as c
from labkit.kernel import lending, syscalls
from labkit.runtime import channel
from labkit.runtime.parking import Kind, Known, Parked, Work
from labkit.trace import RECORDER

_SPAWNER, _OWN = 3, 4
"""The lender's descriptors besides the standard streams: to the spawner, and of its own pid namespace."""
_PACKET = 64
_ENDED = "it has ended"
_BACK = b"back"
"""What the lender says when its memory is its own again."""


@dataclass(slots=True)
class Lender:
    """The spawner's end. `asked` is what it was asked for and hasn't answered yet.

    `lent` is the child that has its memory; `due` says that this one has executed its program by now, or has ended.
    """

    pid: int
    sock: socket
    asked: tuple[Kind, int, socket] | None = None
    lent: Parked | None = None
    due: bool = False

    def fileno(self) -> int:
        """Readable when there is an answer, or the memory is back."""
        return self.sock.fileno()

    def is_free(self) -> bool:
        """Whether a child can be made now. Raises ConnectionResetError if never again."""
        if self.lent:
            self.hear(self.due)
        return self.lent is None

    def hear(self, wait: bool = False) -> None:
        """Take note that the memory is back, if it is. Raises ConnectionResetError if the lender has ended."""
        try:
            told = self.sock.recv(len(_BACK), 0 if wait else MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not told:
            raise ConnectionResetError(_ENDED)
        self.lent, self.due = None, False

    def ask(self, kind: Kind, into: tuple[int, str] | None = None) -> None:
        """Ask for a child; `into` is a pidfd, as the trace shall call it, of whose pid namespace it shall be.

        Raises OSError if there is no room for the descriptors, or nobody to ask.
        """
        mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        ours = None
        try:
            ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
            with theirs:
                message = {"flags": kind.flags, "first": kind.first, "into": into[1] if into else ""}
                channel.send(self.sock, message, [theirs.fileno(), *([into[0]] if into else [])])
        except OSError:
            os.close(mounts)
            if ours:
                ours.close()
            raise
        self.asked = kind, mounts, ours

    def answer(self) -> Parked:
        """The child that was asked for. Raises KernelError if there is none, OSError if the lender has ended."""
        assert self.asked
        (kind, mounts, control), self.asked = self.asked, None
        try:
            calls, pid = self._receive()
            pidfd = _pidfd_of(pid)
        except (KernelError, OSError):
            os.close(mounts)
            control.close()
            raise
        self.lent = Parked(kind, pid, pidfd, control, calls, mounts, self)
        return self.lent

    def _receive(self) -> tuple[list[tuple[Any, ...]], int]:
        """The kernel calls that made the child, and its pid."""
        message, packet = self._message(), self.sock.recv(_PACKET)
        if not packet:
            raise ConnectionResetError(_ENDED)
        birth = lending.read_birth(packet)
        if not birth.pid:
            self._message()  # raises what kept it from that
        clone = "clone", (message["flags"],), birth.pid, 0, birth.began, birth.ended
        return [*message["calls"], clone], birth.pid

    def _message(self) -> channel.Message:
        received = channel.receive(self.sock)
        if not received:
            raise ConnectionResetError(_ENDED)
        if "error" in received[0]:
            raise KernelError(*received[0]["error"])
        return received[0]

    def left(self, child: Parked) -> None:
        """A child has executed its program, or has ended. That may be known already, and another one be there."""
        if self.lent is child:
            self.due = True

    def end(self) -> None:
        """End it and bury it. A child that has its memory keeps that."""
        if self.asked:
            os.close(self.asked[1])
            self.asked[2].close()
        self.sock.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _pidfd_of(child: int) -> int:
    """A pidfd of a new child. If there is no room for one the child is ended, and buried."""
    try:
        return os.pidfd_open(child)
    except OSError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise


def start() -> Lender:
    """Fork the lender. Raises KernelError, OSError."""
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
    with theirs:
        try:
            pid, pidfd = syscalls.clone3(0)
        except KernelError:
            ours.close()
            raise
        if pid == 0:
            try:
                _serve(_settle(theirs))
            finally:
                os._exit(127)  # whatever went wrong: there must be no second spawner
        os.close(pidfd)
    return Lender(pid, ours)


def _settle(theirs: socket) -> socket:
    """Close what the spawner keeps for containers: a pipe ends only when every copy of its end is closed."""
    os.dup2(theirs.detach(), _SPAWNER, inheritable=False)
    os.closerange(_SPAWNER + 1, os.sysconf("SC_OPEN_MAX"))
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    assert own == _OWN
    return socket(fileno=_SPAWNER)


def _serve(spawner: socket) -> NoReturn:
    lent, known = lending.Lending(), Known()
    while True:
        pipe = os.pipe()
        received = channel.receive(spawner)
        if not received:
            os._exit(0)
        message, fds = received
        work = Work(message["first"], fds[0], known)
        try:
            _lend(lent, work, message, fds[1:], spawner, pipe)
        except KernelError as error:
            channel.send(spawner, {"error": (error.call, error.errno, error.hint)})
        else:
            spawner.send(_BACK)
        os.closerange(pipe[0], fds[-1] + 1)


def _lend(
    lent: lending.Lending,
    work: Work,
    message: channel.Message,
    into: list[int],
    spawner: socket,
    pipe: tuple[int, int],
) -> None:
    """Make one child. setns(2) into a pid namespace holds for the caller's children only: enter, lend, go back."""
    flags = message["flags"] | c.CLONE_PARENT
    calls = RECORDER.start()
    try:
        for pidfd in into:
            syscalls.setns(pidfd, c.CLONE_NEWPID, message["into"])
    finally:
        RECORDER.stop()
    channel.send(spawner, {"calls": calls, "flags": flags | lending.FLAGS})
    try:
        lent.lend(flags, partial(_begin, work), work.failed, spawner, pipe)
    except OSError as error:
        raise KernelError("clone", error.errno or 0) from error
    finally:
        if into:
            syscalls.setns(_OWN, c.CLONE_NEWPID)


def _begin(work: Work) -> lending.Program | None:
    """What a child does first. It has a copy of the lender's socket, which would outlive a lender that is killed."""
    os.close(_SPAWNER)
    return work.prepare()
