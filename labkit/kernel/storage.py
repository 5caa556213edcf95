"""Directories and small files that a container needs on the host (mkdir(2), rename(2))."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import ClassVar

from labkit.kernel import syscalls
from labkit.plan import Context, Operation, Result


@dataclass(frozen=True, slots=True)
class MakeDirectory(Operation):
    """Make a directory. Undone by removing it with all that is in it."""

    path: str
    mode: int = 0o755
    man: ClassVar[str] = "mkdir(2)"

    def run(self, context: Context) -> Result:
        syscalls.mkdir(self.path, self.mode)
        return self.path

    def undo(self, result: Result, context: Context) -> None:
        import shutil  # late: it brings three libraries of compression, and every process of the spawner would map them

        if os.path.lexists(self.path):
            shutil.rmtree(self.path)

    def describe(self) -> str:
        return f"make the directory {self.path}"

    def shell(self) -> str:
        return f"mkdir -m {self.mode:o} {shlex.quote(self.path)}"


@dataclass(frozen=True, slots=True)
class RemoveDirectory(Operation):
    """Remove an empty directory."""

    path: str
    man: ClassVar[str] = "rmdir(2)"

    def run(self, context: Context) -> Result:
        syscalls.rmdir(self.path)
        return None

    def describe(self) -> str:
        return f"remove the directory {self.path}"

    def shell(self) -> str:
        return f"rmdir {shlex.quote(self.path)}"


@dataclass(frozen=True, slots=True)
class WriteFile(Operation):
    """Write a small file whole. Undone by removing it."""

    path: str
    text: str
    mode: int = 0o644
    man: ClassVar[str] = "open(2)"

    def run(self, context: Context) -> Result:
        fd = syscalls.open_path(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, self.mode)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(self.text)
        return self.path

    def undo(self, result: Result, context: Context) -> None:
        if os.path.lexists(self.path):
            os.unlink(self.path)

    def describe(self) -> str:
        return f"write {self.path} ({len(self.text)} bytes)"

    def shell(self) -> str:
        return f"printf %s {shlex.quote(self.text)} > {shlex.quote(self.path)}"


@dataclass(frozen=True, slots=True)
class OverwriteFile(Operation):
    """Write a small file anew where it is: a container that has it mounted sees the new text."""

    path: str
    text: str
    man: ClassVar[str] = "open(2)"

    def run(self, context: Context) -> Result:
        fd = syscalls.open_path(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(self.text)
        return None

    def describe(self) -> str:
        return f"write {self.path} anew ({len(self.text)} bytes)"

    def shell(self) -> str:
        return f"printf %s {shlex.quote(self.text)} > {shlex.quote(self.path)}"
