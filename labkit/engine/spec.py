"""From a container's record to the OCI runtime spec in its bundle (moby `daemon/oci_linux.go`, `oci/defaults.go`).

A pure function of what was asked (Config, HostConfig), what the image's files say (the identity) and what the
machine has. The spec is a standard one: runc and crun start the same container from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from labkit.engine import security
from labkit.engine.models import ContainerRecord, HostConfig
from labkit.engine.mounts import combine, root_propagation
from labkit.engine.users import Identity
from labkit.kernel.capabilities import NUMBERS
from labkit.kernel.devices import DEFAULT
from labkit.runtime.plans import Machine, known_capabilities

Spec = dict[str, Any]

DEFAULT_CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
        "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
    )
)  # fmt: skip

MASKED = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHM_SIZE = 64 << 20

OCI_VERSION = "1.0.2"
"""The oldest version that the bundle is valid in: Debian 12's crun refuses to start one that names a newer one."""

_NONE: Mapping[str, str] = MappingProxyType({})
_MEMORY_TMPFS = ("nosuid", "noexec", "nodev")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a spec depends on besides the record: where things lie, who the user is, what the machine has.

    `devices` are those of `--device` and `--privileged`, in the spec's own form. `network` is the path of a network
    namespace to join, empty for one of its own; `files` is where hosts and resolv.conf lie, if not in `directory`;
    `mounts` are what a user mounts, `environment` the variables of links. `joined` are the paths of other containers'
    namespaces, `shm` that of their shared memory; `block_io` is that object of the spec.
    """

    root: str
    directory: str
    cgroups_path: str
    identity: Identity
    machine: Machine
    devices: tuple[Spec, ...] = ()
    network: str = ""
    files: str = ""
    mounts: tuple[Spec, ...] = ()
    environment: tuple[str, ...] = ()
    joined: Mapping[str, str] = field(default_factory=dict)
    shm: str = ""
    block_io: Mapping[str, Any] = field(default_factory=dict)


def build(record: ContainerRecord, facts: Facts, seccomp: Spec | None) -> Spec:
    """The spec of a container. `seccomp` is the OCI form of its system-call filter, None for no filter."""
    host = record.HostConfig
    spec: Spec = {
        "ociVersion": OCI_VERSION,
        "process": process(record, facts),
        "root": {"path": facts.root, "readonly": host.ReadonlyRootfs},
        "hostname": record.Config.Hostname,
        "mounts": mounts(record, facts),
        "linux": linux(record, facts),
    }
    if record.Config.Domainname:
        spec["domainname"] = record.Config.Domainname
    if host.Annotations:
        spec["annotations"] = dict(host.Annotations)
    if seccomp:
        spec["linux"]["seccomp"] = seccomp
    return spec


def process(record: ContainerRecord, facts: Facts) -> Spec:
    """The `process` object of the container's first program."""
    host, config = record.HostConfig, record.Config
    found: Spec = {
        "terminal": config.Tty,
        "user": user(facts.identity),
        "args": [record.Path, *record.Args],
        "env": environment(record, facts.identity, [*facts.environment, *(config.Env or ())]),
        "cwd": config.WorkingDir or "/",
        "capabilities": capabilities(host, facts.machine, facts.identity.uid),
        "noNewPrivileges": no_new_privileges(host),
        "oomScoreAdj": host.OomScoreAdj,
    }
    if host.Ulimits:
        found["rlimits"] = [
            {"type": f"RLIMIT_{limit.Name.upper()}", "hard": _unsigned(limit.Hard), "soft": _unsigned(limit.Soft)}
            for limit in host.Ulimits
        ]
    return found


def user(identity: Identity) -> Spec:
    return {"uid": identity.uid, "gid": identity.gid, "additionalGids": list(identity.groups)}


