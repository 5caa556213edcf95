"""Operations and plans as data; executing, undoing, journalling them; without root."""

from __future__ import annotations

import errno
import json
import marshal
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import KernelError, LabkitError
from labkit.kernel import cgroups, syscalls
from labkit.kernel.namespaces import CloneInit
from labkit.kernel.storage import MakeDirectory, WriteFile
from labkit.plan import OPERATIONS, Context, Execution, Journal, Operation, Plan, Result, Step, decode, encode, recover
from labkit.runtime import plans

KINDS = sorted(name for name, kind in OPERATIONS.items() if kind.__module__.startswith("labkit."))


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=20)
@given(data=st.data())
def test_every_operation_survives_its_journey_to_another_process(name: str, data: st.DataObject) -> None:
    kind = OPERATIONS[name]
    hints = get_type_hints(kind)
    operation = kind(*(data.draw(st.from_type(hints[field.name])) for field in fields(kind)))
    assert decode(marshal.loads(marshal.dumps(encode(operation)))) == operation
    assert type(operation).man


def test_an_unknown_operation_is_named() -> None:
    with pytest.raises(LabkitError, match="unknown operation 'Nonsense'"):
        decode(["Nonsense"])


@dataclass(frozen=True, slots=True)
class Note(Operation):
    """Write down that it ran and was undone; fail if told to."""

    path: str
    name: str
    fails: bool = False

    def run(self, context: Context) -> Result:
        if self.fails:
            raise syscalls.failure("mount", ("x", "/y"), errno.EPERM)
        self._write("+")
        return self.name

    def undo(self, result: Result, context: Context) -> None:
        self._write("-")

    def _write(self, sign: str) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{sign}{self.name}")

    def describe(self) -> str:
        return f"note {self.name}"


def steps(*operations: Operation) -> Plan:
    return Plan("test", tuple(Step("daemon", operation) for operation in operations))


def test_a_failure_undoes_in_reverse_and_names_operation_call_errno_and_remedy(tmp_path: Path) -> None:
    path = str(tmp_path / "notes")
    plan = steps(*(Note(path, name, name == "d") for name in "abcde"))
    with pytest.raises(KernelError) as failure:
        Execution(plan.by("daemon")).run_or_undo()
    assert Path(path).read_text() == "+a+b+c-c-b-a"
    error = failure.value
    assert (error.operation, error.errno, error.call) == ("Note", errno.EPERM, "mount('x', '/y')")
    assert str(error) == (
        "Note: mount('x', '/y'): EPERM: Operation not permitted "
        "(mounting needs CAP_SYS_ADMIN in the mount namespace's user namespace)"
    )
    assert error.__notes__ == ["note d"]


def test_without_leaves_one_operation_out(tmp_path: Path) -> None:
    path = str(tmp_path / "notes")
    Execution(steps(*(Note(path, name) for name in "abc")).without(1).by("daemon")).run()
    assert Path(path).read_text() == "+a+c"


def test_a_journal_cut_at_any_byte_undoes_what_had_begun(tmp_path: Path) -> None:
    """Whatever a killed process had written of its journal, what it made is removed by who reads it."""
    whole = tmp_path / "whole"
    place = tmp_path / "place"
    operations: tuple[Operation, ...] = (
        MakeDirectory(str(place)),
        WriteFile(str(place / "a"), "text"),
        MakeDirectory(str(place / "b")),
    )
    execution = Execution(steps(*operations).by("daemon"), journal=Journal(str(whole)))
    assert execution.journal
    execution.journal.open(execution.operations)
    execution.run()
    execution.journal.close()
    data = whole.read_bytes()
    first = data.index(b"\n") + 1
    for cut in range(len(data) + 1):
        folder = tmp_path / f"journals{cut}"
        folder.mkdir()
        (folder / "one").write_bytes(data[:cut])
        found = Journal.read(str(folder / "one"))
        assert (found is None) == (cut < first)
        begun = data[first:cut].count(b'"begin"', 0, data[first:cut].rfind(b"\n") + 1)
        for operation in operations[:begun]:
            if not Path(operation.path).exists():  # type: ignore[attr-defined] # both kinds have a path
                operation.run(Context())
        reports: list[str] = []
        assert list(recover(str(folder), reports.append)) == ["one"]
        assert reports == []
        assert list(folder.iterdir()) == []
        assert begun == 0 or not place.exists()


def machine(mountinfo: str) -> plans.Machine:
    return plans.Machine(cgroups.parse_layout(mountinfo), (1 << 41) - 1)


def line(target: str, kind: str, options: str) -> str:
    return f"30 20 0:26 / {target} rw shared:4 - {kind} {kind} {options}\n"


