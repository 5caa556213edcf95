"""The mount points of containers: what was asked for, made and filled at create, got ready at start, let go at the end.

moby `daemon/volumes.go`, `daemon/volumes_unix.go`, `daemon/create_unix.go`. Volumes of other containers come first,
binds and mounts take their places, and the image's own volumes take what is left.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from labkit.engine import disk, mounts
from labkit.engine.models import ContainerRecord, HostConfig
from labkit.engine.traces import PlanSpan
from labkit.engine.volumes import write_aside
from labkit.errors import InvalidParameter, LabkitError, NotFound
from labkit.images.stack import LayerStack
from labkit.kernel import mountinfo
from labkit.kernel.paths import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, openat2
from labkit.kernel.roots import Bind
from labkit.plan import Context, Plan, Record, Step
from labkit.trace import TraceContext
from labkit.volumes import grammar
from labkit.volumes.copying import FillVolume
from labkit.volumes.models import BindOptions, MountPoint, VolumeOptions

if TYPE_CHECKING:
    from labkit.engine.container import Container
    from labkit.engine.engine import Engine

Spec = dict[str, Any]
Points = dict[str, MountPoint]
_SINCE_RECURSIVE = (1, 44)
"""The API version from which on read-only means all mounts of a tree."""


# Create


def resolve(engine: Engine, record: ContainerRecord, version: tuple[int, int]) -> Points:
    """The mount points of a new container, by destination; nothing is made yet. Raises InvalidParameter, NotFound."""
    host = record.HostConfig
    found = _of_others(engine, host)
    asked = grammar.read_mounts(host.Mounts or ())
    host.Mounts = asked or host.Mounts
    found |= grammar.points_of(host.Binds or (), asked, host.Tmpfs or {}, host.VolumeDriver)
    for point in found.values():
        _check_daemon_root(point, engine.settings.data_root)
        if version < _SINCE_RECURSIVE and point.Type == "bind" and not point.RW:
            point.Spec.BindOptions = point.Spec.BindOptions or BindOptions()
            point.Spec.BindOptions.ReadOnlyNonRecursive = not point.Spec.BindOptions.ReadOnlyForceRecursive
    for target in sorted(record.Config.Volumes or {}):
        place = grammar.clean(f"/{target}")
        if place not in found:
            grammar.check_target(place)
            found[place] = MountPoint(Type="volume", Destination=place, Driver=host.VolumeDriver, CopyData=True)
    return dict(sorted(found.items()))


def _of_others(engine: Engine, host: HostConfig) -> Points:
    """The mount points of the containers of `--volumes-from`. A later one takes the place of an earlier one's."""
    found: Points = {}
    for spec in host.VolumesFrom or ():
        name, writable = grammar.parse_volumes_from(spec)
        try:
            other = engine.find(name)
        except NotFound as error:
            raise InvalidParameter(str(error)) from None
        for point in other.record.MountPoints.values():
            copied = msgspec.structs.replace(point, RW=point.RW and writable, CopyData=False, Mode="")
            found[point.Destination] = copied
    return found


def _check_daemon_root(point: MountPoint, root: str) -> None:
    """A bind that shows the daemon's own directory must not keep what is mounted there from being unmounted."""
    if point.Type != "bind" or not (point.Source.startswith(root) or root.startswith(point.Source)):
        return
    asked = point.Spec.BindOptions.Propagation if point.Spec.BindOptions else ""
    if asked not in ("", "slave", "rslave"):
        raise InvalidParameter(
            'invalid mount config: must use either propagation mode "rslave" or "slave" when mount source is within '
            f'the daemon root: "{asked}"'
        )
    point.Propagation = asked or "rslave"


async def complete(engine: Engine, container: Container, trace: TraceContext) -> None:
    """Make the volumes of a new container, fill the empty ones, write its record. After a failure nothing is left.

    Named volumes stay, as with dockerd. Raises LabkitError.
    """
    engine.creating.add(container)
    try:
        _make_volumes(engine, container)
        await _fill_volumes(engine, container, trace)
        container.save(durable=True)
        write_aside(container.directory, ())  # from now on its volumes stay without it
    except BaseException:
        container.close()
        disk.remove_trees(withdraw(engine, container, volumes=True))
        raise
    finally:
        engine.creating.discard(container)


