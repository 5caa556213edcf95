"""Control groups: the layouts that are met, what limits become there, and removal with whatever is inside."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.errors import KernelError
from labkit.kernel.cgroups import (
    CreateCgroup,
    EnsureCgroup,
    JoinCgroup,
    Layout,
    WriteCgroup,
    cgroup_pids,
    cpu_weight,
    limit_files,
    oom_kills,
    parse_layout,
    read_layout,
    read_value,
    remove_cgroup,
)
from labkit.plan import Context

V1_TEXT = """\
24 1 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw
30 24 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/systemd rw,nosuid shared:10 - cgroup cgroup rw,xattr,name=systemd
33 30 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:15 - cgroup cgroup rw,memory
34 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:16 master:3 - cgroup cgroup rw,cpu,cpuacct
35 30 0:32 / /sys/fs/cgroup/pids rw,nosuid - cgroup cgroup rw,pids
36 30 0:32 / /elsewhere rw,nosuid - cgroup cgroup rw,pids
a line of no kind
"""
HYBRID_TEXT = V1_TEXT + "32 30 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:11 - cgroup2 cgroup2 rw,nsdelegate\n"
V2_TEXT = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = parse_layout(V1_TEXT)
V2 = parse_layout(V2_TEXT)


def test_the_layout_of_v1_is_a_tree_a_controller() -> None:
    base = "/sys/fs/cgroup"
    trees = {"systemd": "systemd", "cpu": "cpu,cpuacct", "cpuacct": "cpu,cpuacct", "memory": "memory", "pids": "pids"}
    assert Layout(tuple((name, f"{base}/{tree}") for name, tree in trees.items()), "") == V1
    assert V1.version == 1
    assert V1.directory("cpu", "/labkit/x/") == f"{base}/cpu,cpuacct/labkit/x"
    assert V1.directory("hugetlb", "/labkit/x") == ""
    assert V1.directories("/a") == tuple(f"{base}/{tree}/a" for tree in ("systemd", "cpu,cpuacct", "memory", "pids"))


def test_hybrid_counts_as_v1() -> None:
    layout = parse_layout(HYBRID_TEXT)
    assert (layout.v1, layout.unified, layout.version) == (V1.v1, "/sys/fs/cgroup/unified", 1)


def test_the_layout_of_v2_is_one_tree() -> None:
    assert (V2, V2.version) == (Layout((), "/sys/fs/cgroup"), 2)
    assert V2.directory("memory", "/labkit/x") == "/sys/fs/cgroup/labkit/x"
    assert V2.directories("labkit/x") == ("/sys/fs/cgroup/labkit/x",)


def test_what_was_not_asked_for_is_not_written() -> None:
    for layout in (V1, V2):
        assert limit_files(layout, {}) == ()
        assert limit_files(layout, {"memory": None, "cpu": {"quota": 0, "cpus": ""}, "pids": {}}) == ()


@pytest.mark.parametrize(
    ("resources", "v1", "v2"),
    [
        ({"memory": {"limit": 7, "swap": 7}}, {"memory.limit_in_bytes": "7", "memory.memsw.limit_in_bytes": "7"},
         {"memory.max": "7", "memory.swap.max": "0"}),
        ({"memory": {"limit": 7, "swap": -1}}, {"memory.limit_in_bytes": "7", "memory.memsw.limit_in_bytes": "-1"},
         {"memory.max": "7", "memory.swap.max": "max"}),
        ({"memory": {"limit": -1}}, {"memory.limit_in_bytes": "-1"}, {"memory.max": "max"}),
        ({"memory": {"reservation": 5}}, {"memory.soft_limit_in_bytes": "5"}, {"memory.low": "5"}),
        ({"memory": {"swappiness": 60, "disableOOMKiller": True}},
         {"memory.swappiness": "60", "memory.oom_control": "1"}, {}),
        ({"cpu": {"quota": -1}}, {"cpu.cfs_quota_us": "-1"}, {"cpu.max": "max 100000"}),
        ({"cpu": {"quota": 5000, "period": 20000}}, {"cpu.cfs_period_us": "20000", "cpu.cfs_quota_us": "5000"},
         {"cpu.max": "5000 20000"}),
        ({"cpu": {"shares": 1024, "mems": "0"}}, {"cpu.shares": "1024", "cpuset.mems": "0"},
         {"cpu.weight": "39", "cpuset.mems": "0"}),
        ({"pids": {"limit": -1}}, {"pids.max": "max"}, {"pids.max": "max"}),
    ],
)  # fmt: skip
def test_limits_as_files(resources: dict[str, object], v1: dict[str, str], v2: dict[str, str]) -> None:
    assert {file: value for _, file, value in limit_files(V1, resources)} == v1
    assert {file: value for _, file, value in limit_files(V2, resources)} == v2


def test_the_memory_limit_is_written_before_the_one_with_swap() -> None:
    """The kernel refuses memsw below memory, and a new cgroup has no limit on either."""
    files = [file for _, file, _ in limit_files(V1, {"memory": {"swap": 9, "limit": 8}})]
    assert files == ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]


@pytest.mark.parametrize(("shares", "weight"), [(0, 1), (2, 1), (1024, 39), (262144, 10000), (1 << 30, 10000)])
def test_shares_as_weight(shares: int, weight: int) -> None:
    assert cpu_weight(shares) == weight


@pytest.fixture
def cgroup() -> Iterator[str]:
    """A cgroup of this machine, in the tree that counts processes."""
    layout = read_layout()
    path = layout.directory("pids" if layout.version == 1 else "", f"/labkit-test-{os.getpid()}")
    CreateCgroup(path).run(Context())
    yield path
    remove_cgroup(path)
    assert not os.path.exists(path)


@pytest.mark.root
def test_removal_ends_what_is_inside_and_below(cgroup: str) -> None:
    below = f"{cgroup}/child"
    CreateCgroup(below).run(Context())
    sleepers = [subprocess.Popen(["sleep", "1000"]) for _ in range(2)]
    for sleeper, place in zip(sleepers, (cgroup, below), strict=True):
        WriteCgroup(f"{place}/cgroup.procs", str(sleeper.pid)).run(Context())
        assert cgroup_pids(place) == [sleeper.pid]
    CreateCgroup(cgroup).undo(None, Context())
    assert not os.path.exists(cgroup)
    assert [sleeper.wait(5) for sleeper in sleepers] == [-9, -9]


@pytest.mark.root
def test_removal_of_what_is_gone_is_fine(cgroup: str) -> None:
    remove_cgroup(f"{cgroup}/never")
    assert cgroup_pids(f"{cgroup}/never") == []
    assert read_value(f"{cgroup}/never") == ""
    assert oom_kills(f"{cgroup}/never") == 0


@pytest.mark.root
def test_a_cgroup_that_is_there_already_is_told(cgroup: str) -> None:
    with pytest.raises(KernelError, match="EEXIST"):
        CreateCgroup(cgroup).run(Context())


@pytest.mark.root
def test_a_process_joins_and_is_counted(cgroup: str) -> None:
    WriteCgroup(f"{cgroup}/pids.max", "5").run(Context())
    assert read_value(f"{cgroup}/pids.max") == "5"
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        tasks = f"{cgroup}/tasks" if os.path.exists(f"{cgroup}/tasks") else f"{cgroup}/cgroup.procs"
        JoinCgroup(tasks).run(Context())
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    assert cgroup_pids(cgroup) == [child]
    os.write(go[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    for fd in (*ready, *go):
        os.close(fd)


BLOCK_IO = {
    "weight": 500,
    "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}, {"major": 8, "minor": 16, "rate": 2000}],
    "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 7}],
}


def test_block_io() -> None:
    assert limit_files(V1, {"blockIO": BLOCK_IO}) == (
        ("blkio", "blkio.weight", "500"),
        ("blkio", "blkio.weight_device", "8:0 10"),
        ("blkio", "blkio.throttle.read_bps_device", "8:0 1000"),
        ("blkio", "blkio.throttle.read_bps_device", "8:16 2000"),
        ("blkio", "blkio.throttle.write_iops_device", "8:0 7"),
    )
    assert limit_files(V2, {"blockIO": BLOCK_IO}) == (
        ("io", "io.weight", "default 4950"),
        ("io", "io.weight", "8:0 1"),
        ("io", "io.max", "8:0 rbps=1000"),
        ("io", "io.max", "8:16 rbps=2000"),
        ("io", "io.max", "8:0 wiops=7"),
    )


def test_swappiness_of_nothing_is_a_wish_too() -> None:
    assert limit_files(V1, {"memory": {"swappiness": 0}}) == (("memory", "memory.swappiness", "0"),)


@pytest.mark.root
def test_a_cgroup_for_others_to_be_below() -> None:
    """It inherits what its children need, and goes with those above it that were made for it."""
    layout = read_layout()
    top = f"lk-test-{os.urandom(4).hex()}"
    root = dict(layout.v1)["cpuset"] if layout.version == 1 else layout.unified
    operation = EnsureCgroup(root, f"{top}/sub", layout.version == 2)
    made = operation.run(Context())
    assert made == f"{root}/{top}\n{root}/{top}/sub"
    assert read_value(f"{root}/{top}/sub/cpuset.cpus") == read_value(f"{root}/cpuset.cpus")
    assert EnsureCgroup(root, f"{top}/sub", layout.version == 2).run(Context()) == ""
    CreateCgroup(f"{root}/{top}/sub/leaf").run(Context())
    operation.undo(made, Context())
    assert os.path.isdir(f"{root}/{top}/sub")
    remove_cgroup(f"{root}/{top}/sub/leaf")
    operation.undo(made, Context())
    assert not os.path.exists(f"{root}/{top}")


@pytest.mark.root
def test_what_is_frozen_is_ended_too() -> None:
    """A spawner that died left it so; on v1 SIGKILL alone would wait for its thawing."""
    layout = read_layout()
    name = f"lk-frozen-{os.getpid()}"
    paths = [layout.directory(tree, name) for tree in (("pids", "freezer") if layout.version == 1 else ("",))]
    for path in paths:
        os.mkdir(path)
    with subprocess.Popen(["sleep", "1000"]) as process:
        for path in paths:
            Path(path, "cgroup.procs").write_text(str(process.pid))
        file, frozen = ("freezer.state", "FROZEN") if layout.version == 1 else ("cgroup.freeze", "1")
        Path(paths[-1], file).write_text(frozen)
        for path in paths:
            remove_cgroup(path)
        assert process.wait(10) == -9
    assert not any(os.path.exists(path) for path in paths)
