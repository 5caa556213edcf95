"""Mounts of other processes: taken hold of where they are, to be shown in a container (open_tree(2), setns(2))."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import ClassVar

from labkit.kernel import constants as c
from labkit.kernel import syscalls
from labkit.plan import Context, Operation, Result


@dataclass(frozen=True, slots=True)
class OpenForeignTree(Operation):
    """Take a copy of a mount in another process's mount namespace, as OpenTree does of the host's.

    `--ipc container:ID` shows that container's /dev/shm so. The process goes there and back (setns(2)), and follows no
    link at the end of `path`.
    """

    pid: int
    path: str
    target: str
    man: ClassVar[str] = "open_tree(2)"

    def run(self, context: Context) -> Result:
        flags = c.OPEN_TREE_CLONE | c.OPEN_TREE_CLOEXEC | c.AT_RECURSIVE | c.AT_SYMLINK_NOFOLLOW
        own, theirs = (syscalls.open_path(f"/proc/{who}/ns/mnt", os.O_RDONLY) for who in ("self", self.pid))
        try:
            syscalls.setns(theirs, c.CLONE_NEWNS, f"/proc/{self.pid}/ns/mnt")
            try:
                context.descriptors[f"tree:{self.target}"] = syscalls.open_tree(self.path, flags)
            finally:
                syscalls.setns(own, c.CLONE_NEWNS, "/proc/self/ns/mnt")
        finally:
            syscalls.close(own)
            syscalls.close(theirs)
        return None

    def undo(self, result: Result, context: Context) -> None:
        fd = context.descriptors.pop(f"tree:{self.target}", -1)
        if fd >= 0:
            os.close(fd)

    def describe(self) -> str:
        return f"take hold of {self.path} as process {self.pid} has it mounted"

    def shell(self) -> str:
        return f"mount --bind /proc/{self.pid}/root{shlex.quote(self.path)} \\"
