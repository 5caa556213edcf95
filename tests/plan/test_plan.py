"""Operations as data, their journal, and what is undone when one of them fails."""

from __future__ import annotations

import errno
import importlib
import json
import marshal
import os
import pkgutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

import labkit.kernel
from labkit.errors import KernelError, LabkitError
from labkit.kernel.storage import MakeDirectory, WriteFile
from labkit.plan import (
    OPERATIONS,
    Context,
    Execution,
    Journal,
    Operation,
    Plan,
    Record,
    Result,
    Step,
    decode,
    decode_all,
    encode,
    recover,
)

for module in pkgutil.iter_modules(labkit.kernel.__path__):
    importlib.import_module(f"labkit.kernel.{module.name}")
KINDS = sorted((kind for kind in OPERATIONS.values() if kind.__module__.startswith("labkit.")), key=str)
DONE: list[str] = []


@dataclass(frozen=True, slots=True)
class Note(Operation):
    """Writes down what happens to it."""

    name: str
    fails: int = 0
    stays: bool = False

    def run(self, context: Context) -> Result:
        if self.fails:
            raise KernelError(f'call("{self.name}")', self.fails, "a hint")
        DONE.append(f"did {self.name}")
        return f"result of {self.name}"

    def undo(self, result: Result, context: Context) -> None:
        DONE.append(f"undid {self.name} with {result}")
        if self.stays:
            raise LabkitError("it stays")

    def describe(self) -> str:
        return f"note {self.name}"


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    DONE.clear()


def execution(*operations: Operation) -> Execution:
    return Execution(tuple(enumerate(operations)))


def any_operation(kind: type[Operation]) -> st.SearchStrategy[Operation]:
    hints = get_type_hints(kind)
    return st.builds(kind, **{field.name: st.from_type(hints[field.name]) for field in fields(kind)})


def test_there_are_operations_to_try() -> None:
    assert len(KINDS) > 30


@given(st.sampled_from(KINDS).flatmap(any_operation))
def test_an_operation_survives_the_way_to_another_process(operation: Operation) -> None:
    assert decode(marshal.loads(marshal.dumps(encode(operation)))) == operation
    plan = Plan("any", (Step("init", operation), Step("daemon", operation)))
    assert decode_all(marshal.loads(marshal.dumps(plan.encoded("daemon")))) == plan.by("daemon")
    assert plan.encoded("daemon") == [[1, *encode(operation)]]


@given(operations=st.lists(st.sampled_from(KINDS).flatmap(any_operation), max_size=3))
def test_an_operation_survives_the_journal(
    tmp_path_factory: pytest.TempPathFactory, operations: list[Operation]
) -> None:
    path = str(tmp_path_factory.mktemp("journal") / "one")
    journal = Journal(path)
    journal.open(tuple(enumerate(operations)))
    journal.close()
    assert Journal.read(path) == (tuple(enumerate(operations)), {})


def test_an_operation_of_another_version_is_refused() -> None:
    with pytest.raises(LabkitError, match="unknown operation 'MakeCoffee': written by another version"):
        decode(["MakeCoffee", 3])


def test_the_journal_says_what_began_wherever_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    done = execution(Note("ä"), Note("b"), Note("c"))
    done.journal = Journal(str(path))
    done.journal.open(done.operations)
    done.run()
    done.journal.close()
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    states: list[dict[int, Result]] = [
        {},
        {0: None},
        {0: "result of ä"},
        {0: "result of ä", 1: None},
        {0: "result of ä", 1: "result of b"},
        {0: "result of ä", 1: "result of b", 2: None},
        {0: "result of ä", 1: "result of b", 2: "result of c"},
    ]
    assert len(ends) == len(states)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        lines = sum(end <= length for end in ends)
        assert Journal.read(str(path)) == ((done.operations, states[lines - 1]) if lines else None)


