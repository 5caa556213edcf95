"""Machines that have run out of disk, processes, descriptors, memory: what can't be done is refused, nothing is left.

Neither the daemon nor the spawner ends of it: with the spawner would go every container.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.kernel.cgroups import read_layout
from tests.load.measuring import spawner_of, spawners_of, taken
from tests.support.daemon import PATIENCE, Daemon, running, served

pytestmark = pytest.mark.root
NONE = ("--network", "none")
SLEEP = ("busybox", "sleep", "1000")


@pytest.fixture
def own(tmp_path: Path, busybox_archive: None) -> Iterator[Daemon]:
    with running(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def small(tmp_path: Path, busybox_archive: None) -> Iterator[Daemon]:
    """A daemon whose data are on a disk of 24 MB."""
    with on_disk(tmp_path, "data", "24m") as daemon:
        yield daemon


@pytest.fixture
def cramped(tmp_path: Path, busybox_archive: None) -> Iterator[Daemon]:
    """A daemon whose exec root is a disk of 2 MB."""
    with on_disk(tmp_path, "run", "2m") as daemon:
        yield daemon


@contextlib.contextmanager
def on_disk(root: Path, name: str, size: str) -> Iterator[Daemon]:
    """A daemon of which one directory is a disk of this size."""
    (root / name).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", root / name], check=True)
    try:
        with served(OnDisk(root)) as daemon:
            yield daemon
    finally:
        subprocess.run(["umount", root / name], check=True)


class OnDisk(Daemon):
    """A daemon whose data root or exec root is a mount of the test's own."""

    def left(self) -> list[str]:
        return [what for what in super().left() if what not in (f"mount {self.data}", f"mount {self.run}")]


def nothing_more_than(daemon: Daemon, names: list[str]) -> None:
    """Containers, cgroups and journals are those of these containers."""
    assert sorted(daemon.out("ps", "-a", "--format", "{{.Names}}").split()) == sorted(names)
    known = {daemon.inspect(name)["Id"] for name in names}
    assert {path.name for path in daemon.cgroups()} - known <= {daemon.cgroup}
    assert set(os.listdir(daemon.run / "journal")) <= known
    assert set(os.listdir(daemon.data / "containers")) == known


def test_a_full_disk(small: Daemon) -> None:
    """Output that there is no room for stops nobody; a container that there is no room for isn't made."""
    small.docker("run", "-d", "--name", "steady", *NONE, *SLEEP)
    filler = small.data / "filler"
    with filler.open("wb") as file:
        free = os.statvfs(small.data)
        file.write(bytes((free.f_bavail - 8) * free.f_bsize))
    script = "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo a line that takes room on a disk; done; exit 4"
    small.docker("run", "-d", "--name", "talker", *NONE, "busybox", "sh", "-c", script, check=False)
    with filler.open("ab") as file:
        while (free := os.statvfs(small.data)).f_bavail:
            try:
                file.write(bytes(free.f_bsize))
                file.flush()
            except OSError:
                break
    refused = small.docker("run", "-d", "--name", "late", *NONE, *SLEEP, check=False)
    assert refused.returncode == 125
    assert b"no space left on device" in refused.stderr.lower()
    assert small.inspect("steady")["State"]["Running"] is True
    assert small.out("exec", "steady", "echo", "on") == "on"
    small.docker("stop", "-t", "0", "steady")
    assert small.inspect("steady")["State"]["ExitCode"] == 137
    small.docker("rm", "-f", "talker", "steady")
    filler.unlink()
    small.docker("rm", "-f", "late", check=False)
    nothing_more_than(small, [])
    assert small.out("run", "--rm", *NONE, "busybox", "echo", "room") == "room"


def test_a_full_exec_root(cramped: Daemon) -> None:
    """There is no room for a journal: nothing is begun. What runs goes on, and can be stopped."""
    cramped.docker("run", "-d", "--name", "before", *NONE, *SLEEP)
    filler = cramped.run / "filler"
    fill(filler)
    for words in (("run", "--name", "late", *NONE, *SLEEP), ("exec", "before", "true"), ("network", "create", "n")):
        refused = cramped.docker(*words, check=False)
        assert refused.returncode in (1, 125, 126), words
        assert b"no space left on device" in (refused.stdout + refused.stderr).lower(), words
    assert cramped.inspect("before")["State"]["Running"] is True
    cramped.docker("stop", "-t", "0", "before")
    assert cramped.inspect("before")["State"]["ExitCode"] == 137
    filler.unlink()
    assert list((cramped.run / "daemon-journal").iterdir()) == []
    cramped.docker("rm", "late", "before")
    nothing_more_than(cramped, [])
    assert cramped.out("run", "--rm", *NONE, "busybox", "echo", "room") == "room"


