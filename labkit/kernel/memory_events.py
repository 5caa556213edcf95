"""The moment at which a cgroup runs out of memory, as a descriptor to wait on.

cgroup v1: an eventfd that `cgroup.event_control` ties to memory.oom_control (cgroup-v1/memory.rst, section 10). v2:
memory.events, whose change poll(2) tells as POLLPRI (cgroup-v2.rst). Both are in one epoll(7) set: the owner waits on
that one descriptor, however many cgroups there are.
"""

from __future__ import annotations

import os
import select
from dataclasses import dataclass

from labkit.kernel.cgroups import oom_kills


@dataclass(slots=True)
class _Watched:
    """A cgroup's directory, the descriptor that tells of it, and the kills that were told already."""

    key: str
    directory: str
    descriptor: int
    kills: int
    unified: bool


class MemoryEvents:
    """Cgroups that are watched, each under its owner's key."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, _Watched] = {}

    def fileno(self) -> int:
        """Readable when `take` has something to tell."""
        return self._epoll.fileno()

    def __contains__(self, key: str) -> bool:
        return any(one.key == key for one in self._watched.values())

    def add(self, key: str, directory: str, unified: bool) -> None:
        """Watch a memory cgroup; one that is watched already stays so. Raises OSError if the kernel can't tell."""
        if key in self:
            return
        descriptor = _open_unified(directory) if unified else _open_v1(directory)
        # Edge-triggered: memory.events stays "changed" for poll(2) until it is opened anew.
        self._epoll.register(descriptor, (select.EPOLLPRI if unified else select.EPOLLIN) | select.EPOLLET)
        self._watched[descriptor] = _Watched(key, directory, descriptor, oom_kills(directory), unified)

    def remove(self, key: str) -> None:
        """Watch it no longer; it may be gone, or not have been watched."""
        for one in [one for one in self._watched.values() if one.key == key]:
            del self._watched[one.descriptor]
            os.close(one.descriptor)  # which takes it out of the set

    def take(self) -> list[str]:
        """The keys of the cgroups that have run out of memory since the last call."""
        ready = [self._watched[fd] for fd, _ in self._epoll.poll(0) if fd in self._watched]
        return [one.key for one in ready if _ran_out(one)]

    def close(self) -> None:
        for descriptor in self._watched:
            os.close(descriptor)
        self._watched.clear()
        self._epoll.close()


def _ran_out(watched: _Watched) -> bool:
    """Whether it did: v1 also tells of a cgroup's removal, v2 of anything that memory.events counts."""
    if not watched.unified:
        os.eventfd_read(watched.descriptor)
        return os.path.exists(f"{watched.directory}/memory.oom_control")
    os.pread(watched.descriptor, 4096, 0)  # kernfs tells of the next change after a read
    before, watched.kills = watched.kills, oom_kills(watched.directory)
    return watched.kills > before


def _open_unified(directory: str) -> int:
    descriptor = os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
    os.pread(descriptor, 4096, 0)
    return descriptor


def _open_v1(directory: str) -> int:
    control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
    try:
        descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            with open(f"{directory}/cgroup.event_control", "w", encoding="ascii") as file:
                file.write(f"{descriptor} {control}")
        except OSError:
            os.close(descriptor)
            raise
        return descriptor
    finally:
        os.close(control)
