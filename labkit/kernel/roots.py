"""A container's root as a descriptor, to copy files into it or out of it (moby `daemon/containerfs_linux.go`).

Both operations work on a thread that lives for this moment, in a mount namespace of its own or of the container, and
keep a copy of the mounts that is attached nowhere (open_tree(2), OPEN_TREE_CLONE): no mount table shows it, and it goes
with its last descriptor, also when the daemon is killed. See mount_namespaces(7), filesystems/overlayfs.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

from labkit.errors import KernelError
from labkit.kernel import constants as c
from labkit.kernel import syscalls
from labkit.kernel.mounts import mount_flags
from labkit.kernel.overlay import MountOverlay
from labkit.kernel.paths import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from labkit.plan import Context, Operation, Result

ROOT = "root"
"""The name of the descriptor in the context of an execution."""

_CLONE_FS = 0x00000200  # of unshare(2): setns(2) wants a thread that shares its root with no other
_KEEP = c.OPEN_TREE_CLONE | c.OPEN_TREE_CLOEXEC | c.AT_RECURSIVE
_BENEATH = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS

Bind = tuple[str, str, bool]
"""A file or directory of the host in a container's root: where (an absolute path), what, and whether read-only."""


@dataclass(frozen=True, slots=True)
class TakeRoot(Operation):
    """Take hold of a running container's mounts, by its pidfd (`target` in the context)."""

    pid: int
    man: ClassVar[str] = "open_tree(2)"

    def run(self, context: Context) -> Result:
        context.descriptors[ROOT] = _aside(lambda: self._take(context.descriptors["target"]))
        return None

    def _take(self, pidfd: int) -> int:
        syscalls.unshare(_CLONE_FS)
        syscalls.setns(pidfd, c.CLONE_NEWNS, f"pidfd of {self.pid}")
        return syscalls.open_tree("/", _KEEP)

    def undo(self, result: Result, context: Context) -> None:
        _let_go(context)

    def describe(self) -> str:
        return f"take hold of all that is mounted in the container of process {self.pid}"

    def shell(self) -> str:
        return f"nsenter --target {self.pid} --mount \\"


