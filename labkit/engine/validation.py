"""What may be asked of a container: Docker's rules and words, and a clear no for what labkit can't do yet.

moby `daemon/container.go`, `daemon/daemon_unix.go`, `runconfig/`. Nothing that a client asks for is ignored: it
is done, refused, or named in a warning.
"""

from __future__ import annotations

import re
import signal
from typing import Any

from labkit.engine import backoff, health_checks, resources, security
from labkit.engine.models import Config, HealthConfig, HostConfig
from labkit.errors import InvalidParameter
from labkit.kernel import limits
from labkit.network.models import NetworkingConfig

NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_LINKS = "can't be used with links. This would result in undefined behavior"
_PUBLISHING = "port publishing and the container type network mode"


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


def signal_to_send(text: str, reference: str) -> int:
    """`parse_signal` for a container that shall be killed; a number that is none has words of its own."""
    if _is_number(text) and int(text) and int(text) not in signal.valid_signals():
        raise InvalidParameter(f"cannot kill container: {reference}: the linux daemon does not support signal {text}")
    return parse_signal(text)


def _is_number(text: str) -> bool:
    return len(text) < 10 and text.isascii() and text.isdigit()  # Python refuses to read very long ones


def check(config: Config, host: HostConfig) -> list[str]:
    """Refuse what can't be done; returns the warnings that `docker create` prints."""
    _check_config(config)
    warnings = resources.check(host, limits.read())
    warnings += security.check(host)
    check_size(host.ConsoleSize)
    _check_unsupported(host)
    backoff.check(host.RestartPolicy)
    if host.AutoRemove and not backoff.is_none(host.RestartPolicy):
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")
    warnings += _check_modes(config, host)
    _settle(host)
    return warnings


def _settle(host: HostConfig) -> None:
    """What dockerd writes into a configuration that it has found good (moby `adaptContainerSettings`)."""
    if host.Memory and not host.MemorySwap:
        host.MemorySwap = host.Memory * 2
    if host.OomKillDisable is None and "oom-kill-disable" in limits.read():
        host.OomKillDisable = False
    if host.PidsLimit is not None and host.PidsLimit <= 0:
        host.PidsLimit = None
    unshared = limits.read().version == 1  # a cgroup namespace of its own is the default on v2 only
    host.CgroupnsMode = host.CgroupnsMode or ("host" if unshared else "private")
    host.ConsoleSize = host.ConsoleSize or [0, 0]
    unlabelled = not security.parse(host.SecurityOpt).labels
    if unlabelled and (host.Privileged or "host" in (host.IpcMode, host.PidMode)):
        host.SecurityOpt = [*(host.SecurityOpt or ()), "label=disable"]


def _check_config(config: Config) -> None:
    if config.WorkingDir and not config.WorkingDir.startswith("/"):
        raise InvalidParameter(
            f"the working directory '{config.WorkingDir}' is invalid, it needs to be an absolute path"
        )
    if config.StopSignal:
        parse_signal(config.StopSignal)
    if isinstance(config.Healthcheck, HealthConfig):
        health_checks.check(config.Healthcheck)
    for entry in config.Env or []:
        if entry.startswith("=") or "\0" in entry:
            raise InvalidParameter(f"invalid environment variable: {entry}")
    if len(config.Hostname) > 64:
        raise InvalidParameter(f"invalid hostname {config.Hostname!r}: at most 64 bytes, see sethostname(2)")


def check_size(size: list[int] | None, field: str = "ConsoleSize") -> None:
    """A terminal's size is two numbers, rows and columns, that fit into a struct winsize (ioctl_tty(2))."""
    if size and (len(size) != 2 or not all(0 <= number < 1 << 16 for number in size)):
        raise InvalidParameter(f"invalid {field} {size}: it needs rows and columns, from 0 to 65535")


def _check_unsupported(host: HostConfig) -> None:
    if host.Isolation.lower() not in ("", "default"):
        raise InvalidParameter(f"invalid isolation '{host.Isolation}' on linux")
    for key in host.StorageOpt or ():
        if key.lower() != "size":
            raise InvalidParameter(f"unknown option {key}")
    if host.StorageOpt:
        raise InvalidParameter("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
    if host.UsernsMode not in ("", "host"):
        raise InvalidParameter(f"invalid user namespace mode: {host.UsernsMode}")


def _check_modes(config: Config, host: HostConfig) -> list[str]:
    warnings = []
    modes: tuple[tuple[str, str, set[str]], ...] = (
        ("PID", host.PidMode, {"", "host", "container:"}),
        ("IPC", host.IpcMode, {"", "host", "private", "shareable", "none", "container:"}),
        ("UTS", host.UTSMode, {"", "host"}),
        ("cgroup namespace", host.CgroupnsMode, {"", "host", "private"}),
    )
    for what, mode, known in modes:
        shared = "container:" if mode.removeprefix("container:") not in ("", mode) else ""
        if (shared or mode) not in known or mode == "container:":
            raise InvalidParameter(f"invalid {what} mode: {mode}")
    warnings += _check_network(host)
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
    found.ShmSize = found.ShmSize or 64 << 20
    return found


def merge_image(config: Config, image: dict[str, Any]) -> None:
    """Fill a Config with what its image's config says (moby `daemon/commit.go`, merge)."""
    config.User = config.User or image.get("User") or ""
    config.WorkingDir = config.WorkingDir or image.get("WorkingDir") or ""
    config.ExposedPorts = {**(image.get("ExposedPorts") or {}), **(config.ExposedPorts or {})} or config.ExposedPorts
    config.Labels = {**(image.get("Labels") or {}), **(config.Labels or {})}
    health_checks.merge(config, image.get("Healthcheck"))
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
