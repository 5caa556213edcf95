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
from collections.abc import Sequence
from typing import Any, NoReturn

from labkit.errors import KernelError, LabkitError
from labkit.kernel.process import Execute
from labkit.plan import Context, Numbered, Record, perform

DESCRIPTORS, RECORDS, ERROR = b"\0", b"\1", b"\2"


def run_init(operations: Numbered, context: Context, done: Sequence[Record] = ()) -> NoReturn:
    """Run the operations, the last of which executes the program. Never returns; exits with 127 after an error.

    `done` are the records of operations that have run already.
    """
    gc.disable()  # a collection would copy every page that it looks at, for nothing
    control = context.descriptors["control"]
    records: list[Any] = [tuple(record) for record in done]
    try:
        for place, operation in operations[:-1]:
            records.append(tuple(perform(place, operation, context)))
        place, operation = operations[-1]
        began = time.monotonic_ns()
        calls = [operation.record(context)] if isinstance(operation, Execute) else []
        last = (place, None, began, began, calls, "")
        os.write(control, RECORDS + marshal.dumps([*records, last], 4))
        perform(place, operation, context)
    except KernelError as error:
        _report(control, error.call, error.errno, error.hint, error.operation, error.record, records)
    except (LabkitError, OSError, MemoryError, KeyError, ValueError) as error:
        number = getattr(error, "errno", None) or 0
        _report(control, f"{type(error).__name__}: {error}", number, "", "", None, records)
    os._exit(127)


def _report(control: int, *error: Any) -> None:
    *fields, record, records = error
    failed = tuple(record) if isinstance(record, tuple) else None
    os.write(control, ERROR + marshal.dumps((*fields, failed, records), 4))
