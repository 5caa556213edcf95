"""From spec to plan: which operations there are and in which order, on each cgroup layout."""

from __future__ import annotations

from base64 import b64encode
from typing import Any, TypeVar

import pytest

from labkit.kernel import constants as c
from labkit.kernel.capabilities import NUMBERS, DropBounding, KeepCapabilities, SetCapabilities, mask
from labkit.kernel.cgroups import AttachDeviceFilter, CreateCgroup, EnsureCgroup, JoinCgroup, Layout, WriteCgroup
from labkit.kernel.devices import MakeDevice, MakeLink
from labkit.kernel.foreign_mounts import OpenForeignTree
from labkit.kernel.links import BringUpLoopback
from labkit.kernel.mounts import (
    AttachTree,
    BindMount,
    DetachOldRoot,
    MakeReadOnly,
    MaskPath,
    Mount,
    OpenTree,
    PivotRoot,
    SetPropagation,
)
from labkit.kernel.namespaces import (
    CloneInit,
    CloneInitInto,
    CloneIntoPidNamespace,
    JoinNamespaceFile,
    JoinNamespaces,
    SetDomainname,
    SetHostname,
    Unshare,
)
from labkit.kernel.overlay import MountOverlay
from labkit.kernel.process import (
    EnterDirectory,
    Execute,
    InstallSeccomp,
    NewSession,
    NoNewPrivileges,
    ResetSignals,
    SealDescriptors,
    SetOomScore,
    SetRlimit,
    SetUser,
    WriteSysctl,
)
from labkit.kernel.stdio import ConnectStdio, OpenTerminal
from labkit.plan import Operation, Plan, Step
from labkit.runtime.plans import OVERLAY_OPTIONS, Layers, Machine, Spec, exec_plan, mount_options, start_plan
from labkit.runtime.spawning import encode_plan

ALL = mask(tuple(NUMBERS))
V1 = Layout(
    (("cpuset", "/cg/cpuset"), ("cpu", "/cg/cpu,cpuacct"), ("cpuacct", "/cg/cpu,cpuacct"), ("memory", "/cg/memory"),
     ("devices", "/cg/devices"), ("pids", "/cg/pids")), "",
)  # fmt: skip
HYBRID = Layout((("systemd", "/cg/systemd"), *V1.v1), "/cg/unified")
V2 = Layout((), "/cg")
TREES = ("cpuset", "cpu,cpuacct", "memory", "devices", "pids")
LAYERS = Layers("/images", ("b/diff", "a/diff"), "/c/diff", "/c/work")
FILTER = b"12345678" * 3
KEPT = ["CAP_CHOWN", "CAP_KILL"]
Kind = TypeVar("Kind", bound=Operation)


def make_spec(**linux: Any) -> Spec:
    """What `docker run` asks for by default, with limits."""
    return {
        "process": {
            "user": {"uid": 0, "gid": 0, "additionalGids": [0, 10]}, "args": ["sh", "-c", "true"], "env": ["A=b"],
            "cwd": "/srv", "noNewPrivileges": False, "oomScoreAdj": 5,
            "capabilities": {"bounding": KEPT, "effective": KEPT, "permitted": KEPT},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 2**64 - 1}],
        },
        "root": {"path": "/bundle/rootfs", "readonly": False},
        "hostname": "box", "domainname": "example",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]},
            {"destination": "/etc/hosts", "type": "bind", "source": "/c/hosts", "options": ["rbind", "rprivate"]},
            {"destination": "/srv", "type": "bind", "source": "/data", "options": ["bind", "ro", "rslave"]},
        ],
        "linux": {
            "cgroupsPath": "/labkit/ID",
            "namespaces": [{"type": name} for name in ("mount", "network", "uts", "pid", "ipc")],
            "resources": {
                "devices": [
                    {"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "access": "m"},
                    {"allow": True, "type": "c", "major": 136, "access": "rwm"},
                ],
                "memory": {"limit": 64 << 20, "swap": 96 << 20}, "pids": {"limit": 7},
                "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0-1"},
            },
            "sysctl": {"net.b": "2", "net.a": "1"}, "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"],
        } | linux,
    }  # fmt: skip


def start(spec: Spec, layout: Layout = V1, seccomp: bytes = FILTER, layers: Layers | None = LAYERS) -> Plan:
    return start_plan(spec, Machine(layout, ALL), layers, frozenset({"/c/hosts"}), seccomp, (24, 80))