def _make_volumes(engine: Engine, container: Container) -> None:
    """The named volumes that are missing, and new ones for the mount points that name none."""
    volumes, points = engine.volumes, container.record.MountPoints.values()
    wanted = [point for point in points if point.Type == "volume"]
    fresh = [point for point in wanted if not point.Name]
    for point in fresh:
        _check_over_directory(container, point)
        point.Name = os.urandom(32).hex()
    write_aside(container.directory, [point.Name for point in fresh])
    for point in wanted:
        options = point.Spec.VolumeOptions or VolumeOptions()
        driver = options.DriverConfig.Options if options.DriverConfig else None
        anonymous = any(point is one for one in fresh)
        volume = volumes.create(point.Name, point.Driver, driver, options.Labels, anonymous)
        volumes.use(volume.Name, container.id)
        point.Driver = volume.Driver
        if point.Spec.Type and not point.Source:  # those of the image have neither, as with dockerd
            point.Source, point.Mode = volumes.store.mountpoint(volume.Name), point.Mode or "z"


def _check_over_directory(container: Container, point: MountPoint) -> None:
    with LayerStack(container.lower) as stack:
        found = stack.find(point.Destination)
    if found and not stat.S_ISDIR(found.status.st_mode) and not point.Spec.Type:
        raise LabkitError(f"cannot mount volume over existing file, file exists {point.Destination}")


async def _fill_volumes(engine: Engine, container: Container, trace: TraceContext) -> None:
    """Copy what the image has at the places of the volumes. On a thread: it may be much."""
    store = engine.volumes.store
    points = [point for point in container.record.MountPoints.values() if point.Type == "volume" and point.CopyData]
    points = [point for point in points if _has_content(container, point)]
    if not points:
        return
    engine.volumes.mount((point.Name for point in points), container.id, trace)
    try:
        steps = tuple(
            FillVolume(
                container.lower,
                point.Destination,
                os.path.dirname(store.mountpoint(point.Name)),
                not store.get(point.Name).mounts,
            )
            for point in points
        )
        await _carry_out_aside(
            engine, Plan("fill volumes", tuple(Step("daemon", op) for op in steps)), container, trace
        )
    finally:
        engine.volumes.unmount(container.id, trace)


def _has_content(container: Container, point: MountPoint) -> bool:
    with LayerStack(container.lower) as stack:
        return stack.find(point.Destination) is not None


async def _carry_out_aside(engine: Engine, plan: Plan, container: Container, trace: TraceContext) -> None:
    """Carry out operations on a thread, one after the other, while the daemon goes on serving. Kept as a trace.

    Their system calls are not recorded one by one: there is one recorder, and there may be a million calls.
    """
    records: list[Record] = []
    try:
        for place, operation in plan.by("daemon"):
            began = time.monotonic_ns()
            result, error = await asyncio.to_thread(_run, operation)
            records.append(Record(place, result, began, time.monotonic_ns(), [], str(error or "")))
            if error:
                raise error
    finally:
        done, offset = tuple(records), time.time_ns() - time.monotonic_ns()
        pids = {"daemon": os.getpid()}
        engine.traces.plan(PlanSpan(trace.child(), container.id, plan, lambda: done, offset, pids))


def _run(operation: Any) -> tuple[Any, LabkitError | None]:
    try:
        return operation.run(Context()), None
    except LabkitError as error:
        return None, error


# Start


def mount(engine: Engine, container: Container, trace: TraceContext) -> None:
    """Get ready what will be mounted: missing bind sources, volumes with options. Raises LabkitError.

    `unmount` takes it back, after a failure too.
    """
    points = container.record.MountPoints.values()
    if not points:
        return
    for point in points:
        if point.Type == "bind":
            _check_source(point, engine.settings.data_root)
    names = [point.Name for point in points if point.Type == "volume"]
    engine.volumes.mount(names, container.id, trace)
    for path, base in mounts.bases(container.record, engine.settings).items():
        os.close(open_subpath(path, base))  # the container's init opens it in the same way, once more
    for point in points:
        if point.Type == "volume":
            attributes = {"container": container.id, "destination": point.Destination, "driver": point.Driver}
            attributes |= {"propagation": point.Propagation, "read/write": str(point.RW).lower()}
            engine.volumes.tell("mount", point.Name, **attributes)


def unmount(engine: Engine, container: Container) -> None:
    """The container runs no more: what only it had mounted is unmounted."""
    mounted = set(engine.volumes.unmount(container.id))
    for point in container.record.MountPoints.values():
        if point.Name in mounted:
            engine.volumes.tell("unmount", point.Name, container=container.id, driver=point.Driver)


def trees(context: Context) -> dict[str, int]:
    """The mounts that the daemon has taken hold of for a container, by name: they go to its init."""
    return {name: fd for name, fd in context.descriptors.items() if name.startswith("tree:")}


