"""What may be said of mounts: Binds (`-v`), HostConfig.Mounts (`--mount`), VolumesFrom, Tmpfs (moby `volume/mounts`).

Pure functions, whose errors have moby's words (`linux_parser.go`, `validate.go`): clients and people know them.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from labkit.errors import InvalidParameter, NotImplementedByLabkit
from labkit.volumes.models import BindOptions, DriverConfig, Mount, MountPoint, TmpfsOptions, VolumeOptions

DEFAULT_PROPAGATION = "rprivate"
PROPAGATIONS = frozenset(("private", "rprivate", "slave", "rslave", "shared", "rshared"))
_GROUPS = (
    frozenset(("rw", "ro")),
    frozenset(("z", "Z")),
    PROPAGATIONS,
    frozenset(("nocopy",)),
    frozenset(("consistent", "cached", "delegated")),
)
"""The words of a mode, in groups of which each may give one. Labels (z, Z) need SELinux, the last are for macOS."""

_TMPFS_DEFAULTS = ("noexec", "nosuid", "nodev", DEFAULT_PROPAGATION)
_TMPFS_FLAGS = frozenset(
    ("defaults", "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync", "remount",
     "mand", "nomand", "atime", "noatime", "diratime", "nodiratime", "bind", "rbind", "relatime", "norelatime",
     "strictatime", "nostrictatime", "unbindable", "runbindable", *PROPAGATIONS)
)  # fmt: skip
_TMPFS_VALUES = frozenset(("mode", "uid", "gid", "size", "nr_inodes", "nr_blocks", "mpol"))
_OPPOSITES = (
    ("ro", "rw"), ("suid", "nosuid"), ("dev", "nodev"), ("exec", "noexec"), ("sync", "async"), ("atime", "noatime"),
    ("diratime", "nodiratime"), ("relatime", "norelatime"), ("strictatime", "nostrictatime"),
)  # fmt: skip


def parse_bind(raw: str, volume_driver: str = "") -> MountPoint:
    """One of HostConfig.Binds: `SOURCE:TARGET[:MODE]`, or `TARGET` for an anonymous volume. Raises InvalidParameter."""
    parts = raw.split(":")
    if not parts[0] or len(parts) > 3 or (len(parts) == 2 and is_mode(parts[1])):
        raise InvalidParameter(f"invalid volume specification: '{raw}'")
    mode = parts[2] if len(parts) == 3 else ""
    if not is_mode(mode):
        raise InvalidParameter(f"invalid mode: {mode}")
    words = mode.split(",")
    source, target = ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])
    spec = Mount(Type="bind" if source.startswith("/") else "volume", Source=source, Target=target)
    spec.ReadOnly = "ro" in words
    if volume_driver and spec.Type == "volume":
        spec.VolumeOptions = VolumeOptions(DriverConfig=DriverConfig(Name=volume_driver))
    if "nocopy" in words:
        spec.VolumeOptions = spec.VolumeOptions or VolumeOptions()
        spec.VolumeOptions.NoCopy = True
    if propagation := next((word for word in words if word in PROPAGATIONS), ""):
        spec.BindOptions = BindOptions(Propagation=propagation)
    try:
        point = to_point(spec)
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid volume specification: '{raw}': {error}") from None
    point.Mode, point.CreateSource = mode, spec.Type == "bind"
    return point


def is_mode(text: str) -> bool:
    """Whether it is the third part of a bind: known words, at most one of each group. Nothing is a mode too."""
    words = text.split(",") if text else []
    known = all(any(word in group for group in _GROUPS) for word in words)
    return known and all(sum(word in group for word in words) <= 1 for group in _GROUPS)


def read_mounts(entries: Sequence[Any]) -> list[Mount]:
    """HostConfig.Mounts as it was sent. A null is as good as nothing, as in Go. Raises InvalidParameter."""
    try:
        return msgspec.convert([_without_nulls(entry) for entry in entries], list[Mount])
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"invalid HostConfig.Mounts: {error}") from None


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}


def parse_mount(spec: Mount) -> MountPoint:
    """One of HostConfig.Mounts. Raises InvalidParameter; also for a bind source that isn't there."""
    point = to_point(spec)
    if spec.Type == "bind":
        point.CreateSource = bool(spec.BindOptions and spec.BindOptions.CreateMountpoint)
        if not point.CreateSource and not os.path.exists(spec.Source):
            raise _invalid(spec, f"bind source path does not exist: {spec.Source}")
    return point


