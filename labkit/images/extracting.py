"""An archive put into a directory of a container that is there already: what `docker cp` brings.

moby `pkg/archive` (`Unpack`, `createTarFile`), run below the container's root. It is no layer: names like `.wh.x` are
plain names. The container may run and change its paths meanwhile: every directory is resolved by the kernel within the
container's root (openat2(2)), files are made anew and never written through something that was there before.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from labkit.errors import InvalidParameter, LabkitError
from labkit.images import tar
from labkit.images.layers import write_contents
from labkit.images.tar import Entry, TarReader
from labkit.kernel.paths import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV, openat2

_WITHIN = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_ITSELF = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_LIMIT = 64  # descriptors kept for parents; archives list a directory's entries together
_TRIES = 100  # openat2(2) gives up with EAGAIN if a rename crosses a `..` of a link: whoever renames for ever loses
_DEPTH = 200  # of a tree that is removed: each level holds a descriptor
_IMPLIED_MODE = 0o755  # of directories that an archive only implies
_NODES = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
_VERBS = {tar.DIRECTORY: "mkdir", tar.SYMLINK: "symlink", tar.HARDLINK: "link", tar.REGULAR: "open"}
_SERVERS_FAULTS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EPERM, errno.EACCES, errno.EMFILE, errno.ENFILE)
)


@dataclass(frozen=True, slots=True)
class Rules:
    """How an archive is put there: whether a directory and something else may replace each other, whose the files are.

    `owner` is a user and a group ID, None for those of the archive.
    """

    keep_kinds: bool = False
    owner: tuple[int, int] | None = None


def extract(chunks: Iterator[bytes], root: int, place: str, rules: Rules) -> None:
    """Puts a tar stream (uncompressed, read to its end) into the directory `place` below `root`.

    `root` is a descriptor; `place` an absolute path in it, without links. Raises InvalidParameter, in dockerd's words,
    for an archive that is malformed, leaves the place or doesn't fit what is there; LabkitError for a disk that is
    full. What was complete until then stays, an incomplete file doesn't.
    """
    reader = TarReader(chunks)
    extractor = _Extractor(root, os.fsencode(place), rules)
    try:
        for entry in reader:
            extractor.apply(entry, reader)
        reader.drain()
        extractor.finish()
    finally:
        extractor.close()


class _Extractor:
    """The state of one unpacking: open parents by their paths from the root, and the times that directories get."""

    def __init__(self, root: int, place: bytes, rules: Rules) -> None:
        self._root = root
        self._place = place
        self._rules = rules
        self._parents: dict[bytes, int] = {}  # in order of use, the longest unused first
        self._times: dict[bytes, int] = {}

    def apply(self, entry: Entry, reader: TarReader) -> None:
        path = self._path(entry.name, entry)
        try:
            if path == self._place:
                self._own_entry(entry)
            else:
                self._apply(entry, path, reader)
        except OSError as error:
            raise _failure(_VERBS.get(entry.kind, "mknod"), path, error) from error

    def finish(self) -> None:
        """Gives directories their times, when all is in them."""
        for path, mtime in reversed(self._times.items()):
            try:
                directory = _open(self._root, path, _DIRECTORY | os.O_NOFOLLOW)
            except OSError:
                continue  # the container, or a later entry, has replaced it
            try:
                os.utime(directory, ns=(mtime, mtime))
            finally:
                os.close(directory)

    def close(self) -> None:
        for descriptor in self._parents.values():
            os.close(descriptor)
        self._parents.clear()

    def _path(self, name: bytes, entry: Entry) -> bytes:
        """Where an entry goes, from the root. Raises InvalidParameter for one that leads out of the place."""
        path = _join(self._place, posixpath.normpath(name))
        if not self._holds(path):
            raise InvalidParameter(f"{_quote(name)} is outside of {_quote(self._place)}")
        return path

    def _holds(self, path: bytes) -> bool:
        return path == self._place or path.startswith(self._place.rstrip(b"/") + b"/")

    def _own_entry(self, entry: Entry) -> None:
        """An entry for the place itself: the directory stays as it is."""
        if entry.kind != tar.DIRECTORY:
            place = _quote(self._place)
            raise InvalidParameter(f"cannot overwrite directory {place} with non-directory {place}")

    def _apply(self, entry: Entry, path: bytes, reader: TarReader) -> None:
        parent_path, base = posixpath.split(path)
        parent = self._directory(parent_path)
        present = self._make_room(entry, path, parent, base)
        if entry.kind == tar.DIRECTORY:
            self._make_directory(entry, path, parent, base, present)
        elif entry.kind == tar.REGULAR:
            self._make_file(entry, reader, parent, base)
        elif entry.kind == tar.HARDLINK:
            self._make_hard_link(entry, parent_path, base)
        else:
            self._make_special(entry, path, parent, base)

    def _directory(self, path: bytes) -> int:
        """A descriptor of a directory, resolved within the root; missing ones are made. It belongs to the cache."""
        descriptor = self._parents.pop(path, -1)
        if descriptor < 0:
            try:
                descriptor = _open(self._root, path, _DIRECTORY)
            except FileNotFoundError:
                self._imply(path)
                descriptor = _open(self._root, path, _DIRECTORY)
        self._parents[path] = descriptor
        if len(self._parents) > _OPEN_LIMIT:
            os.close(self._parents.pop(next(iter(self._parents))))
        return descriptor

    def _imply(self, path: bytes) -> None:
        """mkdir -p below the place, which is there: the directories belong to root."""
        parent_path, base = posixpath.split(path)
        if path == self._place or not self._holds(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(path))
        parent = self._directory(parent_path)
        try:
            os.mkdir(base, 0o700, dir_fd=parent)
        except FileExistsError:
            return  # a link that leads to nothing; or the container was faster
        made = os.open(base, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            os.fchown(made, 0, 0)
            os.fchmod(made, _IMPLIED_MODE)
        finally:
            os.close(made)

    def _make_room(self, entry: Entry, path: bytes, parent: int, base: bytes) -> bool:
        """Removes what is in the way. True if there is a directory, which one of the archive is merged with."""
        try:
            present = os.stat(base, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        was, becomes = stat.S_ISDIR(present.st_mode), entry.kind == tar.DIRECTORY
        if self._rules.keep_kinds and was != becomes:
            old, new = ("directory", "non-directory") if was else ("non-directory", "directory")
            raise InvalidParameter(f"cannot overwrite {old} {_quote(path)} with {new} {_quote(self._place)}")
        if was and becomes:
            return True
        remove(parent, base, path)
        if was:
            self._forget(path)
        return False

    def _forget(self, path: bytes) -> None:
        """Closes what leads through a directory that was removed."""
        for known in [one for one in self._parents if one == path or one.startswith(path + b"/")]:
            os.close(self._parents.pop(known))

    def _make_directory(self, entry: Entry, path: bytes, parent: int, base: bytes, present: bool) -> None:
        if not present:
            os.mkdir(base, 0o700, dir_fd=parent)
        directory = os.open(base, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            os.fchown(directory, *self._owner(entry))
            os.fchmod(directory, entry.mode)
            _set_attributes(directory, entry)
        finally:
            os.close(directory)
        self._times[path] = entry.mtime

    def _make_file(self, entry: Entry, reader: TarReader, parent: int, base: bytes) -> None:
        file = os.open(base, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            write_contents(file, entry, reader)
            os.fchown(file, *self._owner(entry))
            os.fchmod(file, entry.mode)  # after chown(2), which clears set-user-ID
            _set_attributes(file, entry)
            os.utime(file, ns=(entry.mtime, entry.mtime))
        except BaseException:
            _remove_own(file, parent, base)
            raise
        finally:
            os.close(file)

    def _make_hard_link(self, entry: Entry, parent_path: bytes, base: bytes) -> None:
        target = _join(self._place, entry.link)
        if not self._holds(target):
            raise InvalidParameter(f"invalid hardlink {_quote(target)} -> {_quote(entry.link)}")
        target_parent, target_base = posixpath.split(target)
        source, parent = self._directory(target_parent), self._directory(parent_path)
        os.link(target_base, base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

    def _make_special(self, entry: Entry, path: bytes, parent: int, base: bytes) -> None:
        """A symbolic link, fifo or device node."""
        if entry.kind == tar.SYMLINK:
            if not self._holds(_join(posixpath.dirname(path), entry.link)):
                raise InvalidParameter(f"invalid symlink {_quote(path)} -> {_quote(entry.link)}")
            os.symlink(entry.link, base, dir_fd=parent)
        elif entry.kind in _NODES:
            os.mknod(base, _NODES[entry.kind] | 0o600, os.makedev(entry.major, entry.minor), dir_fd=parent)
        else:
            raise InvalidParameter(f"unhandled tar header type {entry.kind[0]}")
        made = os.open(base, _ITSELF, dir_fd=parent)
        itself = f"/proc/self/fd/{made}"  # the link, not what it leads to (proc(5))
        try:
            os.chown(itself, *self._owner(entry))
            if entry.kind != tar.SYMLINK:
                os.chmod(itself, entry.mode)
            _set_attributes(itself, entry)
            os.utime(itself, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(made)

    def _owner(self, entry: Entry) -> tuple[int, int]:
        return self._rules.owner or (entry.uid, entry.gid)


def remove(parent: int, base: bytes, path: bytes, depth: int = 0) -> None:
    """Removes a file, or a directory with all that is in it; links are removed, not followed.

    Raises OSError (EBUSY) for what something is mounted on: the kernel lets others than the container itself remove
    such a file, and takes the mount away with it (mount_namespaces(7)).
    """
    if depth > _DEPTH:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), os.fsdecode(path))
    try:
        file = openat2(parent, base, _ITSELF, 0, RESOLVE_NO_XDEV)
    except FileNotFoundError:
        return  # the container was faster
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), os.fsdecode(path)) from error
    try:
        if not stat.S_ISDIR(os.fstat(file).st_mode):
            os.unlink(base, dir_fd=parent)
            return
    finally:
        os.close(file)
    directory = os.open(base, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        for name in os.listdir(directory):
            remove(directory, os.fsencode(name), path + b"/" + os.fsencode(name), depth + 1)
    finally:
        os.close(directory)
    os.rmdir(base, dir_fd=parent)


def _remove_own(file: int, parent: int, base: bytes) -> None:
    """Removes an incomplete file, if its name still is that file's."""
    try:
        if os.path.samestat(os.fstat(file), os.stat(base, dir_fd=parent, follow_symlinks=False)):
            os.unlink(base, dir_fd=parent)
    except FileNotFoundError:
        return  # the container has removed it


