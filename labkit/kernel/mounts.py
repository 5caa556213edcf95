"""Mounts: the container's view of files (mount_namespaces(7), mount(2), pivot_root(2), open_tree(2)).

The order is: the new root becomes the root, the old one is detached, the rest is mounted inside. So no path of the
image can lead a mount out of the container: while the old root lies over the new one, `..` at `/` leads into it. What
is bound from the host is opened with open_tree(2) before, and attached with move_mount(2) after.
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
from labkit.kernel.null import open_null
from labkit.kernel.paths import RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS
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
_ATTRIBUTES = {
    c.MS_RDONLY: c.MOUNT_ATTR_RDONLY,
    c.MS_NOSUID: c.MOUNT_ATTR_NOSUID,
    c.MS_NODEV: c.MOUNT_ATTR_NODEV,
    c.MS_NOEXEC: c.MOUNT_ATTR_NOEXEC,
}
"""The flags of mount(2) that mount_setattr(2) can set, under its own names."""

_IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
MOST_LINKS = 40
_REPLACEABLE = frozenset(
    f"/proc/{name}" for name in ("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo")
)


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
        data = self._with_mode_of_target() if self.make and self.fstype == "tmpfs" else self.data
        if self.make:
            make_mount_point(self.target, directory=True)
        if self.fstype in ("proc", "sysfs"):
            _refuse_link(self.target)
        syscalls.mount(self.source, self.target, self.fstype, self.flags, data or None)
        return None

    def _with_mode_of_target(self) -> str:
        """A tmpfs over a directory takes its mode, if none was asked for (as with runc): /tmp stays everybody's."""
        if "mode=" in self.data or not os.path.isdir(self.target):
            return self.data
        mode = f"mode={stat.S_IMODE(os.stat(self.target).st_mode):o}"
        return f"{self.data},{mode}" if self.data else mode

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
    """Take a copy of a mount of the host, as a descriptor that outlives the change of root.

    It is for `target`, or for the one AttachTree of this source. With `base`, a directory, the rest of `source` is
    somebody else's choice: no link in it leads out of the base.
    """

    source: str
    recursive: bool = True
    target: str = ""
    base: str = ""
    man: ClassVar[str] = "open_tree(2)"

    def run(self, context: Context) -> Result:
        flags = c.OPEN_TREE_CLONE | c.OPEN_TREE_CLOEXEC | (c.AT_RECURSIVE if self.recursive else 0)
        context.descriptors[f"tree:{self.target or self.source}"] = self._open(flags)
        return None

    def _open(self, flags: int) -> int:
        if not self.base:
            return syscalls.open_tree(self.source, flags)
        base = syscalls.open_path(self.base, os.O_PATH | os.O_DIRECTORY)
        try:
            place = syscalls.openat2(base, self.source[len(self.base) + 1 :], os.O_PATH, 0, _BENEATH)
        finally:
            os.close(base)
        try:
            return syscalls.open_tree("", flags | c.AT_EMPTY_PATH, place)
        finally:
            os.close(place)

    def undo(self, result: Result, context: Context) -> None:
        fd = context.descriptors.pop(f"tree:{self.target or self.source}", -1)
        if fd >= 0:
            os.close(fd)

    def describe(self) -> str:
        return f"take hold of the host's {self.source}"

    def shell(self) -> str:
        return f"mount --{'r' if self.recursive else ''}bind {shlex.quote(self.source)} \\"


