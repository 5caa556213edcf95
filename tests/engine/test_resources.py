"""Limits: what makes no sense is refused in dockerd's words, what the kernel can't keep is discarded and named."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.engine import resources
from labkit.engine.models import HostConfig
from labkit.errors import InvalidParameter
from labkit.kernel.limits import ALL, Limits
from tests.engine.records import host_record

EVERYTHING = Limits(frozenset(ALL), 4, "0-3", "0")
NOTHING = Limits(frozenset(), 4, "0-3", "0")
FROM_8M: dict[str, Any] = {"Memory": 8 << 20}


def checked(limits: Limits = EVERYTHING, update: bool = False, **host: Any) -> tuple[HostConfig, list[str]]:
    asked = host_record(**host).HostConfig
    return asked, resources.check(asked, limits, update)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"Memory": (6 << 20) - 1}, "Minimum memory limit allowed is 6MB"),
    ({"Memory": -1}, "invalid memory limit -1: it can not be negative"),
    (FROM_8M | {"MemorySwap": 7 << 20}, "Minimum memoryswap limit should be larger than memory limit, see usage"),
    ({"MemorySwap": 1}, "You should always set the Memory limit when using Memoryswap limit, see usage"),
    (FROM_8M | {"MemoryReservation": 9 << 20},
     "Minimum memory limit can not be less than memory reservation limit, see usage"),
    ({"MemoryReservation": 5 << 20}, "Minimum memory reservation allowed is 6MB"),
    ({"MemorySwappiness": 101}, "Invalid value: 101, valid memory swappiness range is 0-100"),
    ({"NanoCpus": 1, "CpuQuota": 1000}, "Conflicting options: Nano CPUs and CPU Quota cannot both be set"),
    ({"NanoCpus": 1, "CpuPeriod": 1000}, "Conflicting options: Nano CPUs and CPU Period cannot both be set"),
    ({"NanoCpus": 4 * 10**9 + 1}, "range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available"),
    ({"NanoCpus": -1}, "range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available"),
    ({"CpuPeriod": 999}, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"),
    ({"CpuQuota": 999}, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
    ({"CpuRealtimePeriod": 5, "CpuRealtimeRuntime": 6},
     "cpu real-time runtime cannot be higher than cpu real-time period"),
    ({"CpusetCpus": "2-4"}, "Requested CPUs are not available - requested 2-4, available: 0-3"),
    ({"CpusetMems": "1"}, "Requested memory nodes are not available - requested 1, available: 0"),
    ({"CpusetCpus": "a-"}, "Invalid value a- for cpuset cpus: invalid format: a-"),
    ({"CpusetMems": "²"}, "Invalid value ² for cpuset mems: invalid format: ²"),
    ({"BlkioWeight": 9}, "Range of blkio weight is from 10 to 1000"),
    ({"BlkioWeightDevice": [{"Path": "/dev/x", "Weight": 1001}]}, "Range of blkio weight is from 10 to 1000"),
    ({"IOMaximumIOps": 1}, "Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps"),
    ({"ShmSize": -1}, "SHM size can not be less than 0"),
    ({"CgroupParent": "/a/../../b"}, "invalid cgroup parent '/a/../../b': it can't lead out of the cgroup tree"),
    ({"OomScoreAdj": 1001}, "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
    ({"Ulimits": [{"Name": "files"}]}, "invalid ulimit type: files"),
    ({"Ulimits": [{"Name": "nofile", "Soft": 3, "Hard": 2}]},
     "ulimit soft limit must be less than or equal to hard limit: 3 > 2"),
]  # fmt: skip


@pytest.mark.parametrize(("host", "message"), REFUSED)
def test_what_makes_no_sense(host: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter, match=f"^{re.escape(message)}$"):
        checked(**host)


@pytest.mark.parametrize(
    "host",
    [
        {}, {"Memory": 6 << 20}, FROM_8M | {"MemorySwap": -1}, FROM_8M | {"MemorySwap": 8 << 20},
        {"NanoCpus": 4 * 10**9}, {"CpuPeriod": 1000, "CpuQuota": 1000}, {"CpuQuota": -1}, {"CpusetCpus": "0,2-3"},
        {"OomScoreAdj": -1000}, {"Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": -1}]}, {"BlkioWeight": 1000},
        {"MemorySwappiness": 0}, FROM_8M | {"OomKillDisable": True}, {"PidsLimit": 9}, {"CpuRealtimeRuntime": 9},
        {"BlkioDeviceReadBps": [{"Path": "/dev/x", "Rate": 1}]},
    ],
)  # fmt: skip
def test_what_can_be_passes_without_a_word(host: dict[str, Any]) -> None:
    before = host_record(**host).HostConfig
    assert checked(**host) == (before, [])


LACKING: list[tuple[str, Any, Any, str]] = [
    ("Memory", 8 << 20, 0,
     "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded."),
    ("MemoryReservation", 8 << 20, 0,
     "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded."),
    ("MemorySwappiness", 5, None,
     "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness "
     "discarded."),
    ("OomKillDisable", True, None, "Your kernel does not support OomKillDisable. OomKillDisable discarded."),
    ("PidsLimit", 5, None,
     "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded."),
    ("CpuShares", 5, 0, "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded."),
    ("CpuQuota", 5000, 0, "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded."),
    ("CpusetCpus", "0", "", "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded."),
    ("BlkioWeight", 50, 0,
     "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."),
    ("BlkioWeightDevice", [{"Path": "/dev/x", "Weight": 50}], [],
     "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded."),
    ("BlkioDeviceReadBps", [{"Path": "/dev/x", "Rate": 50}], [],
     "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit "
     "discarded."),
    ("BlkioDeviceWriteIOps", [{"Path": "/dev/x", "Rate": 50}], [],
     "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit "
     "discarded."),
]  # fmt: skip


@pytest.mark.parametrize(("field", "asked", "left", "warning"), LACKING)
def test_what_the_kernel_can_not_keep_is_discarded(field: str, asked: Any, left: Any, warning: str) -> None:
    host, warnings = checked(NOTHING, **{field: asked})
    assert (getattr(host, field), warnings) == (left, [warning])


def test_memory_without_swap() -> None:
    limits = Limits(EVERYTHING.kept - {"swap"}, 4, "0-3", "0")
    host, (warning,) = checked(limits, **FROM_8M)
    assert (host.MemorySwap, "Memory limited without swap." in warning) == (-1, True)


def test_a_cpu_count_needs_a_quota() -> None:
    with pytest.raises(InvalidParameter, match="NanoCPUs can not be set"):
        checked(NOTHING, NanoCpus=5)
    with pytest.raises(InvalidParameter, match="kernel does not support CPU real-time scheduler"):
        checked(NOTHING, CpuRealtimePeriod=5)


def test_dangers_are_named() -> None:
    (warning,) = checked(OomKillDisable=True)[1]
    assert warning.startswith("OOM killer is disabled for the container, but no memory limit is set")
    host, (warning,) = checked(KernelMemory=64 << 20)
    assert (host.KernelMemory, "kernel memory limit" in warning) == (0, True)


def test_an_update_may_change_swap_alone() -> None:
    assert checked(update=True, MemorySwap=9 << 20)[1] == []


@given(st.sets(st.integers(0, 300), max_size=20))
def test_a_list_of_cpus_says_which(cpus: set[int]) -> None:
    assert set(resources.parse_list(",".join(map(str, cpus)))) == cpus


@given(st.text("0123456789-,a ", max_size=12))
def test_any_list_is_read_or_refused(text: str) -> None:
    try:
        found = resources.parse_list(text)
    except InvalidParameter:
        found = []
    assert all(0 <= cpu < resources.MOST_CPUS for cpu in found)
