"""Devices: the few that a container gets in its own /dev (mknod(2), null(4), pts(4))."""

from __future__ import annotations

import os
import shlex
import stat
from dataclasses import dataclass
from typing import ClassVar

from labkit.kernel import syscalls
from labkit.kernel.mounts import make_mount_point
from labkit.plan import Context, Operation, Result

_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}

DEFAULT = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
"""Name, major and minor of the character devices that each container has (OCI config-linux.md, Default Devices)."""

LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
    ("pts/ptmx", "/dev/ptmx"),
)


@dataclass(frozen=True, slots=True)
class MakeDevice(Operation):
    """Make a device node: `kind` is c, b, u or p as in mknod(1); owner and mode as given, whatever the umask.

    The directories above it are made if they are missing (/dev/net/tun).
    """

    path: str
    kind: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0
    man: ClassVar[str] = "mknod(2)"

    def run(self, context: Context) -> Result:
        make_mount_point(os.path.dirname(self.path), directory=True)  # /dev/net/tun: its folder isn't there yet
        syscalls.mknod(self.path, _TYPES[self.kind] | self.mode, os.makedev(self.major, self.minor))
        syscalls.chmod(self.path, self.mode)
        if self.uid or self.gid:
            syscalls.chown(self.path, self.uid, self.gid)
        return None

    def describe(self) -> str:
        return f"make the device {self.path} ({self.kind} {self.major}:{self.minor})"

    def shell(self) -> str:
        numbers = "" if self.kind == "p" else f" {self.major} {self.minor}"
        return f"mknod -m {self.mode:o} {shlex.quote(self.path)} {self.kind}{numbers}"


@dataclass(frozen=True, slots=True)
class MakeLink(Operation):
    """Make a symbolic link, unless the path exists."""

    target: str
    path: str
    man: ClassVar[str] = "symlink(2)"

    def run(self, context: Context) -> Result:
        if not os.path.lexists(self.path):
            syscalls.symlink(self.target, self.path)
        return None

    def describe(self) -> str:
        return f"link {self.path} to {self.target}"

    def shell(self) -> str:
        return f"ln -s {shlex.quote(self.target)} {shlex.quote(self.path)}"
