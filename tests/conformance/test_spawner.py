"""What the spawner keeps ready is gone when its daemon has ended, and holds nothing of a container."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.load.measuring import spawners_of
from tests.strace.observing import last_plan
from tests.support.daemon import PATIENCE, Daemon, processes

pytestmark = pytest.mark.root

EXECS = 8
LENT = "setns", "clone"
FORKED = "setns", "clone3", "setns"
"""The spawner enters the pid namespace, forks, and goes back."""


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


def test_a_lender_that_was_killed_is_replaced(daemon: Daemon) -> None:
    """Starts don't depend on it: the next one forks its own child, or has another lender made."""
    killed = lender(daemon)
    os.kill(killed, signal.SIGKILL)
    assert daemon.out("run", "--rm", "--network", "none", "busybox", "echo", "on") == "on"
    assert lender(daemon) != killed
    assert f"{killed}: " not in "".join(processes("labkit.runtime.spawner"))


def test_what_is_kept_for_speed_goes_when_there_is_nothing_to_do(daemon: Daemon) -> None:
    assert lender(daemon)
    log = daemon.run / "spawner.log"
    said = log.read_text()
    deadline = time.monotonic() + PATIENCE
    while len(spawners_of(daemon)) > 1:
        assert time.monotonic() < deadline, "there are lenders"
        time.sleep(0.1)  # the spawner tells nobody that they have gone
    assert log.read_text() == said


def test_a_parked_child_that_was_killed_costs_no_start(daemon: Daemon) -> None:
    """Nobody has asked for it yet: the next start forks its own."""
    os.kill(kept(daemon, parked=True), signal.SIGKILL)
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


def lender(daemon: Daemon) -> int:
    """The pid of the lender of starts; unlike a parked child it has the host's namespaces."""
    return kept(daemon, parked=False)


def kept(daemon: Daemon, parked: bool) -> int:
    """The pid of a parked child or a lender. They go when nothing is started, so containers are until there is one."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        daemon.docker("run", "--rm", "--network", "none", "busybox", "true")
        spawner, *others = spawners_of(daemon)
        for pid in others:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a parked child was taken meanwhile
                own = os.readlink(f"/proc/{pid}/ns/pid") != os.readlink(f"/proc/{spawner}/ns/pid")
                if own == parked:
                    return pid
    raise AssertionError("nothing is kept for the next start")


@pytest.mark.parametrize(
    ("options", "neighbour", "lent"),
    [
        ((), None, True),
        (("--cap-add", "SYS_PTRACE"), None, False),
        (("--privileged",), None, False),
        ((), ("--cap-add", "SYS_PTRACE"), False),
        ((), (), True),
    ],
)
def test_an_exec_that_somebody_may_trace_has_memory_of_its_own(
    daemon: Daemon, options: tuple[str, ...], neighbour: tuple[str, ...] | None, lent: bool
) -> None:
    """Who traces a process on the lender's memory has that, and the host."""
    with containers(daemon, options, neighbour):
        found = set(made_by_execs(daemon))
    assert found <= {LENT, FORKED}
    assert (LENT in found) == lent


def test_an_exec_beside_a_privileged_one_has_memory_of_its_own(daemon: Daemon) -> None:
    with containers(daemon):
        daemon.docker("exec", "-d", "--privileged", "entered", "sleep", "1000")
        assert set(made_by_execs(daemon)) == {FORKED}


@pytest.mark.parametrize("action", ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL"])
def test_a_filter_may_forbid_what_leads_back_from_python_to_c(daemon: Daemon, tmp_path: Path, action: str) -> None:
    profile = tmp_path / "profile.json"
    rule = {"names": ["rt_sigprocmask"], "action": action}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    run = "run", "--rm", "--network", "none", "--security-opt", f"seccomp={profile}", "busybox"
    for _ in range(4):  # there is no lender for the first
        assert daemon.out(*run, "echo", "on") == "on"
    missing = daemon.docker(*run, "no-such-program", check=False)
    assert missing.returncode == 127
    assert b"executable file not found" in missing.stderr


@contextlib.contextmanager
def containers(
    daemon: Daemon, options: tuple[str, ...] = (), neighbour: tuple[str, ...] | None = None
) -> Iterator[None]:
    """A container, and one that shares its processes."""
    run = "run", "-d", "--network", "none"
    names = ["entered"]
    daemon.docker(*run, "--name", "entered", *options, "busybox", "sleep", "1000")
    if neighbour is not None:
        names.append("beside")
        daemon.docker(*run, "--name", "beside", "--pid", "container:entered", *neighbour, "busybox", "sleep", "1000")
    try:
        yield
    finally:
        daemon.docker("rm", "-f", *reversed(names))


def made_by_execs(daemon: Daemon) -> list[tuple[str, ...]]:
    """The kernel calls that made the processes of several execs: enough for a lender to be there."""
    found = []
    for _ in range(EXECS):
        assert daemon.out("exec", "entered", "echo", "in") == "in"
        (fork,) = (operation for operation in last_plan(daemon)["operations"] if operation["actor"] == "spawner")
        names = (call["name"] for call in fork["calls"])
        found.append(tuple(name for name in names if name in ("setns", "clone", "clone3")))
    return found
