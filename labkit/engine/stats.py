"""What a container uses, second by second (`GET /containers/{id}/stats`, moby `daemon/stats`).

One sampler looks at each container that somebody follows, once a second for all of its followers, who get the same
bytes. A follower that doesn't read misses samples, and costs no memory.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from labkit.engine.clock import rfc3339
from labkit.engine.container import Container
from labkit.engine.models import ZERO_TIME
from labkit.kernel import accounting
from labkit.kernel.accounting import Transfer, Usage

if TYPE_CHECKING:
    from labkit.engine.engine import Engine

log = logging.getLogger("labkit.engine")
INTERVAL = 1.0
_NO_CPU: dict[str, Any] = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}
_IO = (
    "io_service_bytes",
    "io_serviced",
    "io_queue",
    "io_service_time",
    "io_wait_time",
    "io_merged",
    "io_time",
    "sectors",
)
_V1 = (
    {"hierarchical_memory_limit", "hierarchical_memsw_limit"}
    | {
        f"{prefix}{name}"
        for prefix in ("", "total_")
        for name in (
            "active_anon", "active_file", "cache", "dirty", "inactive_anon", "inactive_file", "mapped_file",
            "pgfault", "pgmajfault", "pgpgin", "pgpgout", "rss", "rss_huge", "unevictable", "writeback",
        )
    }
)  # fmt: skip
"""What moby shows of memory.stat on v1; newer kernels have more."""
_MACHINE_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a container: when (ns), what it had used, what the machine's CPUs had done."""

    at: int
    usage: Usage
    system: int
    cpus: int
    version: int
    traffic: dict[str, accounting.Traffic] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subject:
    """Where to look for a container: its cgroup, a process in its network namespace, the names of its links there."""

    cgroup: str
    pid: int
    links: tuple[str, ...]


def subject(engine: Engine, container: Container) -> Subject | None:
    """Where a container can be looked at; None if it doesn't run."""
    if not container.run.running:
        return None
    mode, other = container.record.HostConfig.NetworkMode, container
    if mode.startswith("container:"):
        other = engine.containers.get(mode.partition(":")[2], container)
    path = engine.settings.cgroup(container.id, container.record.HostConfig.CgroupParent)
    return Subject(path, container.run.pid, tuple(sorted(other.record.Sandbox.Interfaces.values())))


def look(engine: Engine, where: Subject, machine: tuple[int, int]) -> Sample | None:
    """Read what the kernel has counted; None if the container is gone. Takes a fraction of a millisecond."""
    layout = engine.machine.cgroups
    found = accounting.usage(layout, where.cgroup)
    if found is None:
        return None
    links = accounting.traffic(where.pid, where.links) if where.links else {}
    return Sample(time.time_ns(), found, *machine, layout.version, links)


def view(container: Container, sample: Sample | None, before: Sample | None) -> dict[str, Any]:
    """`ContainerStatsResponse`: a sample, and what the one before it said of the CPU. Without one, all is zero."""
    used = sample.usage if sample else Usage()
    found: dict[str, Any] = {
        "name": container.record.Name,
        "id": container.id,
        "read": rfc3339(sample.at) if sample else ZERO_TIME,
        "preread": rfc3339(before.at) if before else ZERO_TIME,
        "pids_stats": _pids(used),
        "blkio_stats": _block_io(sample),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(sample),
        "precpu_stats": _cpu(before),
        "memory_stats": _memory(sample),
    }
    if sample and sample.traffic:
        found["networks"] = {name: traffic._asdict() for name, traffic in sample.traffic.items()}
    return found


def _pids(used: Usage) -> dict[str, int]:
    values = {"current": used.processes, "limit": used.process_limit}
    return {name: value for name, value in values.items() if value}


def _block_io(sample: Sample | None) -> dict[str, Any]:
    if sample is None:
        return dict.fromkeys((f"{name}_recursive" for name in _IO), None)
    empty: list[Any] | None = [] if sample.version == 1 else None
    found: dict[str, Any] = dict.fromkeys((f"{name}_recursive" for name in _IO), empty)
    found["io_service_bytes_recursive"] = _transfers(sample.usage.io_bytes)
    if sample.version == 1:
        found["io_serviced_recursive"] = _transfers(sample.usage.io_requests)
    return found


