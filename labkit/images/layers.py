"""Applying a layer: a tar of changes becomes a directory that overlayfs can stack.

OCI image-spec `layer.md`; whiteouts become overlayfs's own (a 0:0 character device, an "opaque" attribute), see the
kernel's `overlayfs.rst`. The tar may be hostile: every entry is resolved below the root by the kernel (openat2(2)),
created exclusively, and never written through something that was there before.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from labkit.errors import Forbidden, InvalidParameter
from labkit.images import tar
from labkit.images.faults import disk_error
from labkit.images.tar import Entry, TarReader
from labkit.kernel.paths import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_AUFS_PRIVATE = b".wh..wh."  # aufs' own book-keeping; dockerd skips these too
OVERLAY_PRIVATE = ("trusted.overlay.", "user.overlay.")
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_LIMIT = 128  # descriptors kept for parents; layers list a directory's entries together
_IMPLICIT_MODE = 0o755  # of parents that the layer doesn't list, as dockerd makes them
# What the kernel says to an entry that can't be as it is written (its name, its kind, its place): the layer's fault.
_NAME_FAULTS = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.EISDIR, errno.EEXIST, errno.EXDEV}
_LAYER_FAULTS = _NAME_FAULTS | {errno.EINVAL, errno.EFBIG, errno.ERANGE, errno.E2BIG, errno.EMLINK, errno.EILSEQ}


@dataclass(frozen=True, slots=True)
class LayerPolicy:
    """What a layer may contain, and how overlayfs wants its marks here.

    Rootless overlay mounts read `user.overlay.` attributes (mount option userxattr), others `trusted.overlay.`.
    """

    devices: bool = True
    attributes: str = "trusted.overlay."


PERMISSIVE = LayerPolicy()  # what dockerd does as root


@dataclass(frozen=True, slots=True)
class Applied:
    """What a layer brought: bytes of files and links (as Docker counts a layer's size), and entries.

    `ignored` names the extended attributes that the filesystem would not take or that overlayfs keeps for itself.
    """

    size: int
    entries: int
    ignored: tuple[str, ...]


def apply_layer(chunks: Iterator[bytes], root: int, policy: LayerPolicy = PERMISSIVE) -> Applied:
    """Unpacks a layer (an uncompressed tar stream, read to its end) into the empty directory `root` (a descriptor).

    Raises InvalidParameter for a layer that is malformed or leaves the root, Forbidden for a device node where policy
    or kernel don't permit it, KernelError otherwise. What was written until then stays: the caller owns the directory.
    """
    reader = TarReader(chunks)
    applier = _Applier(root, policy)
    try:
        for entry in reader:
            applier.apply(entry, reader)
        reader.drain()
        return applier.finish()
    finally:
        applier.close()


def clean(name: bytes, what: str = "entry") -> bytes:
    """The path relative to the layer's root, without `.`, `..` and empty components; the root itself is b"".

    Leading slashes fall away, as in every tar; a name that climbs out is refused with InvalidParameter.
    """
    if b"/." not in name and b"//" not in name and name[:1] not in b"./":
        return name.rstrip(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise InvalidParameter(f'layer {what} "{os.fsdecode(name)}" is outside of the root')
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


class _Pending(NamedTuple):
    """What a directory gets when all is in it."""

    mode: int
    owner: tuple[int, int]
    mtime: int | None = None


class _Applier:
    """The state of one unpacking: open parents, and what directories still get when all is in them."""

    def __init__(self, root: int, policy: LayerPolicy) -> None:
        self._root = root
        self._policy = policy
        self._parents: dict[bytes, int] = {}  # in order of use, the longest unused first
        self._pending: dict[bytes, _Pending] = {}
        self._own = (os.geteuid(), os.getegid())
        self._size = 0
        self._entries = 0
        self._replaced = False
        self._ignored: list[str] = []
        # Until the end all directories are ours, without a set-group-ID bit: new files belong to us then, too.
        os.fchown(root, *self._own)
        os.fchmod(root, 0o700)

    def apply(self, entry: Entry, reader: TarReader) -> None:
        self._entries += 1
        try:
            self._apply(entry, reader)
        except OSError as error:
            raise _entry_error(entry, error) from error

    def _apply(self, entry: Entry, reader: TarReader) -> None:
        path = clean(entry.name)
        parent_path, _, base = path.rpartition(b"/")
        if not path:
            self._root_entry(entry)
        elif base.startswith(WHITEOUT):
            self._whiteout(entry, parent_path, base)
        elif entry.kind == tar.REGULAR:
            self._file(entry, reader, path, self._directory(parent_path), base)
        elif entry.kind == tar.DIRECTORY:
            self._make_directory(entry, path, self._directory(parent_path), base)
        elif entry.kind == tar.HARDLINK:
            self._hard_link(entry, path, parent_path, base)
        else:
            self._special(entry, path, self._directory(parent_path), base)

    def finish(self) -> Applied:
        """Gives directories their owners, modes and times, deepest first."""
        for path, pending in reversed(self._pending.items()):
            try:
                directory = openat2(self._root, path, _OPEN_DIRECTORY | os.O_NOFOLLOW, 0, RESOLVE_IN_ROOT)
            except (FileNotFoundError, NotADirectoryError):
                continue  # a later entry replaced it
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                continue  # replaced by a link
            try:
                if pending.owner != self._own:
                    os.fchown(directory, *pending.owner)
                os.fchmod(directory, pending.mode)
                if pending.mtime is not None:
                    os.utime(directory, ns=(pending.mtime, pending.mtime))
            finally:
                os.close(directory)
        if b"" not in self._pending:
            os.fchmod(self._root, _IMPLICIT_MODE)
        return Applied(size_of(self._root) if self._replaced else self._size, self._entries, tuple(self._ignored))

    def close(self) -> None:
        for descriptor in self._parents.values():
            os.close(descriptor)
        self._parents.clear()

    def _directory(self, path: bytes) -> int:
        """A descriptor of the directory, resolved within the root; missing ones are made. It belongs to the cache."""
        if not path:
            return self._root
        descriptor = self._parents.pop(path, -1)
        if descriptor < 0:
            try:
                descriptor = self._open(path)
            except FileNotFoundError:
                self._make_parents(path)
                descriptor = self._open(path)
        self._parents[path] = descriptor
        if len(self._parents) > _OPEN_LIMIT:
            os.close(self._parents.pop(next(iter(self._parents))))
        return descriptor

    def _open(self, path: bytes) -> int:
        return openat2(self._root, path, _OPEN_DIRECTORY, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)

    def _make_parents(self, path: bytes) -> None:
        """mkdir -p. A link on the way that leads to nothing stays as it is: opening it then fails."""
        at = path.find(b"/")
        while True:
            prefix = path if at < 0 else path[:at]
            parent, _, base = prefix.rpartition(b"/")
            try:
                os.mkdir(base, 0o700, dir_fd=self._directory(parent))
                self._pending[prefix] = _Pending(_IMPLICIT_MODE, self._own)
            except FileExistsError:
                pass  # as wished, or a link or file that the next step finds
            if at < 0:
                return
            at = path.find(b"/", at + 1)

    def _root_entry(self, entry: Entry) -> None:
        if entry.kind != tar.DIRECTORY:
            raise InvalidParameter("layer entry for the root is not a directory")
        self._attributes(self._root, entry)
        self._pending[b""] = _Pending(entry.mode, (entry.uid, entry.gid), entry.mtime)

    def _file(self, entry: Entry, reader: TarReader, path: bytes, parent: int, base: bytes) -> None:
        try:
            file = os.open(base, _NEW_FILE, 0o600, dir_fd=parent)
        except FileExistsError:
            self._remove(parent, base)
            file = os.open(base, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            write_contents(file, entry, reader)
            if (entry.uid, entry.gid) != self._own:
                os.fchown(file, entry.uid, entry.gid)
            os.fchmod(file, entry.mode)  # after chown(2), which clears set-user-ID
            if entry.xattrs:
                self._attributes(file, entry)
            os.utime(file, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(file)
        self._size += entry.size

    def _make_directory(self, entry: Entry, path: bytes, parent: int, base: bytes) -> None:
        """A new directory, or new metadata for one that is there. One over a whiteout hides what lies below it."""
        opaque = False
        try:
            os.mkdir(base, 0o700, dir_fd=parent)
        except FileExistsError:
            present = os.stat(base, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(present.st_mode):
                opaque = _is_whiteout(present)
                self._remove(parent, base)
                os.mkdir(base, 0o700, dir_fd=parent)
        self._pending[path] = _Pending(entry.mode, (entry.uid, entry.gid), entry.mtime)
        if entry.xattrs or opaque:
            directory = self._directory(path)
            self._attributes(directory, entry)
            if opaque:
                self._set_opaque(directory)

    def _hard_link(self, entry: Entry, path: bytes, parent_path: bytes, base: bytes) -> None:
        target = clean(entry.link, "hard link target")
        target_parent, _, target_base = target.rpartition(b"/")
        source, parent = self._directory(target_parent), self._directory(parent_path)
        if not target_base or target == path:
            raise InvalidParameter(f'layer hard link "{os.fsdecode(path)}" names "{os.fsdecode(entry.link)}"')
        try:
            os.link(target_base, base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            if _same_file(source, target_base, parent, base):
                return  # also when both names reach it through a link: removing it would lose the target
            self._remove(parent, base)
            source = self._directory(target_parent)  # the removal closed it
            os.link(target_base, base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

    def _special(self, entry: Entry, path: bytes, parent: int, base: bytes) -> None:
        """A symbolic link, fifo or device node."""
        if _exists(parent, base):
            self._remove(parent, base)
        if entry.kind == tar.SYMLINK:
            os.symlink(entry.link, base, dir_fd=parent)
            self._size += len(entry.link)
        elif entry.kind == tar.FIFO:
            os.mkfifo(base, 0o600, dir_fd=parent)
        elif entry.kind in (tar.CHARACTER, tar.BLOCK_DEVICE):
            self._device(entry, parent, base)
        else:
            raise InvalidParameter(f'unhandled tar header type {entry.kind!r} of layer entry "{os.fsdecode(path)}"')
        os.chown(base, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.kind != tar.SYMLINK:
            os.chmod(base, entry.mode, dir_fd=parent)
        if entry.xattrs:
            self._attributes(f"/proc/self/fd/{parent}/".encode() + base, entry)
        os.utime(base, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _device(self, entry: Entry, parent: int, base: bytes) -> None:
        name = os.fsdecode(entry.name)
        if not self._policy.devices:
            raise Forbidden(f'layer holds the device node "{name}", and device nodes are not permitted here')
        kind = stat.S_IFCHR if entry.kind == tar.CHARACTER else stat.S_IFBLK
        try:
            os.mknod(base, kind | 0o600, os.makedev(entry.major, entry.minor), dir_fd=parent)
        except PermissionError as error:
            raise Forbidden(f'layer holds the device node "{name}": making it needs root with CAP_MKNOD') from error

    def _whiteout(self, entry: Entry, parent_path: bytes, base: bytes) -> None:
        """Marks as deleted what lower layers have. What this layer itself brings stays, in whatever order it comes."""
        parent = self._directory(parent_path)
        name = base[len(WHITEOUT) :]
        if base == OPAQUE:
            self._set_opaque(parent)
        elif base.startswith(_AUFS_PRIVATE):
            return
        elif name in (b"", b".", b".."):
            raise InvalidParameter(f'layer whiteout "{os.fsdecode(entry.name)}" names no file')
        elif not _exists(parent, name):
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        elif stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            self._set_opaque(self._directory(parent_path + b"/" + name if parent_path else name))

    def _set_opaque(self, directory: int) -> None:
        os.setxattr(directory, f"{self._policy.attributes}opaque", b"y")

    def _attributes(self, target: int | bytes, entry: Entry) -> None:
        """Extended attributes. Ones that the filesystem lacks are noted and left out, as dockerd does."""
        for name, value in entry.xattrs.items():
            if name.startswith(OVERLAY_PRIVATE):  # would forge overlayfs's own marks: redirects, origins
                self._ignored.append(f"{os.fsdecode(entry.name)}: {name}: private to overlayfs")
                continue
            try:
                if isinstance(target, int):
                    os.setxattr(target, name, value)
                else:
                    os.setxattr(target, name, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise
                self._ignored.append(f"{os.fsdecode(entry.name)}: {name}: {error.strerror}")

    def _remove(self, parent: int, base: bytes) -> None:
        """Makes room for an entry of the same name. Links are removed, not followed."""
        self._replaced = True
        if not stat.S_ISDIR(os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(base, dir_fd=parent)
        else:
            shutil.rmtree(os.fsdecode(base), dir_fd=parent)
        for path, descriptor in list(self._parents.items()):  # they may lead through what was removed
            if descriptor != parent:
                os.close(self._parents.pop(path))


def write_contents(file: int, entry: Entry, reader: TarReader) -> None:
    """Writes the data of a regular file's entry into an empty file; holes stay holes."""
    if entry.extents is not None:
        _write_sparse(file, entry, reader)
    elif whole := reader.whole():
        _write(file, whole)
    else:
        for piece in reader.data():
            _write(file, piece)


def _write(file: int, piece: memoryview) -> None:
    written = os.write(file, piece)
    while written < len(piece):  # a full disk writes a part first
        written += os.write(file, piece[written:])


def _write_sparse(file: int, entry: Entry, reader: TarReader) -> None:
    os.ftruncate(file, entry.size)
    extents = iter(entry.extents or ())
    offset = left = 0
    for piece in reader.data():
        while piece:
            while not left:
                offset, left = next(extents)
            os.lseek(file, offset, os.SEEK_SET)
            part = piece[:left]
            _write(file, part)
            offset, left, piece = offset + len(part), left - len(part), piece[len(part) :]


def _exists(parent: int, base: bytes) -> bool:
    try:
        os.stat(base, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _same_file(first: int, first_name: bytes, second: int, second_name: bytes) -> bool:
    return os.path.samestat(
        os.stat(first_name, dir_fd=first, follow_symlinks=False),
        os.stat(second_name, dir_fd=second, follow_symlinks=False),
    )


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def size_of(root: int) -> int:
    """Bytes of files and links below a directory, each inode once: dockerd's `directory.Size`."""
    seen, size = set(), 0
    for _, directories, files, directory in os.fwalk(b".", dir_fd=root):
        for name in files + directories:
            try:
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                continue  # a running container has removed it
            if not stat.S_ISDIR(found.st_mode) and found.st_ino not in seen:
                seen.add(found.st_ino)
                size += found.st_size
    return size


def _entry_error(entry: Entry, error: OSError) -> Exception:
    name = os.fsdecode(entry.name)[:300]
    if error.errno in _LAYER_FAULTS:
        return InvalidParameter(f'layer entry "{name}" can\'t be unpacked within the root: {error.strerror}')
    return disk_error(error, f'unpacking layer entry "{name}"')