@dataclass(frozen=True, slots=True)
class MountRoot(Operation):
    """Mount the root of a container that doesn't run, where nobody else sees it.

    Fields as MountOverlay's; `binds` are attached inside, their mount points made if missing. If it is not `writable`,
    the layers are only looked at: the container may be started meanwhile, while two writable mounts of its layer
    would spoil it. `target` is a directory that is mounted over for this moment, in a namespace that nobody is in.
    """

    base: str
    lower: tuple[str, ...]
    upper: str
    work: str
    target: str
    options: str
    binds: tuple[Bind, ...] = ()
    writable: bool = False
    man: ClassVar[str] = "mount_namespaces(7)"

    def run(self, context: Context) -> Result:
        context.descriptors[ROOT] = _aside(self._mount)
        return None

    def _mount(self) -> int:
        # Taken before: what a descriptor stands for in the old namespace can't be bound in a new one.
        with ExitStack() as opened:
            trees = []
            for _, source, _ in self.binds:
                trees.append(syscalls.open_tree(source, _KEEP))
                opened.callback(os.close, trees[-1])
            return self._mount_aside(trees)

    def _mount_aside(self, trees: list[int]) -> int:
        syscalls.unshare(c.CLONE_NEWNS)
        syscalls.mount(None, "/", None, c.MS_REC | c.MS_SLAVE)
        if self.binds and not self.writable and not self._has_points():
            self._overlay(True).run(Context())
            self._each(_make_point, self._outer())
            syscalls.umount2(self.target, c.MNT_DETACH)
        self._overlay(self.writable).run(Context())
        if self.writable:
            self._each(_make_point, self._outer())
        attached = iter(trees)
        self._each(lambda root, bind: _attach(root, bind, next(attached)), self.binds)
        return syscalls.open_tree(self.target, _KEEP)

    def _overlay(self, writable: bool) -> MountOverlay:
        """Without a writable layer the container's own one is the topmost of those that are only read."""
        if writable:
            return MountOverlay(self.base, self.lower, self.upper, self.work, self.target, self.options)
        return MountOverlay(self.base, (self.upper, *self.lower), "", "", self.target, self.options)

    def _has_points(self) -> bool:
        """Whether there is something to mount on for each of the binds."""
        self._overlay(False).run(Context())
        try:
            self._each(_check_point, self._outer())
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        finally:
            syscalls.umount2(self.target, c.MNT_DETACH)
        return True

    def _outer(self) -> tuple[Bind, ...]:
        """The binds that lie in no other one: their places are in the layers."""
        targets = [target.rstrip("/") + "/" for target, _, _ in self.binds]
        return tuple(bind for bind in self.binds if not bind[0].startswith(tuple(targets)))

    def _each(self, work: Callable[[int, Bind], None], binds: tuple[Bind, ...]) -> None:
        root = os.open(self.target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for bind in binds:
                work(root, bind)
        finally:
            os.close(root)

    def undo(self, result: Result, context: Context) -> None:
        _let_go(context)

    def describe(self) -> str:
        how = "a writable one" if self.writable else "the container's own, to be read only,"
        return f"lay {len(self.lower)} image layer(s) and {how} over each other, where nobody else sees it"

    def shell(self) -> str:
        return f"unshare --mount sh -c '{self._overlay(self.writable).shell()} && exec sh'"


def _aside(work: Callable[[], int]) -> int:
    """Do something on a thread of its own, whose namespaces and root directory go with it. Returns what it returned."""
    found: list[int] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            found.append(work())
        except (KernelError, OSError) as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return found[0]


def _let_go(context: Context) -> None:
    if (descriptor := context.descriptors.pop(ROOT, -1)) >= 0:
        os.close(descriptor)


def _open_point(root: int, target: str) -> int:
    """A descriptor of a path in the root, links resolved within it. Raises KernelError."""
    try:
        return openat2(root, target.strip("/"), os.O_PATH, 0, _BENEATH)
    except OSError as error:
        raise syscalls.failure("openat2", (target, "RESOLVE_IN_ROOT"), error.errno or errno.EIO) from error


def _check_point(root: int, bind: Bind) -> None:
    os.close(_open_point(root, bind[0]))


def _make_point(root: int, bind: Bind) -> None:
    """Make the mount point of a bind, with the directories above it, if missing."""
    target, source, _ = bind
    parts = target.strip("/").split("/")
    for count in range(1, len(parts) + 1):
        path = "/".join(parts[:count])
        try:
            os.close(openat2(root, path, os.O_PATH, 0, _BENEATH))
        except FileNotFoundError:
            _make(root, path, count < len(parts) or stat.S_ISDIR(os.stat(source).st_mode))


def _make(root: int, path: str, directory: bool) -> None:
    parent, _, name = path.rpartition("/")
    folder = _open_point(root, parent)
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=folder)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755, dir_fd=folder))
    except OSError as error:
        raise syscalls.failure("mkdir" if directory else "open", (f"/{path}",), error.errno or errno.EIO) from error
    finally:
        os.close(folder)


def _attach(root: int, bind: Bind, tree: int) -> None:
    """Attach a bind at its mount point, which is reached through a descriptor: no link can lead it elsewhere."""
    target, _, read_only = bind
    _make_point(root, bind)  # one inside another bind has not been there to be made before
    point = _open_point(root, target)
    try:
        syscalls.move_mount_onto(tree, point)
    finally:
        os.close(point)
    if read_only:
        mounted = _open_point(root, target)
        path = f"/proc/self/fd/{mounted}"
        try:
            syscalls.mount(None, path, None, mount_flags(path) | c.MS_BIND | c.MS_REMOUNT | c.MS_RDONLY)
        finally:
            os.close(mounted)
