"""Plans that the daemon carries out itself: networks, volumes, files. Those of processes are the spawner's.

Each is kept as a trace. One that must not be left half done has a journal below the exec root while it runs: a daemon
that finds one undoes what it tells of, and then makes what the records say.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from labkit.engine.traces import PlanSpan
from labkit.errors import KernelError
from labkit.plan import Context, Execution, Journal, Plan, Record
from labkit.trace import TraceContext

if TYPE_CHECKING:
    from labkit.engine.engine import Engine


def carry_out(engine: Engine, plan: Plan, subject: str, trace: TraceContext, context: Context | None = None) -> None:
    """Execute a plan of the daemon's own, undone if it fails, and keep its trace. Raises LabkitError."""
    execute(engine, Execution(plan.by("daemon"), context or Context()), plan, subject, trace)


def carry_out_journalled(engine: Engine, plan: Plan, subject: str, trace: TraceContext) -> None:
    """`carry_out` for what would outlive the daemon. Raises LabkitError; OSError without room for the journal."""
    operations = plan.by("daemon")
    journal = Journal(os.path.join(engine.settings.journals, f"{plan.name.replace(' ', '-')}-{subject}"))
    try:
        journal.open(operations)
        execute(engine, Execution(operations, Context(), journal), plan, subject, trace)
    finally:
        journal.discard()


def execute(engine: Engine, execution: Execution, plan: Plan, subject: str, trace: TraceContext) -> None:
    failed: list[Record] = []
    engine.networks.host.lend(execution.context)
    try:
        execution.run_or_undo()
    except KernelError as error:
        if isinstance(error.record, Record):
            failed.append(error.record)
        raise
    finally:
        offset = time.time_ns() - time.monotonic_ns()
        records = (*execution.records, *failed)
        engine.traces.plan(PlanSpan(trace.child(), subject, plan, lambda: records, offset, {"daemon": os.getpid()}))
