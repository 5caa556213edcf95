"""Containers as the API shows them: inspect and list (Engine API, `ContainerInspectResponse`, `ContainerSummary`)."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from labkit.durations import human_duration
from labkit.engine import attaching, mounts
from labkit.engine.clock import parse_rfc3339
from labkit.engine.container import Container
from labkit.engine.execs import Exec
from labkit.engine.health_checks import status_of
from labkit.engine.models import State
from labkit.engine.spec import MASKED, READONLY
from labkit.images.layers import size_of
from labkit.images.snapshots import size_of_layer
from labkit.network.models import Endpoint
from labkit.network.publishing import port_map, summary_ports

View = dict[str, Any]


def inspect(container: Container, size: bool, links: list[str] | None = None) -> View:
    """`GET /containers/{id}/json`. `size` also measures the writable layer; `links` are HostConfig.Links."""
    record = container.record
    host = msgspec.structs.replace(record.HostConfig, Links=links)
    if not host.Privileged:
        host.MaskedPaths = list(MASKED) if host.MaskedPaths is None else host.MaskedPaths
        host.ReadonlyPaths = list(READONLY) if host.ReadonlyPaths is None else host.ReadonlyPaths
    view: View = {
        "Id": record.Id,
        "Created": record.Created,
        "Path": record.Path,
        "Args": record.Args,
        "State": record.State,
        "Image": record.Image,
        "ResolvConfPath": f"{container.directory}/resolv.conf",
        "HostnamePath": f"{container.directory}/hostname",
        "HostsPath": f"{container.directory}/hosts",
        "LogPath": container.log_path,
        "Name": record.Name,
        "RestartCount": record.RestartCount,
        "Driver": "overlay2",
        "Platform": record.Platform,
        "MountLabel": record.MountLabel,
        "ProcessLabel": record.ProcessLabel,
        "AppArmorProfile": record.AppArmorProfile,
        "ExecIDs": [one.id for one in container.execs.values() if one.run.running] or None,
        "HostConfig": host,
        "GraphDriver": graph_driver(container),
        "Mounts": mounts.views(record, container.settings),
        "Config": record.Config,
        "NetworkSettings": network_settings(container),
    }
    if size:
        view |= sizes(container)
    return view


def graph_driver(container: Container) -> View:
    """The directories behind the root. `MergedDir` is where the container's own mount namespace has it."""
    data = {
        "ID": container.id,
        "LowerDir": ":".join(container.lower),
        "MergedDir": container.rootfs,
        "UpperDir": container.upper,
        "WorkDir": container.work,
    }
    return {"Name": "overlay2", "Data": data}


def network_settings(container: Container) -> View:
    """`NetworkSettings`. The fields that repeat the default network's endpoint are for old clients."""
    record = container.record
    running = container.run.running
    own = running and not record.HostConfig.NetworkMode.startswith("container:")
    default = record.Networks.get("bridge", Endpoint())
    return {
        "Bridge": "",
        "SandboxID": record.Id if own else "",
        "SandboxKey": f"/proc/{container.run.pid}/ns/net" if own else "",
        "Ports": port_map(record.Sandbox.Ports, _exposed(container)) if running else {},
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": default.EndpointID,
        "Gateway": default.Gateway,
        "GlobalIPv6Address": default.GlobalIPv6Address,
        "GlobalIPv6PrefixLen": default.GlobalIPv6PrefixLen,
        "IPAddress": default.IPAddress,
        "IPPrefixLen": default.IPPrefixLen,
        "IPv6Gateway": default.IPv6Gateway,
        "MacAddress": default.MacAddress,
        "Networks": record.Networks,
    }


def _exposed(container: Container) -> list[str]:
    """The ports that a container's configuration exposes; none where nothing comes in from outside."""
    exposed = container.record.Config.ExposedPorts
    endpoints = container.record.Networks.values()
    if not isinstance(exposed, dict) or not any(one.Gateway or one.IPv6Gateway for one in endpoints):
        return []
    return sorted(exposed)


def shown_ports(container: Container) -> list[dict[str, Any]]:
    """ContainerSummary.Ports: none unless it runs."""
    return summary_ports(container.record.Sandbox.Ports, _exposed(container)) if container.run.running else []