def fill(path: Path) -> None:
    """Have a file take all the room of its disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        with contextlib.suppress(OSError):
            while os.write(fd, bytes(4096)):
                continue
    finally:
        os.close(fd)


def test_no_more_processes(own: Daemon) -> None:
    """The spawner can't fork: the start says so, and what it had made goes."""
    layout = read_layout()
    group = Path(layout.directory("pids", f"{own.cgroup}-spawner"))
    group.mkdir()
    home = Path(layout.directory("pids", "/"), "cgroup.procs")
    try:
        own.docker("run", "-d", "--name", "before", *NONE, *SLEEP)
        own.docker("run", "--rm", *NONE, "busybox", "true")
        for pid in spawners_of(own):
            (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text("1")
        for _ in range(2):  # the first may take a child that was parked
            refused = own.docker("run", "--name", "late", *NONE, "busybox", "true", check=False)
            own.docker("rm", "-f", "late")
        assert refused.returncode == 125
        assert b"resource temporarily unavailable" in refused.stderr.lower(), refused.stderr
        nothing_more_than(own, ["before"])
        (group / "pids.max").write_text("max")
        assert own.out("exec", "before", "echo", "on") == "on"
        assert own.out("run", "--rm", *NONE, "busybox", "echo", "again") == "again"
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            home.write_text(left)
        group.rmdir()


@pytest.mark.parametrize("spare", [5, 10, 12, 16])
def test_no_more_descriptors(own: Daemon, spare: int) -> None:
    """The daemon has too few left for another container: it says so, and serves those that there are.

    With 5 it can't make the pipes; with 12 and 16 it can't take what the spawner hands it of the process that runs.
    """
    assert own.process
    own.docker("run", "-d", "--name", "before", *NONE, *SLEEP)
    pid = own.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (taken(own).daemon_descriptors + spare, hard))
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}
    assert own.request("POST", "/containers/create?name=late", body)[0] in (201, 500)
    status, answer = own.request("POST", "/containers/late/start")
    assert status in (404, 500), answer
    assert status == 404 or "too many open files" in answer["message"].lower(), answer
    assert own.request("GET", "/containers/json")[1][0]["Names"] == ["/before"]
    assert own.inspect("before")["State"]["Running"] is True
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    own.docker("rm", "-f", "late", check=False)
    nothing_more_than(own, ["before"])
    assert own.out("exec", "before", "echo", "on") == "on"
    assert own.out("run", "--rm", *NONE, "busybox", "echo", "again") == "again"


@pytest.mark.parametrize("spare", [0, 4, 8, 10])
def test_no_more_descriptors_of_the_spawner(own: Daemon, spare: int) -> None:
    """It has too few left for another process: with 4 for what it is lent, with 8 and more for what it makes of it."""
    own.docker("run", "-d", "--name", "before", *NONE, *SLEEP)
    own.docker("run", "--rm", *NONE, "busybox", "true")
    pid = spawner_of(own)
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (taken(own).spawner_descriptors + spare, hard))
    for _ in range(2):  # the first may take a child that was parked
        late = own.docker("run", "--name", "late", *NONE, "busybox", "echo", "done", check=False)
        run = own.docker("exec", "before", "echo", "done", check=False)
        for tried in (late, run):
            said = (tried.stdout + tried.stderr).lower()
            assert tried.stdout == b"done\n" if tried.returncode == 0 else b"too many open files" in said, tried
        own.docker("rm", "-f", "late")
    assert spawner_of(own) == pid
    nothing_more_than(own, ["before"])
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert own.out("exec", "before", "echo", "on") == "on"
    assert own.out("run", "--rm", *NONE, "busybox", "echo", "again") == "again"


@pytest.mark.long  # one run in ten, on a busy machine, the spawner finds no room for the new daemon either
def test_a_daemon_comes_back_to_a_spawner_without_descriptors(own: Daemon) -> None:
    """It is heard although the socket of another, of which the spawner doesn't know yet that it is gone, takes room."""
    own.docker("run", "-d", "--name", "before", *NONE, *SLEEP)
    pid = spawner_of(own)
    own.kill()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.settimeout(PATIENCE)
        other.connect(str(own.run / "spawner.sock"))
        for _ in ("hello", "process", "introduced"):
            assert other.recv(1 << 16)
        used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(set(range(len(used) + 1)) - used), hard))
        own.start()
    assert own.inspect("before")["State"]["Running"] is True
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert (spawner_of(own), own.out("exec", "before", "echo", "on")) == (pid, "on")


@pytest.mark.long  # where Python runs out of memory is chance: one run in many ends where nobody can go on
def test_no_more_memory_for_the_spawner(own: Daemon) -> None:
    """It has no address space left to ask for."""
    own.docker("run", "-d", "--name", "before", *NONE, *SLEEP)
    pid = spawner_of(own)
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    size = next(int(line.split()[1]) for line in status if line.startswith("VmSize:")) << 10
    soft, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (size, hard))
    for _ in range(2):
        tried = own.docker("run", "--name", "late", *NONE, "busybox", "true", check=False)
        assert tried.returncode in (0, 125), tried
        own.docker("rm", "-f", "late")
    resource.prlimit(pid, resource.RLIMIT_AS, (soft, hard))
    assert spawner_of(own) == pid
    nothing_more_than(own, ["before"])
    assert own.out("exec", "before", "echo", "on") == "on"
    assert own.out("run", "--rm", *NONE, "busybox", "echo", "again") == "again"


def test_as_little_memory_as_may_be(own: Daemon) -> None:
    """The init has to do with the container's limit before its program runs."""
    assert own.out("run", "--rm", *NONE, "-m", "6m", "busybox", "echo", "enough") == "enough"
    greedy = own.docker("run", "--name", "greedy", *NONE, "-m", "6m", "busybox", "tail", "/dev/zero", check=False)
    assert greedy.returncode == 137
    assert own.inspect("greedy")["State"]["OOMKilled"] is True
    nothing_more_than(own, ["greedy"])
