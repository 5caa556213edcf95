"""A container's first process between its fork and its exec: runs the plan's `init` operations and reports.

It reports over the control socket, a packet at a time, what the spawner passes on: a terminal's master
(`labkit.kernel.stdio`), the records of its operations, or the error that ended it. A control socket that
closes without an error says that the exec has succeeded, since it is close-on-exec.
"""

from __future__ import annotations

import gc
import marshal
import os
import time
from typing import Any, NoReturn

from labkit.errors import KernelError, LabkitError
from labkit.kernel.syscalls import record_execve
from labkit.plan import Context, Operation, perform

TERMINAL, RECORDS, ERROR = b"\0", b"\1", b"\2"


def run_init(operations: tuple[tuple[int, Operation], ...], context: Context) -> NoReturn:
    """Run the operations, the last of which executes the program. Never returns; exits with 127 after an error."""
    gc.disable()  # a collection would copy every page that it looks at, for nothing
    control = context.descriptors["control"]
    records = []
    try:
        for place, operation in operations[:-1]:
            records.append(tuple(perform(place, operation, context)))
        place, operation = operations[-1]
        began = time.monotonic_ns()
        calls = [record_execve(getattr(operation, "argv", ("?",))[0], getattr(operation, "argv", ()), 0)]
        records.append((place, None, began, began, calls, ""))
        os.write(control, RECORDS + marshal.dumps(records, 4))
        perform(place, operation, context)
    except KernelError as error:
        _report(control, error.call, error.errno, error.hint, error.operation, error.record, records)
    except (LabkitError, OSError, KeyError, ValueError) as error:
        number = getattr(error, "errno", None) or 0
        _report(control, f"{type(error).__name__}: {error}", number, "", "", None, records)
    os._exit(127)


def _report(control: int, *error: Any) -> None:
    *fields, record, records = error
    failed = tuple(record) if isinstance(record, tuple) else None
    os.write(control, ERROR + marshal.dumps((*fields, failed, records), 4))
