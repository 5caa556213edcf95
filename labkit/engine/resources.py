"""What a container may use: rules and words of dockerd (moby `verifyPlatformContainerResources`).

A limit that this kernel can't keep is taken out of the configuration and named in a warning; one that makes no
sense is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

from labkit.engine.models import HostConfig
from labkit.errors import InvalidParameter
from labkit.kernel.limits import Limits
from labkit.kernel.process import RLIMITS

LEAST_MEMORY = 6 << 20
LEAST_SHARES, MOST_SHARES = 2, 1 << 18
MOST_CPUS = 8192  # as in moby: what is larger is a mistake, and must not be counted up to

_BLOCK_DEVICES = (
    ("BlkioWeightDevice", "blkio-weight-device", "Block I/O weight_device or the cgroup is not mounted. Weight-device"),
    ("BlkioDeviceReadBps", "blkio-read-bps",
     "BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit"),
    ("BlkioDeviceWriteBps", "blkio-write-bps",
     "BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit"),
    ("BlkioDeviceReadIOps", "blkio-read-iops",
     "IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit"),
    ("BlkioDeviceWriteIOps", "blkio-write-iops",
     "IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit"),
)  # fmt: skip


def check(host: HostConfig, limits: Limits, update: bool = False) -> list[str]:
    """Refuse what makes no sense, discard what can't be kept; the warnings. Raises InvalidParameter.

    `update` is for `docker update`, where what isn't given stays as it is.
    """
    warnings = [*_memory(host, limits, update), *_kills(host, limits), *_cpu(host, limits), *_cpuset(host, limits)]
    warnings += _block_io(host, limits)
    _check_rest(host)
    return warnings


def _lacking(what: str) -> str:
    return f"Your kernel does not support {what} discarded."


def _memory(host: HostConfig, limits: Limits, update: bool) -> Iterable[str]:
    if host.Memory < 0:
        raise InvalidParameter(f"invalid memory limit {host.Memory}: it can not be negative")
    if host.Memory and host.Memory < LEAST_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if host.Memory and "memory" not in limits:
        host.Memory, host.MemorySwap = 0, -1
        yield _lacking("memory limit capabilities or the cgroup is not mounted. Limitation")
    if host.Memory and host.MemorySwap != -1 and "swap" not in limits:
        host.MemorySwap = -1
        yield (
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. "
            "Memory limited without swap."
        )
    if host.Memory and 0 < host.MemorySwap < host.Memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    if not host.Memory and host.MemorySwap > 0 and not update:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")
    yield from _swappiness(host, limits)
    yield from _reservation(host, limits)
    if isinstance(host.KernelMemory, int) and host.KernelMemory > 0:
        host.KernelMemory = 0
        yield _lacking("kernel memory limit capabilities or the cgroup is not mounted. Limitation")


def _swappiness(host: HostConfig, limits: Limits) -> Iterable[str]:
    if host.MemorySwappiness == -1:
        host.MemorySwappiness = None
    if host.MemorySwappiness is None:
        return
    if "swappiness" not in limits:
        host.MemorySwappiness = None
        yield _lacking("memory swappiness capabilities or the cgroup is not mounted. Memory swappiness")
    elif not 0 <= host.MemorySwappiness <= 100:
        raise InvalidParameter(f"Invalid value: {host.MemorySwappiness}, valid memory swappiness range is 0-100")


def _reservation(host: HostConfig, limits: Limits) -> Iterable[str]:
    if host.MemoryReservation > 0 and "reservation" not in limits:
        host.MemoryReservation = 0
        yield _lacking("memory soft limit capabilities or the cgroup is not mounted. Limitation")
    if 0 < host.MemoryReservation < LEAST_MEMORY:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if host.Memory and host.MemoryReservation > host.Memory:
        raise InvalidParameter("Minimum memory limit can not be less than memory reservation limit, see usage")


def _kills(host: HostConfig, limits: Limits) -> Iterable[str]:
    """The OOM killer, and how many processes there may be."""
    if host.OomKillDisable is not None and "oom-kill-disable" not in limits:
        if host.OomKillDisable:
            yield "Your kernel does not support OomKillDisable. OomKillDisable discarded."
        host.OomKillDisable = None
    if host.OomKillDisable and not host.Memory:
        yield (
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system "
            "running out of resources."
        )
    if host.PidsLimit is not None and "pids" not in limits:
        if host.PidsLimit > 0:
            yield _lacking("PIDs limit capabilities or the cgroup is not mounted. PIDs limit")
        host.PidsLimit = None


def _cpu(host: HostConfig, limits: Limits) -> Iterable[str]:
    if host.NanoCpus > 0 and host.CpuPeriod > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if host.NanoCpus > 0 and host.CpuQuota > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if host.NanoCpus > 0 and "cpu-cfs" not in limits:
        raise InvalidParameter(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted"
        )
    if not 0 <= host.NanoCpus <= limits.count * 10**9:
        raise InvalidParameter(
            f"range of CPUs is from 0.01 to {limits.count}.00, as there are only {limits.count} CPUs available"
        )
    if host.CpuShares > 0 and "cpu-shares" not in limits:
        host.CpuShares = 0
        yield _lacking("CPU shares or the cgroup is not mounted. Shares")
    if (host.CpuPeriod or host.CpuQuota) and "cpu-cfs" not in limits:
        host.CpuPeriod = host.CpuQuota = 0
        yield _lacking("CPU CFS scheduler. CPU period/quota")
    if host.CpuPeriod and not 1000 <= host.CpuPeriod <= 1000000:
        raise InvalidParameter("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.CpuQuota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.CpuPercent > 0:
        host.CpuPercent = 0
        yield "linux does not support CPU percent. Percent discarded."
    _check_realtime(host, limits)


def shares_problem(shares: int, version: int) -> str:
    """What runc says of processor shares that cgroup v1 would quietly change; empty for those that it takes."""
    if version == 2 or not shares or LEAST_SHARES <= shares <= MOST_SHARES:
        return ""
    if shares > MOST_SHARES:
        return f"the maximum allowed cpu-shares is {MOST_SHARES}"
    return f"the minimum allowed cpu-shares is {LEAST_SHARES}"


def _check_realtime(host: HostConfig, limits: Limits) -> None:
    if (host.CpuRealtimePeriod or host.CpuRealtimeRuntime) and "cpu-realtime" not in limits:
        raise InvalidParameter("kernel does not support CPU real-time scheduler")
    if host.CpuRealtimePeriod and host.CpuRealtimeRuntime > host.CpuRealtimePeriod:
        raise InvalidParameter("cpu real-time runtime cannot be higher than cpu real-time period")


def _cpuset(host: HostConfig, limits: Limits) -> Iterable[str]:
    if (host.CpusetCpus or host.CpusetMems) and "cpuset" not in limits:
        host.CpusetCpus = host.CpusetMems = ""
        yield _lacking("cpuset or the cgroup is not mounted. Cpuset")
    for wanted, there, words, what in (
        (host.CpusetCpus, limits.cpus, "cpus", "CPUs"),
        (host.CpusetMems, limits.mems, "mems", "memory nodes"),
    ):
        if set(parse_list(wanted, words)) - set(parse_list(there, words)):
            raise InvalidParameter(f"Requested {what} are not available - requested {wanted}, available: {there}")


def parse_list(text: str, what: str = "cpus") -> list[int]:
    """A list such as `0-2,4` (cpuset(7), List format). Raises InvalidParameter."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not (_is_number(first) and _is_number(last or first) and int(last or first) < MOST_CPUS):
            raise InvalidParameter(f"Invalid value {text} for cpuset {what}: invalid format: {part}")
        found += range(int(first), int(last or first) + 1)
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _block_io(host: HostConfig, limits: Limits) -> Iterable[str]:
    if host.BlkioWeight and "blkio-weight" not in limits:
        host.BlkioWeight = 0
        yield _lacking("Block I/O weight or the cgroup is not mounted. Weight")
    if host.BlkioWeight and not 10 <= host.BlkioWeight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    if host.IOMaximumBandwidth or host.IOMaximumIOps:
        raise InvalidParameter("Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps")
    for field, limit, words in _BLOCK_DEVICES:
        if getattr(host, field) and limit not in limits:
            setattr(host, field, [])
            yield _lacking(words)
    for device in host.BlkioWeightDevice or ():
        if not 10 <= device.Weight <= 1000:
            raise InvalidParameter("Range of blkio weight is from 10 to 1000")


def _check_rest(host: HostConfig) -> None:
    if host.ShmSize < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    if ".." in host.CgroupParent.split("/"):
        raise InvalidParameter(f"invalid cgroup parent {host.CgroupParent!r}: it can't lead out of the cgroup tree")
    if not -1000 <= host.OomScoreAdj <= 1000:
        raise InvalidParameter(f"Invalid value {host.OomScoreAdj}, range for oom score adj is [-1000, 1000]")
    for limit in host.Ulimits or []:
        if f"RLIMIT_{limit.Name.upper()}" not in RLIMITS:
            raise InvalidParameter(f"invalid ulimit type: {limit.Name}")
        if not all(-1 <= number < 1 << 63 for number in (limit.Soft, limit.Hard)):
            raise InvalidParameter(f"invalid ulimit {limit.Name}={limit.Soft}:{limit.Hard}: -1 means unlimited")
        if limit.Soft > limit.Hard >= 0:
            raise InvalidParameter(
                f"ulimit soft limit must be less than or equal to hard limit: {limit.Soft} > {limit.Hard}"
            )
