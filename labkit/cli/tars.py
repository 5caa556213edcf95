"""Archives on the side of the `labkit` command: a file or directory of this machine becomes one, or one is unpacked.

moby `pkg/archive`, as docker's command uses it. An archive from a container is not trusted: nothing is written outside
of the destination, also not through links that the archive itself has brought.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, cast

from labkit.cli.copies import Landing, Resource, clean, split_entry
from labkit.cli.grammar import StatusError

_PIECE = 1 << 20
_BLOCK = 512
_CAPABILITY = "security.capability"


class Chunks:
    """An iterator of bytes as a file to read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""
        pieces: list[memoryview] = []
        while size and (self._rest or self._more()):
            pieces.append(self._rest[:size])
            size -= len(pieces[-1])
            self._rest = self._rest[len(pieces[-1]) :]
        return b"".join(pieces)

    def _more(self) -> bool:
        self._rest = memoryview(next(self._chunks, b""))
        return bool(self._rest)

    def drain(self) -> None:
        """Reads to the end: what follows an archive is padding."""
        for _ in self._chunks:
            pass


def pack(source: Resource, rename: Callable[[str], str]) -> Iterator[bytes]:
    """The tar of a source on this machine, in pieces; `rename` is applied to the names of its entries."""
    folder, include = split_entry(source.path)
    links: dict[tuple[int, int], str] = {}
    for relative in _walk(folder, include):
        name = relative.replace(include, "" if source.name == "/" else source.name, 1) if source.name else relative
        yield from _pack_one(os.path.join(folder, relative), name, rename, links)
    yield bytes(2 * _BLOCK)


def _walk(folder: str, relative: str) -> Iterator[str]:
    """A path and all below it, from the folder, in the order of names. What can't be listed is left out."""
    pending = [relative]
    while pending:
        relative = pending.pop()
        yield relative
        path = os.path.join(folder, relative)
        if os.path.isdir(path) and (not os.path.islink(path) or relative == "."):
            try:
                names = sorted(os.listdir(path), key=os.fsencode, reverse=True)
            except OSError:
                continue  # not ours to read, or gone: docker leaves it out too
            pending += [f"{relative}/{name}" for name in names]


def _pack_one(path: str, name: str, rename: Callable[[str], str], links: dict[tuple[int, int], str]) -> Iterator[bytes]:
    try:
        status = os.lstat(path)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return  # a socket
        if kind != tarfile.REGTYPE or (status.st_nlink > 1 and (status.st_dev, status.st_ino) in links):
            yield _header(path, name, kind, status, rename, links)
            return
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # not ours to read, or gone: docker leaves it out too
    with open(file, "rb", buffering=0) as opened:
        status = os.fstat(file)
        yield _header(path, name, kind, status, rename, links)
        left = status.st_size
        while left and (piece := opened.read(min(left, _PIECE))):
            left -= len(piece)
            yield piece
        if padding := left + -status.st_size % _BLOCK:  # also for a file that shrank meanwhile
            yield bytes(padding)


_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


def _header(
    path: str,
    name: str,
    kind: bytes,
    status: os.stat_result,
    rename: Callable[[str], str],
    links: dict[tuple[int, int], str],
) -> bytes:
    entry = tarfile.TarInfo(rename(name))
    entry.type, entry.mode = kind, stat.S_IMODE(status.st_mode)
    entry.uid, entry.gid, entry.mtime = status.st_uid, status.st_gid, int(status.st_mtime)
    if kind == tarfile.SYMTYPE:
        entry.linkname = os.readlink(path)
    elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        entry.devmajor, entry.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    elif kind == tarfile.REGTYPE:
        entry.size, entry.pax_headers = status.st_size, _capability(path)
    if kind != tarfile.DIRTYPE and status.st_nlink > 1:
        first = links.setdefault((status.st_dev, status.st_ino), name)
        if first != name:
            entry.type, entry.linkname, entry.size, entry.pax_headers = tarfile.LNKTYPE, rename(first), 0, {}
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _capability(path: str) -> dict[str, str]:
    try:
        value = os.getxattr(path, _CAPABILITY, follow_symlinks=False)
    except OSError:
        return {}  # none, or a filesystem without
    return {f"SCHILY.xattr.{_CAPABILITY}": value.decode("utf-8", "surrogateescape")}