def to_point(spec: Mount) -> MountPoint:
    """The mount point that a valid `Mount` describes. Raises InvalidParameter, NotImplementedByLabkit."""
    _check(spec)
    point = MountPoint(Type=spec.Type, Destination=clean(spec.Target), RW=not spec.ReadOnly, Spec=spec)
    if spec.Type == "volume":
        options = spec.VolumeOptions or VolumeOptions()
        point.Name, point.CopyData = spec.Source, not options.NoCopy
        point.Driver = options.DriverConfig.Name if options.DriverConfig else ""
    elif spec.Type == "bind":
        point.Source = clean(spec.Source)
        point.Propagation = (spec.BindOptions.Propagation if spec.BindOptions else "") or DEFAULT_PROPAGATION
    return point


def clean(path: str) -> str:
    """The shortest name of the same path, as Go's path.Clean has it."""
    return posixpath.normpath("/" + path.lstrip("/")) if path.startswith("/") else posixpath.normpath(path)


def _invalid(spec: Mount, reason: str) -> InvalidParameter:
    return InvalidParameter(f'invalid mount config for type "{spec.Type}": {reason}')


def _check(spec: Mount) -> None:
    if not spec.Target:
        raise _invalid(spec, "field Target must not be empty")
    try:
        check_target(spec.Target)
        if spec.Type == "bind":
            _check_bind(spec)
        elif spec.Type == "volume":
            _check_volume(spec)
        elif spec.Type == "tmpfs":
            _refuse_fields(spec, "BindOptions", "VolumeOptions", "ImageOptions", "Source")
            tmpfs_words(spec.TmpfsOptions, spec.ReadOnly)
        elif spec.Type == "image":
            raise NotImplementedByLabkit("labkit has no image mounts yet (Mounts, Type image): leave it out")
        else:
            raise InvalidParameter("mount type unknown")
    except InvalidParameter as error:
        raise _invalid(spec, str(error)) from None


def check_target(target: str) -> None:
    """A place in a container must be absolute, and can't be its root. Raises InvalidParameter."""
    if clean(target) == "/":
        raise InvalidParameter("invalid specification: destination can't be '/'")
    check_absolute(target)


def check_absolute(path: str) -> None:
    if not path.startswith("/") or "\0" in path:
        raise InvalidParameter(f"invalid mount path: '{path}' mount path must be absolute")


def _refuse_fields(spec: Mount, *names: str) -> None:
    for name in names:
        value = getattr(spec, name)
        if value is not None and value != "":
            raise InvalidParameter(f"field {name} must not be specified")


def _check_bind(spec: Mount) -> None:
    if not spec.Source:
        raise InvalidParameter("field Source must not be empty")
    options = spec.BindOptions or BindOptions()
    if options.Propagation and options.Propagation not in PROPAGATIONS:
        raise InvalidParameter(f"invalid propagation mode: {options.Propagation}")
    _refuse_fields(spec, "VolumeOptions", "ImageOptions", "TmpfsOptions")
    if options.ReadOnlyNonRecursive and options.ReadOnlyForceRecursive:
        raise InvalidParameter("mount options conflict: ReadOnlyNonRecursive and ReadOnlyForceRecursive")
    check_absolute(spec.Source)


