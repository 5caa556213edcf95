"""Restart policies with the real docker command: back-off, what is done meanwhile, and the daemon's own starts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, running
from tests.support.events import events

pytestmark = pytest.mark.root
RUN = ("run", "-d", "--network", "none")
LOOP = ("busybox", "sh", "-c", "exit 3")


@pytest.fixture
def own(tmp_path: Path, busybox_archive: None) -> Iterator[Daemon]:
    """A daemon that is ended and started."""
    with running(tmp_path) as daemon:
        yield daemon


def waiting(daemon: Daemon, name: str, ends: int = 4) -> None:
    """A container that fails again and again, and waits now: for 0.8 s after its fourth end."""
    with events(daemon) as told:
        daemon.docker(*RUN, "--name", name, "--restart", "always", *LOOP)
        told.until("die", name, ends)
    assert daemon.inspect(name)["State"]["Restarting"]


def test_the_time_between_restarts_doubles(daemon: Daemon) -> None:
    with events(daemon) as told:
        daemon.docker(*RUN, "--name", "loop", "--restart", "always", *LOOP)
        moments = [(told.until("die", "loop")["timeNano"], told.until("start", "loop")["timeNano"]) for _ in range(4)]
    gaps = [(start - die) / 1e9 for die, start in moments]
    for gap, least in zip(gaps, (0.1, 0.2, 0.4, 0.8), strict=True):
        assert least <= gap < least + 0.4
    assert daemon.inspect("loop")["RestartCount"] >= 4


def test_state_while_it_waits(daemon: Daemon) -> None:
    waiting(daemon, "loop")
    found = daemon.inspect("loop")
    state = found["State"]
    assert (state["Status"], state["Running"], state["Restarting"], state["Pid"]) == ("restarting", True, True, 0)
    assert (state["ExitCode"], found["RestartCount"]) == (3, 4)
    assert daemon.out("ps", "--format", "{{.Status}}").startswith("Restarting (3) ")
    assert daemon.out("ps", "-q", "--filter", "status=restarting")


def test_what_is_refused_while_it_waits(daemon: Daemon) -> None:
    waiting(daemon, "loop", 5)
    identity = daemon.inspect("loop")["Id"]
    wait = f"container {identity} is restarting, wait until the container is running"
    body = {"Cmd": ["true"]}
    for method, path in (("POST", "/pause"), ("GET", "/top"), ("POST", "/exec"), ("POST", "/attach?stream=1&stdout=1")):
        status, answer = daemon.request(method, f"/containers/loop{path}", body if path == "/exec" else None)
        assert (status, answer["message"]) == (409, wait)
    assert daemon.request("POST", "/containers/loop/start")[0] == 304
    refused = daemon.request("DELETE", "/containers/loop")
    assert refused[0] == 409
    assert "container is restarting: stop the container before removing or force remove" in refused[1]["message"]


@pytest.mark.parametrize("verb", [("stop",), ("kill",), ("rm", "-f")])
def test_the_end_of_waiting_takes_effect_at_once(daemon: Daemon, verb: tuple[str, ...]) -> None:
    waiting(daemon, "loop", 5)  # the next restart would come after 1.6 s
    with events(daemon) as told:
        began = time.monotonic()
        daemon.docker(*verb, "loop")
        assert time.monotonic() - began < 1
        daemon.docker("create", "--name", "mark", "busybox", "true")
        told.until("create", "mark")
    assert "start" not in told.actions()
    assert "kill" not in told.actions()
    if verb[0] != "rm":
        state = daemon.inspect("loop")["State"]
        assert (state["Status"], state["Running"], state["ExitCode"]) == ("exited", False, 3)
        assert daemon.out("wait", "loop") == "3"


def test_wait_returns_at_the_next_end(daemon: Daemon) -> None:
    waiting(daemon, "loop")
    assert daemon.out("wait", "loop") == "3"
    assert daemon.inspect("loop")["State"]["Running"]


def test_restart_and_start_by_hand_begin_anew(daemon: Daemon) -> None:
    waiting(daemon, "loop")
    with events(daemon) as told:
        daemon.docker("restart", "loop")
        told.until("restart", "loop")
    assert daemon.inspect("loop")["RestartCount"] < 3


def test_on_failure_ends_after_its_retries(daemon: Daemon) -> None:
    with events(daemon) as told:
        daemon.docker(*RUN, "--name", "max", "--restart", "on-failure:2", *LOOP)
        told.until("die", "max", 3)
    assert daemon.out("wait", "max") == "3"
    found = daemon.inspect("max")
    assert (found["State"]["Status"], found["RestartCount"]) == ("exited", 2)
    daemon.docker(*RUN, "--name", "fine", "--restart", "on-failure", "busybox", "true")
    assert daemon.out("wait", "fine") == "0"
    assert daemon.inspect("fine")["RestartCount"] == 0


def test_another_signal_than_the_stop_signal_does_not_count_as_a_stop(daemon: Daemon) -> None:
    program = ("busybox", "sh", "-c", "trap 'exit 4' HUP; while :; do sleep 0.02; done")
    with events(daemon) as told:
        daemon.docker(*RUN, "--name", "box", "--restart", "always", "--stop-signal", "TERM", *program)
        told.until("start", "box")
        daemon.docker("exec", "box", "sh", "-c", "until grep -q 'SigCgt.*[13579bdf]$' /proc/1/status; do :; done")
        daemon.docker("kill", "-s", "HUP", "box")
        told.until("start", "box")
    assert daemon.inspect("box")["RestartCount"] == 1
    daemon.docker("kill", "box")
    assert daemon.inspect("box")["State"]["Status"] == "exited"


def test_update_changes_what_becomes_of_it(daemon: Daemon) -> None:
    waiting(daemon, "loop")
    with events(daemon) as told:
        daemon.docker("update", "--restart", "no", "loop")
        told.until("die", "loop")  # the restart that it waited for still comes
    state = daemon.inspect("loop")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 3)


def test_a_restart_that_fails_ends_it(daemon: Daemon, tmp_path: Path) -> None:
    source = tmp_path / "mounted"
    source.mkdir()
    with events(daemon) as told:
        daemon.docker(
            *RUN, "--name", "box", "--restart", "always", "--mount", f"type=bind,src={source},dst=/mnt",
            "busybox", "sh", "-c", "until [ -e /mnt/go ]; do sleep 0.02; done",
        )  # fmt: skip
        (source / "go").touch()
        told.until("die", "box")
        (source / "go").unlink()
        source.rmdir()
        assert daemon.out("wait", "box") == "128"
    state = daemon.inspect("box")["State"]
    assert (state["Status"], state["Running"]) == ("exited", False)
    assert str(source) in state["Error"]


def test_who_is_started_with_the_daemon(own: Daemon) -> None:
    for name, policy in (("always", "always"), ("unless", "unless-stopped"), ("failed", "on-failure"), ("never", "no")):
        own.docker(*RUN, "--name", name, "--restart", policy, "busybox", "sleep", "1000")
    for name, policy in (("stopped-always", "always"), ("stopped-unless", "unless-stopped")):
        own.docker(*RUN, "--name", name, "--restart", policy, "busybox", "sleep", "1000")
        own.docker("stop", "-t", "0", name)
    own.docker("create", "--name", "created", "--restart", "always", "busybox", "true")
    own.stop()
    own.start()
    with events(own) as told:
        for name in ("always", "unless", "failed", "stopped-always"):
            if own.inspect(name)["State"]["Status"] != "running":
                told.until("start", name)
    statuses = {
        name: own.inspect(name)["State"]["Status"] for name in own.out("ps", "-a", "--format", "{{.Names}}").split()
    }
    assert statuses == {
        "always": "running", "unless": "running", "failed": "running", "stopped-always": "running",
        "stopped-unless": "exited", "never": "exited", "created": "created",
    }  # fmt: skip


def test_a_crash_restarts_nobody_that_runs(own: Daemon) -> None:
    own.docker(*RUN, "--name", "box", "--restart", "always", "busybox", "sleep", "1000")
    pid = own.inspect("box")["State"]["Pid"]
    waiting(own, "loop")
    own.kill()
    own.start()
    found = own.inspect("box")
    assert (found["State"]["Pid"], found["RestartCount"]) == (pid, 0)
    with events(own) as told:
        told.until("die", "loop")
    own.docker("stop", "-t", "0", "loop")
    own.kill()
    own.start()
    with events(own) as told:
        told.until("die", "loop")  # `always` starts it with the daemon, though it was stopped


def test_who_shares_a_network_comes_after_its_owner(own: Daemon) -> None:
    own.docker(*RUN, "--name", "owner", "--restart", "always", "busybox", "sleep", "1000")
    own.docker(
        "run",
        "-d",
        "--network",
        "container:owner",
        "--name",
        "guest",
        "--restart",
        "always",
        "busybox",
        "sleep",
        "1000",
    )
    own.stop()
    own.start()
    with events(own) as told:
        if own.inspect("guest")["State"]["Status"] != "running":
            told.until("start", "guest")
    assert own.inspect("guest")["State"]["Error"] == ""


def test_a_daemon_ends_while_somebody_waits_for_a_restart(own: Daemon) -> None:
    waiting(own, "loop", 5)
    own.stop()
    assert own.left() == []
    own.start()
    with events(own) as told:
        told.until("die", "loop")


def test_the_daemons_end_is_the_reason_of_theirs(own: Daemon) -> None:
    own.docker(*RUN, "--name", "box", "--stop-timeout", "0", "busybox", "sleep", "1000")
    own.stop()
    own.start()
    found = own.request("GET", "/labkit/endings/box")[1]
    assert (found["By"], found["ExitCode"]) == ("daemon", 137)
