"""The mounts of this process's namespace, as the kernel lists them (/proc/self/mountinfo, proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

_ESCAPE = re.compile(r"\\([0-7]{3})")


class MountInfo(NamedTuple):
    """One line: where it is mounted, and how its mounts pass to other namespaces (`shared:N`, `master:N`, …)."""

    target: str
    propagation: tuple[str, ...]

    @property
    def is_shared(self) -> bool:
        return any(field.startswith("shared:") for field in self.propagation)

    @property
    def is_slave(self) -> bool:
        return any(field.startswith("master:") for field in self.propagation)


def parse(line: str) -> MountInfo:
    """One line of mountinfo."""
    fields = line.split(" ")
    target = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
    return MountInfo(target, tuple(fields[6 : fields.index("-", 6)]))


def read() -> list[MountInfo]:
    """All mounts, in the order in which they cover each other."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return [parse(line) for line in file.read().splitlines()]


def mount_of(path: str, mounts: list[MountInfo]) -> MountInfo | None:
    """The mount that a path of these lies in; links in the path are followed."""
    real = os.path.realpath(path)
    above = [one for one in mounts if one.target in (real, "/") or real.startswith(f"{one.target}/")]
    longest = max((len(one.target) for one in above), default=0)
    return next((one for one in reversed(above) if len(one.target) == longest), None)