def _check_volume(spec: Mount) -> None:
    _refuse_fields(spec, "BindOptions", "ImageOptions", "TmpfsOptions")
    subpath = spec.VolumeOptions.Subpath if spec.VolumeOptions else ""
    if subpath and not spec.Source:
        raise InvalidParameter("must not set Subpath when using anonymous volumes")
    if subpath and (subpath.startswith("/") or "\0" in subpath or posixpath.normpath(subpath).split("/")[0] == ".."):
        raise InvalidParameter("subpath must be a relative path within the volume")
    if spec.ReadOnly and not spec.Source:
        raise InvalidParameter("must not set ReadOnly mode when using anonymous volumes")


def parse_volumes_from(spec: str) -> tuple[str, bool]:
    """One of VolumesFrom, `CONTAINER[:MODE]`: the container, and whether it may be written to. InvalidParameter."""
    if not spec:
        raise InvalidParameter("volumes-from specification cannot be an empty string")
    container, _, mode = spec.partition(":")
    words = mode.split(",")
    if not is_mode(mode) or "nocopy" in words or PROPAGATIONS & set(words):
        raise InvalidParameter(f"invalid mode: {mode}")
    return container, "ro" not in words


def tmpfs_words(options: TmpfsOptions | None, read_only: bool) -> list[str]:
    """TmpfsOptions as words of mount(8); sizes with the largest unit that divides them. Raises InvalidParameter."""
    found = ["ro"] if read_only else []
    if options is None:
        return found
    if options.Mode:
        found.append(f"mode={options.Mode:o}")
    if options.SizeBytes:
        units = ((1 << 30, "g"), (1 << 20, "m"), (1 << 10, "k"), (1, ""))
        divisor, suffix = next(unit for unit in units if options.SizeBytes % unit[0] == 0)
        found.append(f"size={options.SizeBytes // divisor}{suffix}")
    for option in options.Options or ():
        if not 1 <= len(option) <= 2:
            raise InvalidParameter("invalid option array length")
        if option[0] not in ("exec", "noexec"):
            raise InvalidParameter(f"invalid option: {option[0]}")
        found.append("=".join(option))
    return found


def tmpfs_options(words: Sequence[str]) -> list[str]:
    """The options of a tmpfs in the OCI spec: Docker's defaults, and what takes them back. Raises InvalidParameter.

    moby `pkg/mount`, MergeTmpfsOptions: the last of two that contradict each other counts.
    """
    kept: dict[str, str] = {}
    for word in (*_TMPFS_DEFAULTS, *words):
        name, equals, value = word.partition("=")
        if (equals and name not in _TMPFS_VALUES) or (not equals and word not in _TMPFS_FLAGS):
            shown = f'"{name}" "{value}"' if equals else f'"{word}"'
            raise InvalidParameter(f"invalid tmpfs option [{shown}]")
        group = name if equals else _group(word)
        kept.pop(group, None)
        kept[group] = word
    return list(kept.values())


def _group(word: str) -> str:
    """What a flag is about: of the words about one thing, one can hold."""
    if word in PROPAGATIONS or word in ("unbindable", "runbindable"):
        return "propagation"
    return next((pair[0] for pair in _OPPOSITES if word in pair), word)


def points_of(
    binds: Sequence[str], mounts: Sequence[Mount], tmpfs: Mapping[str, str], volume_driver: str
) -> dict[str, MountPoint]:
    """Binds and Mounts as mount points, by destination. Raises InvalidParameter, for two at one place too."""
    found: dict[str, MountPoint] = {}
    for target, options in tmpfs.items():
        check_target(target)
        tmpfs_options(options.split(",") if options else ())
    for raw in binds:
        point = parse_bind(raw, volume_driver)
        if point.Destination in found or point.Destination in tmpfs:
            raise InvalidParameter(f"Duplicate mount point: {point.Destination}")
        found[point.Destination] = point
    for spec in mounts:
        point = parse_mount(spec)
        if point.Destination in found:
            raise InvalidParameter(f"Duplicate mount point: {spec.Target}")
        found[point.Destination] = point
    return found