def close_trees(context: Context) -> None:
    for name, fd in trees(context).items():
        del context.descriptors[name]
        os.close(fd)


def hold(engine: Engine, container: Container) -> None:
    """A container that a daemon before this one has started has its volumes mounted."""
    for point in container.record.MountPoints.values():
        if point.Type == "volume":
            engine.volumes.mounted.setdefault(point.Name, set()).add(container.id)


def _check_source(point: MountPoint, root: str) -> None:
    """A bind source must be there, or be made if that was asked for; to pass mounts on, its mount must be shared."""
    if not os.path.exists(point.Source):
        if not point.CreateSource:
            raise InvalidParameter(
                "failed to create task for container: failed to create shim task: OCI runtime create failed: "
                f'error mounting "{point.Source}" to rootfs at "{point.Destination}": no such file or directory'
            )
        try:
            os.makedirs(point.Source, 0o755, exist_ok=True)
        except OSError as error:
            reason = f"mkdir {error.filename}: {(error.strerror or '').lower()}"
            raise LabkitError(f"error while creating mount source path '{point.Source}': {reason}") from error
    if point.Propagation.endswith(("shared", "slave")) and not _is_relaxed(point, root):
        _check_sharing(point)


@contextmanager
def seen_from_outside(engine: Engine, container: Container, trace: TraceContext) -> Iterator[tuple[Bind, ...]]:
    """What a container that doesn't run would have mounted of the host, outer mounts first, for who takes its root.

    Volumes with options are mounted meanwhile; what can't be seen (a source that is gone) is left out.
    """
    record, settings = container.record, engine.settings
    within = mounts.bases(record, settings)
    engine.volumes.mount(volume_names(record.MountPoints), container.id, trace)
    with ExitStack() as opened:
        opened.callback(engine.volumes.unmount, container.id, trace)
        found = []
        for entry in mounts.user_mounts(record, settings):
            path = entry["source"]
            if path in within:  # somebody else's choice: held open, so that no link can lead it elsewhere meanwhile
                part = open_subpath(path, within[path])
                opened.callback(os.close, part)
                path = f"/proc/self/fd/{part}"
            if entry["type"] == "bind" and os.path.exists(path):
                found.append((entry["destination"], path, bool({"ro", "rro"} & set(entry["options"]))))
        yield tuple(found)


def open_subpath(path: str, base: str) -> int:
    """A descriptor of a part of a volume, which must be there and lie in it. Raises NotFound, InvalidParameter."""
    volume = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return openat2(volume, path[len(base) + 1 :], os.O_PATH, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise InvalidParameter(f"path concatenation escapes the base directory: {base}, {path}") from error
        raise NotFound(f"cannot access path {path}: {(error.strerror or '').lower()}") from error
    finally:
        os.close(volume)


def _is_relaxed(point: MountPoint, root: str) -> bool:
    """Nobody asked for the propagation that a bind of the daemon's own directory gets."""
    asked = point.Spec.BindOptions.Propagation if point.Spec.BindOptions else ""
    return not asked and (point.Source.startswith(root) or root.startswith(point.Source))


def _check_sharing(point: MountPoint) -> None:
    found = mountinfo.mount_of(point.Source, mountinfo.read())
    if found is None:
        raise LabkitError(f"Could not find source mount of {point.Source}")
    wanted = "shared" if point.Propagation.endswith("shared") else "shared or slave"
    if not found.is_shared and (wanted == "shared" or not found.is_slave):
        raise LabkitError(f"path {point.Source} is mounted on {found.target} but it is not a {wanted} mount")


# Remove, and after a crash


def withdraw(engine: Engine, container: Container, volumes: bool) -> list[str]:
    """Free the place of a container, and if `volumes` its anonymous ones; returns the directories to be removed."""
    points = container.record.MountPoints.values()
    names = [point.Name for point in points if volumes and point.is_anonymous and point.Name]
    return engine.volumes.take_container_away(container, names)


def volume_names(points: Mapping[str, MountPoint]) -> set[str]:
    """The volumes among these mount points."""
    return {point.Name for point in points.values() if point.Type == "volume" and point.Name}


def boot(engine: Engine, debris: Iterable[str]) -> None:
    """Who uses which volume; what a killed daemon had half made, or half removed, goes."""
    for container in engine.containers.values():
        for name in volume_names(container.record.MountPoints):
            engine.volumes.use(name, container.id)
    for folder in debris:
        engine.volumes.remove_aside(folder, set(engine.volumes.users))
        disk.remove_tree(folder.removesuffix(".removed"))
    engine.volumes.unmount_strays()