def operations(plan: Plan, actor: str = "init") -> list[Operation]:
    return [operation for _, operation in plan.by(actor)]


def find(plan: Plan, kind: type[Kind]) -> list[Kind]:
    return [step.operation for step in plan.steps if isinstance(step.operation, kind)]


def place(plan: Plan, kind: type[Operation]) -> int:
    """Where the only operation of a kind stands."""
    (found,) = [index for index, step in enumerate(plan.steps) if isinstance(step.operation, kind)]
    return found


def private_cgroup() -> list[Spec]:
    return [{"type": name} for name in ("mount", "pid", "cgroup")]


@pytest.mark.parametrize("layout", [V1, HYBRID, V2], ids=["v1", "hybrid", "v2"])
def test_the_order_in_which_a_container_comes_to_be(layout: Layout) -> None:
    plan = start(make_spec(), layout)
    cgroups = "/sys/fs/cgroup"  # the view of the v1 trees, which takes links and a remount, has a test of its own
    kinds = [type(step.operation) for step in plan.steps if not getattr(step.operation, "path", "").startswith(cgroups)]
    order = [
        CreateCgroup, WriteCgroup, CloneInit, ResetSignals, NewSession, SetPropagation, BringUpLoopback, DropBounding,
        MountOverlay, OpenTree, PivotRoot, DetachOldRoot, Mount, AttachTree, MakeDevice, MakeLink, ConnectStdio,
        SetHostname, SetDomainname, WriteSysctl, MaskPath, MakeReadOnly, SetOomScore, SetRlimit, InstallSeccomp,
        EnterDirectory, SealDescriptors, KeepCapabilities, SetUser, SetCapabilities, Execute,
    ]  # fmt: skip
    if layout is V2:
        order.insert(2, AttachDeviceFilter)
    else:
        order.insert(order.index(DropBounding) + 1, JoinCgroup)
    assert list(dict.fromkeys(kinds)) == order
    mounts = [i for i, step in enumerate(plan.steps) if isinstance(step.operation, Mount | AttachTree)]
    assert place(plan, MountOverlay) < place(plan, PivotRoot) < place(plan, DetachOldRoot) < min(mounts)
    assert plan.steps[-1].operation == Execute(("sh", "-c", "true"), ("A=b",))


def test_what_is_bound_is_held_before_the_root_changes_and_attached_after_it() -> None:
    plan = start(make_spec(), V2)
    trees = [OpenTree("/c/hosts", True, "/etc/hosts"), OpenTree("/data", False, "/srv")]
    assert find(plan, OpenTree) == [OpenTree("/cg/labkit/ID"), *trees]
    held = [i for i, step in enumerate(plan.steps) if isinstance(step.operation, OpenTree)]
    assert max(held) < place(plan, PivotRoot)
    assert find(plan, AttachTree)[1:] == [
        AttachTree("/c/hosts", "/etc/hosts", False, 0, c.MS_PRIVATE | c.MS_REC),
        AttachTree("/data", "/srv", True, c.MS_RDONLY, c.MS_SLAVE | c.MS_REC),
    ]
    assert find(plan, Mount)[:2] == [
        Mount("proc", "/proc", "proc", c.MS_NOSUID | c.MS_NOEXEC | c.MS_NODEV, "", True),
        Mount("tmpfs", "/dev", "tmpfs", c.MS_NOSUID, "mode=755", True),
    ]


def test_the_root_is_the_layers_or_what_is_there() -> None:
    overlay = MountOverlay("/images", ("b/diff", "a/diff"), "/c/diff", "/c/work", "/bundle/rootfs", OVERLAY_OPTIONS)
    assert find(start(make_spec()), MountOverlay) == [overlay]
    bare = start(make_spec(), layers=None)
    assert not find(bare, MountOverlay)
    assert find(bare, BindMount) == [BindMount("/bundle/rootfs", "/bundle/rootfs", c.MS_BIND | c.MS_REC)]


def test_a_read_only_root_is_made_so_last() -> None:
    spec = make_spec()
    assert not [op for op in find(start(spec), MakeReadOnly) if op.path == "/"]
    spec["root"]["readonly"] = True
    inside = operations(start(spec))
    place = inside.index(MakeReadOnly("/", mounted=True))
    assert not any(isinstance(operation, Mount | AttachTree | MakeDevice | MaskPath) for operation in inside[place:])


