"""Copy-up: an empty volume is filled with what the image has at its place (moby `container/container_unix.go`).

Read through the layers as overlayfs would show them, written over directory descriptors that no link leads out of:
owners, modes, times, extended attributes, hard links, holes, devices. A volume is filled whole or not at all: the copy
is made beside it, and when it is complete, a rename says so; whoever finds it complete moves it in.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from labkit.errors import LabkitError
from labkit.images.faults import disk_errors
from labkit.images.layers import OVERLAY_PRIVATE
from labkit.images.stack import LayerStack, Node
from labkit.kernel.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from labkit.plan import Context, Operation, Result

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_STRICT = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_HOST_OWN = ("security.selinux",)
_NO_SHORTCUT = frozenset((errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP))
_CHUNK = 8 << 20
UNFINISHED, WHOLE = "_new", "_whole"
"""Beside `_data`: a copy that is being made, and one that only has to be moved in."""


@dataclass(frozen=True, slots=True)
class FillVolume(Operation):
    """Copy what an image has at `path` into the volume in `folder`, if that is empty; the result: how many files.

    `layers` are the image's directories, topmost first. With `staged` the copy is made beside the volume first; a
    volume with a filesystem of its own is filled in place. Raises LabkitError.
    """

    layers: tuple[str, ...]
    path: str
    folder: str
    staged: bool = True
    man: ClassVar[str] = "copy_file_range(2)"

    def run(self, context: Context) -> Result:
        with disk_errors(f"filling the volume {os.path.basename(self.folder)}"), LayerStack(self.layers) as stack:
            if self.staged:
                finish_moving(self.folder)
            nodes = stack.below(self.path)
            top = next(nodes, None)
            if top is None or os.listdir(f"{self.folder}/_data"):
                return 0
            if not stat.S_ISDIR(top.status.st_mode):
                raise LabkitError(f"source {self.path} is not directory")
            return (
                _fill_staged(stack, top, nodes, self.folder) if self.staged else _fill(stack, top, nodes, self.folder)
            )

    def describe(self) -> str:
        return f"fill {self.folder}/_data, if it is empty, with what the image has at {self.path}"

    def shell(self) -> str:
        sources = [shlex.quote(f"{layer}{self.path}/.") for layer in reversed(self.layers)]
        target = shlex.quote(f"{self.folder}/_data")
        copies = " ".join(sources)
        return f'[ "$(ls -A {target})" ] || for layer in {copies}; do [ ! -d $layer ] || cp -a $layer {target}; done'


def _fill_staged(stack: LayerStack, top: Node, nodes: Iterator[Node], folder: str) -> int:
    staging = os.path.join(folder, UNFINISHED)
    if os.path.lexists(staging):
        shutil.rmtree(staging)
    os.mkdir(staging, 0o700)
    try:
        with _opened(staging) as root:
            count = copy_nodes(stack, top, nodes, root)
        os.rename(staging, os.path.join(folder, WHOLE))
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    finish_moving(folder)
    return count


def _fill(stack: LayerStack, top: Node, nodes: Iterator[Node], folder: str) -> int:
    """Copy into the volume itself. What came before a failure is taken out again: it was empty."""
    with _opened(os.path.join(folder, "_data")) as root:
        try:
            return copy_nodes(stack, top, nodes, root)
        except BaseException:
            for name in os.listdir(root):
                _remove(name, root)
            raise


def _remove(name: str, directory: int) -> None:
    if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        shutil.rmtree(name, dir_fd=directory)
    else:
        os.unlink(name, dir_fd=directory)


def finish_moving(folder: str) -> None:
    """Move a whole copy into its volume, and drop one that was never finished. Raises OSError."""
    unfinished, whole = (os.path.join(folder, name) for name in (UNFINISHED, WHOLE))
    if os.path.lexists(unfinished):
        shutil.rmtree(unfinished)
    if not os.path.lexists(whole):
        return
    with _opened(whole) as source, _opened(os.path.join(folder, "_data")) as target:
        status = os.fstat(source)  # before anything moves out, which changes its time
        for name in os.listdir(source):
            if not _exists(name, target):  # what a container has made under that name meanwhile stays
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        _copy_attributes(source, target, status)
    shutil.rmtree(whole)


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _opened(path: str) -> Iterator[int]:
    directory = os.open(path, _DIRECTORY)
    try:
        yield directory
    finally:
        os.close(directory)


def copy_nodes(stack: LayerStack, top: Node, nodes: Iterator[Node], root: int) -> int:
    """Copy a directory of a stack and the nodes below it into the directory `root`; how many there were. OSError.

    A directory gets its owner, mode and times when all is in it.
    """
    copier = _Copier(stack, len(top.path) + 1 if top.path else 0, root)
    copier.enter(top, root)
    try:
        return sum(copier.copy(node) for node in nodes)
    finally:
        copier.leave(0)


@dataclass(slots=True)
class _Open:
    """A directory that is being filled."""

    node: Node
    descriptor: int


@dataclass(slots=True)
class _Copier:
    """The open directories on the way to the node that comes next, and the first names of hard links."""

    stack: LayerStack
    prefix: int
    root: int
    way: list[_Open] = field(default_factory=list)
    links: dict[tuple[int, int, int], bytes] = field(default_factory=dict)

    def enter(self, node: Node, directory: int) -> None:
        self.way.append(_Open(node, directory))

    def leave(self, depth: int) -> None:
        """Finish the open directories below `depth`, deepest first."""
        while len(self.way) > depth:
            done = self.way.pop()
            try:
                with self.stack.opened(done.node.layer, done.node.path, os.O_RDONLY | os.O_DIRECTORY) as source:
                    _copy_attributes(source, done.descriptor, done.node.status)
            finally:
                if done.descriptor != self.root:
                    os.close(done.descriptor)

    def copy(self, node: Node) -> int:
        """Make one file; how many were made (none if it has vanished, or is a socket)."""
        relative = node.path[self.prefix :]
        parts = relative.split(b"/")
        self.leave(len(parts))
        directory, name, mode = self.way[-1].descriptor, parts[-1], node.status.st_mode
        if stat.S_ISSOCK(mode):
            return 0  # without the program that listens to it, it is nothing
        if stat.S_ISDIR(mode):
            os.mkdir(name, 0o700, dir_fd=directory)
            self.enter(node, os.open(name, _DIRECTORY, dir_fd=directory))
            return 1
        key = (node.layer, node.status.st_dev, node.status.st_ino)
        if node.status.st_nlink > 1 and (first := self.links.setdefault(key, relative)) != relative:
            self._link(first, directory, name)
            return 1
        if stat.S_ISREG(mode):
            return self._file(node, directory, name)
        return self._special(node, directory, name)

    def _link(self, first: bytes, directory: int, name: bytes) -> None:
        file = openat2(self.root, first, os.O_PATH | os.O_NOFOLLOW, 0, _STRICT)
        try:
            os.link(f"/proc/self/fd/{file}".encode(), name, dst_dir_fd=directory, follow_symlinks=True)
        finally:
            os.close(file)

    def _file(self, node: Node, directory: int, name: bytes) -> int:
        with self.stack.opened(node.layer, node.path, os.O_RDONLY | os.O_NONBLOCK) as source:
            if source < 0:
                return 0
            target = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
            try:
                copy_data(source, target)
                _copy_attributes(source, target, node.status)
            finally:
                os.close(target)
        return 1

    def _special(self, node: Node, directory: int, name: bytes) -> int:
        """A symbolic link, fifo or device."""
        status = node.status
        if stat.S_ISLNK(status.st_mode):
            os.symlink(self.stack.read_link(node), name, dir_fd=directory)
        else:
            os.mknod(name, status.st_mode & ~0o7777 | 0o600, status.st_rdev, dir_fd=directory)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, status.st_mode & 0o7777, dir_fd=directory)
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
        return 1


def copy_data(source: int, target: int) -> None:
    """Copy a file's content, holes as holes, within the kernel. Raises OSError."""
    size, offset = os.fstat(source).st_size, 0
    os.ftruncate(target, size)
    while offset < size:
        try:
            begin = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # nothing but a hole is left
        offset = os.lseek(source, begin, os.SEEK_HOLE)
        _copy_range(source, target, begin, offset)


def _copy_range(source: int, target: int, begin: int, end: int) -> None:
    while begin < end:
        count = min(end - begin, _CHUNK)
        try:
            done = os.copy_file_range(source, target, count, begin, begin)
        except OSError as error:
            if error.errno not in _NO_SHORTCUT:
                raise
            os.lseek(target, begin, os.SEEK_SET)
            done = os.sendfile(target, source, begin, count)
        if not done:
            return  # it shrank
        begin += done


def _copy_attributes(source: int, target: int, status: os.stat_result) -> None:
    """Owner, mode, extended attributes and times of an open file or directory. Raises OSError.

    The owner first: chown(2) clears set-user-ID and capabilities.
    """
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, status.st_mode & 0o7777)
    for name in os.listxattr(source) if source >= 0 else ():
        if name.startswith(OVERLAY_PRIVATE) or name in _HOST_OWN:
            continue
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno != errno.ENOTSUP:  # a filesystem without such attributes: as dockerd, go on
                raise
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