@dataclass(frozen=True, slots=True)
class AttachTree(Operation):
    """Attach what OpenTree took at `target`, making the mount point (directory or file) if it is missing.

    `flags` hold for the mount itself, `everywhere` for those below it too (`rro`). Both, and the propagation, are set
    before anybody can see the mount; kernels before 5.12 set them after, and can't do `everywhere`.
    """

    source: str
    target: str
    directory: bool
    flags: int = 0
    propagation: int = 0
    everywhere: int = 0
    man: ClassVar[str] = "move_mount(2)"

    def run(self, context: Context) -> Result:
        own = f"tree:{self.target}"
        fd = context.descriptors.pop(own if own in context.descriptors else f"tree:{self.source}")
        try:
            self._attach(fd)
        except KernelError as error:
            error.call = f'error mounting "{self.source}" to rootfs at "{self.target}": {error.call}'
            raise
        finally:
            os.close(fd)
        return None

    def _attach(self, fd: int) -> None:
        point = open_mount_point(self.target, self.directory)
        try:
            _refuse_proc(point, self.source, self.target)
            if stat.S_ISDIR(os.fstat(fd).st_mode) != stat.S_ISDIR(os.fstat(point).st_mode):
                raise KernelError("mount", errno.ENOTDIR)  # as mount(2) says it; move_mount(2) has EINVAL for all
            ready = self._set_attributes(fd)
            syscalls.move_mount(fd, "", point)
        finally:
            os.close(point)
        if not ready:
            self._set_attributes_by_path()

    def _set_attributes(self, fd: int) -> bool:
        """Whether this kernel could do it all to a mount that is attached nowhere."""
        wanted = (
            (self.flags & ~self.everywhere, 0, 0),
            (self.everywhere, 0, c.AT_RECURSIVE),
            (0, self.propagation & ~c.MS_REC, c.AT_RECURSIVE if self.propagation & c.MS_REC else 0),
        )
        if (self.flags | self.everywhere) & ~sum(_ATTRIBUTES):
            return False
        try:
            for flags, propagation, how in wanted:
                if flags or propagation:
                    attributes = sum(attribute for flag, attribute in _ATTRIBUTES.items() if flags & flag)
                    syscalls.mount_setattr(fd, how, attributes, propagation)
        except KernelError as error:
            if error.errno != errno.ENOSYS:
                raise
            return False
        return True

    def _set_attributes_by_path(self) -> None:
        if flags := self.flags | self.everywhere:
            kept = mount_flags(self.target)
            syscalls.mount(None, self.target, None, kept | flags | c.MS_REMOUNT | c.MS_BIND)
        if self.propagation:
            syscalls.mount(None, self.target, None, self.propagation)

    def describe(self) -> str:
        return f"show the host's {self.source} at {self.target}{', read-only' if self._read_only() else ''}"

    def shell(self) -> str:
        target = shlex.quote(self.target)
        lines = [f"  {target}"]
        if flags := self.flags | self.everywhere:
            lines.append(_shell_mount(None, self.target, None, flags | c.MS_REMOUNT | c.MS_BIND, None))
        if word := next((word for word, flags in PROPAGATION.items() if flags == self.propagation), ""):
            lines.append(f"mount --make-{word} {target}")
        return "\n".join(lines)

    def _read_only(self) -> bool:
        return bool((self.flags | self.everywhere) & c.MS_RDONLY)


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
    """Hide a path of the kernel: /dev/null over a file, an empty read-only tmpfs over a directory.

    `foreign` says that /dev comes from elsewhere: what is mounted is what was seen to be the null device then, since
    another container may put a link in its place.
    """

    path: str
    foreign: bool = False
    man: ClassVar[str] = "mount(2)"

    def run(self, context: Context) -> Result:
        if not self.foreign:
            self._hide("/dev/null")
            return None
        null = open_null(os.O_PATH)
        try:
            self._hide(f"/proc/self/fd/{null}")
        finally:
            os.close(null)
        return None

    def _hide(self, null: str) -> None:
        try:
            syscalls.mount(null, self.path, None, c.MS_BIND)
        except KernelError as error:
            if error.errno == errno.ENOTDIR:
                syscalls.mount("tmpfs", self.path, "tmpfs", c.MS_RDONLY, None)
            elif error.errno != errno.ENOENT:
                raise

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
    os.close(open_mount_point(path, directory))


def open_mount_point(path: str, directory: bool) -> int:
    """A descriptor of a mount point, which is made if it is missing. Raises KernelError.

    Links are followed within the present root, one to something missing too; none of those of proc(5), which may lead
    anywhere.
    """
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _open_or_make(root, path, directory, 0)
    finally:
        os.close(root)


def _open_or_make(root: int, path: str, directory: bool, depth: int) -> int:
    try:
        return syscalls.openat2(root, path, os.O_PATH, 0, _IN_ROOT)
    except KernelError as error:
        if error.errno != errno.ENOENT or depth > MOST_LINKS:
            raise
    head, _, name = path.rstrip("/").rpartition("/")
    if name in ("", ".", ".."):
        raise syscalls.failure("openat2", (path, "leads nowhere"), errno.ENOENT)
    parent = _open_or_make(root, head or "/", True, depth + 1)
    try:
        if link := _read_link(parent, name):
            return _open_or_make(root, os.path.join(head, link), directory, depth + 1)
        if directory:
            syscalls.mkdirat(parent, name)
            return syscalls.openat2(parent, name, os.O_PATH | os.O_NOFOLLOW, 0, _BENEATH)
        return syscalls.openat2(parent, name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, _BENEATH)
    finally:
        os.close(parent)


def _read_link(parent: int, name: str) -> str:
    """What a symbolic link says; empty if there is none of that name."""
    try:
        return os.readlink(name, dir_fd=parent)
    except FileNotFoundError:
        return ""


def _refuse_proc(point: int, source: str, target: str) -> None:
    """Nothing may cover what the kernel tells of the container, or its masks could be got around (runc does the same).

    Some files of the whole machine may be replaced, as lxcfs does.
    """
    path = os.path.normpath(f"/{target.lstrip('/')}")
    if path == "/proc":
        if source != "/proc":
            raise KernelError("mount", errno.EPERM, f'"{target}" cannot be mounted because it is not of type proc')
    elif path not in _REPLACEABLE and _is_in_proc(os.fstat(point)):
        raise KernelError("mount", errno.EPERM, f'"{target}" cannot be mounted because it is inside /proc')


def _is_in_proc(found: os.stat_result) -> bool:
    """Whether it is in what is mounted at /proc: on another device than the root, where an unmounted /proc is."""
    return found.st_dev != os.stat("/").st_dev and found.st_dev == os.stat("/proc").st_dev


def _refuse_link(path: str) -> None:
    """proc and sysfs must lie on a real directory, or an image could choose what programs take for /proc."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise syscalls.failure("mount", (path, "must be mounted on an ordinary directory"), errno.ENOTDIR)