def test_the_filter_comes_before_privileges_go_unless_it_needs_none() -> None:
    spec = make_spec()
    loud = start(spec)
    assert place(loud, InstallSeccomp) < place(loud, SetUser) < place(loud, SetCapabilities)
    assert not find(loud, NoNewPrivileges)
    spec["process"]["noNewPrivileges"] = True
    quiet = start(spec)
    assert place(quiet, NoNewPrivileges) < place(quiet, SetCapabilities) < place(quiet, InstallSeccomp)
    assert place(quiet, InstallSeccomp) == len(quiet.steps) - 2
    assert find(quiet, InstallSeccomp) == [InstallSeccomp(b64encode(FILTER).decode())]
    assert not find(start(spec, seccomp=b""), InstallSeccomp)


def test_the_bounding_set_shrinks_to_what_is_kept() -> None:
    (drop,) = find(start(make_spec()), DropBounding)
    assert set(drop.dropped) == set(NUMBERS) - set(KEPT)
    spec = make_spec()
    spec["process"]["capabilities"]["bounding"] = list(NUMBERS)
    assert not find(start(spec), DropBounding)
    del spec["process"]["capabilities"]
    assert not find(start(spec), SetCapabilities)
    assert find(start(spec), SetUser) == [SetUser(0, 0, (0, 10))]


@pytest.mark.parametrize("layout", [V1, HYBRID], ids=["v1", "hybrid"])
def test_limits_on_v1_are_files_of_each_controllers_tree(layout: Layout) -> None:
    plan = start(make_spec(), layout)
    trees = TREES if layout is V1 else ("systemd", *TREES)
    assert find(plan, CreateCgroup) == [CreateCgroup(f"/cg/{tree}/labkit/ID") for tree in trees]
    assert find(plan, JoinCgroup) == [JoinCgroup(f"/cg/{tree}/labkit/ID/tasks") for tree in trees]
    written = [(operation.path.removeprefix("/cg/"), operation.value) for operation in find(plan, WriteCgroup)]
    assert written == [
        ("memory/labkit/ID/memory.limit_in_bytes", str(64 << 20)),
        ("memory/labkit/ID/memory.memsw.limit_in_bytes", str(96 << 20)),
        ("cpu,cpuacct/labkit/ID/cpu.shares", "512"),
        ("cpu,cpuacct/labkit/ID/cpu.cfs_period_us", "100000"),
        ("cpu,cpuacct/labkit/ID/cpu.cfs_quota_us", "50000"),
        ("cpuset/labkit/ID/cpuset.cpus", "0-1"),
        ("pids/labkit/ID/pids.max", "7"),
        ("devices/labkit/ID/devices.deny", "a"),
        ("devices/labkit/ID/devices.allow", "c *:* m"),
        ("devices/labkit/ID/devices.allow", "c 136:* rwm"),
    ]
    assert find(plan, CloneInit)[0].cgroup == ""
    assert not find(plan, AttachDeviceFilter)


def test_limits_on_v2_are_files_of_the_one_tree() -> None:
    plan = start(make_spec(), V2)
    assert find(plan, CreateCgroup) == [CreateCgroup("/cg/labkit/ID")]
    assert [(op.path.removeprefix("/cg/labkit/ID/"), op.value) for op in find(plan, WriteCgroup)] == [
        ("memory.max", str(64 << 20)), ("memory.swap.max", str(32 << 20)), ("cpu.weight", "20"),
        ("cpu.max", "50000 100000"), ("cpuset.cpus", "0-1"), ("pids.max", "7"),
    ]  # fmt: skip
    rules = ((False, "a", -1, -1, "rwm"), (True, "c", -1, -1, "m"), (True, "c", 136, -1, "rwm"))
    assert find(plan, AttachDeviceFilter) == [AttachDeviceFilter("/cg/labkit/ID", rules)]
    assert not find(plan, JoinCgroup)
    assert find(plan, CloneInit)[0].cgroup == "/cg/labkit/ID"


def test_a_tree_that_is_missing_takes_no_limits() -> None:
    plan = start(make_spec(), Layout((("memory", "/cg/memory"),), ""))
    assert {operation.path.split("/")[2] for operation in find(plan, WriteCgroup)} == {"memory"}


