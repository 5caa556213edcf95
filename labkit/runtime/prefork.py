"""Children that the spawner needn't fork: one is kept waiting, of the kind that the last start needed.

Two lenders make them: one has its memory lent to the child that waits, the other is there for execs.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable
from typing import Any

from labkit.errors import KernelError
from labkit.kernel import constants as c
from labkit.kernel import lending
from labkit.kernel.namespaces import CloneInit, CloneIntoPidNamespace
from labkit.plan import Numbered
from labkit.runtime import lender
from labkit.runtime.lender import Lender
from labkit.runtime.parking import Kind, Parked
from labkit.runtime.spare import Spare

STARTS, EXECS = "starts", "execs"
_SUID_DUMPABLE = "/proc/sys/fs/suid_dumpable"


class Prefork:
    """The parked child, if there is one, and the lenders, from the second start or exec on: one alone isn't worth it.

    What they say comes by `selector`; `spare` is lent for the descriptors. What is in the way goes to `log` and costs
    nothing: whoever finds no child forks one.
    """

    def __init__(self, selector: selectors.BaseSelector, spare: Spare, log: Callable[[str], None]) -> None:
        self._selector = selector
        self._spare = spare
        self._log = log
        self._able = lending.available()
        self._lenders: dict[str, Lender] = {}
        self._parked: Parked | None = None
        self._kind: Kind | None = None
        self._wanted = {STARTS: 0, EXECS: 0}

    def pids(self) -> set[int]:
        """The children of this process that are waited for here."""
        return {child.pid for child in (*self._lenders.values(), self._parked) if child}

    def child_for(self, operations: Numbered, first: list[list[Any]], descriptors: dict[str, int]) -> Parked | None:
        """A child to be what these operations are about to fork, which does `first` at once; None if it must be forked.

        Only clone3(2) puts a child into a v2 cgroup, or into a new time namespace.
        """
        clone = next((op for _, op in operations if isinstance(op, CloneInit | CloneIntoPidNamespace)), None)
        if clone is None or clone.cgroup:
            return None
        if isinstance(clone, CloneInit):
            return None if clone.flags & c.CSIGNAL else self.take(Kind(clone.flags, first))
        if clone.guarded or not clone.join_pid:
            return None
        return self.enter(Kind(0, first), descriptors["target"], clone.target())

    def take(self, kind: Kind) -> Parked | None:
        """A child of this kind: the parked one if it fits, or a new one. From now on one of this kind is parked."""
        self._kind = kind
        self._wanted[STARTS] += 1
        self._take_answer()
        parked, self._parked = self._parked, None
        if parked and parked.fits(kind):
            return parked
        if parked:
            parked.discard()
        return self._make(kind)

    def enter(self, kind: Kind, pidfd: int, shown: str) -> Parked | None:
        """A child of this kind in the pid namespace of a process."""
        self._wanted[EXECS] += 1
        return self._make(kind, (pidfd, shown))

    def park(self) -> None:
        """Have lenders for what is asked for again and again, and a child made ready for the next start."""
        for use in [use for use, times in self._wanted.items() if times > 1]:
            self._start(use)
        if self._kind and not self._parked and (found := self._free(STARTS)) and not found.asked:
            try:
                found.ask(self._kind)
            except (OSError, MemoryError) as error:
                self._end(STARTS, error)

    def end(self) -> None:
        """Do without any of them, until they are wanted again."""
        self._take_answer()
        if self._parked:
            self._parked.discard()
            self._parked = None
        self._wanted = dict.fromkeys(self._wanted, 0)
        for use in tuple(self._lenders):
            self._end(use)

    def _make(self, kind: Kind, into: tuple[int, str] | None = None) -> Parked | None:
        use = EXECS if into else STARTS
        found = self._free(use)
        if not found:
            return None
        try:
            with self._spare:
                found.ask(kind, into)
                return found.answer()
        except KernelError as error:
            self._log(f"the lender made no child: {error}")
        except (OSError, MemoryError) as error:
            self._end(use, error)
        return None

    def _start(self, use: str) -> None:
        """Have a lender for children that enter a pid namespace, or for others."""
        if use in self._lenders or not self._able:
            return
        found = None
        try:
            found = lender.start()
            self._selector.register(found, selectors.EVENT_READ, lambda: self._hear(use))
            self._lenders[use] = found
        except (KernelError, OSError, MemoryError) as error:
            self._log(f"there is no lender: {error}")
            if found:
                found.end()

    def _free(self, use: str) -> Lender | None:
        """The lender, if its memory can be lent."""
        found = self._lenders.get(use)
        if not (found and _keeps_secrets()):
            return None
        try:
            return found if found.is_free() else None
        except OSError as error:
            self._end(use, error)
            return None

    def _hear(self, use: str) -> None:
        """A lender has answered, or has its memory back, which may have been taken note of already, or it has ended."""
        found = self._lenders.get(use)
        if found and found.asked:
            self._take_answer()
        elif found:
            try:
                found.hear()
            except OSError as error:
                self._end(use, error)

    def _take_answer(self) -> None:
        """Take the child that was asked for, if one was; waits for it."""
        found = self._lenders.get(STARTS)
        if not (found and found.asked):
            return
        try:
            with self._spare:
                self._parked = found.answer()
        except KernelError as error:
            self._log(f"no child is parked: {error}")
        except (OSError, MemoryError) as error:
            self._end(STARTS, error)

    def _end(self, use: str, reason: object = None) -> None:
        """Do without a lender until there is something to ask for."""
        if reason:
            self._log(f"a lender is gone: {reason}")
        if found := self._lenders.pop(use, None):
            self._selector.unregister(found)
            found.end()


def _keeps_secrets() -> bool:
    """Whether a process stays undumpable when it changes its user, and all with it that share its memory."""
    try:
        with open(_SUID_DUMPABLE, encoding="ascii") as file:
            return file.read().strip() != "1"
    except OSError:
        return False