def environment(record: ContainerRecord, identity: Identity, wanted: list[str]) -> list[str]:
    """PATH, HOSTNAME and TERM first, as dockerd gives them, overridden by what was asked; HOME if nobody said so."""
    found = {"PATH": DEFAULT_PATH, "HOSTNAME": record.Config.Hostname}
    if record.Config.Tty:
        found["TERM"] = "xterm"
    for entry in wanted:
        name, sign, value = entry.partition("=")
        if sign:
            found[name] = value
        else:
            found.pop(name, None)
    found.setdefault("HOME", identity.home)
    return [f"{name}={value}" for name, value in found.items()]


def _unsigned(limit: int) -> int:
    return limit if limit >= 0 else 2**64 - 1


def no_new_privileges(host: HostConfig) -> bool:
    return security.parse(host.SecurityOpt).no_new_privileges


def capabilities(host: HostConfig, machine: Machine, uid: int) -> Spec:
    """The capability sets: Docker's default with CapAdd and CapDrop; only root gets effective ones.

    moby `oci/caps.TweakCapabilities`: ALL in either list first, then the single names.
    """
    chosen = known_capabilities(wanted_capabilities(host), machine)
    active = list(chosen) if uid == 0 else []
    return {"bounding": list(chosen), "effective": active, "permitted": active}


def wanted_capabilities(host: HostConfig) -> tuple[str, ...]:
    added, dropped = _names(host.CapAdd), _names(host.CapDrop)
    everything = tuple(NUMBERS)
    if host.Privileged:
        return everything
    base = everything if "CAP_ALL" in added else () if "CAP_ALL" in dropped else DEFAULT_CAPABILITIES
    return tuple(name for name in dict.fromkeys((*base, *added)) if name not in dropped and name != "CAP_ALL")


def _names(names: list[str] | None) -> tuple[str, ...]:
    upper = [name.upper() for name in names or []]
    return tuple(name if name.startswith("CAP_") else f"CAP_{name}" for name in upper)


def mounts(record: ContainerRecord, facts: Facts) -> list[Spec]:
    """Docker's default mounts, a user's, and the files that the engine writes for each container."""
    host = record.HostConfig
    access = "rw" if host.Privileged else "ro"
    cgroups = "rw" if security.parse(host.SecurityOpt).writable_cgroups else access
    size = host.ShmSize or SHM_SIZE
    found = [
        _mount("/proc", "proc", "proc", *_MEMORY_TMPFS),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        _mount("/sys", "sysfs", "sysfs", *_MEMORY_TMPFS, access),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", cgroups, *_MEMORY_TMPFS),
        _mount("/dev/mqueue", "mqueue", "mqueue", *_MEMORY_TMPFS),
        *([] if host.IpcMode == "none" else [_shm(host, size, facts.shm)]),
    ]
    folder = facts.files or facts.directory
    files = [
        _mount(f"/etc/{name}", "bind", f"{folder}/{name}", "rbind", "rprivate")
        for name in ("resolv.conf", "hostname", "hosts")
    ]
    return combine(found, files, facts.mounts, host.ReadonlyRootfs)


def _shm(host: HostConfig, size: int, shared: str) -> Spec:
    if shared or host.IpcMode == "host":
        return _mount("/dev/shm", "bind", shared or "/dev/shm", "rbind", "rprivate")
    return _mount("/dev/shm", "tmpfs", "shm", *_MEMORY_TMPFS, "mode=1777", f"size={size}")


def _mount(target: str, kind: str, source: str, *options: str) -> Spec:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def linux(record: ContainerRecord, facts: Facts) -> Spec:
    """The `linux` object: namespaces, cgroup and limits, devices, what is hidden."""
    host = record.HostConfig
    joined = {**({"network": facts.network} if facts.network else {}), **facts.joined}
    found: Spec = {
        "cgroupsPath": facts.cgroups_path,
        "namespaces": namespaces(host, facts.machine, joined),
        "resources": resources(host, facts.devices, facts.block_io),
        "devices": [device["node"] for device in facts.devices],
        "sysctl": sysctls(host, facts.network),
        **root_propagation(facts.mounts),
    }
    if not host.Privileged:
        found["maskedPaths"] = list(MASKED if host.MaskedPaths is None else host.MaskedPaths)
        found["readonlyPaths"] = list(READONLY if host.ReadonlyPaths is None else host.ReadonlyPaths)
    return found


