"""What the cgroups of this kernel can limit: the files that each controller has (moby `pkg/sysinfo`).

A limit whose file is missing can't be kept; `labkit.engine.resources` warns of it then, as dockerd does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

from labkit.kernel.cgroups import Layout, read_layout

ALL = (
    "memory", "swap", "reservation", "swappiness", "oom-kill-disable", "pids", "cpu-shares", "cpu-cfs", "cpu-realtime",
    "cpuset", "blkio-weight", "blkio-weight-device", "blkio-read-bps", "blkio-write-bps", "blkio-read-iops",
    "blkio-write-iops",
)  # fmt: skip

_V1 = {
    "memory": ("memory", "memory.limit_in_bytes"),
    "swap": ("memory", "memory.memsw.limit_in_bytes"),
    "reservation": ("memory", "memory.soft_limit_in_bytes"),
    "swappiness": ("memory", "memory.swappiness"),
    "oom-kill-disable": ("memory", "memory.oom_control"),
    "pids": ("pids", ""),
    "cpu-shares": ("cpu", "cpu.shares"),
    "cpu-cfs": ("cpu", "cpu.cfs_quota_us"),
    "cpu-realtime": ("cpu", "cpu.rt_period_us"),
    "cpuset": ("cpuset", "cpuset.cpus"),
    "blkio-weight": ("blkio", "blkio.weight"),
    "blkio-weight-device": ("blkio", "blkio.weight_device"),
    "blkio-read-bps": ("blkio", "blkio.throttle.read_bps_device"),
    "blkio-write-bps": ("blkio", "blkio.throttle.write_bps_device"),
    "blkio-read-iops": ("blkio", "blkio.throttle.read_iops_device"),
    "blkio-write-iops": ("blkio", "blkio.throttle.write_iops_device"),
}
_V2 = {
    "memory": "memory", "reservation": "memory", "pids": "pids", "cpu-shares": "cpu", "cpu-cfs": "cpu",
    "cpuset": "cpuset", "blkio-weight": "io", "blkio-weight-device": "io", "blkio-read-bps": "io",
    "blkio-write-bps": "io", "blkio-read-iops": "io", "blkio-write-iops": "io",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """Which limits (of `ALL`) can be kept; how many CPUs there are; the CPUs and memory nodes as cpuset lists.

    `version` is that of the cgroups.
    """

    kept: frozenset[str]
    count: int
    cpus: str
    mems: str
    version: int = 1

    def __contains__(self, name: str) -> bool:
        return name in self.kept


def of_layout(layout: Layout) -> frozenset[str]:
    """The limits that the trees of a layout have files for."""
    if layout.version == 2:
        controllers = _read(f"{layout.unified}/cgroup.controllers").split()
        found = {name for name, controller in _V2.items() if controller in controllers}
        if not _weighs(layout.unified):
            found -= {"blkio-weight", "blkio-weight-device"}
        return frozenset(found | ({"swap"} if "memory" in controllers and os.path.exists("/proc/swaps") else set()))
    roots = dict(layout.v1)
    return frozenset(
        name
        for name, (controller, file) in _V1.items()
        if controller in roots and os.path.exists(os.path.join(roots[controller], file))
    )


def _weighs(unified: str) -> bool:
    """v2: whether there is io.weight, which not every kernel has; the root never does, those below it tell."""
    with os.scandir(unified) as entries:
        below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return any(os.path.exists(f"{path}/io.weight") for path in below)


@lru_cache
def read() -> Limits:
    """The limits of this machine. They don't change while it runs."""
    layout = read_layout()
    names = ("cpus", "mems")
    if layout.version == 2:
        cpus, mems = (_read(f"{layout.unified}/cpuset.{name}.effective") for name in names)
    else:
        cpus, mems = (_read(f"{layout.directory('cpuset', '')}/cpuset.{name}") for name in names)
    count = len(os.sched_getaffinity(0))
    return Limits(of_layout(layout), count, cpus or f"0-{count - 1}", mems or "0", layout.version)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""
