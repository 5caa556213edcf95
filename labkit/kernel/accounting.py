"""What the kernel has counted of a control group's processes: CPU time, memory, block I/O, and bytes on links.

cgroup-v1/{cpuacct,memory,blkio-controller,pids}.rst, cgroup-v2.rst, proc(5) (`stat`, `PID/net/dev`). Only reads.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from labkit.kernel.cgroups import Layout

UNLIMITED = (1 << 64) - 1
"""How Docker's API says that there is no limit to the number of processes."""
_TICK = 10**9 // os.sysconf("SC_CLK_TCK")
_GONE = (errno.ENOENT, errno.ENODEV, errno.ESRCH)


class Transfer(NamedTuple):
    """What went to or came from a device: `Read`, `Write` and others, in bytes or requests."""

    major: int
    minor: int
    operation: str
    value: int


class Traffic(NamedTuple):
    """What a link has received and sent."""

    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


@dataclass(frozen=True, slots=True)
class Usage:
    """One look at a control group. Times are nanoseconds of CPU time, sizes bytes; `memory` is memory.stat as it is.

    `per_cpu` and `memory_peak` are there on v1 only.
    """

    cpu: int = 0
    kernel: int = 0
    user: int = 0
    per_cpu: tuple[int, ...] = ()
    periods: int = 0
    throttled_periods: int = 0
    throttled: int = 0
    memory_used: int = 0
    memory_peak: int = 0
    memory_limit: int = 0
    memory_failures: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    processes: int = 0
    process_limit: int = 0
    io_bytes: tuple[Transfer, ...] = ()
    io_requests: tuple[Transfer, ...] = ()


def usage(layout: Layout, path: str) -> Usage | None:
    """What cgroup `path` has used; None if it is gone."""
    try:
        return _usage_v1(layout, path) if layout.version == 1 else _usage_v2(layout.directory("", path))
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


def _usage_v1(layout: Layout, path: str) -> Usage:
    account, cpu, memory, block, pids = (
        layout.directory(name, path) for name in ("cpuacct", "cpu", "memory", "blkio", "pids")
    )
    times, periods = _table(account, "cpuacct.stat"), _table(cpu, "cpu.stat")
    return Usage(
        cpu=_number(account, "cpuacct.usage"),
        kernel=times.get("system", 0) * _TICK,
        user=times.get("user", 0) * _TICK,
        per_cpu=tuple(map(int, _read(account, "cpuacct.usage_percpu").split())),
        periods=periods.get("nr_periods", 0),
        throttled_periods=periods.get("nr_throttled", 0),
        throttled=periods.get("throttled_time", 0),
        memory_used=_number(memory, "memory.usage_in_bytes"),
        memory_peak=_number(memory, "memory.max_usage_in_bytes"),
        memory_limit=_number(memory, "memory.limit_in_bytes"),
        memory_failures=_number(memory, "memory.failcnt"),
        memory=_table(memory, "memory.stat"),
        processes=_number(pids, "pids.current"),
        process_limit=_number(pids, "pids.max"),
        io_bytes=transfers_v1(_read(block, "blkio.throttle.io_service_bytes_recursive")),
        io_requests=transfers_v1(_read(block, "blkio.throttle.io_serviced_recursive")),
    )


def _usage_v2(directory: str) -> Usage:
    cpu = _table(directory, "cpu.stat")
    return Usage(
        cpu=cpu.get("usage_usec", 0) * 1000,
        kernel=cpu.get("system_usec", 0) * 1000,
        user=cpu.get("user_usec", 0) * 1000,
        periods=cpu.get("nr_periods", 0),
        throttled_periods=cpu.get("nr_throttled", 0),
        throttled=cpu.get("throttled_usec", 0) * 1000,
        memory_used=_number(directory, "memory.current"),
        memory_limit=_number(directory, "memory.max"),
        memory_failures=_table(directory, "memory.events").get("oom", 0),
        memory=_table(directory, "memory.stat"),
        processes=_number(directory, "pids.current"),
        process_limit=_number(directory, "pids.max"),
        io_bytes=transfers_v2(_read(directory, "io.stat"), "bytes"),
        io_requests=transfers_v2(_read(directory, "io.stat"), "ios"),
    )


def _read(directory: str, name: str) -> str:
    """A file of a cgroup; empty where this kernel has no such tree or file. Raises OSError if the cgroup is gone."""
    if not directory:
        return ""
    try:
        with open(f"{directory}/{name}", encoding="ascii") as file:
            return file.read()
    except FileNotFoundError:
        if os.path.isdir(directory):
            return ""
        raise


def _number(directory: str, name: str) -> int:
    text = _read(directory, name).strip()
    return UNLIMITED if text == "max" else int(text or 0)


def _table(directory: str, name: str) -> dict[str, int]:
    return table(_read(directory, name))


def table(text: str) -> dict[str, int]:
    """Lines of a name and a number."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def transfers_v1(text: str) -> tuple[Transfer, ...]:
    """`8:0 Read 4096`, a line each."""
    found = []
    for words in map(str.split, text.splitlines()):
        if len(words) == 3:
            major, minor = words[0].split(":")
            found.append(Transfer(int(major), int(minor), words[1], int(words[2])))
    return tuple(found)


def transfers_v2(text: str, unit: str) -> tuple[Transfer, ...]:
    """`8:0 rbytes=4096 wbytes=0 rios=1 wios=0 …`, a line a device; `unit` is `bytes` or `ios`."""
    found = []
    for words in map(str.split, text.splitlines()):
        values = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        if f"r{unit}" in values:
            major, minor = map(int, words[0].split(":"))
            found += [Transfer(major, minor, name, int(values[f"{name[0]}{unit}"])) for name in ("read", "write")]
    return tuple(found)


def machine_cpu() -> tuple[int, int]:
    """The CPU time that the machine has spent, idle or not (ns), and how many CPUs are online (proc(5), `stat`)."""
    with open("/proc/stat", encoding="ascii") as file:
        lines = file.read().splitlines()
    return cpu_time(lines[0]), sum(line[:3] == "cpu" and line[3:4].isdigit() for line in lines)


def cpu_time(line: str) -> int:
    """user, nice, system, idle, iowait, irq and softirq of a `cpu` line, in ns, as moby adds them up."""
    return sum(map(int, line.split()[1:8])) * _TICK


def traffic(pid: int, links: Iterable[str]) -> dict[str, Traffic]:
    """The counters of these links, as the network namespace of a process has them; none if the process is gone."""
    try:
        with open(f"/proc/{pid}/net/dev", encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        if error.errno in (*_GONE, errno.EINVAL):
            return {}
        raise
    found = read_traffic(text)
    return {name: found[name] for name in links if name in found}


def read_traffic(text: str) -> dict[str, Traffic]:
    """The content of `/proc/PID/net/dev`."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        numbers = list(map(int, rest.split()))
        found[name.strip()] = Traffic(*numbers[:4], *numbers[8:12])
    return found
