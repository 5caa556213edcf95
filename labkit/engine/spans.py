"""What became of a plan that was to end in a process, for the traces (`labkit.engine.traces`)."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from labkit.engine.traces import PlanSpan
from labkit.errors import KernelError, LabkitError
from labkit.plan import Plan, Record
from labkit.runtime.spawning import Started, StartFailed
from labkit.trace import TraceContext


def started_span(
    subject: str, plan: Plan, started: Started, context: TraceContext, spawner: int, first: Sequence[Record] = ()
) -> PlanSpan:
    """A plan that ended in a process, for the traces. `first` is what the daemon did of it."""
    pids = {"daemon": os.getpid(), "spawner": spawner, "init": started.pid}

    def records() -> tuple[Record, ...]:
        return (*first, *started.records())

    return PlanSpan(context.child(), subject, plan, records, started.offset, pids, started.exec_at)


def failed_span(
    subject: str, plan: Plan, error: LabkitError, context: TraceContext, first: Sequence[Record] = ()
) -> PlanSpan:
    """A plan that failed on its way, for the traces."""
    offset = time.time_ns() - time.monotonic_ns()
    done: tuple[Record, ...] = error.records if isinstance(error, StartFailed) else ()
    if isinstance(error, KernelError) and isinstance(error.record, Record):
        done = (error.record,)
    return PlanSpan(context.child(), subject, plan, lambda: (*first, *done), offset, {"daemon": os.getpid()})
