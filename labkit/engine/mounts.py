"""Mount points as mounts of the OCI spec, and as inspect shows them (moby `daemon/oci_linux.go`, withMounts).

Pure functions of a container's record and of where the volumes are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from labkit.engine.models import ContainerRecord
from labkit.engine.settings import Settings
from labkit.errors import InvalidParameter
from labkit.volumes import grammar
from labkit.volumes.models import BindOptions, MountPoint

Spec = dict[str, Any]

_WRITABLE = frozenset(("/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"))
"""Docker's mounts that stay writable when the root is read-only."""


def user_mounts(record: ContainerRecord, settings: Settings) -> list[Spec]:
    """What a user has mounted, in the spec's form: outer ones before those inside them."""
    found = {point.Destination: _spec_of(point, settings) for point in record.MountPoints.values()}
    for target, options in (record.HostConfig.Tmpfs or {}).items():
        found[target] = _tmpfs(target, options.split(",") if options else ())
    return sorted(
        found.values(), key=lambda entry: (grammar.clean(entry["destination"]).count("/"), entry["destination"])
    )


def _tmpfs(target: str, words: Sequence[str]) -> Spec:
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": grammar.tmpfs_options(words)}


def _spec_of(point: MountPoint, settings: Settings) -> Spec:
    if point.Type == "tmpfs":
        return _tmpfs(point.Destination, grammar.tmpfs_words(point.Spec.TmpfsOptions, not point.RW))
    options = point.Spec.BindOptions or BindOptions()
    words = ["bind" if options.NonRecursive else "rbind"]
    if not point.RW:
        words.append(_read_only(options))
    words += [point.Propagation] if point.Propagation else []
    return {"destination": point.Destination, "type": "bind", "source": source(point, settings), "options": words}


def _read_only(options: BindOptions) -> str:
    if options.ReadOnlyForceRecursive and not _has_recursive():
        raise InvalidParameter(
            "rro is not supported by the kernel: recursive read-only mounts need Linux 5.12 or newer"
        )
    return "rro" if _has_recursive() and not options.ReadOnlyNonRecursive else "ro"


@lru_cache
def _has_recursive() -> bool:
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int("".join(filter(str.isdigit, minor)) or 0)) >= (5, 12)


def source(point: MountPoint, settings: Settings) -> str:
    """What of the host is mounted; empty for a tmpfs."""
    if point.Type != "volume":
        return point.Source
    subpath = point.Spec.VolumeOptions.Subpath if point.Spec.VolumeOptions else ""
    return os.path.join(settings.volumes, point.Name, "_data", os.path.normpath(subpath) if subpath else "").rstrip("/")


def bases(record: ContainerRecord, settings: Settings) -> dict[str, str]:
    """The directories that the sources of subpaths may not lead out of: containers write what lies in them."""
    points = [point for point in record.MountPoints.values() if point.Type == "volume"]
    volumes = {source(point, settings): os.path.join(settings.volumes, point.Name, "_data") for point in points}
    return {path: base for path, base in volumes.items() if path != base}


def combine(default: Iterable[Spec], files: Iterable[Spec], user: Sequence[Spec], read_only: bool) -> list[Spec]:
    """Docker's own mounts, a user's, the engine's files. A user's mount takes the place of any other."""
    taken = {grammar.clean(entry["destination"]) for entry in user}

    def kept(entries: Iterable[Spec]) -> list[Spec]:
        free = [entry for entry in entries if entry["destination"] not in taken]
        own = [entry for entry in free if "/dev" not in taken or not entry["destination"].startswith("/dev/")]
        return [_protected(entry) for entry in own] if read_only else own

    return [*kept(default), *user, *kept(files)]


def _protected(entry: Spec) -> Spec:
    if entry["destination"] in _WRITABLE or {"ro", "rw"} & set(entry["options"]):
        return entry
    return entry | {"options": [*entry["options"], "ro"]}


def root_propagation(user: Iterable[Spec]) -> dict[str, str]:
    """`linux.rootfsPropagation`, where mounts shall pass: runc makes its namespace so before it binds."""
    words = {word for entry in user for word in entry["options"]}
    wanted = "shared" if words & {"shared", "rshared"} else "rslave" if words & {"slave", "rslave"} else ""
    return {"rootfsPropagation": wanted} if wanted else {}


def views(record: ContainerRecord, settings: Settings | None) -> list[Spec]:
    """`Mounts` of inspect; without `settings` of the list, which gives the source of an image's volume as empty."""
    return [
        _view(point, source(point, settings) if settings else point.Source) for point in record.MountPoints.values()
    ]


def _view(point: MountPoint, path: str) -> Spec:
    named = {"Name": point.Name} if point.Name else {}
    driven = {"Driver": point.Driver} if point.Driver else {}
    rest = {"Mode": point.Mode, "RW": point.RW, "Propagation": point.Propagation}
    return {"Type": point.Type, **named, "Source": path, "Destination": point.Destination, **driven, **rest}
