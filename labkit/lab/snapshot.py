"""Where a process stands in the kernel: host name, namespaces, mounts, cgroups (namespaces(7), proc(5)).

Two snapshots are compared to prove that an experiment has left nothing behind.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Difference:
    """What one snapshot has and the other hasn't, each entry a line; empty if nothing differs."""

    gone: tuple[str, ...]
    new: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.gone or self.new)

    def __repr__(self) -> str:
        lines = [*(f"gone: {entry}" for entry in self.gone), *(f"new:  {entry}" for entry in self.new)]
        return "\n".join(lines) or "no difference: host name, namespaces, mounts and cgroups are as they were"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How this process sees the machine. `later - earlier` is the Difference."""

    hostname: str
    namespaces: tuple[str, ...]
    mounts: tuple[str, ...]
    cgroups: tuple[str, ...]

    @classmethod
    def take(cls) -> Self:
        """How it is now."""
        namespaces = (f"{name} namespace {_link(name)}" for name in sorted(os.listdir("/proc/self/ns")))
        mounts = (f"mount {line.split()[4]} ({line.split(' - ')[1].split()[0]})" for line in _lines("mountinfo"))
        cgroups = (f"cgroup {line}" for line in _lines("cgroup"))
        return cls(socket.gethostname(), *map(tuple, (namespaces, mounts, cgroups)))

    def __sub__(self, earlier: Snapshot) -> Difference:
        before, now = earlier.entries(), self.entries()
        return Difference(tuple(e for e in before if e not in now), tuple(e for e in now if e not in before))

    def entries(self) -> tuple[str, ...]:
        """All that it holds, an entry a line."""
        return (f"host name {self.hostname}", *self.namespaces, *self.mounts, *self.cgroups)

    def __repr__(self) -> str:
        return (
            f"host name {self.hostname}, {len(self.namespaces)} namespaces, {len(self.mounts)} mounts, "
            f"{len(self.cgroups)} cgroups"
        )


def _link(name: str) -> str:
    return os.readlink(f"/proc/self/ns/{name}")


def _lines(name: str) -> list[str]:
    with open(f"/proc/self/{name}", encoding="utf-8") as file:
        return file.read().splitlines()
