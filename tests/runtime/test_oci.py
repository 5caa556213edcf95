"""The plan of a container that another runtime makes, as data."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.kernel import constants as c
from labkit.kernel.cgroups import CreateCgroup, EnsureCgroup, JoinCgroup, Layout
from labkit.kernel.foreign_mounts import OpenForeignTree
from labkit.kernel.mounts import AttachTree, OpenTree
from labkit.kernel.namespaces import CloneInit
from labkit.kernel.oci_runtime import CreateByRuntime, HideTree, HoldNetwork, HoldRuntime, ListenForTerminal
from labkit.kernel.overlay import MountOverlay
from labkit.kernel.stdio import ConnectStdio
from labkit.kernel.storage import MakeDirectory
from labkit.plan import Operation, Plan
from labkit.runtime import oci
from labkit.runtime.plans import Layers, Machine

HYBRID = Layout((("memory", "/cg/memory"), ("pids", "/cg/pids")), "/cg/unified")
V2 = Layout((), "/cg")
RUNTIME = oci.Runtime("/sbin/runc", "ID", "/bundle", "/state/ID")
LAYERS = Layers("/images", ("a",), "/c/diff", "/c/work")


def plan(layout: Layout = HYBRID, network: str | None = "", terminal: bool = False, parent: str = "") -> Plan:
    spec: dict[str, Any] = {
        "root": {"path": "/bundle/rootfs"},
        "process": {"terminal": terminal},
        "linux": {"cgroupsPath": "/labkit/ID", "namespaces": namespaces(network)},
    }
    return oci.start_plan(spec, Machine(layout, 0), LAYERS, RUNTIME, ("stdout", "stderr"), cgroup_parent=parent)


def namespaces(network: str | None) -> list[dict[str, str]]:
    own = [] if network is None else [{"type": "network", **({"path": network} if network else {})}]
    return [{"type": "pid"}, *own]


def kinds(found: Plan, actor: str) -> list[type[Operation]]:
    return [type(operation) for _, operation in found.by(actor)]


def find(found: Plan, kind: type[Operation]) -> list[Operation]:
    return [step.operation for step in found.steps if isinstance(step.operation, kind)]


def test_cgroups_and_state_are_the_spawners() -> None:
    first = [CreateCgroup, HoldRuntime, MakeDirectory]
    assert kinds(plan(), "spawner") == [CreateCgroup, *first, CloneInit]
    assert kinds(plan(V2, terminal=True), "spawner") == [*first, ListenForTerminal, CloneInit]
    assert len(find(plan(parent="/p"), EnsureCgroup)) == 2


@pytest.mark.parametrize(
    ("layout", "path", "file"),
    [
        (HYBRID, "/cg/memory/labkit/ID.runtime", "tasks"),
        (Layout((("cpuset", "/cg/cpuset"), ("pids", "/cg/pids")), ""), "/cg/pids/labkit/ID.runtime", "tasks"),
        (V2, "/cg/labkit/ID.runtime", "cgroup.procs"),
    ],
)
def test_the_runtime_has_a_cgroup_of_its_own(layout: Layout, path: str, file: str) -> None:
    """It is taken back before the container's: a runtime that has ended puts nobody in there any more."""
    found = plan(layout)
    assert find(found, HoldRuntime) == [HoldRuntime(path)]
    assert find(found, JoinCgroup) == [JoinCgroup(f"{path}/{file}")]
    host = kinds(found, "spawner")
    assert host.index(HoldRuntime) > host.index(CreateCgroup)


@pytest.mark.parametrize(
    ("network", "flags"),
    [("", c.CLONE_NEWNS | c.CLONE_NEWNET), ("/proc/7/ns/net", c.CLONE_NEWNS), (None, c.CLONE_NEWNS)],
)
def test_a_network_of_its_own_is_made_before(network: str | None, flags: int) -> None:
    found = plan(network=network)
    assert find(found, CloneInit) == [CloneInit(flags)]
    assert bool(find(found, HoldNetwork)) == (network == "")


def test_the_runtime_comes_last_and_finds_the_root_mounted() -> None:
    init = kinds(plan(), "init")
    assert init[-1] is CreateByRuntime
    assert init.index(HoldNetwork) < init.index(HideTree) < init.index(MountOverlay) < init.index(ConnectStdio)
    assert HideTree not in kinds(plan(V2), "init")


def test_the_words_of_a_runtime() -> None:
    (create,) = find(plan(terminal=True), CreateByRuntime)
    assert isinstance(create, CreateByRuntime)
    words = " ".join(create.argv())
    assert words.startswith("/sbin/runc --root /state/ID/root --log /state/ID/log --log-format json create")
    assert words.endswith("--bundle /bundle --pid-file /state/ID/pid --console-socket /state/ID/console ID")
    assert find(plan(terminal=True), ConnectStdio) == [ConnectStdio(())]
    assert find(plan(), ConnectStdio) == [ConnectStdio(("stdout", "stderr"))]


def test_the_spec_names_the_network() -> None:
    spec = {"linux": {"namespaces": namespaces("")}}
    assert oci.spec_for(spec, RUNTIME)["linux"]["namespaces"][1] == {"type": "network", "path": "/state/ID/network"}
    assert spec["linux"]["namespaces"][1] == {"type": "network"}
    joined = {"linux": {"namespaces": namespaces("/proc/7/ns/net")}}
    assert oci.spec_for(joined, RUNTIME) == joined


def bind(source: str, *options: str) -> dict[str, Any]:
    return {"type": "bind", "source": source, "destination": "/there", "options": ["rbind", *options]}


def test_what_containers_may_move_is_shown_beside_the_state() -> None:
    """A subpath of a volume is opened beneath the volume, another container's mount where that one has it."""
    part, foreign = bind("/v/_data/part", "rro"), bind("/proc/7/root/dev/shm")
    spec = {"mounts": [{"type": "proc", "destination": "/proc"}, bind("/host"), part, foreign]}
    found, operations = oci.stage(spec, RUNTIME, frozenset(), {"/v/_data/part": "/v/_data"})
    assert [entry.get("source") for entry in found["mounts"]] == [
        None, "/host", "/state/ID/mount-2", "/state/ID/mount-3"
    ]  # fmt: skip
    assert found["mounts"][2]["options"] == ["rbind", "rro"]
    assert operations == (
        OpenTree("/v/_data/part", True, "/state/ID/mount-2", "/v/_data"),
        AttachTree("/v/_data/part", "/state/ID/mount-2", True),
        OpenForeignTree(7, "/dev/shm", "/state/ID/mount-3"),
        AttachTree("/proc/7/root/dev/shm", "/state/ID/mount-3", True),
    )


def test_a_file_is_read_only_without_what_is_below_it() -> None:
    found, operations = oci.stage({"mounts": [bind("/f", "rro")]}, RUNTIME, frozenset({"/f"}), {})
    assert (found["mounts"][0]["options"], operations) == (["rbind", "ro"], ())
