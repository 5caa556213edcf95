"""Restart policies: whether a container that has ended is started again, and when (moby `daemon/restartmanager`).

Pure but for the timer: the first restart comes after 100 ms, each further one after twice as long, at most a minute;
after a run of ten seconds it begins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from labkit.engine.models import RestartPolicy
from labkit.errors import InvalidParameter

FIRST = 0.1
MOST = 60.0
STEADY = 10.0
"""Seconds that a run must have lasted for the delays to begin anew."""
NAMES = ("no", "always", "on-failure", "unless-stopped")


def check(policy: RestartPolicy) -> None:
    """Raises InvalidParameter in dockerd's words (moby `hostconfig.go`, `ValidateRestartPolicy`)."""
    name, count = policy.Name, policy.MaximumRetryCount
    if name and name not in NAMES:
        known = "', '".join(NAMES[:-1])
        raise InvalidParameter(
            f"invalid restart policy: unknown policy '{name}'; use one of '{known}', or '{NAMES[-1]}'"
        )
    if name == "on-failure":
        if count < 0:
            raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
    elif count:
        more = " and cannot be negative" if count < 0 else ""
        raise InvalidParameter(f"invalid restart policy: maximum retry count can only be used with 'on-failure'{more}")


def is_none(policy: RestartPolicy) -> bool:
    return policy.Name in ("", "no")


def wants_restart(policy: RestartPolicy, code: int, stopped: bool, count: int) -> bool:
    """Whether the policy wants a container again that ended with `code`. `stopped`: somebody asked it to end; `count`:
    how often it was restarted already.
    """
    if policy.Name == "always":
        return True
    if policy.Name == "unless-stopped":
        return not stopped
    if policy.Name == "on-failure":
        most = policy.MaximumRetryCount
        return code != 0 and (most == 0 or count < most)
    return False


def next_delay(last: float, ran: float) -> float:
    """Seconds until the next restart, after a delay of `last` before the present run, which took `ran` seconds."""
    if last == 0 or ran >= STEADY:
        return FIRST
    return min(last * 2, MOST)


@dataclass(slots=True)
class Backoff:
    """Where one container stands between its restarts. `cancelled` says that the next end is for good."""

    delay: float = 0.0
    cancelled: bool = False
    timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> bool:
        return self.timer is not None

    def decide(self, policy: RestartPolicy, code: int, stopped: bool, ran: float, count: int) -> bool:
        """Whether to restart after a run of `ran` seconds; `delay` says how long to wait before."""
        if is_none(policy) or self.cancelled:
            return False
        self.delay = next_delay(self.delay, ran)
        return wants_restart(policy, code, stopped, count)

    def begin(self, restart: Callable[[], None]) -> None:
        """Have `restart` called after the delay."""

        def due() -> None:
            self.timer = None
            restart()

        self.timer = asyncio.get_running_loop().call_later(self.delay, due)

    def stop(self) -> None:
        """Don't restart after all."""
        if self.timer:
            self.timer.cancel()
            self.timer = None
