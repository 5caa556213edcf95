"""Operation, plan, journal: whatever labkit does to the machine is a list of operations, made first and run second.

An operation is a small frozen dataclass that can run itself, undo itself, say itself and print itself as
the shell command that does the same by hand. A plan is an ordered list of them, each with the actor that
runs it, computed by pure functions. Executing a plan yields its trace; the journal on disk says which
operations have begun, so that a crash between any two of them can be undone (or adopted) later.

The spawner imports this module: standard library only.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, Protocol

from labkit.errors import KernelError, LabkitError
from labkit.trace import RECORDER

Result = int | str | None
OPERATIONS: dict[str, type[Operation]] = {}


class Fork(Protocol):
    """A child that was forked ahead and waits (`labkit.runtime.parking`)."""

    def take(self, context: Context) -> int: ...


class Context:
    """What operations of one execution hand on to each other: open descriptors by name, and the init's pid.

    `parked` is a child that may be taken instead of forking one, `program` the path of what is executed in the end.
    """

    def __init__(self, descriptors: dict[str, int] | None = None, pid: int = 0, parked: Fork | None = None) -> None:
        self.descriptors = descriptors or {}
        self.pid = pid
        self.parked = parked
        self.in_child = False
        self.program = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing done to the machine: a system call or a few that belong together.

    Fields are plain data (str, int, bool, None, tuples of these), so that an operation can travel to another
    process as JSON. `man` names the manual page that explains it. `ahead` says that it depends on nothing but the
    process and its new namespaces, so that a child that waits for a plan can have done it (`labkit.runtime.parking`).
    """

    man: ClassVar[str] = ""
    ahead: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        # Named explicitly: @dataclass(slots=True) makes a second class object, for which super() has no cell.
        super(Operation, cls).__init_subclass__(**options)
        OPERATIONS[cls.__name__] = cls

    def run(self, context: Context) -> Result:
        """Do it. Raises KernelError. The result is what `undo` needs, or what the trace should show."""
        raise NotImplementedError

    def undo(self, result: Result, context: Context) -> None:
        """Take it back. Also called with None after a crash between the start of `run` and its end."""

    def describe(self) -> str:
        """What it does, in one line for people."""
        raise NotImplementedError

    def shell(self) -> str:
        """The shell command that does the same by hand; a comment where no command can."""
        return f"# {self.describe()}"


Numbered = tuple[tuple[int, Operation], ...]
"""Operations with their places in a plan."""
Encoded = list[list[Any]]
"""The same as plain data: each what `encode` gives, after its place."""


def encode(operation: Operation) -> list[Any]:
    """The operation as plain data: its name, then its fields in order."""
    kind = type(operation)
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(f.name for f in fields(operation))
    return [kind.__name__, *[getattr(operation, name) for name in _FIELDS[kind]]]


_FIELDS: dict[type[Operation], tuple[str, ...]] = {}


def decode_all(operations: Encoded) -> Numbered:
    return tuple((place, decode(data)) for place, *data in operations)


def decode(data: list[Any]) -> Operation:
    """The operation that `encode` gave. Raises LabkitError for a name that no imported module defines."""
    name, *values = data
    if name not in OPERATIONS:
        raise LabkitError(f"unknown operation {name!r}: written by another version of labkit?")
    return OPERATIONS[name](*values)


def _freeze(value: Any) -> Any:
    """JSON has lists where operations have tuples."""
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class Step:
    """An operation and who runs it: `daemon`, `spawner` or `init` (a container's first process before its exec)."""

    actor: str
    operation: Operation


@dataclass(frozen=True, slots=True)
class Plan:
    """What is going to be done, in order."""

    name: str
    steps: tuple[Step, ...]

    def by(self, *actors: str) -> Numbered:
        """The operations of these actors with their places in the plan."""
        return tuple((i, step.operation) for i, step in enumerate(self.steps) if step.actor in actors)

    def without(self, index: int) -> Plan:
        """The same plan with one operation left out."""
        return Plan(self.name, self.steps[:index] + self.steps[index + 1 :])

    def encoded(self, actor: str) -> Encoded:
        """One actor's operations as plain data, for another process."""
        return [[i, *encode(step.operation)] for i, step in enumerate(self.steps) if step.actor == actor]

    def shell(self) -> str:
        """The plan as a shell script that does the same by hand."""
        return "\n".join(step.operation.shell() for step in self.steps) + "\n"


class Record(NamedTuple):
    """One executed operation: its place in the plan, result, kernel calls and times (ns, CLOCK_MONOTONIC).

    A plain tuple, since it is made on the hot path and crosses process borders as marshalled data.
    """

    place: int
    result: Result
    began: int
    ended: int
    calls: list[tuple[Any, ...]]
    error: str = ""


