"""The host's devices for a container: which nodes it gets, which rules permit them, limits of their use.

moby `daemon/oci_linux.go` (WithDevices, WithResources) and `oci/devices_linux.go`. Reads /dev, changes nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from typing import Any

from labkit.engine.models import DeviceMapping, DeviceRequest, HostConfig, ThrottleDevice, WeightDevice
from labkit.errors import InvalidParameter

Spec = dict[str, Any]

_MODES = {"c": stat.S_ISCHR, "b": stat.S_ISBLK}
_OWN = ("pts", "shm", "mqueue", "fd", ".lxc", ".lxd-mounts", ".udev")
"""Directories of /dev whose devices are no devices of the host's."""


def chosen(host: HostConfig) -> Iterable[Spec]:
    """The devices of `--device` and `--privileged`, as nodes to make and rules to permit them."""
    mappings = host.Devices or []
    if host.Privileged:
        yield from _walk("/dev", "/dev", "rwm")
        mappings = [one for one in mappings if one.PathInContainer not in ("", one.PathOnHost)]
    for mapping in mappings:
        yield from _mapped(mapping)


def _mapped(mapping: DeviceMapping) -> Iterable[Spec]:
    """One device, what a link leads to, or all devices below a directory."""
    source, target = mapping.PathOnHost, mapping.PathInContainer or mapping.PathOnHost
    access = mapping.CgroupPermissions or "rwm"
    try:
        resolved = os.path.realpath(source, strict=True)
        status = os.stat(resolved)
    except (OSError, ValueError) as error:
        raise InvalidParameter(f"{_gathering(source)}: no such file or directory") from error
    if stat.S_ISDIR(status.st_mode):
        found = list(_walk(resolved, target, access))
        if found:
            yield from found
            return
    if device := _device(target, status, access):
        yield device
        return
    raise InvalidParameter(f"{_gathering(source)}: not a device node")


def _gathering(source: str) -> str:
    return f'error gathering device information while adding custom device "{source}"'


def _walk(top: str, target: str, access: str) -> Iterable[Spec]:
    """The devices below a directory; terminals and shared memory are the container's own."""
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if name not in _OWN]
        for name in files:
            path = os.path.join(folder, name)
            device = _device(target + path.removeprefix(top), os.lstat(path), access)
            if device and path != "/dev/console":
                yield device


def _device(target: str, status: os.stat_result, access: str) -> Spec | None:
    kind = next((letter for letter, matches in _MODES.items() if matches(status.st_mode)), "")
    if not kind:
        return None
    numbers = {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
    node = {"path": target, "type": kind, **numbers, "fileMode": stat.S_IMODE(status.st_mode)}
    node |= {"uid": status.st_uid, "gid": status.st_gid}
    return {"node": node, "rule": {"allow": True, "type": kind, **numbers, "access": access}}


def block_io(host: HostConfig) -> Spec:
    """`linux.resources.blockIO` of the spec. Raises InvalidParameter for a path that isn't there."""
    throttles: dict[str, Sequence[ThrottleDevice]] = {
        "throttleReadBpsDevice": host.BlkioDeviceReadBps or (),
        "throttleWriteBpsDevice": host.BlkioDeviceWriteBps or (),
        "throttleReadIOPSDevice": host.BlkioDeviceReadIOps or (),
        "throttleWriteIOPSDevice": host.BlkioDeviceWriteIOps or (),
    }
    found: Spec = {"weight": host.BlkioWeight} if host.BlkioWeight else {}
    if host.BlkioWeightDevice:
        found["weightDevice"] = [{**_numbers(one), "weight": one.Weight} for one in host.BlkioWeightDevice]
    for field, limited in throttles.items():
        if limited:
            found[field] = [{**_numbers(one), "rate": one.Rate} for one in limited]
    return found


def _numbers(device: WeightDevice | ThrottleDevice) -> dict[str, int]:
    try:
        number = os.stat(device.Path).st_rdev
    except (OSError, ValueError) as error:
        reason = os.strerror(getattr(error, "errno", None) or 2).lower()
        raise InvalidParameter(f"stat {device.Path}: {reason}") from error
    return {"major": os.major(number), "minor": os.minor(number)}


def refuse_requests(host: HostConfig) -> None:
    """No driver for GPUs and the like is there: as dockerd says it where it has none. Raises InvalidParameter."""
    for request in host.DeviceRequests or ():
        if request.Driver == "cdi":
            raise InvalidParameter(
                f"CDI device injection failed: unresolvable CDI devices {', '.join(request.DeviceIDs or ())}"
            )
        raise InvalidParameter(
            f'could not select device driver "{request.Driver}" with capabilities: {_capabilities(request)}'
        )


def _capabilities(request: DeviceRequest) -> str:
    """A list of lists, as Go's fmt prints it."""
    return "[" + " ".join(f"[{' '.join(names)}]" for names in request.Capabilities or ()) + "]"
