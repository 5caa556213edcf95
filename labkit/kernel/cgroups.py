"""Control groups: how much a container may use (cgroups(7); kernel documentation cgroup-v1/ and cgroup-v2.rst).

Three layouts are met: v1 (one tree a controller), v2 (one tree), hybrid (v1 trees, and a v2 tree with few
controllers). A container's cgroup is `/PARENT/ID` in each tree that matters. Which files say what differs;
`limit_files` is the one place that knows.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
from dataclasses import dataclass
from typing import Any, ClassVar

from labkit.errors import KernelError
from labkit.kernel import syscalls
from labkit.kernel.signals import ends_within
from labkit.plan import Context, Operation, Result

V1_CONTROLLERS = (
    "systemd", "cpuset", "cpu", "cpuacct", "memory", "devices", "freezer", "blkio", "pids",
    "hugetlb", "net_cls", "net_prio", "perf_event", "rdma", "misc",
)  # fmt: skip
V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc")


@dataclass(frozen=True, slots=True)
class Layout:
    """The cgroup trees of this machine: v1 controllers (or named trees) and their mount points, the v2 mount point.

    v2 counts only where no v1 tree has controllers (as Docker and runc decide); `unified` is set in hybrid too.
    """

    v1: tuple[tuple[str, str], ...]
    unified: str

    @property
    def version(self) -> int:
        return 1 if self.v1 else 2

    def directory(self, controller: str, path: str) -> str:
        """The directory of cgroup `path` in the tree of a controller; empty if there is no such tree."""
        if self.version == 2:
            return f"{self.unified}/{path.strip('/')}"
        root = dict(self.v1).get(controller)
        return f"{root}/{path.strip('/')}" if root else ""

    def directories(self, path: str) -> tuple[str, ...]:
        """The directories of cgroup `path`, one a tree (controllers mounted together share one)."""
        if self.version == 2:
            return (self.directory("", path),)
        roots = dict.fromkeys(root for _, root in self.v1)
        return tuple(f"{root}/{path.strip('/')}" for root in roots)


def parse_layout(mountinfo: str) -> Layout:
    """The layout that /proc/self/mountinfo (proc(5)) tells of."""
    v1: dict[str, str] = {}
    unified = ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if not right:
            continue
        target, (fstype, _, options) = left.split()[4], right.split(" ", 2)
        if fstype == "cgroup2":
            unified = unified or target
        elif fstype == "cgroup":
            for option in options.split(","):
                name = option.removeprefix("name=")
                if name in V1_CONTROLLERS:
                    v1.setdefault(name, target)
    return Layout(tuple((name, v1[name]) for name in V1_CONTROLLERS if name in v1), unified)


def read_layout() -> Layout:
    """The layout of this machine."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return parse_layout(file.read())