class Journal:
    """Which of some operations have begun and which have ended, as JSON lines in one file.

    The first line holds the operations with their places in the plan, so that they can be undone by whoever comes.

    Lines are appended without fsync: what the journal is about (kernel objects) doesn't outlive the machine,
    and a killed process loses no page that it has written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def open(self, operations: Numbered) -> None:
        """Start the file."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, 0o600)
        lines = [[place, *encode(operation)] for place, operation in operations]
        os.write(self._fd, json.dumps({"operations": lines}).encode() + b"\n")

    def begin(self, index: int) -> None:
        os.write(self._fd, b'{"begin":%d}\n' % index)

    def end(self, index: int, result: Result) -> None:
        """An operation's result; None needs no line, since it is what stands for one that has only begun."""
        if result is None:
            return
        os.write(self._fd, json.dumps({"end": index, "result": result}).encode() + b"\n")

    def close(self) -> None:
        """Keep the file (what was done still stands), release the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """All that the journal tells of has been undone."""
        self.close()
        os.unlink(self.path)

    def discard(self) -> None:
        """`remove` for one that there may not have been room for."""
        self.close()
        if os.path.exists(self.path):
            os.unlink(self.path)

    @classmethod
    def read(cls, path: str) -> tuple[Numbered, dict[int, Result]] | None:
        """The operations, and the results of those that have begun (None where the end wasn't reached).

        None for a file whose first line was never completed: nothing had begun then.
        """
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")[:-1]
        if not lines:
            return None
        begun: dict[int, Result] = {}
        for line in map(json.loads, lines[1:]):
            if "begin" in line:
                begun[line["begin"]] = None
            else:
                begun[line["end"]] = line["result"]
        operations = json.loads(lines[0])["operations"]
        return tuple((place, decode([_freeze(value) for value in data])) for place, *data in operations), begun


@dataclass(slots=True)
class Execution:
    """A plan being executed, or executed: the records so far, enough to undo them."""

    operations: Numbered
    context: Context = field(default_factory=Context)
    journal: Journal | None = None
    records: list[Record] = field(default_factory=list)

    def run(self) -> None:
        """Run the operations in order.

        If one fails, what ran before it is undone in reverse, and KernelError names the operation. In a child
        that an operation forked, returns at once: the child's own operations are another execution.
        """
        for index, operation in self.operations:
            if self.journal:
                self.journal.begin(index)
            record = perform(index, operation, self.context)
            if self.context.in_child:
                return
            self.records.append(record)
            if self.journal:
                self.journal.end(index, record.result)

    def run_or_undo(self) -> None:
        """`run`, and on failure undo what was done before raising."""
        try:
            self.run()
        except (LabkitError, OSError):  # OSError: a full disk shows at the end of a write only
            if not self.context.in_child:
                self.undo()
            raise

    def undo(self) -> list[str]:
        """Undo what ran, last first. Returns what could not be undone."""
        done = {record.place: record.result for record in self.records}
        return undo(self.operations, done, self.context)


def perform(index: int, operation: Operation, context: Context) -> Record:
    """Run one operation and record it. Raises KernelError that names the operation, with the record attached."""
    calls = RECORDER.start()
    began = time.monotonic_ns()
    try:
        result = operation.run(context)
    except KernelError as error:
        error.operation = error.operation or type(operation).__name__
        error.args = (error.call, error.errno, error.hint, error.operation)
        error.add_note(operation.describe())
        error.record = Record(index, None, began, time.monotonic_ns(), calls, str(error))
        raise
    finally:
        RECORDER.stop()
    return Record(index, result, began, time.monotonic_ns(), calls)


def undo(operations: Numbered, done: dict[int, Result], context: Context) -> list[str]:
    """Undo, in reverse, those operations that `done` has a result for. Returns what could not be undone.

    One failing undo doesn't keep the others from being undone.
    """
    failed = []
    for index, operation in reversed(operations):
        if index in done:
            try:
                operation.undo(done[index], context)
            except (LabkitError, OSError) as error:
                failed.append(f"{operation.describe()}: {error}")
    return failed


def recover(folder: str, report: Callable[[str], None]) -> Iterator[str]:
    """Undo every journal that a dead process left in `folder`; yields their names. Failures go to `report`."""
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if found := Journal.read(path):
            operations, begun = found
            for failure in undo(operations, begun, Context()):
                report(f"journal {name}: {failure}")
        os.unlink(path)
        yield name
