"""A container's first process between its fork and its exec: runs the plan's `init` operations and reports.

It reports over the control socket, a packet at a time, what the spawner passes on: descriptors with their names (a
terminal's master, `labkit.kernel.stdio`; a name server's sockets, `labkit.kernel.resolver`), the records of its
operations, or the error that ended it. A control socket that closes without an error says that the exec has
succeeded, since it is close-on-exec.
"""

from __future__ import annotations

import gc
import marshal
import os
import time
from typing import Any, NoReturn

from labkit.errors import KernelError, LabkitError
from labkit.kernel.oci_runtime import CreateByRuntime
from labkit.kernel.process import Execute
from labkit.plan import Context, Numbered, perform

DESCRIPTORS, RECORDS, ERROR = b"\0", b"\1", b"\2"
Executing = Execute | CreateByRuntime
"""The last operation of a process: it becomes a program."""


def run_init(operations: Numbered, context: Context) -> NoReturn:
    """Run the operations, the last of which executes the program. Never returns; exits with 127 after an error."""
    gc.disable()  # a collection would copy every page that it looks at, for nothing
    records: list[Any] = []
    if last := prepare(operations, context, records):
        execute(*last, context, records)
    os._exit(127)


def prepare(operations: Numbered, context: Context, records: list[Any]) -> tuple[int, Executing] | None:
    """Run the operations but for the last, which is returned with its place; None after an error, which is reported.

    `records` are those of operations that have run already; the others' are added.
    """
    place, last = operations[-1]
    assert isinstance(last, Executing)
    try:
        for index, operation in operations[:-1]:
            records.append(tuple(perform(index, operation, context)))
        began = time.monotonic_ns()
        calls = [last.record(context)] if isinstance(last, Execute) else []
        told = (place, None, began, began, calls, "")
        os.write(context.descriptors["control"], RECORDS + marshal.dumps([*records, told], 4))
    except _ERRORS as error:
        _report(context, error, records)
        return None
    return place, last


def execute(place: int, last: Executing, context: Context, records: list[Any]) -> None:
    """Become the program. Returns after an error, which is reported."""
    try:
        perform(place, last, context)
    except _ERRORS as error:
        _report(context, error, records)


_ERRORS = LabkitError, OSError, MemoryError, KeyError, ValueError


def _report(context: Context, error: Exception, records: list[Any]) -> None:
    fields: tuple[Any, ...] = (f"{type(error).__name__}: {error}", getattr(error, "errno", None) or 0, "", "")
    failed = None
    if isinstance(error, KernelError):
        fields = error.call, error.errno, error.hint, error.operation
        failed = tuple(error.record) if isinstance(error.record, tuple) else None
    os.write(context.descriptors["control"], ERROR + marshal.dumps((*fields, failed, records), 4))