def summary(container: Container, image: str, now: float) -> View:
    """One container of `GET /containers/json`. `image` is the name to show for its image."""
    record = container.record
    return {
        "Id": record.Id,
        "Names": [record.Name],
        "Image": image,
        "ImageID": record.Image,
        "Command": command(record.Path, record.Args),
        "Created": parse_rfc3339(record.Created) // 10**9,
        "Ports": shown_ports(container),
        "Labels": record.Config.Labels or {},
        "State": record.State.Status,
        "Status": status(container, now),
        "HostConfig": {"NetworkMode": record.HostConfig.NetworkMode},
        "NetworkSettings": {"Networks": record.Networks},
        "Mounts": mounts.views(record, None),
    }


class Summaries:
    """Summaries as JSON, made anew only when what they show has changed: clients poll the list."""

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[Container, tuple[tuple[Any, ...], msgspec.Raw]] = WeakKeyDictionary()

    def get(self, container: Container, tags: Mapping[str, str], now: float) -> msgspec.Raw:
        """The summary. `tags` are the names of images (`ImageStore.tags`): the same object while they are the same."""
        key = (container.saved, tags, status(container, now))
        made = self._made.get(container)
        if made is None or made[0] != key:
            view = summary(container, image_name(container, tags), now)
            made = key, msgspec.Raw(msgspec.json.encode(view))
            self._made[container] = made
        return made[1]


def image_name(container: Container, tags: Mapping[str, str]) -> str:
    """The image as it was asked for; its ID, if that name (see `tags`: name to ID) means another image by now."""
    asked, identity = container.record.Config.Image, container.record.Image
    tagged = asked if ":" in asked.rsplit("/", 1)[-1] or "@" in asked else f"{asked}:latest"
    if tags.get(tagged) == identity or identity.removeprefix("sha256:").startswith(asked.removeprefix("sha256:")):
        return asked
    return asked if "@" in asked else identity


def command(path: str, args: list[str]) -> str:
    """Path and arguments as dockerd joins them: an argument with a space in quotes."""
    return " ".join([path, *(f"'{arg}'" if " " in arg else arg for arg in args)])


def status(container: Container, now: float) -> str:
    """The state for people, such as `Up 5 minutes` and `Exited (0) 2 hours ago` (moby `container/state.go`)."""
    state = container.record.State
    if state.Running and not state.Restarting:
        up = human_duration(now - parse_rfc3339(state.StartedAt) / 1e9)
        return f"Up {up}{_remark(state)}"
    if word := _STATUSES.get(state.Status):
        return word
    what = "Restarting" if state.Restarting else "Exited"
    return f"{what} ({state.ExitCode}) {human_duration(now - parse_rfc3339(state.FinishedAt) / 1e9)} ago"


_STATUSES = {"dead": "Dead", "removing": "Removal In Progress", "created": "Created"}


def _remark(state: State) -> str:
    """What is said of a running container: that it is paused, or its health."""
    if state.Paused:
        return " (Paused)"
    told = status_of(state)
    return {"none": "", "starting": " (health: starting)"}.get(told, f" ({told})")


def sizes(container: Container) -> View:
    """Bytes of the writable layer, and of all that a container sees."""
    directory = os.open(container.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        written = size_of(directory)
    finally:
        os.close(directory)
    return {"SizeRw": written, "SizeRootFs": written + sum(map(size_of_layer, container.lower))}


def inspect_exec(one: Exec) -> View:
    """`GET /exec/{id}/json`."""
    cmd = one.body.Cmd or [""]
    return {
        "ID": one.id,
        "Running": one.run.running,
        "ExitCode": one.code,
        "ProcessConfig": {
            "tty": one.body.Tty,
            "entrypoint": cmd[0],
            "arguments": cmd[1:],
            "privileged": one.body.Privileged,
            **({"user": one.body.User} if one.body.User else {}),
        },
        "OpenStdin": one.body.AttachStdin,
        "OpenStderr": one.body.AttachStderr,
        "OpenStdout": one.body.AttachStdout,
        "CanRemove": False,
        "ContainerID": one.container.id,
        "DetachKeys": b64encode(attaching.parse_keys(keys)).decode() if (keys := one.body.DetachKeys) else "",
        "Pid": one.run.pid,
    }
