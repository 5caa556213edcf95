"""A file or a directory with all that is in it, as a tar: what leaves a container by `docker cp`.

moby `pkg/archive` (`TarResourceRebase`). The tree may belong to a running container that changes it meanwhile: every
file is opened by its own name in a directory that is open already, links are never followed, and only what has turned
out to be a regular file is read. What vanishes is left out.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field

from labkit.images import tar
from labkit.images.faults import disk_error
from labkit.images.tar import BLOCK, Entry
from labkit.images.writing import END, KINDS, header, zeros
from labkit.kernel.paths import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2

_log = logging.getLogger(__name__)
_PIECE = 1 << 20  # bytes that are read at once, and at most put together
_STRAIGHT = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_ITSELF = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE))  # or replaced by a link
_FAILING = frozenset((errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM))
_NODES = (tar.CHARACTER, tar.BLOCK_DEVICE)
_CAPABILITY = "security.capability"  # the one extended attribute that dockerd copies


@dataclass(slots=True)
class _Tree:
    """What is being read: the directory's descriptor, the filesystems left out, the first names of hard links."""

    start: int
    barred: frozenset[int]
    links: dict[tuple[int, int], bytes] = field(default_factory=dict)


def tree_tar(start: int, name: bytes, barred: frozenset[int] = frozenset()) -> Iterator[bytes]:
    """The tar of a file (a descriptor, O_PATH will do), in pieces; `name` is what it and all below it is called there.

    Directories on a filesystem of `barred` (numbers of devices, stat(2)) are told without what is in them. Raises
    what `disk_error` makes of an OSError.
    """
    return _joined(_members(_Tree(start, barred), name))


def file_tar(file: int, name: bytes) -> tuple[int, Generator[bytes, None, None]]:
    """The tar of one regular file (a descriptor, O_PATH will do): its length in bytes, and its pieces, to be closed.

    It has that length whatever becomes of the file meanwhile. Raises OSError, the pieces as those of `tree_tar`.
    """
    data, size, head = _begin(file, name)
    length = len(head) + size + -size % BLOCK + len(END)
    return length, _whole(data, size, head, name)


def _whole(data: int, size: int, head: bytes, name: bytes) -> Generator[bytes, None, None]:
    yield from _contents(data, size, name, head)
    yield END


def _joined(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Small parts put together, large ones as they are: whoever reads takes turns with threads at each piece."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        if len(part) >= _PIECE // 4:
            if waiting:
                yield b"".join(waiting)
                waiting, size = [], 0
            yield part
            continue
        waiting.append(part)
        size += len(part)
        if size >= _PIECE // 4:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _members(tree: _Tree, name: bytes) -> Iterator[bytes]:
    status = os.fstat(tree.start)
    yield from _member(tree, tree.start, status, name)
    pending = _children(tree, tree.start, b"") if stat.S_ISDIR(status.st_mode) else []
    while pending:
        path = pending.pop()
        try:
            file = openat2(tree.start, path, _ITSELF, 0, _STRAIGHT)
        except OSError as error:
            _pass_over(name + b"/" + path, error)
            continue
        try:
            status = os.fstat(file)
            yield from _member(tree, file, status, name + b"/" + path)
            if stat.S_ISDIR(status.st_mode) and status.st_dev not in tree.barred:
                pending += _children(tree, file, path + b"/")
        finally:
            os.close(file)
    yield END


def _children(tree: _Tree, directory: int, prefix: bytes) -> list[bytes]:
    """The paths of what is in a directory, last first; none if the directory can't be read."""
    if os.fstat(directory).st_dev in tree.barred:
        return []
    try:
        names = os.listdir(_by_descriptor(directory))
    except OSError as error:
        _pass_over(prefix, error)
        return []
    return [prefix + os.fsencode(name) for name in sorted(names, key=os.fsencode, reverse=True)]


def _pass_over(path: bytes, error: OSError) -> None:
    """What can't be read is left out, as dockerd does it; a disk that fails is told, a name that has gone isn't."""
    if error.errno in _FAILING:
        raise disk_error(error, f"reading {os.fsdecode(path)[:300]} of a container") from error
    if error.errno not in _GONE:
        _log.warning("%s is left out of an archive: %s", os.fsdecode(path)[:300], error.strerror)


def _by_descriptor(file: int) -> str:
    """A path to what a descriptor stands for, wherever its name leads to by now (proc(5))."""
    return f"/proc/self/fd/{file}"


def _member(tree: _Tree, file: int, status: os.stat_result, name: bytes) -> Iterator[bytes]:
    """A file's entry with its data. Sockets are not archived, as tar(1) and dockerd have it."""
    kind = KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return
    if kind == tar.DIRECTORY:
        yield header(_entry(status, kind, name + b"/"))
        return
    if status.st_nlink > 1:
        first = tree.links.setdefault((status.st_dev, status.st_ino), name)
        if first != name:
            yield header(_entry(status, tar.HARDLINK, name, link=first))
            return
    if kind == tar.REGULAR:
        yield from _regular(file, name)
    else:
        link = os.fsencode(os.readlink("", dir_fd=file)) if kind == tar.SYMLINK else b""
        yield header(_entry(status, kind, name, link=link))


def _regular(file: int, name: bytes) -> Iterator[bytes]:
    try:
        data, size, head = _begin(file, name)
    except OSError as error:
        _pass_over(name, error)
        return
    yield from _contents(data, size, name, head)


def _begin(file: int, name: bytes) -> tuple[int, int, bytes]:
    """Opens a regular file; its descriptor, its size and its header."""
    data = os.open(_by_descriptor(file), os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(data)
        size = status.st_size
        return data, size, header(_entry(status, tar.REGULAR, name, size, xattrs=_capability(data)))
    except BaseException:
        os.close(data)
        raise


def _contents(data: int, size: int, name: bytes, head: bytes) -> Iterator[bytes]:
    """A file's header, its bytes and what fills up its last block. Closes the file."""
    left = size
    try:
        yield head
        while left and (piece := os.read(data, min(left, _PIECE))):
            left -= len(piece)
            yield piece
        if left:
            _log.warning("%s shrank by %d bytes while it was read: padded with zeros", os.fsdecode(name)[:300], left)
        if padding := left + -size % BLOCK:
            yield from zeros(padding)
    except OSError as error:
        raise disk_error(error, f"reading {os.fsdecode(name)[:300]} of a container") from error
    finally:
        os.close(data)


def _capability(file: int) -> dict[str, bytes]:
    try:
        return {_CAPABILITY: os.getxattr(file, _CAPABILITY)}
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return {}
        raise


def _entry(
    status: os.stat_result,
    kind: bytes,
    name: bytes,
    size: int = 0,
    link: bytes = b"",
    xattrs: dict[str, bytes] | None = None,
) -> Entry:
    numbers = (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in _NODES else (0, 0)
    mode, seconds = status.st_mode & 0o7777, status.st_mtime_ns // 10**9 * 10**9
    return Entry(name, kind, mode, status.st_uid, status.st_gid, size, seconds, link, *numbers, xattrs or {})