def test_a_journal_is_closed_to_other_users_and_to_other_programs(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    journal.open(())
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o600
    assert not os.get_inheritable(journal._fd)
    journal.remove()
    assert not os.listdir(tmp_path)


def test_a_failure_names_all_and_undoes_what_was_done_last_first(tmp_path: Path) -> None:
    failing = execution(Note("one"), Note("two"), Note("three", errno.EPERM), Note("four"))
    with pytest.raises(KernelError) as caught:
        failing.run_or_undo()
    assert DONE == ["did one", "did two", "undid two with result of two", "undid one with result of one"]
    assert str(caught.value) == 'Note: call("three"): EPERM: Operation not permitted (a hint)'
    assert (caught.value.call, caught.value.errno_name, caught.value.hint) == ('call("three")', "EPERM", "a hint")
    assert caught.value.__notes__ == ["note three"]
    assert isinstance(caught.value.record, Record)
    assert (caught.value.record.place, caught.value.record.error) == (2, str(caught.value))


def test_one_failing_undo_does_not_keep_the_others_from_being_undone() -> None:
    done = execution(Note("one"), Note("two", stays=True), Note("three"))
    done.run()
    assert done.undo() == ["note two: it stays"]
    assert [line.split()[1] for line in DONE[3:]] == ["three", "two", "one"]


def test_what_a_filesystem_keeps_does_not_keep_the_others_from_being_undone(tmp_path: Path) -> None:
    """A directory that has become a file can't be removed as a directory: the OSError of that is told too."""
    done = execution(Note("one"), MakeDirectory(str(tmp_path / "folder")), Note("three"))
    done.run()
    (tmp_path / "folder").rmdir()
    (tmp_path / "folder").write_text("something else")
    (failed,) = done.undo()
    assert failed.startswith(f"make the directory {tmp_path}/folder: ")
    assert DONE[-1] == "undid one with result of one"


def test_a_full_disk_undoes_what_was_done_too() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        execution(Note("one"), WriteFile("/dev/full", "text")).run_or_undo()
    assert DONE == ["did one", "undid one with result of one"]


def test_the_child_of_a_fork_neither_goes_on_nor_undoes() -> None:
    @dataclass(frozen=True, slots=True)
    class Fork(Operation):
        def run(self, context: Context) -> Result:
            context.in_child = True
            return None

        def describe(self) -> str:
            return "fork"

    forking = execution(Note("one"), Fork(), Note("of the parent"))
    forking.run_or_undo()
    assert DONE == ["did one"]
    assert [record.place for record in forking.records] == [0]


def test_recovery_undoes_what_a_dead_process_began(tmp_path: Path) -> None:
    """Also what was begun and never ended; and a journal cut in its first line tells of nothing."""
    made, kept, journals = tmp_path / "made", tmp_path / "kept", tmp_path / "journals"
    journals.mkdir()
    operations = (MakeDirectory(str(made)), WriteFile(str(kept), "text"), Note("never", stays=True), Note("later"))
    journal = Journal(str(journals / "b"))
    journal.open(tuple(enumerate(operations)))
    made.mkdir()
    kept.write_text("te")
    journal.begin(0)
    journal.end(0, str(made))
    journal.begin(1)
    journal.begin(2)
    journal.close()
    (journals / "a").write_text('{"operations": [[0, "No')
    told: list[str] = []
    assert list(recover(str(journals), told.append)) == ["a", "b"]
    assert told == ["journal b: note never: it stays"]
    assert DONE == ["undid never with None"]
    assert sorted(os.listdir(tmp_path)) == ["journals"]
    assert not os.listdir(journals)


def test_a_plan_without_one_of_its_operations() -> None:
    plan = Plan("p", (Step("daemon", Note("a")), Step("init", Note("b")), Step("spawner", Note("c"))))
    assert plan.without(1) == Plan("p", (plan.steps[0], plan.steps[2]))
    assert plan.by("init", "spawner") == ((1, Note("b")), (2, Note("c")))
    assert plan.shell() == "# note a\n# note b\n# note c\n"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_operation_names_its_manual_page(kind: type[Operation]) -> None:
    assert kind.man.endswith(")")
    assert kind.__doc__


def test_a_record_is_plain_enough_to_cross_processes() -> None:
    done = execution(Note("one"))
    done.run()
    (record,) = done.records
    assert Record(*marshal.loads(marshal.dumps(tuple(record)))) == record
    assert record.began <= record.ended
    assert json.loads(json.dumps(record.result)) == "result of one"