V1 = line("/cg/memory", "cgroup", "rw,memory") + line("/cg/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct")
V1 += line("/cg/pids", "cgroup", "rw,pids") + line("/cg/systemd", "cgroup", "rw,xattr,name=systemd")
V2 = line("/cg", "cgroup2", "rw,nsdelegate")
HYBRID = V1 + line("/cg/unified", "cgroup2", "rw")
SPEC: dict[str, Any] = {
    "process": {
        "args": ["true"],
        "cwd": "/",
        "noNewPrivileges": False,
        "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]},
    },
    "root": {"path": "/bundle/rootfs", "readonly": True},
    "hostname": "box",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "exec"]},
        {"destination": "/etc/hosts", "type": "bind", "source": "/host/hosts", "options": ["rbind", "rprivate"]},
    ],
    "linux": {
        "cgroupsPath": "/lab/one",
        "namespaces": [{"type": name} for name in ("pid", "mount", "uts", "network", "ipc")],
        "resources": {"memory": {"limit": 1 << 26, "swap": 1 << 27}, "cpu": {"quota": 50000, "period": 100000},
                      "pids": {"limit": 9}},
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
    },
}  # fmt: skip


def made(text: str, quiet: bool = False) -> list[Operation]:
    spec = json.loads(json.dumps(SPEC))
    spec["process"]["noNewPrivileges"] = quiet
    layers = plans.Layers("/layers", ("a", "b"), "/up", "/work")
    plan = plans.start_plan(spec, machine(text), layers, frozenset(["/host/hosts"]), b"\0" * 8, (0, 0))
    assert Plan.decode(marshal.loads(marshal.dumps(plan.encode()))) == plan
    return [step.operation for step in plan.steps]


@pytest.mark.parametrize("text", [V1, V2, HYBRID])
@pytest.mark.parametrize("quiet", [False, True])
def test_the_order_of_a_start(text: str, quiet: bool) -> None:
    names = [type(operation).__name__ for operation in made(text, quiet)]
    order = ["CloneInit", "NewSession", "OpenTree", "PivotRoot", "Mount", "MakeDevice", "ConnectStdio", "SetHostname"]
    order += ["MaskPath", "MakeReadOnly", "DetachOldRoot"]
    last = ["SetUser", "SetCapabilities"]
    order += ["NoNewPrivileges", *last, "InstallSeccomp"] if quiet else ["InstallSeccomp", *last]
    places = [names.index(name) for name in [*order, "Execute"]]
    assert places == sorted(places)
    assert names.index("MountOverlay") < names.index("PivotRoot") < names.index("AttachTree")
    assert names[-1] == "Execute"


def limits(text: str) -> list[tuple[str, str]]:
    return [(operation.path, operation.value) for operation in made(text) if isinstance(operation, cgroups.WriteCgroup)]


def test_limits_on_v1_and_hybrid() -> None:
    expected = [
        ("/cg/memory/lab/one/memory.limit_in_bytes", str(1 << 26)),
        ("/cg/memory/lab/one/memory.memsw.limit_in_bytes", str(1 << 27)),
        ("/cg/cpu,cpuacct/lab/one/cpu.cfs_period_us", "100000"),
        ("/cg/cpu,cpuacct/lab/one/cpu.cfs_quota_us", "50000"),
        ("/cg/pids/lab/one/pids.max", "9"),
    ]
    assert limits(V1) == expected
    assert limits(HYBRID) == expected


def test_limits_on_v2() -> None:
    assert limits(V2) == [
        ("/cg/lab/one/memory.max", str(1 << 26)),
        ("/cg/lab/one/memory.swap.max", str(1 << 26)),
        ("/cg/lab/one/cpu.max", "50000 100000"),
        ("/cg/lab/one/pids.max", "9"),
    ]
    clone = next(operation for operation in made(V2) if isinstance(operation, CloneInit))
    assert clone.cgroup == "/cg/lab/one"


def test_layouts() -> None:
    assert [machine(text).cgroups.version for text in (V1, V2, HYBRID)] == [1, 2, 1]
    assert machine(HYBRID).cgroups.unified == "/cg/unified"
    assert machine(V1).cgroups.directories("/x") == ("/cg/systemd/x", "/cg/cpu,cpuacct/x", "/cg/memory/x", "/cg/pids/x")
    assert machine(V2).cgroups.directories("/x") == ("/cg/x",)


def test_the_last_mount_option_counts() -> None:
    flags, _, data = plans.mount_options(["nosuid", "noexec", "exec", "ro", "rw", "size=1m"])
    assert (flags, data) == (2, "size=1m")
