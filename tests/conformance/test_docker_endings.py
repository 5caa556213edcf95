"""How containers end, and what is told of it: memory, signals by whom, the init, removals that fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import PATIENCE, REPOSITORY, Daemon, running
from tests.support.events import events

pytestmark = pytest.mark.root
RUN = ("run", "-d", "--network", "none", "--name", "box")
SLEEP = ("busybox", "sleep", "1000")


def ending(daemon: Daemon, name: str = "box") -> dict[str, Any]:
    status, found = daemon.request("GET", f"/labkit/endings/{name}")
    assert status == 200
    return dict(found)


def explained(daemon: Daemon, name: str) -> str:
    words = [sys.executable, "-m", "labkit.cli.main", "explain", "--no-calls", name]
    done = subprocess.run(
        words, env=daemon.environment(), cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    return done.stdout


def test_out_of_memory_is_told_apart_from_a_kill(daemon: Daemon) -> None:
    limited = ("run", "--network", "none", "-m", "20m", "--name")
    with events(daemon) as told:
        assert daemon.docker(*limited, "box", "busybox", "tail", "/dev/zero", check=False).returncode == 137
        told.until("oom", "box")
    state = daemon.inspect("box")["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (137, True)
    found = ending(daemon)
    assert (found["By"], found["Signal"], found["Memory"]["Limit"]) == ("memory", 9, 20 << 20)
    assert found["Memory"]["Kills"] == 1
    assert "killed by SIGKILL: its memory was used up" in explained(daemon, "box")
    daemon.docker(*RUN[:-1], "other", "-m", "20m", *SLEEP)
    daemon.docker("kill", "other")
    state = daemon.inspect("other")["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (137, False)


def test_another_process_of_it_ran_out_of_memory(daemon: Daemon) -> None:
    script = "tail /dev/zero; exit 5"
    done = daemon.docker(
        "run", "--network", "none", "-m", "20m", "--name", "box", "busybox", "sh", "-c", script, check=False
    )
    assert done.returncode == 5
    assert daemon.inspect("box")["State"]["OOMKilled"]
    assert ending(daemon)["By"] == "itself"


EAT = ("sh", "-c", "tail /dev/zero; exit 0")
"""Takes more memory than there is in a process of its own."""


def test_running_out_of_memory_is_told_at_the_moment(daemon: Daemon) -> None:
    """And once for each time, though the container lives on, and a limit came to it later."""
    with events(daemon) as told:
        daemon.docker(*RUN, "-m", "20m", *SLEEP)
        daemon.docker("exec", "box", *EAT)
        told.until("oom", "box")
        state = daemon.inspect("box")["State"]
        assert (state["Running"], state["OOMKilled"]) == (True, True)
        daemon.docker("exec", "box", *EAT)
        told.until("oom", "box")
        daemon.docker("rm", "-f", "box")
        daemon.docker(*RUN[:-1], "later", *SLEEP)
        daemon.docker("update", "-m", "20m", "--memory-swap", "20m", "later")
        daemon.docker("exec", "later", *EAT)
        told.until("oom", "later")
        daemon.docker("rm", "-f", "later")
        told.until("destroy", "later")
    assert told.actions().count("oom") == 3


def test_a_daemon_that_comes_back_tells_of_memory_too(tmp_path: Path, busybox_archive: None) -> None:
    with running(tmp_path) as own:
        own.docker(*RUN, "-m", "20m", *SLEEP)
        own.docker("exec", "box", *EAT)
        assert own.inspect("box")["State"]["OOMKilled"]
        own.kill()
        own.start()
        assert own.inspect("box")["State"]["OOMKilled"]
        with events(own) as told:
            own.docker("exec", "box", *EAT)
            told.until("oom", "box")
            own.docker("stop", "-t", "0", "box")
            told.until("die", "box")
        assert told.actions().count("oom") == 1


def test_who_sent_the_signal(daemon: Daemon) -> None:
    daemon.docker(*RUN, *SLEEP)
    assert daemon.request("GET", "/labkit/endings/box") == (200, None)
    daemon.docker("stop", "-t", "0", "box")
    found = ending(daemon)
    assert (found["By"], found["Verb"], found["Signal"]) == ("client", "stop", 9)
    trace = daemon.request("GET", f"/labkit/traces/{found['Trace']}")[1]
    sent = [operation["describe"] for plan in trace["plans"] for operation in plan["operations"]]
    assert [words.split(" to ")[0] for words in sent[:2]] == ["send SIGTERM", "send SIGKILL"]
    daemon.docker("start", "box")
    os.kill(daemon.inspect("box")["State"]["Pid"], signal.SIGKILL)
    assert daemon.out("wait", "box") == "137"
    assert ending(daemon)["By"] == "signal"


def test_the_reason_outlives_the_container(daemon: Daemon) -> None:
    daemon.docker("run", "--rm", "--network", "none", "--name", "gone", "busybox", "sh", "-c", "exit 9", check=False)
    assert ending(daemon, "gone")["ExitCode"] == 9
    assert "exit code 9, it left by itself" in explained(daemon, "gone")
    assert daemon.request("GET", "/labkit/endings/nosuch")[0] == 404


@pytest.mark.parametrize(("program", "code"), [("/nope", 127), ("/etc/passwd", 126), ("/tmp", 126)])
def test_exit_codes_of_what_never_ran(daemon: Daemon, program: str, code: int) -> None:
    done = daemon.docker("run", "--network", "none", "--name", "box", "busybox", program, check=False)
    assert done.returncode == code
    status, answer = daemon.request("POST", "/containers/box/wait")
    assert (status, answer["StatusCode"]) == (200, code)
    assert answer["Error"]["Message"] == daemon.inspect("box")["State"]["Error"] != ""
    assert ending(daemon)["By"] == "start"


def test_verbs_on_a_container_that_does_not_run(daemon: Daemon) -> None:
    daemon.docker("create", "--name", "box", "busybox", "true")
    identity = daemon.inspect("box")["Id"]
    idle = f"container {identity} is not running"
    answers = {verb: daemon.request("POST", f"/containers/box/{verb}") for verb in ("stop", "kill", "pause", "unpause")}
    assert answers == {
        "stop": (304, None),
        "kill": (409, {"message": f"cannot kill container: box: {idle}"}),
        "pause": (409, {"message": idle}),
        "unpause": (500, {"message": f"container {identity} is not paused"}),
    }


def test_verbs_on_a_paused_container(daemon: Daemon) -> None:
    daemon.docker(*RUN, *SLEEP)
    daemon.docker("pause", "box")
    assert daemon.request("POST", "/containers/box/start")[0] == 409
    refused = daemon.request("DELETE", "/containers/box")
    assert refused == (
        409,
        {"message": 'cannot remove container "/box": container is paused and must be unpaused first'},
    )
    daemon.docker("stop", "-t", "0", "box")
    state = daemon.inspect("box")["State"]
    assert (state["Status"], state["Paused"], state["ExitCode"]) == ("exited", False, 137)


def test_the_init_reaps_and_passes_signals_on(daemon: Daemon) -> None:
    daemon.docker(*RUN, "--init", "busybox", "sh", "-c", "(sleep 0.1 &) ; exec sleep 1000")
    assert daemon.inspect("box")["HostConfig"]["Init"] is True
    assert daemon.out("exec", "box", "cat", "/proc/1/cmdline").split("\0")[:3] == ["/sbin/docker-init", "--", "sh"]
    script = "while pidof sleep | grep -q ' '; do :; done; ls -d /proc/[0-9]*"
    assert "Z" not in daemon.out("exec", "box", "sh", "-c", f"{script}; cat /proc/[0-9]*/stat | cut -d' ' -f3")
    daemon.docker("stop", "box")
    assert daemon.inspect("box")["State"]["ExitCode"] == 143
    daemon.docker(
        "run", "--rm", "--init", "--read-only", "--network", "none", "busybox", "test", "-x", "/sbin/docker-init"
    )
    assert (
        daemon.docker(
            "run", "--rm", "--init", "--network", "none", "busybox", "sh", "-c", "exit 7", check=False
        ).returncode
        == 7
    )


def test_what_can_not_be_removed_is_dead_and_tried_again(daemon: Daemon, tmp_path: Path) -> None:
    daemon.docker("create", "--name", "box", "busybox", "true")
    identity = daemon.inspect("box")["Id"]
    folder = daemon.data / "containers" / identity
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder / "layer" / "diff"], check=True)
    try:
        status, answer = daemon.request("DELETE", "/containers/box")
    finally:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        mounted = next(line.split()[4] for line in lines if identity in line)
        subprocess.run(["umount", mounted], check=True)
    assert status == 500
    assert f"unable to remove filesystem for {identity}" in answer["message"]
    state = daemon.inspect("box")["State"]
    assert (state["Status"], state["Dead"]) == ("dead", True)
    assert daemon.out("ps", "-a", "--format", "{{.Status}}") == "Dead"
    refused = daemon.request("POST", "/containers/box/start")
    assert refused == (409, {"message": "container is marked for removal and cannot be started"})
    daemon.docker("rm", "box")
    assert daemon.request("GET", "/containers/box/json")[0] == 404
    assert not list((daemon.data / "containers").glob(f"{identity}*"))