def test_the_containers_view_of_its_cgroups_on_v1() -> None:
    plan = start(make_spec(), V1)
    assert find(plan, Mount)[-1] == Mount("tmpfs", "/sys/fs/cgroup", "tmpfs", c.MS_NOSUID, "mode=755", True)
    shown = AttachTree("/cg/cpu,cpuacct/labkit/ID", "/sys/fs/cgroup/cpu,cpuacct", True, c.MS_RDONLY | c.MS_NOSUID)
    assert shown in find(plan, AttachTree)
    assert MakeLink("cpu,cpuacct", "/sys/fs/cgroup/cpu") in find(plan, MakeLink)
    assert MakeLink("cpu,cpuacct", "/sys/fs/cgroup/cpuacct") in find(plan, MakeLink)
    assert MakeReadOnly("/sys/fs/cgroup", mounted=True) in find(plan, MakeReadOnly)


def test_a_cgroup_namespace_is_made_once_the_cgroups_are_joined() -> None:
    v2 = start(make_spec(namespaces=private_cgroup()), V2)
    assert Mount("cgroup", "/sys/fs/cgroup", "cgroup2", c.MS_RDONLY | c.MS_NOSUID, "", True) in find(v2, Mount)
    assert find(v2, Unshare) == [Unshare(c.CLONE_NEWCGROUP)]
    v1 = start(make_spec(namespaces=private_cgroup()), V1)
    joined = [i for i, step in enumerate(v1.steps) if isinstance(step.operation, JoinCgroup)]
    assert max(joined) < place(v1, Unshare) < place(v1, MountOverlay)
    assert find(v1, CloneInit)[0].flags == c.CLONE_NEWNS | c.CLONE_NEWPID
    host = start(make_spec(), V2)
    assert not find(host, Unshare)
    shown = AttachTree("/cg/labkit/ID", "/sys/fs/cgroup", True, c.MS_RDONLY | c.MS_NOSUID)
    assert shown in find(host, AttachTree)


def test_a_namespace_that_has_a_path_is_joined_not_made() -> None:
    wanted = [{"type": "mount"}, {"type": "network", "path": "/proc/7/ns/net"}, {"type": "uts", "path": "/u"}]
    plan = start(make_spec(namespaces=wanted))
    assert find(plan, CloneInit)[0].flags == c.CLONE_NEWNS
    joined = [JoinNamespaceFile("/proc/7/ns/net", c.CLONE_NEWNET), JoinNamespaceFile("/u", c.CLONE_NEWUTS)]
    assert find(plan, JoinNamespaceFile) == joined
    assert not find(plan, BringUpLoopback)
    assert not find(plan, SetHostname)  # the name is the other container's
    assert not find(plan, SetDomainname)


def test_the_hosts_namespaces_keep_their_names_and_links() -> None:
    plan = start(make_spec(namespaces=[{"type": "mount"}]))
    assert not find(plan, BringUpLoopback) + find(plan, SetHostname) + find(plan, SetDomainname)


def test_a_terminal_in_place_of_descriptors() -> None:
    spec = make_spec()
    assert find(start(spec), ConnectStdio) == [ConnectStdio(("stdin", "stdout", "stderr"))]
    spec["process"]["terminal"] = True
    plan = start(spec)
    assert find(plan, OpenTerminal) == [OpenTerminal(24, 80, True)]
    assert not find(plan, ConnectStdio)
    assert place(plan, PivotRoot) < place(plan, DetachOldRoot) < place(plan, OpenTerminal)


def test_devices_that_the_spec_adds_do_not_repeat_the_default_ones() -> None:
    fuse = {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600, "uid": 3, "gid": 4}
    again = {"path": "/dev/null", "type": "c", "major": 1, "minor": 3}
    made = find(start(make_spec(devices=[fuse, again])), MakeDevice)
    assert [device.path for device in made].count("/dev/null") == 1
    assert MakeDevice("/dev/fuse", "c", 10, 229, 0o600, 3, 4) in made


