"""Mounts: the container's view of files (mount_namespaces(7), mount(2), pivot_root(2), open_tree(2)).

The order is: the new root becomes the root first (with the old one stacked beneath it), the rest is mounted
inside, then the old root is detached. So no path of the image can lead a mount out of the container. What is
bound from the host is opened with open_tree(2) before, and attached with move_mount(2) after.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from dataclasses import dataclass
from typing import ClassVar

from labkit.errors import KernelError
from labkit.kernel import constants as c
from labkit.kernel import syscalls
from labkit.plan import Context, Operation, Result

OPTIONS = {
    "ro": c.MS_RDONLY,
    "nosuid": c.MS_NOSUID,
    "nodev": c.MS_NODEV,
    "noexec": c.MS_NOEXEC,
    "sync": c.MS_SYNCHRONOUS,
    "remount": c.MS_REMOUNT,
    "noatime": c.MS_NOATIME,
    "nodiratime": c.MS_NODIRATIME,
    "relatime": c.MS_RELATIME,
    "strictatime": c.MS_STRICTATIME,
    "bind": c.MS_BIND,
    "rbind": c.MS_BIND | c.MS_REC,
}
"""Mount options that are flags of mount(2); any other option is data for the filesystem (OCI config.md, Mounts)."""

OPPOSITES = {"rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "async": "sync"}
"""Mount options that take another one back: `--tmpfs /x:exec` undoes Docker's own noexec."""

PROPAGATION = {
    "private": c.MS_PRIVATE,
    "rprivate": c.MS_PRIVATE | c.MS_REC,
    "slave": c.MS_SLAVE,
    "rslave": c.MS_SLAVE | c.MS_REC,
    "shared": c.MS_SHARED,
    "rshared": c.MS_SHARED | c.MS_REC,
    "unbindable": c.MS_UNBINDABLE,
    "runbindable": c.MS_UNBINDABLE | c.MS_REC,
}


def _shell_mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None) -> str:
    words = [name for name, flag in OPTIONS.items() if name != "rbind" and flags & flag]
    words += [data] if data else []
    parts = ["mount", *(["-t", fstype] if fstype else []), *(["-o", ",".join(words)] if words else [])]
    return shlex.join([*parts, *([source] if source else []), target])


@dataclass(frozen=True, slots=True)
class Mount(Operation):
    """Mount a filesystem. With `make` the mount point is made if it is missing (below the present root)."""

    source: str
    target: str
    fstype: str
    flags: int = 0
    data: str = ""
    make: bool = False
    man: ClassVar[str] = "mount(2)"

    def run(self, context: Context) -> Result:
        if self.make:
            make_mount_point(self.target, directory=True)
        if self.fstype in ("proc", "sysfs"):
            _refuse_link(self.target)
        syscalls.mount(self.source, self.target, self.fstype, self.flags, self.data or None)
        return None

    def undo(self, result: Result, context: Context) -> None:
        Unmount(self.target, c.MNT_DETACH).run(context)

    def describe(self) -> str:
        return f"mount {self.fstype} at {self.target}"

    def shell(self) -> str:
        return _shell_mount(self.source, self.target, self.fstype, self.flags, self.data)


@dataclass(frozen=True, slots=True)
class Unmount(Operation):
    """Unmount; not being mounted any more is fine."""

    target: str
    flags: int = 0
    man: ClassVar[str] = "umount(2)"

    def run(self, context: Context) -> Result:
        try:
            syscalls.umount2(self.target, self.flags)
        except KernelError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
        return None

    def describe(self) -> str:
        return f"unmount {self.target}"

    def shell(self) -> str:
        return f"umount {'-l ' if self.flags & c.MNT_DETACH else ''}{shlex.quote(self.target)}"


@dataclass(frozen=True, slots=True)
class SetPropagation(Operation):
    """Say whether mounts at `target` pass to and from other mount namespaces (mount_namespaces(7), shared subtrees)."""

    target: str
    flags: int
    man: ClassVar[str] = "mount_namespaces(7)"
    ahead: ClassVar[bool] = True

    def run(self, context: Context) -> Result:
        syscalls.mount(None, self.target, None, self.flags)
        return None

    def describe(self) -> str:
        return f"make mounts at {self.target} {self._word()}"

    def shell(self) -> str:
        return f"mount --make-{self._word()} {shlex.quote(self.target)}"

    def _word(self) -> str:
        return next(word for word, flags in PROPAGATION.items() if flags == self.flags)


@dataclass(frozen=True, slots=True)
class OpenTree(Operation):
    """Take a copy of a mount of the host, as a descriptor that outlives the change of root. Its name is `source`."""

    source: str
    recursive: bool = True
    man: ClassVar[str] = "open_tree(2)"

    def run(self, context: Context) -> Result:
        flags = c.OPEN_TREE_CLONE | c.OPEN_TREE_CLOEXEC | (c.AT_RECURSIVE if self.recursive else 0)
        context.descriptors[f"tree:{self.source}"] = syscalls.open_tree(self.source, flags)
        return None

    def describe(self) -> str:
        return f"take hold of the host's {self.source}"

    def shell(self) -> str:
        return f"mount --{'r' if self.recursive else ''}bind {shlex.quote(self.source)} \\"