def unpack(chunks: Chunks, landing: Landing) -> None:
    """Unpacks a tar stream where it lands; a directory and something else don't replace each other. StatusError."""
    try:
        reading = cast("IO[bytes]", chunks)  # read(2) is all that tarfile's stream mode asks of a file
        with tarfile.open(fileobj=reading, mode="r|", bufsize=_PIECE, errors="surrogateescape") as archive:
            unpacking = _Unpacking(archive, clean(landing.directory))
            for entry in archive:
                unpacking.apply(entry, landing.rename(entry.name), landing.rename(entry.linkname))
            unpacking.finish()
    except tarfile.TarError as error:
        raise StatusError(f"archive/tar: {error}") from error
    chunks.drain()


class _Unpacking:
    """The state of one unpacking: the links it has made, and the times that directories get at its end."""

    def __init__(self, archive: tarfile.TarFile, place: str) -> None:
        self._archive = archive
        self._place = place
        self._links: set[str] = set()
        self._times: dict[str, float] = {}

    def apply(self, entry: tarfile.TarInfo, name: str, link: str) -> None:
        path = self._path(name)
        try:
            if self._make_room(path, entry.isdir()):
                self._make(entry, path, link)
        except OSError as error:
            raise StatusError(f"open {path}: {(error.strerror or str(error)).lower()}") from error

    def finish(self) -> None:
        for path, mtime in reversed(self._times.items()):
            if os.path.isdir(path) and not os.path.islink(path):
                os.utime(path, (mtime, mtime))

    def _path(self, name: str) -> str:
        """Where an entry goes: below the place, and not through a link that came with the archive."""
        path = clean(f"{self._place}/{clean(name)}")
        if not self._holds(path) or any(link in self._links for link in _above(path)):
            raise StatusError(f'"{name}" is outside of "{self._place}"')
        return path

    def _holds(self, path: str) -> bool:
        return path == self._place or path.startswith(self._place.rstrip("/") + "/")

    def _make_room(self, path: str, directory: bool) -> bool:
        """Removes what is in the way. False for the place itself, which stays as it is."""
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        if not os.path.lexists(path):
            return True
        present = os.path.isdir(path) and not os.path.islink(path)
        if present != directory:
            old, new = ("directory", "non-directory") if present else ("non-directory", "directory")
            raise StatusError(f'cannot overwrite {old} "{path}" with {new} "{self._place}"')
        if not present:
            os.unlink(path)
        self._links.discard(path)
        return path != self._place

    def _make(self, entry: tarfile.TarInfo, path: str, link: str) -> None:
        if entry.isdir():
            if not os.path.isdir(path):
                os.mkdir(path, 0o700)
            os.chmod(path, entry.mode)
            self._times[path] = entry.mtime
            return
        if entry.issym():
            self._check(os.path.dirname(path), entry.linkname, f'invalid symlink "{path}" -> "{entry.linkname}"')
            os.symlink(entry.linkname, path)
        elif entry.islnk():
            self._check(self._place, link, f'invalid hardlink "{clean(f"{self._place}/{link}")}" -> "{link}"')
            os.link(self._path(link), path, follow_symlinks=False)
        else:
            self._make_file(entry, path)
        if os.path.islink(path):
            self._links.add(path)
        os.utime(path, (entry.mtime, entry.mtime), follow_symlinks=False)

    def _check(self, folder: str, link: str, problem: str) -> None:
        if not self._holds(clean(f"{folder}/{link}")):
            raise StatusError(problem)

    def _make_file(self, entry: tarfile.TarInfo, path: str) -> None:
        if entry.ischr() or entry.isblk():
            kind = stat.S_IFCHR if entry.ischr() else stat.S_IFBLK
            os.mknod(path, kind | 0o600, os.makedev(entry.devmajor, entry.devminor))
        elif entry.isfifo():
            os.mkfifo(path, 0o600)
        elif (source := self._archive.extractfile(entry)) is not None:
            with open(path, "xb") as file:
                shutil.copyfileobj(source, file, _PIECE)
        else:
            raise StatusError(f"unhandled tar header type {entry.type[0]}")
        os.chmod(path, entry.mode)


def _above(path: str) -> Iterator[str]:
    while len(path) > 1:
        path = os.path.dirname(path)
        yield path