def test_what_the_process_is_given() -> None:
    plan = start(make_spec())
    assert find(plan, SetRlimit) == [SetRlimit("RLIMIT_NOFILE", 10, -1)]
    assert find(plan, SetOomScore) == [SetOomScore(5)]
    assert find(plan, WriteSysctl) == [WriteSysctl("net.a", "1"), WriteSysctl("net.b", "2")]
    assert find(plan, SetCapabilities) == [SetCapabilities(tuple(KEPT), tuple(KEPT), (), ())]
    assert find(plan, EnterDirectory) == [EnterDirectory("/srv")]
    assert find(plan, MaskPath) == [MaskPath("/proc/kcore")]
    foreign = make_spec() | {"mounts": [{"destination": "/dev/", "source": "/x", "options": ["rbind"]}]}
    assert find(start(foreign), MaskPath) == [MaskPath("/proc/kcore", foreign=True)]
    assert find(plan, SetPropagation)[0] == SetPropagation("/", c.MS_SLAVE | c.MS_REC)
    private = start(make_spec(rootfsPropagation="rprivate"))
    assert find(private, SetPropagation) == [SetPropagation("/", c.MS_PRIVATE | c.MS_REC)]


def bound(*options: str) -> Spec:
    spec = make_spec()
    spec["mounts"].append({"destination": "/shared", "type": "bind", "source": "/data", "options": list(options)})
    return spec


def test_a_root_is_shared_when_it_is_made_and_not_before() -> None:
    """Else the host would see the mounts that make it."""
    inside = operations(start(make_spec(rootfsPropagation="rshared")))
    before, after = (i for i, operation in enumerate(inside) if isinstance(operation, SetPropagation))
    assert inside[before] == SetPropagation("/", c.MS_SLAVE | c.MS_REC)
    assert inside[after] == SetPropagation("/", c.MS_SHARED | c.MS_REC)
    assert (
        before
        < inside.index(DetachOldRoot())
        < after
        == max(i for i, operation in enumerate(inside) if isinstance(operation, Mount | AttachTree | SetPropagation))
    )


def test_what_passes_mounts_back_to_the_host_is_taken_by_the_daemon() -> None:
    """It is the same source as another's, at another place: neither gets the other's tree."""
    plan = start(bound("rbind", "rshared"))
    assert plan.steps[0] == Step("daemon", OpenTree("/data", True, "/shared"))
    assert OpenTree("/data", False, "/srv") in operations(plan)
    assert find(plan, AttachTree)[-1] == AttachTree("/data", "/shared", True, 0, c.MS_SHARED | c.MS_REC)


def test_a_tree_is_made_read_only_with_all_that_is_mounted_in_it() -> None:
    plan = start(bound("rbind", "rro", "rprivate"))
    assert find(plan, AttachTree)[-1] == AttachTree("/data", "/shared", True, 0, c.MS_PRIVATE | c.MS_REC, c.MS_RDONLY)


def test_nothing_is_made_in_a_dev_of_the_host() -> None:
    spec = make_spec()
    assert find(start(spec), MakeDevice)
    spec["mounts"].append({"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]})
    assert not find(start(spec), MakeDevice)


def test_a_source_that_somebody_else_named_is_held_by_its_base() -> None:
    plan = start_plan(make_spec(), Machine(V2, ALL), LAYERS, frozenset(), b"", (0, 0), bases={"/data": "/"})
    assert find(plan, OpenTree)[-1] == OpenTree("/data", False, "/srv", "/")


@pytest.mark.parametrize("layout", [V1, HYBRID, V2], ids=["v1", "hybrid", "v2"])
def test_what_can_be_done_ahead_is_all_at_the_beginning(layout: Layout) -> None:
    """A parked child has done this much; nothing in it may be particular to one container."""
    plan = start(make_spec(), layout)
    first = encode_plan(plan)["first"]
    names = ["ResetSignals", "NewSession", "SetPropagation", "BringUpLoopback", "DropBounding"]
    assert [name for name, *_ in first] == names
    assert all(operation.ahead for operation in operations(plan)[: len(names)])
    assert not operations(plan)[len(names)].ahead
    other = make_spec() | {"hostname": "other", "root": {"path": "/other"}}
    assert first == encode_plan(start(other, layout))["first"]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], (0, 0, "")),
        (["defaults"], (0, 0, "")),
        (["ro", "nosuid", "mode=755", "size=1k"], (c.MS_RDONLY | c.MS_NOSUID, 0, "mode=755,size=1k")),
        (["rbind", "rslave"], (c.MS_BIND | c.MS_REC, c.MS_SLAVE | c.MS_REC, "")),
        (["ro", "rw"], (0, 0, "")),
        (["rw", "ro"], (c.MS_RDONLY, 0, "")),
        (["noexec", "nosuid", "exec"], (c.MS_NOSUID, 0, "")),
        (["private", "shared"], (0, c.MS_SHARED, "")),
    ],
)
def test_mount_options(options: list[str], found: tuple[int, int, str]) -> None:
    assert mount_options(options) == found


