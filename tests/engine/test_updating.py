"""`docker update` as data: what may be changed, and the cgroup writes that it takes, on v1 and v2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labkit.engine.models import HostConfig, RestartPolicy
from labkit.engine.updating import changes, merged, update_plan
from labkit.errors import Conflict, KernelError
from labkit.kernel.cgroups import ChangeCgroup, Layout
from labkit.plan import Execution, Plan, Step

V1 = Layout(tuple((name, f"/cg/{name}") for name in ("memory", "cpu", "cpuset", "pids", "blkio")), "")
V2 = Layout((), "/cg")
MIB = 1 << 20


def after(asked: dict[str, Any], **host: Any) -> HostConfig:
    return merged(HostConfig(**host), HostConfig(**asked), None)


@pytest.mark.parametrize(
    ("asked", "host", "words"),
    [
        ({"NanoCpus": 1}, {"CpuPeriod": 1000}, "Nano CPUs cannot be updated as CPU Period has already been set"),
        ({"NanoCpus": 1}, {"CpuQuota": 1000}, "Nano CPUs cannot be updated as CPU Quota has already been set"),
        ({"CpuPeriod": 1000}, {"NanoCpus": 1}, "CPU Period cannot be updated as NanoCPUs has already been set"),
        ({"CpuQuota": 1000}, {"NanoCpus": 1}, "CPU Quota cannot be updated as NanoCPUs has already been set"),
    ],
)
def test_two_ways_to_limit_cpus(asked: dict[str, Any], host: dict[str, Any], words: str) -> None:
    with pytest.raises(Conflict) as caught:
        after(asked, **host)
    assert str(caught.value) == f"Conflicting options: {words}"


def test_memory_stays_below_memory_and_swap() -> None:
    for host in ({"Memory": 64 * MIB}, {"Memory": 64 * MIB, "MemorySwap": 128 * MIB}, {}):
        with pytest.raises(Conflict, match="update the memoryswap at the same time"):
            after({"Memory": 129 * MIB}, **host)
    found = after({"Memory": 100 * MIB}, Memory=64 * MIB)
    assert (found.Memory, found.MemorySwap) == (100 * MIB, 128 * MIB)


def test_what_is_not_asked_for_stays() -> None:
    host = HostConfig(CpuShares=5, PidsLimit=7, CpusetCpus="0", AutoRemove=True)
    assert merged(host, HostConfig(), RestartPolicy(Name="")) == host
    assert merged(host, HostConfig(CpuShares=9), None).CpuShares == 9
    assert merged(host, HostConfig(PidsLimit=-1), None).PidsLimit == 0
    assert host.CpuShares == 5


def test_a_container_that_removes_itself_is_not_restarted() -> None:
    with pytest.raises(Conflict, match="AutoRemove is enabled"):
        merged(HostConfig(AutoRemove=True), HostConfig(), RestartPolicy(Name="always"))
    always = RestartPolicy(Name="always")
    assert merged(HostConfig(), HostConfig(), always).RestartPolicy == always


def test_more_memory_needs_the_sum_first_and_less_the_part() -> None:
    small, large = HostConfig(Memory=64 * MIB), HostConfig(Memory=256 * MIB)
    more = [file for _, file, _ in changes(V1, small, large)]
    assert more == ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"]
    assert [file for _, file, _ in changes(V1, large, small)] == list(reversed(more))
    boundless = HostConfig(Memory=256 * MIB, MemorySwap=-1)
    assert changes(V1, small, boundless)[0] == ("memory", "memory.memsw.limit_in_bytes", "-1")
    first = [file for _, file, _ in changes(V1, HostConfig(), HostConfig(Memory=20 * MIB, MemorySwap=20 * MIB))]
    assert first == list(reversed(more))  # where there was no limit the sum may not fall below it


def test_only_what_differs_is_written() -> None:
    before = HostConfig(Memory=64 * MIB, CpuShares=100, PidsLimit=5, NanoCpus=10**9)
    assert changes(V1, before, before) == []
    assert changes(V1, before, HostConfig(Memory=64 * MIB, CpuShares=200, PidsLimit=0, NanoCpus=10**9)) == [
        ("cpu", "cpu.shares", "200"),
        ("pids", "pids.max", "max"),
    ]
    assert ("cpu", "cpu.max", "50000 100000") in changes(V2, before, HostConfig(NanoCpus=5 * 10**8))


def test_the_plan_says_where() -> None:
    plan = update_plan(V1, "/labkit/x", HostConfig(), HostConfig(CpuShares=7))
    assert plan.shell() == "echo 7 > /cg/cpu/labkit/x/cpu.shares\n"


def test_a_refused_write_undoes_those_before_it(tmp_path: Path) -> None:
    first, second = tmp_path / "pids.max", tmp_path / "none" / "memory.max"
    first.write_text("max\n")
    steps = (Step("daemon", ChangeCgroup(str(first), "9")), Step("daemon", ChangeCgroup(str(second), "1")))
    with pytest.raises(KernelError, match="ENOENT"):
        Execution(Plan("update", steps).by("daemon")).run_or_undo()
    assert first.read_text().strip() == "max"
