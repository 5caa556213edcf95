"""Forking ahead: the spawner keeps one child of the kind that was last needed, made by the fork server."""

from __future__ import annotations

import selectors
from collections.abc import Callable

from labkit.errors import KernelError
from labkit.runtime import forking
from labkit.runtime.parking import Kind, Parked
from labkit.runtime.spare import Spare


class Prefork:
    """The parked child, if there is one, and the fork server, from the first child on.

    The fork server's answer comes by `selector`; `spare` is lent for its descriptors. What is in the way goes to
    `log` and costs nothing: a start that finds no parked child forks one.
    """

    def __init__(self, selector: selectors.BaseSelector, spare: Spare, log: Callable[[str], None]) -> None:
        self._selector = selector
        self._spare = spare
        self._log = log
        self._server: forking.ForkServer | None = None
        self._parked: Parked | None = None
        self._kind: Kind | None = None

    def pids(self) -> set[int]:
        """The children of this process that are waited for here."""
        return {child.pid for child in (self._server, self._parked) if child}

    def take(self, kind: Kind) -> Parked | None:
        """The parked child if it is of this kind, which is parked from now on."""
        self._kind = kind
        self._take_answer()
        parked, self._parked = self._parked, None
        if parked and not parked.fits(kind):
            parked.discard()
            return None
        return parked

    def park(self) -> None:
        """Have a child made ready for the next start of the usual kind."""
        if not self._kind or self._parked:
            return
        try:
            if not self._server:
                self._server = forking.start()
                self._selector.register(self._server, selectors.EVENT_READ, self._hear)
            if not self._server.asked:
                self._server.ask(self._kind)
        except (KernelError, OSError, MemoryError) as error:
            self._end_server(error)

    def end(self) -> None:
        """End both."""
        self._take_answer()
        if self._server:
            self._server.end()
        if self._parked:
            self._parked.discard()

    def _hear(self) -> None:
        """The fork server has answered, which may have been taken already, or it has ended."""
        if self._server and self._server.asked:
            self._take_answer()
        elif self._server and self._server.has_ended():
            self._end_server("somebody has ended it")

    def _take_answer(self) -> None:
        """Take the child that the fork server was asked for, if it was; waits for it."""
        if not (self._server and self._server.asked):
            return
        try:
            with self._spare:
                self._parked = self._server.answer()
        except KernelError as error:
            self._log(f"no child is parked: {error}")
        except (OSError, MemoryError) as error:
            self._end_server(error)

    def _end_server(self, reason: object) -> None:
        """Do without it until a child shall be parked again."""
        self._log(f"the fork server is gone: {reason}")
        if self._server:
            self._selector.unregister(self._server)
            self._server.end()
            self._server = None
