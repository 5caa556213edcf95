"""What the spawner keeps ready is gone when its daemon has ended, and holds nothing of a container."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.load.measuring import spawners_of
from tests.support.daemon import PATIENCE, Daemon, processes

pytestmark = pytest.mark.root


def test_input_ends_although_a_child_is_parked_meanwhile(daemon: Daemon) -> None:
    """A parked child that held a copy of the pipe would keep the container waiting for more."""
    for _ in range(5):
        daemon.docker("run", "--rm", "--network", "none", "busybox", "true")
        found = daemon.docker("run", "--rm", "-i", "--network", "none", "busybox", "cat", stdin=b"all", timeout=15)
        assert found.stdout == b"all"


def test_it_has_a_name_of_its_own(daemon: Daemon) -> None:
    """Executed by a descriptor, it would be called by that one's number."""
    daemon.docker("run", "--rm", "--network", "none", "busybox", "true")
    assert Path(f"/proc/{spawners_of(daemon)[0]}/comm").read_text() == "labkit-spawner\n"


def test_a_fork_server_that_was_killed_is_replaced(daemon: Daemon) -> None:
    """Starts don't depend on it: the next one forks its own child, and has another server made."""
    killed = fork_server(daemon)
    os.kill(killed, signal.SIGKILL)
    assert daemon.out("run", "--rm", "--network", "none", "busybox", "echo", "on") == "on"
    assert fork_server(daemon) != killed
    assert f"{killed}: " not in "".join(processes("labkit.runtime.spawner"))


def test_a_parked_child_that_was_killed_costs_no_start(daemon: Daemon) -> None:
    """Nobody has asked for it yet: the next start forks its own."""
    server = fork_server(daemon)
    spawner = spawners_of(daemon)[0]
    deadline = time.monotonic() + PATIENCE
    while not (parked := set(spawners_of(daemon)) - {server, spawner}):
        assert time.monotonic() < deadline, "no child is parked"
        time.sleep(0.01)  # the spawner tells nobody that it has parked one
    os.kill(parked.pop(), signal.SIGKILL)
    assert daemon.out("run", "--rm", "--network", "none", "busybox", "echo", "on") == "on"


def test_a_container_that_is_what_forked_it_cannot_change_that_on_the_host(daemon: Daemon) -> None:
    """Python, executed as /proc/self/exe, finds what it needs in the container; the file itself is the host's."""
    home = sys.base_prefix
    folders = filter(os.path.isdir, dict.fromkeys(("/usr", "/lib", "/lib64", home)))
    mounts = [word for folder in folders for word in ("-v", f"{folder}:{folder}:ro")]
    environment = ["-e", f"PYTHONHOME={home}", "-e", f"LD_LIBRARY_PATH={home}/lib"]
    code = "import os; print(os.getpid()); os.chmod('/proc/self/exe', os.stat('/proc/self/exe').st_mode & 0o7777)"
    command = ["busybox", "/proc/self/exe", "-c", code]
    found = daemon.docker("run", "--rm", "--network", "none", *mounts, *environment, *command, check=False)
    assert found.stdout == b"1\n"
    assert b"Read-only file system" in found.stderr


def fork_server(daemon: Daemon) -> int:
    """The pid of the fork server, there soon after a start; unlike a parked child it has the host's namespaces."""
    daemon.docker("run", "--rm", "--network", "none", "busybox", "true")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        spawner, *others = spawners_of(daemon)
        for pid in others:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a parked child was taken meanwhile
                if os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{spawner}/ns/pid"):
                    return pid
        time.sleep(0.01)  # the spawner tells nobody that it has forked one
    raise AssertionError("no fork server came")