def limit_files(layout: Layout, resources: dict[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """OCI `linux.resources` as (controller, file, value) to write, in the order to write them."""
    memory, cpu, pids, block_io = (resources.get(key) or {} for key in ("memory", "cpu", "pids", "blockIO"))
    if layout.version == 1:
        found = _limits_v1(memory, cpu, pids) + _block_io_v1(block_io)
    else:
        found = _limits_v2(memory, cpu, pids) + _block_io_v2(block_io)
    return tuple((controller, file, str(value)) for controller, file, value in found if value not in (None, "", 0))


def _limits_v1(memory: dict[str, Any], cpu: dict[str, Any], pids: dict[str, Any]) -> list[tuple[str, str, Any]]:
    return [
        ("memory", "memory.limit_in_bytes", memory.get("limit")),
        ("memory", "memory.memsw.limit_in_bytes", memory.get("swap")),
        ("memory", "memory.soft_limit_in_bytes", memory.get("reservation")),
        ("memory", "memory.swappiness", _text(memory.get("swappiness"))),
        ("memory", "memory.oom_control", 1 if memory.get("disableOOMKiller") else None),
        ("cpu", "cpu.shares", cpu.get("shares")),
        ("cpu", "cpu.rt_period_us", cpu.get("realtimePeriod")),
        ("cpu", "cpu.rt_runtime_us", cpu.get("realtimeRuntime")),
        ("cpu", "cpu.cfs_period_us", cpu.get("period")),
        ("cpu", "cpu.cfs_quota_us", cpu.get("quota")),
        ("cpuset", "cpuset.cpus", cpu.get("cpus")),
        ("cpuset", "cpuset.mems", cpu.get("mems")),
        ("pids", "pids.max", _or_max(pids.get("limit"))),
    ]


def _limits_v2(memory: dict[str, Any], cpu: dict[str, Any], pids: dict[str, Any]) -> list[tuple[str, str, Any]]:
    quota, period = cpu.get("quota"), cpu.get("period") or 100000
    limit, swap = memory.get("limit"), memory.get("swap")
    swap_max = "max" if swap == -1 else swap - limit if swap and limit else None
    return [
        ("memory", "memory.max", _or_max(limit)),
        ("memory", "memory.swap.max", str(swap_max) if swap_max is not None else None),
        ("memory", "memory.low", memory.get("reservation")),
        ("cpu", "cpu.weight", cpu_weight(cpu["shares"]) if cpu.get("shares") else None),
        ("cpu", "cpu.max", f"{quota if quota > 0 else 'max'} {period}" if quota else None),
        ("cpuset", "cpuset.cpus", cpu.get("cpus")),
        ("cpuset", "cpuset.mems", cpu.get("mems")),
        ("pids", "pids.max", _or_max(pids.get("limit"))),
    ]


_THROTTLES = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
)
"""OCI field, file on v1, key in io.max on v2."""


def _block_io_v1(block_io: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """cgroup-v1/blkio-controller.rst: a line a device, written one by one."""
    found: list[tuple[str, str, Any]] = [("blkio", "blkio.weight", block_io.get("weight"))]
    found += [
        ("blkio", "blkio.weight_device", f"{_numbers(device)} {device['weight']}")
        for device in block_io.get("weightDevice", ())
    ]
    return found + [
        ("blkio", file, f"{_numbers(device)} {device['rate']}")
        for field, file, _ in _THROTTLES
        for device in block_io.get(field, ())
    ]


def _block_io_v2(block_io: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """cgroup-v2.rst, "IO Interface Files"."""
    weight = block_io.get("weight")
    found: list[tuple[str, str, Any]] = [("io", "io.weight", f"default {io_weight(weight)}" if weight else None)]
    found += [
        ("io", "io.weight", f"{_numbers(device)} {io_weight(device['weight'])}")
        for device in block_io.get("weightDevice", ())
    ]
    return found + [
        ("io", "io.max", f"{_numbers(device)} {key}={device['rate']}")
        for field, _, key in _THROTTLES
        for device in block_io.get(field, ())
    ]


def _numbers(device: dict[str, Any]) -> str:
    return f"{device['major']}:{device['minor']}"


def io_weight(weight: int) -> int:
    """v1 blkio.weight (10 to 1000) as v2 io.weight (1 to 10000), as runc and crun convert them."""
    return 1 + (weight - 10) * 9999 // 990


def _text(number: int | None) -> str | None:
    """A number for which 0 says something."""
    return None if number is None else str(number)


def _or_max(limit: int | None) -> int | str | None:
    return "max" if limit is not None and limit < 0 else limit


def cpu_weight(shares: int) -> int:
    """v1 cpu.shares (2 to 262144) as v2 cpu.weight (1 to 10000), as runc and crun convert them."""
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142


@dataclass(frozen=True, slots=True)
class CreateCgroup(Operation):
    """Make a cgroup: a directory in one of the trees. Undone by ending what is left in it and removing it."""

    path: str
    man: ClassVar[str] = "cgroups(7)"

    def run(self, context: Context) -> Result:
        syscalls.mkdir(self.path)
        return self.path

    def undo(self, result: Result, context: Context) -> None:
        remove_cgroup(self.path)

    def describe(self) -> str:
        return f"make the cgroup {self.path}"

    def shell(self) -> str:
        return f"mkdir {shlex.quote(self.path)}"


@dataclass(frozen=True, slots=True)
class EnsureCgroup(Operation):
    """Make a cgroup that containers are put below, and those above it, where they are missing (`--cgroup-parent`).

    `root` is the mount point of its tree. Each gets what its children need: on v1 the CPUs and memory nodes of the one
    above (cpuset(7)), on v2 (`controllers`) the controllers. The result tells which were made; undone, they go again
    unless somebody else has put something into them.
    """

    root: str
    path: str
    controllers: bool = False
    man: ClassVar[str] = "cgroups(7)"

    def run(self, context: Context) -> Result:
        made, directory = [], self.root
        for name in self.path.strip("/").split("/"):
            self._pass_down(directory)
            directory = f"{directory}/{name}"
            if not os.path.isdir(directory):
                syscalls.mkdir(directory)
                made.append(directory)
                self._inherit(directory)
        self._pass_down(directory)
        return "\n".join(made)

    def _inherit(self, directory: str) -> None:
        if not os.path.exists(f"{directory}/cpuset.cpus") or self.controllers:
            return
        syscalls.write_file(f"{directory}/cgroup.clone_children", "1")
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not read_value(f"{directory}/{name}"):
                syscalls.write_file(f"{directory}/{name}", read_value(f"{os.path.dirname(directory)}/{name}"))

    def _pass_down(self, directory: str) -> None:
        if self.controllers:
            passed = read_value(f"{directory}/cgroup.subtree_control").split()
            for name in read_value(f"{directory}/cgroup.controllers").split():
                if name in V2_CONTROLLERS and name not in passed:
                    syscalls.write_file(f"{directory}/cgroup.subtree_control", f"+{name}")

    def undo(self, result: Result, context: Context) -> None:
        for directory in reversed(str(result or "").split()):
            try:
                syscalls.rmdir(directory)
            except KernelError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
                    raise

    def describe(self) -> str:
        return f"make the cgroup {self.root}/{self.path.strip('/')}, if it is missing"

    def shell(self) -> str:
        return f"mkdir -p {shlex.quote(f'{self.root}/{self.path.strip(chr(47))}')}"


@dataclass(frozen=True, slots=True)
class WriteCgroup(Operation):
    """Write a value into a file of a cgroup."""

    path: str
    value: str
    man: ClassVar[str] = "cgroups(7)"

    def run(self, context: Context) -> Result:
        syscalls.write_file(self.path, self.value)
        return None

    def describe(self) -> str:
        return f"set {os.path.basename(self.path)} of {os.path.dirname(self.path)} to {self.value}"

    def shell(self) -> str:
        return f"echo {shlex.quote(self.value)} > {shlex.quote(self.path)}"


@dataclass(frozen=True, slots=True)
class ChangeCgroup(Operation):
    """Write another value into a file of a cgroup that is in use. Undone by writing the old one back."""

    path: str
    value: str
    man: ClassVar[str] = "cgroups(7)"

    def run(self, context: Context) -> Result:
        before = read_value(self.path)
        syscalls.write_file(self.path, self.value)
        return before

    def undo(self, result: Result, context: Context) -> None:
        if result:
            syscalls.write_file(self.path, str(result))

    def describe(self) -> str:
        return f"change {os.path.basename(self.path)} of {os.path.dirname(self.path)} to {self.value}"

    def shell(self) -> str:
        return f"echo {shlex.quote(self.value)} > {shlex.quote(self.path)}"


@dataclass(frozen=True, slots=True)
class JoinCgroup(Operation):
    """Move this process into a cgroup: write 0, which stands for the writer.

    On v1 the file is `tasks`: the process has one thread, and moving a single thread by itself takes no global
    lock, where `cgroup.procs` waits for an RCU grace period (0.03 ms against 6 to 10 on an idle machine).
    """

    path: str
    man: ClassVar[str] = "cgroups(7)"

    def run(self, context: Context) -> Result:
        syscalls.write_file(self.path, "0")
        return None

    def describe(self) -> str:
        return f"join the cgroup {os.path.dirname(self.path)}"

    def shell(self) -> str:
        return f"echo 0 > {shlex.quote(self.path)}"


@dataclass(frozen=True, slots=True)
class AttachDeviceFilter(Operation):
    """v2: attach a BPF program that decides which devices the cgroup may use (bpf(2), BPF_CGROUP_DEVICE).

    Each rule is (allow, type, major, minor, access); -1 is any number, the last rule that matches wins. On v1 the
    same rules are lines of devices.allow and devices.deny.
    """

    path: str
    rules: tuple[tuple[bool, str, int, int, str], ...]
    man: ClassVar[str] = "bpf(2)"

    def run(self, context: Context) -> Result:
        # Imported here: on v1 machines the spawner never needs it.
        from labkit.kernel.device_filter import DeviceRule, attach, compile_device_program, load_device_program

        program = load_device_program(compile_device_program(tuple(DeviceRule(*rule) for rule in self.rules)))
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            attach(directory, program)
        finally:
            os.close(directory)
            os.close(program)
        return None

    def describe(self) -> str:
        return f"filter the use of devices with {len(self.rules)} rules"


_EVENTS = ("memory.events", "memory.oom_control")


def memory_cgroup(paths: list[str]) -> str:
    """The one of a container's cgroups that counts memory; empty if none does."""
    return next((path for path in paths if any(os.path.exists(f"{path}/{name}") for name in _EVENTS)), "")


def oom_kills(path: str) -> int:
    """How many processes of a cgroup the kernel has killed for want of memory (memory.oom_control, memory.events)."""
    for name in _EVENTS:
        try:
            with open(f"{path}/{name}", encoding="ascii") as file:
                return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
        except FileNotFoundError:
            continue
    return 0


_COUNTS = {
    "Limit": ("memory.max", "memory.limit_in_bytes"),
    "Peak": ("memory.peak", "memory.max_usage_in_bytes"),
    "Failures": ("memory.failcnt",),
}


def memory_counts(path: str) -> dict[str, int]:
    """What a memory cgroup has counted: limit and peak in bytes, how often the limit was hit, kills."""
    found = {}
    for name, files in _COUNTS.items():
        value = next(filter(None, (read_value(f"{path}/{file}") for file in files)), "")
        found[name] = int(value) if value.isdigit() else 0
    return found | {"Kills": oom_kills(path)}


def read_value(path: str) -> str:
    """The value in a file of a cgroup; empty if there is no such file."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def remove_cgroup(path: str) -> None:
    """Remove a cgroup and those below it; processes still inside are killed first. Being gone already is fine."""
    try:
        syscalls.rmdir(path)
    except KernelError as error:
        if error.errno == errno.ENOENT:
            return
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        for entry in [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]:
            remove_cgroup(entry)
        kill_cgroup(path)
        syscalls.rmdir(path)


def kill_cgroup(path: str) -> None:
    """Kill the processes of one cgroup and wait until they have left it."""
    while pids := cgroup_pids(path):
        for pid in pids:
            _kill_and_wait(pid)


def _kill_and_wait(pid: int) -> None:
    try:
        pidfd = syscalls.pidfd_open(pid)
    except KernelError as error:
        if error.errno == errno.ESRCH:
            return
        raise
    try:
        syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
        _thaw(pid)
        ends_within(pidfd, 10)
    except KernelError as error:
        if error.errno != errno.ESRCH:
            raise
    finally:
        os.close(pidfd)


def _thaw(pid: int) -> None:
    """On v1 what is frozen dies only once it is thawed (cgroup-v1/freezer-subsystem.rst)."""
    root = dict(read_layout().v1).get("freezer")
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except (FileNotFoundError, ProcessLookupError):
        return  # it has died
    for _, controllers, path in lines:
        state = f"{root}{path}/freezer.state"
        if root and "freezer" in controllers.split(",") and read_value(state) in ("FROZEN", "FREEZING"):
            syscalls.write_file(state, "THAWED")


def cgroup_pids(path: str) -> list[int]:
    """The processes in a cgroup, as this pid namespace numbers them."""
    try:
        with open(f"{path}/cgroup.procs", encoding="ascii") as file:
            return [int(line) for line in file if line.strip() != "0"]
    except FileNotFoundError:
        return []
