"""What may be asked of a container: Docker's rules and words, and a clear no for what labkit can't do yet.

moby `daemon/container.go`, `daemon/daemon_unix.go`, `runconfig/`. Nothing that a client asks for is ignored: it
is done, refused, or named in a warning.
"""

from __future__ import annotations

import os
import re
import signal
from typing import Any

from labkit.engine.models import Config, HostConfig
from labkit.engine.spec import wanted_capabilities
from labkit.errors import InvalidParameter, NotImplementedByLabkit
from labkit.kernel.capabilities import NUMBERS
from labkit.kernel.process import RLIMITS
from labkit.network.models import NetworkingConfig

NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")
LEAST_MEMORY = 6 << 20
MOST_CPUS = 8192  # as in moby: what is larger is a mistake, and must not be counted up to
_LINKS = "can't be used with links. This would result in undefined behavior"
_PUBLISHING = "port publishing and the container type network mode"
_SYSCTLS = ("net.", "fs.mqueue.")
_IPC_SYSCTLS = {
    "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
    "kernel.shmmni", "kernel.shm_rmid_forced",
}  # fmt: skip


def check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise InvalidParameter(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")


def parse_signal(text: str) -> int:
    """A signal by number or name, with or without SIG. Raises InvalidParameter in Docker's words."""
    if _is_number(text) and int(text) in signal.valid_signals():
        return int(text)
    name = text.upper().removeprefix("SIG")
    offset = re.fullmatch(r"RT(MIN|MAX)(?:([+-])(\d+))?", name)
    if offset:
        base = signal.SIGRTMIN if offset[1] == "MIN" else signal.SIGRTMAX
        number = int(base) + int(f"{offset[2] or ''}{offset[3] or 0}")
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
    found = getattr(signal, f"SIG{name}", None)
    if not isinstance(found, signal.Signals):
        raise InvalidParameter(f"Invalid signal: {text}")
    return int(found)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def check(config: Config, host: HostConfig) -> list[str]:
    """Refuse what can't be done; returns the warnings that `docker create` prints."""
    _check_config(config)
    _check_resources(host)
    _check_security(host)
    _check_unsupported(host)
    return _check_modes(config, host)


def _check_config(config: Config) -> None:
    if config.WorkingDir and not config.WorkingDir.startswith("/"):
        raise InvalidParameter(
            f"the working directory '{config.WorkingDir}' is invalid, it needs to be an absolute path"
        )
    if config.StopSignal:
        parse_signal(config.StopSignal)
    for entry in config.Env or []:
        if entry.startswith("=") or "\0" in entry:
            raise InvalidParameter(f"invalid environment variable: {entry}")
    if len(config.Hostname) > 64:
        raise InvalidParameter(f"invalid hostname {config.Hostname!r}: at most 64 bytes, see sethostname(2)")


def check_size(size: list[int] | None, field: str = "ConsoleSize") -> None:
    """A terminal's size is two numbers, rows and columns, that fit into a struct winsize (ioctl_tty(2))."""
    if size and (len(size) != 2 or not all(0 <= number < 1 << 16 for number in size)):
        raise InvalidParameter(f"invalid {field} {size}: it needs rows and columns, from 0 to 65535")


def _check_resources(host: HostConfig) -> None:
    if 0 < host.Memory < LEAST_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if host.Memory < 0:
        raise InvalidParameter(f"invalid memory limit {host.Memory}: it can not be negative")
    if host.Memory > 0 and 0 < host.MemorySwap < host.Memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    if not host.Memory and host.MemorySwap > 0:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")
    if host.MemoryReservation and host.Memory and host.MemoryReservation > host.Memory:
        raise InvalidParameter("Minimum memory limit can not be less than memory reservation limit, see usage")
    if host.ShmSize < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    _check_cpu(host)
    check_size(host.ConsoleSize)
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


def _check_cpu(host: HostConfig) -> None:
    count = os.cpu_count() or 1
    if host.NanoCpus and (host.CpuPeriod or host.CpuQuota):
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if host.NanoCpus < 0 or host.NanoCpus > count * 10**9:
        raise InvalidParameter(f"range of CPUs is from 0.01 to {count:.2f}, as there are only {count} CPUs available")
    if host.CpuPeriod and not 1000 <= host.CpuPeriod <= 1000000:
        raise InvalidParameter("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.CpuQuota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    for cpu in parse_cpu_list(host.CpusetCpus):
        if cpu >= count:
            raise InvalidParameter(
                f"Requested CPUs are not available - requested {host.CpusetCpus}, available: 0-{count - 1}"
            )


def parse_cpu_list(text: str) -> list[int]:
    """A list such as `0-2,4` (cpuset(7), List format). Raises InvalidParameter."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not (_is_number(first) and _is_number(last or first) and int(last or first) < MOST_CPUS):
            raise InvalidParameter(f"Invalid value {text} for cpuset cpus")
        found += range(int(first), int(last or first) + 1)
    return found


def _check_security(host: HostConfig) -> None:
    for field in ("CapAdd", "CapDrop"):
        for name in getattr(host, field) or []:
            upper = name.upper()
            full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
            if full != "CAP_ALL" and full not in NUMBERS:
                raise InvalidParameter(f'invalid {field}: unknown capability: "{full}"')
    wanted_capabilities(host)
    for option in host.SecurityOpt or []:
        name = re.split("[=:]", option, maxsplit=1)[0]
        if name not in ("no-new-privileges", "seccomp", "label", "apparmor"):
            raise InvalidParameter(f'invalid --security-opt 2: "{option}"')
    for key in host.Sysctls or {}:
        allowed = key.startswith(_SYSCTLS) or key in _IPC_SYSCTLS
        if not allowed:
            raise InvalidParameter(f"sysctl {key!r} is not in a separate kernel namespace")
        if key.startswith("net.") and host.NetworkMode == "host":
            raise InvalidParameter(f"sysctl {key!r} not allowed in host network namespace")


_LATER = {
    "Init": "--init",
    "DeviceRequests": "device requests (--gpus)",
    "DeviceCgroupRules": "--device-cgroup-rule",
    "BlkioWeight": "block I/O limits",
    "BlkioWeightDevice": "block I/O limits",
    "BlkioDeviceReadBps": "block I/O limits",
    "BlkioDeviceWriteBps": "block I/O limits",
    "BlkioDeviceReadIOps": "block I/O limits",
    "BlkioDeviceWriteIOps": "block I/O limits",
    "CpuRealtimePeriod": "real-time CPU limits",
    "CpuRealtimeRuntime": "real-time CPU limits",
    "StorageOpt": "storage options",
}
"""Fields of HostConfig that ask for something that labkit can't do yet, and what that is."""


def _check_unsupported(host: HostConfig) -> None:
    for name, what in _LATER.items():
        if getattr(host, name):
            raise NotImplementedByLabkit(f"labkit has no {what} yet (HostConfig.{name}): leave it out")
    if host.RestartPolicy.Name not in ("", "no"):
        raise NotImplementedByLabkit(f"labkit has no restart policies yet ({host.RestartPolicy.Name}): leave it out")
    if host.Runtime not in ("", "labkit"):
        raise InvalidParameter(f"unknown or invalid runtime name: {host.Runtime}")
    if host.UsernsMode not in ("", "host"):
        raise InvalidParameter(f"invalid user namespace mode: {host.UsernsMode}")


def _check_modes(config: Config, host: HostConfig) -> list[str]:
    warnings = []
    modes: tuple[tuple[str, str, set[str]], ...] = (
        ("PID", host.PidMode, {"", "host"}),
        ("IPC", host.IpcMode, {"", "host", "private", "shareable", "none"}),
        ("UTS", host.UTSMode, {"", "host"}),
        ("cgroup namespace", host.CgroupnsMode, {"", "host", "private"}),
    )
    for what, mode, known in modes:
        if mode.startswith("container:"):
            raise NotImplementedByLabkit(f"labkit can't share the {what} namespace of a container yet ({mode})")
        if mode not in known:
            raise InvalidParameter(f"invalid {what} mode: {mode}")
    warnings += _check_network(host)
    if config.Healthcheck and (config.Healthcheck.Test or ["NONE"])[0] != "NONE":
        warnings.append("labkit does not run health checks yet: the container will have no health status.")
    return warnings


def check_network_mode(config: Config, host: HostConfig, wanted: NetworkingConfig | None) -> None:
    """What makes no sense in another's network (moby `runconfig/hostconfig_unix.go`). `config` is what was asked for,
    without the image's. Raises InvalidParameter in dockerd's words.
    """
    kind, colon, target = host.NetworkMode.partition(":")
    shared = kind == "container" and bool(colon)
    if shared and not target:
        raise InvalidParameter("Invalid network mode: invalid container format container:<name|id>")
    settings = (wanted.EndpointsConfig if wanted else None) or {}
    own_mac = config.MacAddress or any(one and one.MacAddress for one in settings.values())
    conflicts = (
        (shared and config.Hostname, "hostname and the network mode"),
        (shared and host.Links, f"container type network {_LINKS}"),
        (shared and host.Dns, "dns and the network mode"),
        (shared and host.ExtraHosts, "custom host-to-IP mapping and the network mode"),
        ((shared or kind == "host") and own_mac, "mac-address and the network mode"),
        (shared and (host.PortBindings or host.PublishAllPorts), _PUBLISHING),
        (shared and config.ExposedPorts, "port exposing and the container type network mode"),
        (host.UTSMode == "host" and config.Hostname, "hostname and the UTS mode"),
        (kind == "host" and host.Links, f"host type networking {_LINKS}"),
    )
    for present, words in conflicts:
        if present:
            raise InvalidParameter(f"conflicting options: {words}")


def _check_network(host: HostConfig) -> list[str]:
    """Published ports make no sense where the container has the host's."""
    if host.NetworkMode == "host" and (host.PortBindings or host.PublishAllPorts):
        return ["Published ports are discarded when using host network mode"]
    return []


def default_host_config(host: HostConfig | None) -> HostConfig:
    """What dockerd fills in when a container is created."""
    found = host or HostConfig()
    found.NetworkMode = found.NetworkMode or "default"
    found.IpcMode = found.IpcMode or "private"
    found.RestartPolicy.Name = found.RestartPolicy.Name or "no"
    found.Runtime = found.Runtime or "labkit"
    found.ShmSize = found.ShmSize or 64 << 20
    return found


def merge_image(config: Config, image: dict[str, Any]) -> None:
    """Fill a Config with what its image's config says (moby `daemon/commit.go`, merge)."""
    config.User = config.User or image.get("User") or ""
    config.WorkingDir = config.WorkingDir or image.get("WorkingDir") or ""
    config.ExposedPorts = {**(image.get("ExposedPorts") or {}), **(config.ExposedPorts or {})} or config.ExposedPorts
    config.Labels = {**(image.get("Labels") or {}), **(config.Labels or {})}
    config.Volumes = {**(image.get("Volumes") or {}), **(config.Volumes or {})} or None
    named = {entry.split("=", 1)[0] for entry in config.Env or []}
    inherited = [entry for entry in image.get("Env") or [] if entry.split("=", 1)[0] not in named]
    config.Env = [*(config.Env or []), *inherited]
    if config.Entrypoint is None or config.Entrypoint == []:
        if not config.Cmd:
            config.Cmd = image.get("Cmd")
        if config.Entrypoint is None:
            config.Entrypoint = image.get("Entrypoint")
    if not config.StopSignal and image.get("StopSignal"):
        config.StopSignal = image["StopSignal"]
