"""Health checks with the real docker command: status, log, events, probes that hang, pauses, crashes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, processes, running
from tests.support.events import events

pytestmark = pytest.mark.root
RUN = ("run", "-d", "--network", "none", "--health-interval", "50ms")
SLEEP = ("busybox", "sleep", "1000")


@pytest.fixture
def own(tmp_path: Path, busybox_archive: None) -> Iterator[Daemon]:
    """A daemon that is killed."""
    with running(tmp_path) as daemon:
        yield daemon


def health(daemon: Daemon, name: str = "box") -> dict[str, object]:
    found: dict[str, object] = daemon.inspect(name)["State"]["Health"]
    return found


def test_from_starting_to_unhealthy_to_healthy(daemon: Daemon) -> None:
    with events(daemon) as told:
        daemon.docker(*RUN, "--name", "box", "--health-cmd", "test -e /ok", "--health-retries", "2", *SLEEP)
        told.until("health_status: unhealthy", "box")
        assert told.actions()[:2] == ["create", "start"]
        probe = ["exec_create: /bin/sh -c test -e /ok", "exec_start: /bin/sh -c test -e /ok", "exec_die"]
        assert told.actions()[2:] == [*probe, *probe, "health_status: unhealthy"]
        assert daemon.out("ps", "--format", "{{.Status}}").endswith("(unhealthy)")
        assert daemon.out("ps", "-q", "--filter", "health=unhealthy")
        daemon.docker("exec", "box", "touch", "/ok")
        told.until("health_status: healthy", "box")
    assert daemon.out("ps", "--format", "{{.Status}}").endswith("(healthy)")
    found = health(daemon)
    assert (found["Status"], found["FailingStreak"]) == ("healthy", 0)
    assert daemon.out("ps", "-q", "--filter", "health=none") == ""
    assert len(daemon.inspect("box")["ExecIDs"] or []) <= 1


def test_starting_is_shown(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--network", "none", "--name", "box", "--health-cmd", "true", *SLEEP)
    assert health(daemon) == {"Status": "starting", "FailingStreak": 0, "Log": []}
    assert daemon.out("ps", "--format", "{{.Status}}").endswith("(health: starting)")
    assert (
        "unrecognized filter value for health: odd"
        in daemon.docker("ps", "--filter", "health=odd", check=False).stderr.decode()
    )


def test_the_log_holds_five_results_of_a_page_at_most(daemon: Daemon) -> None:
    with events(daemon) as told:
        daemon.docker(*RUN, "--name", "box", "--health-cmd", "yes | head -c 5000; exit 7", *SLEEP)
        told.until("exec_die", "box", 7)
    log = daemon.inspect("box")["State"]["Health"]["Log"]
    assert len(log) == 5
    assert {entry["ExitCode"] for entry in log} == {7}
    assert {len(entry["Output"]) for entry in log} == {4096 + len("...")}


def test_a_probe_that_hangs_is_killed_with_what_it_started(daemon: Daemon) -> None:
    with events(daemon) as told:
        daemon.docker(
            *RUN, "--name", "box", "--health-timeout", "100ms", "--health-retries", "1",
            "--health-cmd", "echo here; sleep 4321 & sleep 4321; true", *SLEEP,
        )  # fmt: skip
        told.until("health_status: unhealthy", "box")
        daemon.docker("pause", "box")
    assert processes("sleep 4321") == []
    (entry, *_) = daemon.inspect("box")["State"]["Health"]["Log"]
    assert (entry["ExitCode"], entry["Output"]) == (-1, "Health check exceeded timeout (100ms): here\n")


def test_a_probe_whose_output_stays_open_ends_all_the_same(daemon: Daemon) -> None:
    with events(daemon) as told:
        daemon.docker(
            *RUN, "--name", "box", "--health-timeout", "100ms", "--health-cmd", "setsid sleep 77 & exit 0", *SLEEP
        )
        told.until("exec_die", "box")
    daemon.docker("rm", "-f", "box")
    assert processes("sleep 77") == []


def test_a_probe_that_can_not_be_run(daemon: Daemon) -> None:
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}
    body["Healthcheck"] = {"Test": ["CMD", "/nope"], "Interval": 5 * 10**7, "Retries": 1}
    assert daemon.request("POST", "/containers/create?name=box", body)[0] == 201
    with events(daemon) as told:
        daemon.docker("start", "box")
        told.until("health_status: unhealthy", "box")
    (entry, *_) = daemon.inspect("box")["State"]["Health"]["Log"]
    assert entry["ExitCode"] == -1
    assert 'exec: "/nope": stat /nope: no such file or directory' in entry["Output"]


def test_a_paused_container_is_not_probed(daemon: Daemon) -> None:
    with events(daemon) as told:
        daemon.docker(*RUN, "--name", "box", "--health-cmd", "true", *SLEEP)
        told.until("health_status: healthy", "box")
        daemon.docker("pause", "box")
        told.until("pause", "box")
        assert health(daemon)["Status"] == "unhealthy"
        daemon.docker("create", "--name", "mark", "busybox", "true")
        told.seen.clear()
        told.until("create", "mark")
        assert told.actions() == ["create"]
        daemon.docker("unpause", "box")
        told.until("health_status: healthy", "box")


def test_a_probe_that_runs_is_killed_before_the_pause(daemon: Daemon) -> None:
    with events(daemon) as told:
        daemon.docker(*RUN, "--name", "box", "--health-cmd", "sleep 97", *SLEEP)
        told.until("exec_start: /bin/sh -c sleep 97", "box")
        daemon.docker("pause", "box")
    assert processes("sleep 97") == []


@pytest.mark.parametrize("verb", [("stop", "-t", "0"), ("rm", "-f"), ("restart", "-t", "0")])
def test_a_container_ends_while_it_is_probed(daemon: Daemon, verb: tuple[str, ...]) -> None:
    with events(daemon) as told:
        daemon.docker(*RUN, "--name", "box", "--health-cmd", "sleep 99", *SLEEP)
        told.until("exec_start: /bin/sh -c sleep 99", "box")
        daemon.docker(*verb, "box")
        told.until("die", "box")
    if verb[0] == "stop":
        assert health(daemon)["Status"] == "unhealthy"
    if verb[0] == "restart":
        assert health(daemon)["Status"] == "starting"


def test_no_healthcheck_of_an_image(daemon: Daemon) -> None:
    daemon.docker("create", "--name", "made", "busybox", "true")
    change = 'HEALTHCHECK --interval=40ms --retries=1 CMD ["test", "-e", "/none"]'
    daemon.docker("commit", "--change", change, "made", "probed")
    with events(daemon) as told:
        daemon.docker("run", "-d", "--network", "none", "--name", "box", "probed", "sleep", "1000")
        told.until("health_status: unhealthy", "box")
    daemon.docker("run", "-d", "--network", "none", "--name", "left", "--no-healthcheck", "probed", "sleep", "1000")
    assert "Health" not in daemon.inspect("left")["State"]
    daemon.remove_all()
    daemon.docker("rmi", "probed")


def test_a_daemon_that_comes_back_goes_on(own: Daemon) -> None:
    with events(own) as told:
        own.docker(*RUN, "--name", "box", "--health-cmd", "true", *SLEEP)
        told.until("health_status: healthy", "box")
    own.kill()
    own.start()
    with events(own) as told:
        if health(own)["Status"] != "healthy":
            told.until("health_status: healthy", "box")
    assert health(own)["Status"] == "healthy"


def test_probes_push_no_trace_out(daemon: Daemon) -> None:
    with events(daemon) as told:
        daemon.docker(*RUN, "--name", "box", "--health-cmd", "true", *SLEEP)
        told.until("exec_die", "box", 4)
    traces = daemon.request("GET", "/labkit/traces?container=box")[1]
    assert [plan for trace in traces for plan in trace["plans"]].count("probe") == 1
    everything = daemon.request("GET", "/labkit/traces")[1]
    assert [trace for trace in everything if "probe" in trace["plans"]] == []


def test_a_daemon_that_lets_containers_live_ends_during_a_probe(tmp_path: Path, busybox_archive: None) -> None:
    with running(tmp_path, "--live-restore") as daemon:
        with events(daemon) as told:
            daemon.docker(*RUN, "--name", "box", "--health-timeout", "1s", "--health-cmd", "sleep 98", *SLEEP)
            told.until("exec_start: /bin/sh -c sleep 98", "box")
        pid = daemon.inspect("box")["State"]["Pid"]
        daemon.stop()
        assert processes("sleep 98") == []
        daemon.start()
        with events(daemon) as told:
            told.until("exec_start: /bin/sh -c sleep 98", "box")
        assert daemon.inspect("box")["State"]["Pid"] == pid
        daemon.docker("stop", "-t", "0", "box")
        daemon.stop()
        daemon.flags = ()
