"""What the daemon and the spawner take of the machine (proc(5): smaps_rollup, fd)."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import PATIENCE, Daemon, processes


@dataclass(frozen=True, slots=True)
class Taken:
    """Memory in KiB (proportional set size: shared pages count by their share), and open descriptors."""

    memory: int
    daemon_descriptors: int
    spawner_descriptors: int


def spawner_of(daemon: Daemon) -> int:
    """The pid of the daemon's spawner: the one of its session that outlives it."""
    return spawners_of(daemon)[0]


def spawners_of(daemon: Daemon) -> list[int]:
    """The daemon's spawner, then what it has forked for itself: its lenders, a child that is parked."""
    ours = (line for line in processes("labkit.runtime.spawner") if f" {daemon.run} " in line)
    found = sorted(int(line.partition(":")[0]) for line in ours)
    assert found, "no spawner runs"
    return found


def taken(daemon: Daemon) -> Taken:
    """What both take now."""
    assert daemon.process
    spawner = spawner_of(daemon)
    memory = pss(daemon.process.pid) + pss(spawner)
    return Taken(memory, *(len(os.listdir(f"/proc/{pid}/fd")) for pid in (daemon.process.pid, spawner)))


def taken_at_rest(daemon: Daemon) -> Taken:
    """What both take when nothing is kept any more for the sake of the next start."""
    deadline = time.monotonic() + PATIENCE
    while len(spawners_of(daemon)) > 1:
        assert time.monotonic() < deadline, "the spawner doesn't rest"
        time.sleep(0.05)  # it tells nobody
    return taken(daemon)


def pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