@pytest.mark.parametrize("layout", [V1, V2], ids=["v1", "v2"])
def test_another_process_joins_what_the_first_one_has(layout: Layout) -> None:
    spec = make_spec()
    plan = exec_plan(spec["process"], 4711, spec, Machine(layout, ALL), FILTER, (0, 0), ("stdout",))
    born = "" if layout is V1 else "/cg/labkit/ID"
    assert operations(plan, "spawner") == [CloneIntoPidNamespace(4711, True, born)]
    flags = c.CLONE_NEWNS | c.CLONE_NEWNET | c.CLONE_NEWUTS | c.CLONE_NEWIPC
    assert find(plan, JoinNamespaces) == [JoinNamespaces(4711, flags)]
    assert find(plan, ConnectStdio) == [ConnectStdio(("stdout",))]
    assert [op.path.split("/")[2] for op in find(plan, JoinCgroup)] == (list(TREES) if layout is V1 else [])
    assert place(plan, DropBounding) < place(plan, ConnectStdio) < place(plan, JoinNamespaces)
    assert place(plan, JoinNamespaces) < place(plan, InstallSeccomp)
    assert not find(plan, CreateCgroup) + find(plan, Mount) + find(plan, PivotRoot)


def test_another_process_where_the_pid_namespace_is_the_hosts() -> None:
    spec = make_spec(namespaces=[{"type": "mount"}])
    spec["process"]["terminal"] = True
    plan = exec_plan(spec["process"], 4711, spec, Machine(V1, ALL), b"", (5, 6), ())
    assert operations(plan, "spawner") == [CloneIntoPidNamespace(4711, False, "")]
    assert find(plan, JoinNamespaces) == [JoinNamespaces(4711, c.CLONE_NEWNS)]
    assert find(plan, OpenTerminal) == [OpenTerminal(5, 6, False)]
    assert place(plan, JoinNamespaces) < place(plan, OpenTerminal)


def test_the_namespaces_of_another_container() -> None:
    """--pid and --ipc container:ID: forked into the one, the other joined; its shared memory is taken where it is."""
    paths = {"pid": "/proc/7/ns/pid", "ipc": "/proc/7/ns/ipc"}
    namespaces = [
        {"type": name, **({"path": paths[name]} if name in paths else {})} for name in ("mount", "pid", "ipc")
    ]
    spec = make_spec(namespaces=namespaces)
    shm = {"destination": "/dev/shm", "type": "bind", "source": "/proc/7/root/dev/shm", "options": ["rbind"]}
    spec["mounts"].append(shm)
    found = start(spec)
    assert find(found, CloneInit) == []
    assert find(found, CloneInitInto) == [CloneInitInto("/proc/7/ns/pid", c.CLONE_NEWNS)]
    assert find(found, JoinNamespaceFile) == [JoinNamespaceFile("/proc/7/ns/ipc", c.CLONE_NEWIPC)]
    assert find(found, OpenForeignTree) == [OpenForeignTree(7, "/dev/shm", "/dev/shm")]
    assert AttachTree("/proc/7/root/dev/shm", "/dev/shm", True) in find(found, AttachTree)


def test_a_cgroup_parent_is_made_in_each_tree_before_the_containers() -> None:
    def planned(layout: Layout, parent: str) -> Plan:
        machine = Machine(layout, ALL)
        return start_plan(make_spec(), machine, LAYERS, frozenset(), FILTER, (0, 0), cgroup_parent=parent)

    assert find(planned(V1, ""), EnsureCgroup) == []
    assert find(planned(V1, "/p/q"), EnsureCgroup) == [EnsureCgroup(f"/cg/{tree}", "/p/q") for tree in TREES]
    assert find(planned(V2, "/p/q"), EnsureCgroup) == [EnsureCgroup("/cg", "/p/q", True)]
    kinds = [type(operation) for operation in operations(planned(V1, "/p"), "spawner")]
    assert kinds.index(CreateCgroup) == len(TREES)


def test_an_exec_makes_no_directory() -> None:
    process = make_spec()["process"]
    found = exec_plan(process, 7, make_spec(), Machine(V1, ALL), b"", (0, 0), ())
    assert find(found, EnterDirectory) == [EnterDirectory("/srv", make=False)]