def _open(root: int, path: bytes, flags: int) -> int:
    for _ in range(_TRIES):
        try:
            return openat2(root, path.strip(b"/"), flags, 0, _WITHIN)
        except BlockingIOError as error:
            last = error
    raise last


def _join(folder: bytes, path: bytes) -> bytes:
    """Go's `filepath.Join`: the second path is taken as a relative one, and the whole is cleaned."""
    return b"/" + posixpath.normpath(b"/" + folder + b"/" + path).lstrip(b"/")


def _set_attributes(target: int | str, entry: Entry) -> None:
    """Extended attributes; ones that the filesystem or the kernel won't take are left out, as dockerd does."""
    for name, value in entry.xattrs.items():
        try:
            os.setxattr(target, name, value)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise


def _quote(path: bytes) -> str:
    return '"' + os.fsdecode(path)[:300].replace("\\", "\\\\").replace('"', '\\"') + '"'


def _failure(verb: str, path: bytes, error: OSError) -> LabkitError:
    number = error.errno or errno.EIO
    verb = "unlinkat" if number == errno.EBUSY else verb
    where = error.filename if number == errno.EBUSY and error.filename else os.fsdecode(path)
    message = f"{verb} {where[:300]}: {os.strerror(number).lower()}"
    return LabkitError(message) if number in _SERVERS_FAULTS else InvalidParameter(message)