@dataclass(frozen=True, slots=True)
class AttachTree(Operation):
    """Attach what OpenTree took at `target`, making the mount point (directory or file) if it is missing."""

    source: str
    target: str
    directory: bool
    flags: int = 0
    propagation: int = 0
    man: ClassVar[str] = "move_mount(2)"

    def run(self, context: Context) -> Result:
        make_mount_point(self.target, self.directory)
        fd = context.descriptors.pop(f"tree:{self.source}")
        syscalls.move_mount(fd, self.target)
        os.close(fd)
        if self.flags:
            syscalls.mount(None, self.target, None, self.flags | c.MS_REMOUNT | c.MS_BIND)
        if self.propagation:
            syscalls.mount(None, self.target, None, self.propagation)
        return None

    def describe(self) -> str:
        return f"show the host's {self.source} at {self.target}"

    def shell(self) -> str:
        remount = _shell_mount(None, self.target, None, self.flags | c.MS_REMOUNT | c.MS_BIND, None)
        return f"  {shlex.quote(self.target)}" + (f"\n{remount}" if self.flags else "")


@dataclass(frozen=True, slots=True)
class BindMount(Operation):
    """Show a file or directory at a second place of the same mount namespace."""

    source: str
    target: str
    flags: int = c.MS_BIND
    man: ClassVar[str] = "mount(2)"

    def run(self, context: Context) -> Result:
        syscalls.mount(self.source, self.target, None, self.flags)
        return None

    def undo(self, result: Result, context: Context) -> None:
        Unmount(self.target, c.MNT_DETACH).run(context)

    def describe(self) -> str:
        return f"show {self.source} at {self.target}"

    def shell(self) -> str:
        return f"mount --bind {shlex.quote(self.source)} {shlex.quote(self.target)}"


@dataclass(frozen=True, slots=True)
class MaskPath(Operation):
    """Hide a path of the kernel: /dev/null over a file, an empty read-only tmpfs over a directory."""

    path: str
    man: ClassVar[str] = "mount(2)"

    def run(self, context: Context) -> Result:
        try:
            syscalls.mount("/dev/null", self.path, None, c.MS_BIND)
        except KernelError as error:
            if error.errno == errno.ENOTDIR:
                syscalls.mount("tmpfs", self.path, "tmpfs", c.MS_RDONLY, None)
            elif error.errno != errno.ENOENT:
                raise
        return None

    def describe(self) -> str:
        return f"hide {self.path}, if this kernel has it"

    def shell(self) -> str:
        path = shlex.quote(self.path)
        empty, null = f"mount -t tmpfs -o ro tmpfs {path}", f"mount --bind /dev/null {path}"
        return f"if [ -d {path} ]; then {empty}; elif [ -e {path} ]; then {null}; fi"


@dataclass(frozen=True, slots=True)
class MakeReadOnly(Operation):
    """Make a path read-only by a bind mount of itself; `mounted` if it is a mount point already."""

    path: str
    mounted: bool = False
    man: ClassVar[str] = "mount(2)"

    def run(self, context: Context) -> Result:
        try:
            if not self.mounted:
                syscalls.mount(self.path, self.path, None, c.MS_BIND | c.MS_REC)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        kept = mount_flags(self.path)
        syscalls.mount(None, self.path, None, kept | c.MS_BIND | c.MS_REMOUNT | c.MS_RDONLY)
        return None

    def describe(self) -> str:
        return f"make {self.path} read-only"

    def shell(self) -> str:
        path = shlex.quote(self.path)
        remount = f"mount -o remount,bind,ro {path}"
        return remount if self.mounted else f"if [ -e {path} ]; then mount --rbind {path} {path} && {remount}; fi"


@dataclass(frozen=True, slots=True)
class PivotRoot(Operation):
    """Make a mount the root of this mount namespace, with the old root stacked at the same place."""

    new_root: str
    man: ClassVar[str] = "pivot_root(2)"

    def run(self, context: Context) -> Result:
        syscalls.chdir(self.new_root)
        syscalls.pivot_root(".", ".")
        return None

    def describe(self) -> str:
        return f"make {self.new_root} the root directory"

    def shell(self) -> str:
        return f"cd {shlex.quote(self.new_root)} && pivot_root . ."


@dataclass(frozen=True, slots=True)
class DetachOldRoot(Operation):
    """Let go of the host's root, which PivotRoot left at the present directory."""

    man: ClassVar[str] = "umount(2)"

    def run(self, context: Context) -> Result:
        syscalls.umount2(".", c.MNT_DETACH)
        syscalls.chdir("/")
        return None

    def describe(self) -> str:
        return "let go of the host's root directory"

    def shell(self) -> str:
        return "umount -l . && cd /"


def mount_flags(path: str) -> int:
    """The flags that a remount must repeat, because a user namespace or an administrator locked them (mount(2))."""
    present = os.statvfs(path).f_flag
    pairs = ((os.ST_NOSUID, c.MS_NOSUID), (os.ST_NODEV, c.MS_NODEV), (os.ST_NOEXEC, c.MS_NOEXEC))
    return sum(flag for bit, flag in pairs if present & bit)


def make_mount_point(path: str, directory: bool) -> None:
    """Make a mount point and the directories above it, if missing. A link is followed within the present root."""
    if os.path.exists(path):
        return
    missing = []
    parent = path if directory else os.path.dirname(path)
    while not os.path.isdir(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    for folder in reversed(missing):
        syscalls.mkdir(folder)
    if not directory:
        os.close(syscalls.open_path(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def _refuse_link(path: str) -> None:
    """proc and sysfs must lie on a real directory, or an image could choose what programs take for /proc."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise syscalls.failure("mount", (path, "must be mounted on an ordinary directory"), errno.ENOTDIR)
