"""SIGKILL at any moment: containers live on, no line of output is lost or doubled, nothing half-made stays."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import PATIENCE, Daemon, running

pytestmark = pytest.mark.root
COUNT = 'i=0; while [ $i -lt {last} ]; do i=$((i+1)); echo "line $i of stdout"; done; exit 9'


@pytest.fixture
def own(tmp_path: Path, busybox_archive: None) -> Iterator[Daemon]:
    """A daemon that is ended hard; another one must be able to clean up after it."""
    with running(tmp_path) as daemon:
        yield daemon


def until_exited(daemon: Daemon, *names: str) -> list[int]:
    """The exit statuses of containers, when they have ended."""
    return [int(status) for status in daemon.out("wait", *names).split()]


def moments(count: int, most: float) -> list[float]:
    """Random moments, in seconds; different ones in each run, told when a test fails."""
    return [random.uniform(0, most) for _ in range(count)]


def test_every_line_once_and_in_order(own: Daemon) -> None:
    last = 60_000
    for name in ("one", "two"):
        own.docker("run", "-d", "--network", "none", "--name", name, "busybox", "sh", "-c", COUNT.format(last=last))
    for pause in moments(12, 0.1):
        time.sleep(pause)  # the moment is the test
        own.kill()
        own.start()
    assert until_exited(own, "one", "two") == [9, 9]
    expected = [f"line {number} of stdout" for number in range(1, last + 1)]
    for name in ("one", "two"):
        assert own.out("logs", name).split("\n") == expected


def test_two_streams_and_lines_without_an_end(own: Daemon) -> None:
    script = 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); printf "out $i,"; echo "err $i" >&2; done'
    own.docker("run", "-d", "--network", "none", "--name", "both", "busybox", "sh", "-c", script)
    for pause in moments(8, 0.1):
        time.sleep(pause)  # the moment is the test
        own.kill()
        own.start()
    assert until_exited(own, "both") == [0]
    found = own.docker("logs", "both")
    assert found.stdout.decode() == "".join(f"out {number}," for number in range(1, 20_001))
    assert found.stderr.decode() == "".join(f"err {number}\n" for number in range(1, 20_001))


def test_what_was_written_before_the_crash_is_seen_without_more_being_written(own: Daemon) -> None:
    script = "read x; echo told; sleep 1000"
    own.docker("run", "-di", "--network", "none", "--name", "quiet", "busybox", "sh", "-c", script)
    pid = own.inspect("quiet")["State"]["Pid"]
    own.kill()
    Path(f"/proc/{pid}/fd/0").write_bytes(b"go\n")
    own.start()
    deadline = time.monotonic() + PATIENCE
    while own.out("logs", "quiet") != "told":
        assert time.monotonic() < deadline
    assert own.inspect("quiet")["State"]["Pid"] == pid


def test_exit_codes_of_those_that_ended_meanwhile(own: Daemon) -> None:
    for code in range(1, 5):
        script = f"read x; echo bye; exit {code}"
        own.docker("run", "-di", "--network", "none", "--name", f"c{code}", "busybox", "sh", "-c", script)
    own.docker("run", "-di", "--rm", "--network", "none", "--name", "gone", "busybox", "cat")
    names = [f"c{code}" for code in range(1, 5)]
    pids = [own.inspect(name)["State"]["Pid"] for name in [*names, "gone"]]
    own.kill()
    for pid in pids[:-1]:
        Path(f"/proc/{pid}/fd/0").write_bytes(b"go\n")
    subprocess.run(["kill", "-9", str(pids[-1])], check=True)
    wait_for_ends(pids)
    own.start()
    assert until_exited(own, *names) == [1, 2, 3, 4]
    assert [own.out("logs", name) for name in names] == ["bye"] * 4
    own.request("POST", "/containers/gone/wait?condition=removed")
    assert own.request("GET", "/containers/gone/json")[0] == 404


def wait_for_ends(pids: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)  # they are nobody's children here, and their pidfds went with the daemon


def test_a_container_is_usable_after_a_crash(own: Daemon) -> None:
    own.docker("run", "-di", "--network", "none", "--name", "cat", "busybox", "cat")
    own.kill()
    own.start()
    assert own.out("exec", "cat", "echo", "hello") == "hello"
    own.docker("pause", "cat")
    own.kill()
    own.start()
    assert own.inspect("cat")["State"]["Paused"] is True
    own.docker("unpause", "cat")
    own.docker("stop", "-t", "0", "cat")
    assert own.inspect("cat")["State"]["ExitCode"] == 137


@pytest.mark.parametrize("round", range(3))
def test_a_crash_during_starts(own: Daemon, round: int) -> None:
    names = [f"start{number}" for number in range(6)]
    for name in names:
        own.docker("create", "--network", "none", "--name", name, "busybox", "sleep", "1000")
    for pause in moments(6, 0.06):
        threads = [threading.Thread(target=try_start, args=(own, name)) for name in names]
        for thread in threads:
            thread.start()
        time.sleep(pause)  # the moment is the test
        own.kill()
        own.start()
        for thread in threads:
            thread.join()
        settled(own, names)
        own.docker("rm", "-f", *names[:3])
        for name in names[:3]:
            own.docker("create", "--network", "none", "--name", name, "busybox", "sleep", "1000")


def try_start(daemon: Daemon, name: str) -> None:
    try:
        daemon.request("POST", f"/containers/{name}/start")
    except OSError:
        return  # the daemon was killed before it could answer
    except ValueError:
        return


def settled(daemon: Daemon, names: list[str]) -> None:
    """Each container runs, with all that this needs, or doesn't, with nothing of it."""
    for name in names:
        found = daemon.inspect(name)
        state, identity = found["State"], found["Id"]
        cgroups = [path for path in daemon.cgroups() if path.name == identity]
        journal, bundle = daemon.run / "journal" / identity, daemon.run / "bundles" / identity
        if state["Running"]:
            assert state["Status"] == "running"
            assert Path(f"/proc/{state['Pid']}/cmdline").read_bytes() == b"sleep\x001000\0"
            assert cgroups
            assert journal.exists()
            assert (bundle / "config.json").exists()
            assert daemon.out("exec", name, "echo", "ok") == "ok"
        else:
            assert state["Status"] in ("created", "exited"), state
            assert (cgroups, journal.exists(), bundle.exists()) == ([], False, False)
            assert daemon.request("POST", f"/containers/{name}/start")[0] == 204


def test_a_daemon_that_comes_back_at_once(own: Daemon) -> None:
    """The spawner of a daemon without containers ends with it: the next one must not trip over its last moments."""
    for _ in range(15):
        own.kill()
        own.start()
    assert own.out("run", "--rm", "--network", "none", "busybox", "echo", "yes") == "yes"


def test_the_spawners_death_ends_its_containers(own: Daemon) -> None:
    own.docker("run", "-d", "--network", "none", "--name", "orphan", "busybox", "sleep", "1000")
    pid = own.inspect("orphan")["State"]["Pid"]
    spawner = int(Path(f"/proc/{pid}/status").read_text().split("PPid:")[1].split()[0])
    subprocess.run(["kill", "-9", str(spawner)], check=True)
    assert until_exited(own, "orphan") == [137]
    assert "spawner has died" in own.inspect("orphan")["State"]["Error"]
    wait_for_ends([pid])
    assert [path for path in own.cgroups() if path.name != own.cgroup] == []
    own.docker("start", "orphan")
    assert own.inspect("orphan")["State"]["Running"] is True
