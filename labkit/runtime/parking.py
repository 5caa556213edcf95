"""A child that is forked before anybody asks: it waits in new namespaces for the rest of a plan.

Making namespaces, and the page faults of a fresh fork, are a good part of a start, and don't depend on the
container. So the spawner keeps one parked child of the kind that was last needed; the fork server forks it
(`labkit.runtime.forking`). A plan's `CloneInit` takes it instead of forking if it fits, and the trace tells the calls
that were made ahead, with the times at which they were made.
"""

from __future__ import annotations

import gc
import marshal
import os
import select
import socket
from dataclasses import dataclass, field
from typing import Any, NoReturn

from labkit.plan import Context, Encoded, Numbered, Operation, Record, decode, perform
from labkit.runtime import channel
from labkit.runtime.init import run_init
from labkit.trace import RECORDER

GO = b"go"
"""What a child is told after its work, when the host's side of the plan is done."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a parked child is good for: the namespaces to fork into, and what to do there before waiting.

    `first` are encoded operations without places. `last` is the whole of such a plan, the last time, as it came: the
    child decodes it ahead, since most of it will be wanted again.
    """

    flags: int
    first: list[list[Any]]
    last: bytes = field(compare=False)


@dataclass(slots=True)
class Parked:
    """A waiting child: what it is good for, and the other end of its control socket."""

    kind: Kind
    pid: int
    pidfd: int
    control: socket.socket
    calls: list[tuple[Any, ...]]
    mounts: int

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
        """Be the child that a `CloneInit` would have forked."""
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

    def discard(self) -> None:
        """End the child: it goes when its control socket closes."""
        self.control.close()
        os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        os.close(self.pidfd)
        os.close(self.mounts)


def wait(kind: Kind, control: socket.socket) -> NoReturn:
    """Be a parked child: do what can be done ahead, and the rest of a plan when it comes."""
    gc.disable()  # a collection would copy every page that it looks at, for nothing
    context = Context({"control": control.fileno()})
    done = [perform(place, decode(data), context) for place, data in enumerate(kind.first)]
    known = {place: (data, decode(data)) for place, *data in marshal.loads(kind.last)[len(done) :]}
    received = channel.receive(control)
    if received is None:
        os._exit(0)
    message, fds = received
    context.descriptors |= dict(zip(message["names"], fds, strict=True))
    encoded: Encoded = marshal.loads(message["operations"])
    records = [Record(place, *record[1:]) for (place, *_), record in zip(encoded, done, strict=False)]
    operations = _decode(encoded[len(done) :], known)
    if control.recv(len(GO)) != GO:
        os._exit(0)
    run_init(operations, context, records)


def _decode(operations: Encoded, known: dict[int, tuple[list[Any], Operation]]) -> Numbered:
    """The operations; most are the same for every container, and decoded already."""
    unknown: tuple[list[Any] | None, None] = (None, None)
    pairs = ((place, data, *known.get(place, unknown)) for place, *data in operations)
    return tuple((place, same if same and data == seen else decode(data)) for place, data, seen, same in pairs)
