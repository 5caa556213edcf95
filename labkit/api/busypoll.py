"""Busy polling: after a quick answer, the event loop stays awake for a moment, for the next request.

A daemon that sleeps in epoll_wait(2) must be woken, which takes longer than many an answer: 10 us, and 30 us and
more where the processor has halted in a virtual machine. The kernel does the same for sockets (SO_BUSY_POLL in
socket(7)) and idle processors (haltpoll). As there, it is tried only where it has paid the last time.
"""

from __future__ import annotations

import asyncio
import time

WINDOW_NS = 150_000
"""How long the next request is looked for: what a client in Python needs between two, and some more."""

QUICK_NS = 500_000
"""An answer that took longer was work, which others may still be at: they need the processors more."""


class BusyPoll:
    """Keeps one event loop from sleeping while a request is expected."""

    def __init__(self) -> None:
        self._until = 0
        self._pays = False
        self._polling = False

    def asked(self) -> None:
        """A request has come: whether in time tells if it pays to look for the next one."""
        self._pays = time.perf_counter_ns() < self._until
        self._until = 0

    def answered(self, nanoseconds: int) -> None:
        """A client got an answer that took so long, and may go on."""
        if nanoseconds > QUICK_NS:
            return
        self._until = time.perf_counter_ns() + WINDOW_NS
        if self._pays and not self._polling:
            self._polling = True
            self._turn()

    def _turn(self) -> None:
        """While a callback is due, the loop looks for events without waiting for them."""
        if time.perf_counter_ns() < self._until:
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self._polling = False
