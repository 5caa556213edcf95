"""Copying between a container and its users: stat a path, archive it, extract an archive there (`docker cp`).

moby `daemon/archive_unix.go`, `daemon/containerfs_linux.go`. All goes through a descriptor of the container's root
(`labkit.kernel.roots`): of the mounts that it runs with, or of its layers, mounted for the copy alone.
"""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import select
import stat
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from labkit.engine import execution, mountpoints, starting
from labkit.engine.clock import rfc3339
from labkit.engine.container import Container
from labkit.errors import Conflict, InvalidParameter, KernelError, LabkitError, NotFound
from labkit.images.extracting import Rules, extract
from labkit.images.streams import Readable, decompressed, read_chunks
from labkit.images.trees import file_tar, tree_tar
from labkit.kernel.paths import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from labkit.kernel.roots import ROOT, Bind, MountRoot, TakeRoot
from labkit.plan import Context, Operation, Plan, Step
from labkit.runtime.plans import OVERLAY_OPTIONS
from labkit.trace import TraceContext

if TYPE_CHECKING:
    from labkit.engine.engine import Engine

_ITSELF = os.O_PATH | os.O_NOFOLLOW
_WITHIN = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_LINKS = 255  # that a path may lead through, as for Go's filepath.EvalSymlinks
_TRIES = 100
_KERNELS = ("proc", "sys")  # what dockerd's view of a container doesn't have: not files, and the host's in part
_MODES = {  # stat(2) to Go's os.FileMode
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_MODE_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


class PathStat(msgspec.Struct, frozen=True, rename={"link_target": "linkTarget"}):
    """What the header `X-Docker-Container-Path-Stat` holds. `mode` has the bits of Go's os.FileMode."""

    name: str
    size: int
    mode: int
    mtime: str
    link_target: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What `PUT /containers/{id}/archive` asks for: where to, and by which rules.

    With `as_user` the files get the user that the container runs as, else they keep the owners of the archive.
    """

    path: str
    keep_kinds: bool = False
    as_user: bool = False


def go_mode(mode: int) -> int:
    """A mode of stat(2) in the bits of Go's os.FileMode."""
    special = sum(bit for mask, bit in _MODE_BITS.items() if mode & mask)
    return mode & 0o777 | special | _MODES.get(stat.S_IFMT(mode), 0)


def absolute(path: str) -> str:
    """A path from the container's root, cleaned; a trailing `/` or `/.` says "a directory" and is kept.

    moby `archive.PreserveTrailingDotOrSeparator`. Raises InvalidParameter for a path that no file can have.
    """
    if not path:
        raise InvalidParameter("bad parameter: path cannot be empty")
    if "\0" in path:
        raise InvalidParameter("bad parameter: path must not contain a NUL")
    cleaned = "/" + posixpath.normpath("/" + path).lstrip("/")
    if path == "." or path.endswith("/."):
        return cleaned.rstrip("/") + "/."
    return cleaned.rstrip("/") + "/" if path.endswith("/") else cleaned


def base(path: str) -> str:
    """The last part of a path, as Go's filepath.Base: `/` of the root, `.` of what ends in `/.`."""
    return path.rstrip("/").rpartition("/")[2] or "/"


async def stat_path(engine: Engine, container: Container, path: str, trace: TraceContext) -> PathStat:
    """What is at a path, itself and not what a link leads to. Raises NotFound, LabkitError."""
    wanted = absolute(path)
    async with container.lock:
        root, _ = _open_root(engine, container, False, trace)

    def look() -> PathStat:
        with _closing(root), _closing(_look_up(root, wanted)) as file:
            return _path_stat(root, file, wanted)

    return await asyncio.to_thread(look)


class Tar(NamedTuple):
    """An archive that goes out: what it is of, its pieces, to be read on threads and closed, its length if known."""

    stat: PathStat
    pieces: Generator[bytes, None, None]
    length: int | None


async def archive_path(engine: Engine, container: Container, path: str, trace: TraceContext) -> Tar:
    """What is at a path, as a tar.

    The container isn't kept from anything meanwhile. If it is removed, the pieces end in Conflict.
    """
    wanted = absolute(path)
    async with container.lock:
        root, _ = _open_root(engine, container, False, trace)

    def look() -> Tar:
        with _closing(root), ExitStack() as held:
            file = _look_up(root, wanted)
            held.callback(os.close, file)
            found = _tar(container, _path_stat(root, file, wanted), file, _barred(root, file))
            held.pop_all()  # from here on the file is the pieces' to close
            return found

    found = await asyncio.to_thread(look)
    engine.events.publish("container", "archive-path", container.id, container.attributes())
    return found


def _tar(container: Container, found: PathStat, file: int, barred: frozenset[int]) -> Tar:
    name, length = os.fsencode("" if found.name == "/" else found.name), None
    pieces: Iterator[bytes]
    if stat.S_ISREG(os.fstat(file).st_mode):
        length, pieces = file_tar(file, name)
    else:
        pieces = tree_tar(file, name, barred)
    return Tar(found, _pieces(container, file, pieces), length)


def _pieces(container: Container, file: int, pieces: Iterator[bytes]) -> Generator[bytes, None, None]:
    with _closing(file):
        yield from pieces
    if container.record.State.Dead:
        raise Conflict(f"container {container.id} was removed while files were copied from it")


async def extract_to(engine: Engine, container: Container, wish: Wish, archive: Readable, trace: TraceContext) -> None:
    """Extract an archive, compressed or not, into a directory of the container. Ends with the archive.

    A container that doesn't run can't be started meanwhile: two mounts must not write one layer. One that runs may do
    what it likes; if it ends, so does the copy. Raises NotFound, InvalidParameter, Conflict, LabkitError.
    """
    wanted = absolute(wish.path)
    async with container.lock:
        root, pidfd = _open_root(engine, container, True, trace)
        if pidfd < 0:
            with _closing(root):
                await _on_a_thread(lambda: _extract(container, root, wanted, wish, read_chunks(archive)))
    if pidfd >= 0:
        with _closing(root), _closing(pidfd):
            chunks = _while_it_runs(container, pidfd, read_chunks(archive))
            await _on_a_thread(lambda: _extract(container, root, wanted, wish, chunks))
    engine.events.publish("container", "extract-to-dir", container.id, container.attributes())


async def _on_a_thread(work: Callable[[], None]) -> None:
    """Do something that lasts as long as a client likes: on a thread of its own, so that others need not wait.

    Returns only when the thread has ended, also if it is cancelled.
    """
    executor = ThreadPoolExecutor(1, "copy")
    task = asyncio.get_running_loop().run_in_executor(executor, work)
    executor.shutdown(wait=False)
    try:
        await asyncio.shield(task)
    finally:
        if not task.done():
            await asyncio.wait([task])
            task.exception()  # nobody is left to hear of it


def _while_it_runs(container: Container, pidfd: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks. Raises Conflict when the container has ended: its layer may be mounted anew at any moment."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    for chunk in chunks:
        if poll.poll(0):
            raise Conflict(f"container {container.id} has ended while files were copied into it: copy them again")
        yield chunk


def _extract(container: Container, root: int, wanted: str, wish: Wish, chunks: Iterator[bytes]) -> None:
    place = _place(container, root, wanted)
    user = container.record.Config.User if wish.as_user else ""
    identity = starting.identity(container, user) if user else None
    rules = Rules(wish.keep_kinds, (identity.uid, identity.gid) if identity else None)
    extract(decompressed(chunks), root, place, rules)


def _place(container: Container, root: int, wanted: str) -> str:
    """The directory that a path leads to, through links. Raises NotFound, and InvalidParameter in dockerd's words."""
    place = evaluate(root, wanted)
    with _closing(_look_up(root, place)) as file:
        status = os.fstat(file)
        if not stat.S_ISDIR(status.st_mode):
            raise InvalidParameter("extraction point is not a directory")
        if status.st_dev in {kernels.st_dev for kernels in _mounted(root, _KERNELS)}:
            raise FileMissing(place)
        in_layers = status.st_dev == os.fstat(root).st_dev
        if in_layers and container.record.HostConfig.ReadonlyRootfs:
            raise InvalidParameter("container rootfs is marked read-only")
        if os.statvfs(f"/proc/self/fd/{file}").f_flag & os.ST_RDONLY:
            raise InvalidParameter("mounted volume is marked read-only")
    return place


def _open_root(engine: Engine, container: Container, writable: bool, trace: TraceContext) -> tuple[int, int]:
    """Descriptors of the container's root and, if it is that of a running one that may be written, of its process.

    The second is -1 otherwise. `container.lock` is held. Raises NotFound, KernelError.
    """
    if container.id not in engine.containers:
        raise NotFound(f"No such container: {container.id}")
    run = container.run
    if run.running:
        try:
            root = _carry_out(engine, container, TakeRoot(run.pid), trace)
            return root, os.dup(run.pidfd) if writable else -1
        except KernelError as error:
            if error.errno != errno.ESRCH:
                raise
            # It has ended at this moment, and its mounts with it: who settles that waits for the lock.
    with mountpoints.seen_from_outside(engine, container, trace) as binds:
        return _carry_out(engine, container, _mount_root(container, binds, writable), trace), -1


def _carry_out(engine: Engine, container: Container, operation: Operation, trace: TraceContext) -> int:
    context = Context({"target": container.run.pidfd})
    execution.carry_out(engine, Plan("copy", (Step("daemon", operation),)), container.id, trace, context)
    return context.descriptors[ROOT]


def _mount_root(container: Container, binds: tuple[Bind, ...], writable: bool) -> Operation:
    layers = starting.layers_of(container)
    over = os.path.dirname(layers.upper)
    inside = (*binds, *files_of(container, frozenset(target for target, _, _ in binds)))
    return MountRoot(layers.base, layers.lower, layers.upper, layers.work, over, OVERLAY_OPTIONS, inside, writable)


def files_of(container: Container, taken: frozenset[str] = frozenset()) -> tuple[Bind, ...]:
    """A container's own files of /etc, unless something else is mounted there."""
    files = ((f"/etc/{name}", os.path.join(container.directory, name)) for name in ("resolv.conf", "hostname", "hosts"))
    return tuple((target, source, False) for target, source in files if target not in taken and os.path.exists(source))


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _look_up(root: int, path: str) -> int:
    """A descriptor (O_PATH) of what is at an absolute path. Raises FileMissing, LabkitError.

    What lies below /proc and /sys of a running container counts as missing: dockerd doesn't mount these either.
    """
    try:
        file = _open_within(root, path)
    except FileNotFoundError as error:
        raise FileMissing(path) from error
    except OSError as error:
        raise _unfound(path, error) from error
    status = os.fstat(file)
    for kernels in _mounted(root, _KERNELS):
        if status.st_dev == kernels.st_dev and status.st_ino != kernels.st_ino:
            os.close(file)
            raise FileMissing(path)
    return file


class FileMissing(NotFound):
    """There is no file at a path. The API tells it with the names that the client used."""


def _open_within(root: int, path: str) -> int:
    """openat2(2) below the root, tried again while the container renames what a link of the path leads through."""
    for _ in range(_TRIES):
        try:
            return openat2(root, path.lstrip("/"), _ITSELF, 0, _WITHIN)
        except BlockingIOError as error:
            last = error
    raise last


def _mounted(root: int, names: tuple[str, ...]) -> list[os.stat_result]:
    """The directories of these names below the root that something is mounted on."""
    own, found = os.fstat(root).st_dev, []
    for name in names:
        try:
            with _closing(openat2(root, name, _ITSELF | os.O_DIRECTORY, 0, _WITHIN)) as directory:
                found.append(os.fstat(directory))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return [status for status in found if status.st_dev != own]


def _barred(root: int, start: int) -> frozenset[int]:
    """The filesystems that a copy which begins at `start` leaves out: the kernel's, and /dev if it begins elsewhere."""
    devices = {status.st_dev for status in _mounted(root, ("dev",))} - {os.fstat(start).st_dev}
    return frozenset(devices | {status.st_dev for status in _mounted(root, _KERNELS)})


def _path_stat(root: int, file: int, path: str) -> PathStat:
    status = os.fstat(file)
    target = evaluate(root, path) if stat.S_ISLNK(status.st_mode) else ""
    return PathStat(base(path), status.st_size, go_mode(status.st_mode), rfc3339(status.st_mtime_ns), target)


def evaluate(root: int, path: str) -> str:
    """The path without links, followed within the root as far as there is something (moby `FollowSymlinkInScope`)."""
    done: list[str] = []
    rest = path.split("/")[::-1]
    links = 0
    while rest:
        part = rest.pop()
        if part == "..":
            done = done[:-1]
        elif part not in ("", "."):
            link = _read_link(root, "/".join([*done, part]))
            links += bool(link)
            if links > _LINKS:
                raise LabkitError(f"too many links in {path}")
            done = done if not link else [] if link.startswith("/") else done
            rest += link.split("/")[::-1] if link else ()
            done = done if link else [*done, part]
    return "/" + "/".join(done)


def _read_link(root: int, path: str) -> str:
    """What the symbolic link at a path says; empty if there is none."""
    try:
        with _closing(_open_within(root, path)) as file:
            return os.readlink("", dir_fd=file) if stat.S_ISLNK(os.fstat(file).st_mode) else ""
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise _unfound(f"/{path}", error) from error
        return ""


def _unfound(path: str, error: OSError) -> LabkitError:
    """A path that can't be looked at, in Go's words. A name that no filesystem takes is the request's fault."""
    kind = InvalidParameter if error.errno == errno.ENAMETOOLONG else LabkitError
    return kind(f"lstat {path}: {os.strerror(error.errno or errno.EIO).lower()}")