def namespaces(host: HostConfig, machine: Machine, joined: Mapping[str, str] = _NONE) -> list[Spec]:
    """The namespaces that are the container's own, or that it joins (`joined`: their paths).

    Docker's default for cgroups is host on v1, private on v2.
    """
    private_cgroup = host.CgroupnsMode == "private" or (not host.CgroupnsMode and machine.cgroups.version == 2)
    wanted = {
        "mount": True,
        "network": host.NetworkMode != "host",
        "uts": host.UTSMode != "host",
        "pid": host.PidMode != "host",
        "ipc": host.IpcMode != "host",
        "cgroup": private_cgroup,
    }
    paths = {name: {"path": path} for name, path in joined.items()}
    return [{"type": name, **paths.get(name, {})} for name, own in wanted.items() if own]


def sysctls(host: HostConfig, network: str = "") -> dict[str, str]:
    """In a network namespace of its own any user may use low ports and ping, as in Docker since 20.10."""
    own_network = host.NetworkMode != "host" and not network
    free = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
    return (free if own_network and not host.Privileged else {}) | (host.Sysctls or {})


def resources(host: HostConfig, devices: tuple[Spec, ...], block_io: Mapping[str, Any] = _NONE) -> Spec:
    """`linux.resources`: device rules, memory, CPU, I/O and process limits; what wasn't asked for is left out."""
    memory = {
        "limit": host.Memory,
        "swap": _swap(host),
        "reservation": host.MemoryReservation,
        "swappiness": host.MemorySwappiness if host.MemorySwappiness not in (None, -1) else None,
        "disableOOMKiller": host.OomKillDisable,
    }
    period, quota = host.CpuPeriod, host.CpuQuota
    if host.NanoCpus:
        period, quota = 100000, host.NanoCpus * 100000 // 10**9
    cpu = {"shares": host.CpuShares, "period": period, "quota": quota, "cpus": host.CpusetCpus, "mems": host.CpusetMems}
    cpu |= {"realtimePeriod": host.CpuRealtimePeriod, "realtimeRuntime": host.CpuRealtimeRuntime}
    found: Spec = {"devices": device_rules(host, devices), "memory": _given(memory), "cpu": _given(cpu)}
    found["blockIO"] = dict(block_io)
    if host.PidsLimit:
        found["pids"] = {"limit": host.PidsLimit if host.PidsLimit > 0 else -1}
    return {key: value for key, value in found.items() if value}


def _given(values: Spec) -> Spec:
    return {key: value for key, value in values.items() if value or (key == "swappiness" and value is not None)}


def _swap(host: HostConfig) -> int:
    """Memory and swap together: twice the memory if only that was given, -1 for no limit."""
    if host.MemorySwap == 0:
        return host.Memory * 2
    return host.MemorySwap


def device_rules(host: HostConfig, devices: tuple[Spec, ...]) -> list[Spec]:
    """Which devices may be used: all with --privileged, else Docker's few and those that were given."""
    if host.Privileged:
        return [{"allow": True, "access": "rwm"}]
    numbers = [(major, minor) for _, major, minor in DEFAULT] + [(5, 1), (5, 2), (136, None)]
    rules: list[Spec] = [{"allow": False, "access": "rwm"}]
    rules += [{"allow": True, "type": kind, "access": "m"} for kind in "cb"]
    for major, minor in numbers:
        rule = {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        rules.append({key: value for key, value in rule.items() if value is not None})
    return rules + [device["rule"] for device in devices] + [*map(security.device_rule, host.DeviceCgroupRules or ())]
