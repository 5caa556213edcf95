"""The life of containers with the real docker command and the Docker SDK: states, signals, exit codes, events."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import docker
import docker.errors
import pytest

from tests.support.daemon import PATIENCE, Daemon

pytestmark = pytest.mark.root
RUN = ("run", "-d", "--network", "none", "--name")
TRAP = "trap 'echo got; exit 5' {signal}; echo ready; while :; do sleep 0.05; done"


def trapping(daemon: Daemon, name: str, signal: str, *flags: str) -> None:
    """A container that has set a trap for a signal."""
    daemon.docker(*RUN, name, *flags, "busybox", "sh", "-c", TRAP.format(signal=signal))
    with subprocess.Popen(["docker", "logs", "-f", name], env=daemon.environment(), stdout=subprocess.PIPE) as logs:
        assert logs.stdout
        assert logs.stdout.readline() == b"ready\n"
        logs.kill()


def test_stop_asks_and_then_kills(daemon: Daemon) -> None:
    trapping(daemon, "asked", "TERM")
    daemon.docker("stop", "asked")
    assert daemon.inspect("asked")["State"]["ExitCode"] == 5
    trapping(daemon, "other", "USR1", "--stop-signal", "USR1")
    daemon.docker("stop", "other")
    assert daemon.inspect("other")["State"]["ExitCode"] == 5
    daemon.docker(*RUN, "deaf", "busybox", "sleep", "1000")
    daemon.docker("stop", "-t", "0", "deaf")
    state = daemon.inspect("deaf")["State"]
    assert (state["ExitCode"], state["Status"], state["Running"], state["Pid"]) == (137, "exited", False, 0)
    assert daemon.request("POST", "/containers/deaf/stop")[0] == 304


def test_kill(daemon: Daemon) -> None:
    trapping(daemon, "hup", "HUP")
    daemon.docker("kill", "-s", "HUP", "hup")
    assert daemon.out("wait", "hup") == "5"
    assert b"Invalid signal: NOPE" in daemon.docker("kill", "-s", "NOPE", "hup", check=False).stderr
    identity = daemon.inspect("hup")["Id"]
    refused = daemon.docker("kill", "hup", check=False).stderr.decode()
    assert f"container {identity} is not running" in refused
    daemon.docker(*RUN, "frozen", "busybox", "sleep", "1000")
    daemon.docker("pause", "frozen")
    daemon.docker("kill", "frozen")
    assert daemon.out("wait", "frozen") == "137"


def test_restart_and_start_again(daemon: Daemon) -> None:
    daemon.docker(*RUN, "again", "busybox", "sh", "-c", "echo x >> /file; wc -l < /file; sleep 1000")
    first = daemon.inspect("again")["State"]["Pid"]
    daemon.docker("restart", "-t", "0", "again")
    assert daemon.inspect("again")["State"]["Pid"] not in (0, first)
    daemon.docker("kill", "again")
    daemon.docker("start", "again")
    assert daemon.request("POST", "/containers/again/start")[0] == 304
    daemon.docker("kill", "again")
    assert daemon.out("logs", "again").split() == ["1", "2", "3"]


def test_pause(daemon: Daemon) -> None:
    daemon.docker(*RUN, "ice", "busybox", "sleep", "1000")
    daemon.docker("pause", "ice")
    assert daemon.inspect("ice")["State"]["Status"] == "paused"
    assert "(Paused)" in daemon.out("ps", "--format", "{{.Status}}")
    assert b"is paused" in daemon.docker("exec", "ice", "true", check=False).stderr
    assert b"already paused" in daemon.docker("pause", "ice", check=False).stderr
    daemon.docker("unpause", "ice")
    assert daemon.out("exec", "ice", "echo", "thawed") == "thawed"
    assert b"is not paused" in daemon.docker("unpause", "ice", check=False).stderr


@pytest.mark.parametrize("condition", ["not-running", "next-exit", "removed"])
def test_wait_conditions(daemon: Daemon, condition: str) -> None:
    daemon.docker(
        "run", "-di", "--rm", "--network", "none", "--name", "waited", "busybox", "sh", "-c", "read x; exit 8"
    )
    waiting = subprocess.Popen(
        [
            "curl",
            "-sS",
            "--unix-socket",
            str(daemon.socket),
            "-XPOST",
            f"http://d/containers/waited/wait?condition={condition}",
        ],
        stdout=subprocess.PIPE,
    )
    daemon.docker("attach", "waited", stdin=b"x\n", check=False)
    answer, _ = waiting.communicate(timeout=PATIENCE)
    if b"message" not in answer:  # the container may be gone before curl has asked
        assert json.loads(answer)["StatusCode"] == 8
    assert daemon.request("POST", "/containers/waited/wait?condition=nonsense")[0] in (400, 404)


def test_rename(daemon: Daemon) -> None:
    daemon.docker("create", "--name", "before", "busybox", "true")
    daemon.docker("create", "--name", "taken", "busybox", "true")
    daemon.docker("rename", "before", "after")
    assert daemon.inspect("after")["Name"] == "/after"
    assert daemon.request("GET", "/containers/before/json")[0] == 404
    assert (
        b'The container name "/taken" is already in use'
        in daemon.docker("rename", "after", "taken", check=False).stderr
    )
    assert daemon.inspect("after")["Name"] == "/after"


def test_top(daemon: Daemon) -> None:
    daemon.docker(*RUN, "tops", "busybox", "sh", "-c", "sleep 4711 & wait")
    lines = daemon.out("top", "tops").split("\n")
    assert lines[0].split()[:2] == ["UID", "PID"]
    assert any("sleep 4711" in line for line in lines[1:])
    assert len(lines) == 3
    assert b"Couldn't find PID field" in daemon.docker("top", "tops", "-o", "comm", check=False).stderr


def test_remove(daemon: Daemon) -> None:
    daemon.docker(*RUN, "busy", "busybox", "sleep", "1000")
    refused = daemon.docker("rm", "busy", check=False).stderr.decode()
    assert 'cannot remove container "/busy": container is running' in refused
    daemon.docker("rm", "-f", "busy")
    daemon.docker(*RUN, "paused", "busybox", "sleep", "1000")
    daemon.docker("pause", "paused")
    daemon.docker("rm", "-f", "paused")
    assert daemon.out("ps", "-aq") == ""
    assert list((daemon.data / "containers").iterdir()) == []
    assert b"No such container: nothing" in daemon.docker("rm", "nothing", check=False).stderr


def test_a_container_of_its_own_files_only(daemon: Daemon) -> None:
    daemon.docker(
        "run", "--network", "none", "--name", "writes", "busybox", "sh", "-c", "echo a > /mine; rm /etc/group"
    )
    found = daemon.out(
        "run", "--rm", "--network", "none", "busybox", "sh", "-c", "ls /mine /etc/group 2>/dev/null; true"
    )
    assert found == "/etc/group"


def test_events(daemon: Daemon) -> None:
    daemon.docker(
        "run",
        "--rm",
        "--network",
        "none",
        "--name",
        "told",
        "-l",
        "tell=yes",
        "busybox",
        "sh",
        "-c",
        "exit 2",
        check=False,
    )
    until = daemon.request("GET", "/info")[1]["SystemTime"]
    found = daemon.out(
        "events", "--since", "1", "--until", until, "--filter", "label=tell=yes", "--format", "{{json .}}"
    )
    events = [json.loads(line) for line in found.split("\n")]
    assert [event["Action"] for event in events] == ["create", "attach", "start", "die", "destroy"]
    die = next(event for event in events if event["Action"] == "die")
    assert die["Actor"]["Attributes"]["exitCode"] == "2"
    assert die["Actor"]["Attributes"]["name"] == "told"


@pytest.fixture
def sdk(daemon: Daemon) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=daemon.host)
    yield client
    client.close()


def test_the_sdk_runs_containers(sdk: docker.DockerClient) -> None:
    assert sdk.containers.run("busybox", "echo hello", remove=True, network_mode="none") == b"hello\n"
    with pytest.raises(docker.errors.ContainerError) as failure:
        sdk.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True, network_mode="none")
    error: Any = failure.value  # its types say str for what is bytes
    assert (error.exit_status, error.stderr) == (3, b"bad\n")
    with pytest.raises(docker.errors.ImageNotFound):
        sdk.api.create_container("missing:image", "true")
    assert sdk.containers.list(all=True) == []


def test_the_sdk_holds_a_container(sdk: docker.DockerClient) -> None:
    box = sdk.containers.run(
        "busybox",
        ["sh", "-c", "echo one; read x; echo $x; exit 4"],
        detach=True,
        stdin_open=True,
        network_mode="none",
        name="sdk",
    )
    result: Any = box.exec_run(["sh", "-c", "echo out; echo err >&2; exit 6"], demux=True)
    assert (result.exit_code, result.output) == (6, (b"out\n", b"err\n"))
    assert "read x" in str(box.top())
    stream = box.logs(stream=True, follow=True)
    assert next(stream) == b"one\n"
    raw: Any = box.attach_socket(params={"stdin": 1, "stream": 1})
    connection = raw._sock
    connection.sendall(b"typed\n")
    assert b"".join(stream) == b"typed\n"
    raw.close()
    connection.close()  # the SDK's own close leaves it open
    assert box.wait() == {"StatusCode": 4}
    box.reload()
    assert (box.status, box.attrs["State"]["ExitCode"]) == ("exited", 4)
    box.rename("other")
    assert sdk.containers.get("other").id == box.id
    box.remove()
    with pytest.raises(docker.errors.NotFound):
        sdk.containers.get("other")


def test_containers_are_found_by_their_ports(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "web", "-p", "127.0.0.1::80", "busybox", "sleep", "1000")
    port = daemon.out("port", "web", "80").rpartition(":")[2]
    found = {
        words: daemon.out("ps", "-q", "--filter", words) != ""
        for words in (
            f"publish={port}",
            f"publish={port}/udp",
            "publish=80",
            "expose=80",
            "expose=70-90/tcp",
            "expose=81",
        )
    }
    assert list(found.values()) == [True, False, False, True, True, False], found
    daemon.docker("rm", "-f", "web")
