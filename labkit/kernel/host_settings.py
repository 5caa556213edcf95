"""Kernel parameters of the host that containers need, such as ip_forward: set, remembered, put back (proc_sys(5)).

dockerd sets them for good. Here the value that was found is written to a file first, so that whoever ends last can put
it back, also after a daemon was killed.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import ClassVar

from labkit.errors import KernelError
from labkit.kernel import syscalls
from labkit.kernel.process import sysctl_path
from labkit.plan import Context, Operation, Result


def read_sysctl(key: str) -> str:
    """The present value, without its newline. Raises KernelError."""
    fd = syscalls.open_path(sysctl_path(key), os.O_RDONLY)
    with open(fd, encoding="ascii") as file:
        return file.read().strip()


def record_path(folder: str, key: str) -> str:
    """The file below `folder` with the value that was found: slashes of the key can't be part of its name."""
    return os.path.join(folder, key.replace("/", "|"))


@dataclass(frozen=True, slots=True)
class SetHostSysctl(Operation):
    """Set a parameter, unless it has the value; the one that was found is kept in a file below `folder`.

    The result is the value found, or None if nothing was to be done. A file that is there already stays: it is older,
    and tells what the host had before labkit. Undone by PutBackSysctl.
    """

    key: str
    value: str
    folder: str
    man: ClassVar[str] = "proc_sys(5)"

    def run(self, context: Context) -> Result:
        found = read_sysctl(self.key)
        if found == self.value:
            return None
        os.makedirs(self.folder, exist_ok=True)
        try:
            fd = syscalls.open_path(record_path(self.folder, self.key), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except KernelError:
            if not os.path.exists(record_path(self.folder, self.key)):
                raise
        else:
            with open(fd, "w", encoding="ascii") as file:
                file.write(found)
        syscalls.write_file(sysctl_path(self.key), self.value)
        return found

    def undo(self, result: Result, context: Context) -> None:
        PutBackSysctl(self.key, self.value, self.folder).run(context)

    def describe(self) -> str:
        return f"set {self.key} to {self.value}, and remember what it was"

    def shell(self) -> str:
        setting = shlex.quote(f"{self.key}={self.value}")
        kept = shlex.quote(record_path(self.folder, self.key))
        return f"sysctl -n {shlex.quote(self.key)} > {kept} && sysctl -w {setting}"


@dataclass(frozen=True, slots=True)
class PutBackSysctl(Operation):
    """Give a parameter back the value that SetHostSysctl found, if it still has `value`; forget what was found."""

    key: str
    value: str
    folder: str
    man: ClassVar[str] = "proc_sys(5)"

    def run(self, context: Context) -> Result:
        path = record_path(self.folder, self.key)
        try:
            with open(path, encoding="ascii") as file:
                found = file.read()
        except FileNotFoundError:
            return None
        try:
            # An empty file was never finished: the value was not changed yet.
            if found and read_sysctl(self.key) == self.value:
                syscalls.write_file(sysctl_path(self.key), found)
        except KernelError:
            if os.path.exists(sysctl_path(self.key)):  # a link that is gone has its parameters no more
                raise
        os.unlink(path)
        return found

    def describe(self) -> str:
        return f"put {self.key} back to what it was"

    def shell(self) -> str:
        kept = shlex.quote(record_path(self.folder, self.key))
        return f"sysctl -w {shlex.quote(self.key)}=$(cat {kept}) && rm {kept}"
