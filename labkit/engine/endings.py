"""Why a container ended: from what the kernel, the spawner and the requests tell to one answer (`labkit explain`).

Pure. dockerd tells the exit code and whether memory ran out; who sent the signal it forgets.
"""

from __future__ import annotations

from collections.abc import Sequence

from labkit.engine.clock import rfc3339
from labkit.engine.models import Ending, Health, HealthResult, MemoryAtEnd
from labkit.engine.run import Asked
from labkit.runtime.spawning import Outcome

KILLED = 137


def ending(outcome: Outcome, asked: Sequence[Asked], error: str, health: Health | None) -> Ending:
    """The reason of one end. `asked` are the signals that the engine sent to the run, `error` what else is known."""
    memory = MemoryAtEnd(**outcome.memory) if outcome.memory else None
    found = Ending(By="itself", ExitCode=outcome.code, At=rfc3339(outcome.ended), Signal=outcome.signal, Error=error)
    found.Memory, found.Health = memory, _last_failure(health)
    cause = _cause(outcome, asked)
    if error:
        found.By = "lost"
    elif outcome.oom and outcome.code == KILLED and not any(one.signal == outcome.signal for one in asked):
        found.By = "memory"
    elif cause:
        found.By, found.Verb, found.Trace = cause.by, cause.verb, cause.trace
    elif outcome.signal:
        found.By = "signal"
    return found


def _cause(outcome: Outcome, asked: Sequence[Asked]) -> Asked | None:
    """The signal that the process ended by; where it handled the signal and left, the last one that it was sent."""
    if not asked:
        return None
    if outcome.signal:
        return next((one for one in reversed(asked) if one.signal == outcome.signal), None)
    return asked[-1]


def _last_failure(health: Health | None) -> HealthResult | None:
    if health is None or not health.FailingStreak or not health.Log:
        return None
    return health.Log[-1]
