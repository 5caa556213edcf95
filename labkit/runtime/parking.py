"""A child that is made before its work is there: it waits, in new namespaces, for the rest of a plan.

Making namespaces is a good part of a start, and doesn't depend on the container. So the spawner keeps one parked child
of the kind that was last needed; the lender makes it (`labkit.runtime.lender`). A plan's `CloneInit` takes it instead
of forking if it fits, and the trace tells the calls that were made ahead, with the times at which they were made.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labkit.errors import LabkitError
from labkit.kernel.lending import STEP, Program
from labkit.kernel.process import InstallSeccomp
from labkit.kernel.signals import ends_within
from labkit.plan import Context, Encoded, Numbered, Operation, Record, decode, perform
from labkit.runtime import channel
from labkit.runtime.init import Executing, execute, prepare
from labkit.trace import RECORDER

if TYPE_CHECKING:
    from labkit.runtime.lender import Lender

GO = b"go"
"""What a child is told after its work, when the host's side of the plan is done."""
PATIENCE = 1.0
"""Seconds that a child has to end by itself."""
Known = dict[int, tuple[list[Any], Operation]]
"""The operations of the last plan by their places, encoded and decoded: most will be wanted again."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a parked child is good for: the namespaces that it is made in, and what it does there before it waits.

    `first` are encoded operations without places.
    """

    flags: int
    first: list[list[Any]]


@dataclass(slots=True)
class Parked:
    """A waiting child: what it is good for, the other end of its control socket, and whose memory it has."""

    kind: Kind
    pid: int
    pidfd: int
    control: socket.socket
    calls: list[tuple[Any, ...]]
    mounts: int
    lender: Lender

    def fits(self, kind: Kind) -> bool:
        """Whether it can be what a plan wants to fork.

        Its mount namespace is a copy of the host's at its fork: it is no longer true once the host's mounts have
        changed, which a poll of /proc/self/mountinfo tells (proc(5)).
        """
        watch = select.poll()
        watch.register(self.mounts, select.POLLPRI)
        return kind == self.kind and not watch.poll(0)

    def work(self, operations: bytes, descriptors: dict[str, int]) -> None:
        """Hand over the child's operations (Encoded, marshalled) with the descriptors that they need, to get ready."""
        message = {"operations": operations, "names": list(descriptors)}
        channel.send(self.control, message, list(descriptors.values()))

    def take(self, context: Context) -> int:
        """Be the child that an operation would have forked."""
        if RECORDER.calls is not None:
            RECORDER.calls.extend(self.calls)
        context.pid, context.descriptors["pidfd"] = self.pid, self.pidfd
        return self.pid

    def go(self) -> None:
        """Have it carry out what was handed over: the host's side of the plan is done."""
        os.close(self.mounts)
        try:
            self.control.send(GO)
        except BrokenPipeError:
            pass  # somebody has killed it: its pidfd tells

    def left(self) -> None:
        """It has executed its program, or has ended: the memory that it had is the lender's again."""
        self.lender.left(self)

    def discard(self) -> None:
        """End the child: it goes when its control socket closes, unless somebody has stopped it."""
        self.control.close()
        if not ends_within(self.pidfd, PATIENCE):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        os.close(self.pidfd)
        os.close(self.mounts)
        self.left()


class Work:
    """What such a child does, from its first instruction to its exec: the two functions of `Lending.lend`.

    `control` is the descriptor of its own end. It is left open, as is all that the child shall have until its exec.
    """

    def __init__(self, first: list[list[Any]], control: int, known: Known) -> None:
        self._first = first
        self._known = known
        self._context = Context({"control": control})
        self._last: tuple[int, Executing] | None = None
        self._records: list[Any] = []

    def prepare(self) -> Program | None:
        """Do what can be done ahead, and the rest of the plan when it comes; tells what to execute if all went well.

        A child that can't do the first part ends without a word: whoever wants it forks one, which tells why.
        """
        try:
            done = [perform(place, decode(data), self._context) for place, data in enumerate(self._first)]
            operations = self._receive(done)
        except (LabkitError, OSError, MemoryError):
            return None
        self._last = prepare(operations, self._context, self._records) if operations else None
        if self._last and operations and not all(_lets_return(operation) for _, operation in operations):
            self.failed()  # from here on there is no way back to C, and the lender ends with the exec
            return None
        return self.program(self._last[1]) if self._last else None

    def program(self, last: Executing) -> Program:
        """What the plan's last operation executes."""
        return last.execution(self._context)

    def failed(self) -> None:
        """It couldn't be executed by C: once more, from Python, where it is told why."""
        assert self._last
        execute(*self._last, self._context, self._records)

    def _receive(self, done: list[Record]) -> Numbered | None:
        """The operations that are left to do, when they shall be done; None if they shall not."""
        sock = socket.socket(fileno=self._context.descriptors["control"])
        try:
            received = channel.receive(sock)
            if received is None:
                return None
            message, fds = received
            encoded: Encoded = marshal.loads(message["operations"])
            operations = self._decode(encoded[len(done) :])
            if sock.recv(len(GO)) != GO:
                return None
        finally:
            sock.detach()
        self._context.descriptors |= dict(zip(message["names"], fds, strict=True))
        records = (Record(place, *record[1:]) for (place, *_), record in zip(encoded, done, strict=False))
        self._records = [tuple(record) for record in records]
        return operations

    def _decode(self, operations: Encoded) -> Numbered:
        """The operations; most are the same for every container, and known already."""
        for place, *data in operations:
            if self._known.get(place, (None,))[0] != data:
                self._known[place] = data, decode(data)
        return tuple((place, self._known[place][1]) for place, *_ in operations)


def _lets_return(operation: Operation) -> bool:
    """Whether a child that has done it may still return to C."""
    return not isinstance(operation, InstallSeccomp) or operation.lets(STEP)