def _transfers(transfers: tuple[Transfer, ...]) -> list[dict[str, Any]]:
    return [{"major": one.major, "minor": one.minor, "op": one.operation, "value": one.value} for one in transfers]


def _cpu(sample: Sample | None) -> dict[str, Any]:
    if sample is None:
        return _NO_CPU
    used = sample.usage
    times: dict[str, Any] = {"total_usage": used.cpu}
    if used.per_cpu:
        times["percpu_usage"] = used.per_cpu
    times |= {"usage_in_kernelmode": used.kernel, "usage_in_usermode": used.user}
    throttling = {
        "periods": used.periods, "throttled_periods": used.throttled_periods, "throttled_time": used.throttled,
    }  # fmt: skip
    return {
        "cpu_usage": times,
        "system_cpu_usage": sample.system,
        "online_cpus": sample.cpus,
        "throttling_data": throttling,
    }


def _memory(sample: Sample | None) -> dict[str, Any]:
    if sample is None:
        return {}
    used = sample.usage
    stats = (
        used.memory if sample.version == 2 else {name: used.memory[name] for name in sorted(_V1 & used.memory.keys())}
    )
    found: dict[str, Any] = {"usage": used.memory_used, "stats": stats}
    found |= {"max_usage": used.memory_peak} if used.memory_peak else {}
    found |= {"failcnt": used.memory_failures} if used.memory_failures else {}
    return found | {"limit": min(used.memory_limit or _MACHINE_MEMORY, _MACHINE_MEMORY)}


@dataclass(slots=True)
class _Followed:
    """A container that somebody follows: its latest sample, as bytes too, and who waits for the next."""

    last: Sample | None = None
    latest: bytes = b""
    count: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    followers: int = 0


class Sampler:
    """Looks at all followed containers, once a second, while there are any."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.followed: dict[Container, _Followed] = {}
        self.task: asyncio.Task[None] | None = None

    async def follow(self, container: Container) -> AsyncIterator[bytes]:
        """Samples as lines of JSON, the first at once if nobody follows yet, until the container is removed."""
        mine = self.followed.setdefault(container, _Followed())
        mine.followers += 1
        seen = mine.count
        try:
            if mine.followers == 1:
                await self._sample({container: mine})
            if self.task is None:
                self.task = asyncio.create_task(self._run())
            while not container.removed.is_set():
                if mine.count == seen:
                    await mine.changed.wait()
                    continue
                seen = mine.count
                yield mine.latest
        finally:
            mine.followers -= 1
            if not mine.followers:
                self.followed.pop(container, None)

    async def once(self, container: Container, primed: bool) -> bytes:
        """One sample. `primed` says to wait for a second one, which tells of the CPU's last second too."""
        found = await self._look([container])
        if not primed or found[container] is None:
            return self._encoded(container, found[container], None)
        skipped = False
        async for line in self.follow(container):
            if skipped:
                return line
            skipped = True
        return self._encoded(container, None, None)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while self.followed:
                due = max(due + INTERVAL, loop.time())
                await _until(loop, due)
                try:
                    await self._sample(dict(self.followed))
                except OSError as error:
                    log.error("containers can't be looked at: %s", error)
        finally:
            self.task = None

    async def _sample(self, followed: dict[Container, _Followed]) -> None:
        samples = await self._look(list(followed))
        for container, mine in followed.items():
            sample = samples[container]
            mine.latest = self._encoded(container, sample, mine.last if sample else None)
            mine.last = sample
            mine.count += 1
            mine.changed.set()
            mine.changed = asyncio.Event()

    async def _look(self, containers: list[Container]) -> dict[Container, Sample | None]:
        """Samples of containers; all are taken on one thread, as the kernel may take its time to add up."""
        subjects = {container: subject(self.engine, container) for container in containers}

        def look_at_all() -> dict[Container, Sample | None]:
            machine = accounting.machine_cpu()
            return {
                container: look(self.engine, where, machine) if where else None for container, where in subjects.items()
            }

        return await asyncio.to_thread(look_at_all)

    def _encoded(self, container: Container, sample: Sample | None, before: Sample | None) -> bytes:
        return msgspec.json.encode(view(container, sample, before)) + b"\n"


async def _until(loop: asyncio.AbstractEventLoop, due: float) -> None:
    """Wait for a moment of the loop's clock."""
    reached = loop.create_future()
    timer = loop.call_at(due, reached.set_result, None)
    try:
        await reached
    finally:
        timer.cancel()
