"""Overlay: read-only image layers and one writable layer, shown as a single tree.

Kernel documentation, filesystems/overlayfs. The mount lives in the container's own mount namespace, so it
goes when the container does, and the host's mount table never shows it.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import ClassVar

from labkit.kernel import syscalls
from labkit.plan import Context, Operation, Result

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class MountOverlay(Operation):
    """Mount `lower` directories (topmost first) with `upper` as the writable layer at `target`.

    mount(2) takes one page of options. Lower directories are named relative to `base`, which becomes the
    working directory first, so that a hundred layers fit.
    """

    base: str
    lower: tuple[str, ...]
    upper: str
    work: str
    target: str
    options: str = ""
    man: ClassVar[str] = "mount(2)"

    def data(self) -> str:
        parts = [f"lowerdir={':'.join(self.lower)}"]
        parts += [f"upperdir={self.upper}", f"workdir={self.work}"] if self.upper else []
        return ",".join([*parts, *([self.options] if self.options else [])])

    def run(self, context: Context) -> Result:
        syscalls.chdir(self.base)
        syscalls.mount("overlay", self.target, "overlay", 0, self.data())
        return None

    def undo(self, result: Result, context: Context) -> None:
        syscalls.umount2(self.target, 2)

    def describe(self) -> str:
        return f"lay {len(self.lower)} image layer(s) and a writable one over each other at {self.target}"

    def shell(self) -> str:
        words = ["mount", "-t", "overlay", "-o", self.data(), "overlay", self.target]
        return f"(cd {shlex.quote(self.base)} && {shlex.join(words)})"
