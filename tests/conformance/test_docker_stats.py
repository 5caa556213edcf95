"""`docker stats` and the route below it: fields and values beside dockerd's, many followers, containers that end."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, UnixConnection
from tests.support.dockerd import Dockerd, Isolated, dockerd, isolated

pytestmark = pytest.mark.root
BUSY = (
    "dd if=/dev/zero of=/file bs=1M count=3 2>/dev/null; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 1000"
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    with dockerd(tmp_path_factory.mktemp("dockerd")) as engine:
        yield engine


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Isolated]:
    with isolated(tmp_path_factory.mktemp("labkit")) as engine:
        yield engine


@pytest.fixture(params=["labkit", "dockerd"])
def engine(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Each of the two, for what both must do."""
    found: Daemon = request.getfixturevalue("ours" if request.param == "labkit" else "reference")
    yield found
    found.remove_all()


def one(engine: Daemon, name: str, query: str = "stream=0") -> Any:
    status, found = engine.request("GET", f"/containers/{name}/stats?{query}")
    assert status == 200
    return found


def shape(value: Any) -> Any:
    """The names of fields and the kinds of values."""
    if isinstance(value, dict):
        return {key: shape(field) for key, field in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


PERMITTED = {
    "pids_stats": "dockerd 20.10 leaves the limit out where there is none, since 23 it says 2^64-1",
    "blkio_stats": "what a device has done depends on the moment",
}


@pytest.mark.parametrize("flags", [("-m", "64m", "--pids-limit", "50", "--cpus", "0.5"), ("--network", "none"), ()])
def test_fields_are_those_of_dockerd(ours: Isolated, reference: Dockerd, flags: tuple[str, ...]) -> None:
    found = []
    for engine in (ours, reference):
        engine.docker("run", "-d", "--name", "busy", *flags, "busybox", "sh", "-c", BUSY)
        stats = one(engine, "busy")
        engine.remove_all()
        found.append({key: value for key, value in stats.items() if key not in PERMITTED})
    assert shape(found[0]) == shape(found[1])
    assert found[0]["memory_stats"]["limit"] == found[1]["memory_stats"]["limit"]


def test_values(engine: Daemon) -> None:
    engine.docker("run", "-d", "--name", "busy", "-m", "64m", "--pids-limit", "50", "busybox", "sh", "-c", BUSY)
    found = one(engine, "busy")
    assert found["name"] == "/busy"
    assert found["id"] == engine.inspect("busy")["Id"]
    assert found["pids_stats"]["limit"] == 50
    assert found["pids_stats"]["current"] == 1
    assert found["memory_stats"]["limit"] == 64 << 20
    assert 3 << 20 < found["memory_stats"]["max_usage"] < 64 << 20
    cpu, before = found["cpu_stats"], found["precpu_stats"]
    assert 0 < cpu["cpu_usage"]["total_usage"] < 60 * 10**9
    assert cpu["system_cpu_usage"] > before["system_cpu_usage"] > 0
    assert sum(cpu["cpu_usage"]["percpu_usage"]) == pytest.approx(cpu["cpu_usage"]["total_usage"], rel=0.2)
    assert {"/eth0": found["networks"]["eth0"]["rx_bytes"]}["/eth0"] >= 0


def test_links_are_those_of_the_container(engine: Daemon) -> None:
    engine.docker("network", "create", "second")
    engine.docker("run", "-d", "--name", "two", "--network", "second", "busybox", "sleep", "1000")
    engine.docker("network", "connect", "bridge", "two")
    engine.docker("run", "-d", "--name", "guest", "--network", "container:two", "busybox", "sleep", "1000")
    engine.docker("exec", "two", "ping", "-c", "3", "-i", "0.2", "-s", "1000", "172.17.0.1")
    found = one(engine, "two")["networks"]
    assert found.keys() == {"eth0", "eth1"}
    assert max(link["tx_bytes"] for link in found.values()) > 3000
    assert max(link["rx_packets"] for link in found.values()) >= 3
    engine.docker("rm", "-f", "guest", "two")
    engine.docker("network", "rm", "second")


def test_a_container_that_does_not_run(ours: Isolated, reference: Dockerd) -> None:
    """All is zero, as with dockerd."""
    found = []
    for engine in (ours, reference):
        engine.docker("create", "--name", "still", "busybox", "true")
        stats = one(engine, "still")
        assert stats == one(engine, "still", "stream=0&one-shot=1") | {"id": stats["id"]}
        stats.pop("id")
        found.append(stats)
        engine.remove_all()
    assert found[0] == found[1]


def test_what_is_refused(engine: Daemon) -> None:
    engine.docker("create", "--name", "still", "busybox", "true")
    status, body = engine.request("GET", "/containers/still/stats?stream=1&one-shot=1")
    assert (status, body) == (400, {"message": "cannot have stream=true and one-shot=true"})
    assert engine.request("GET", "/containers/nosuch/stats?stream=0")[0] == 404


def follow(engine: Daemon, name: str) -> tuple[UnixConnection, http.client.HTTPResponse]:
    connection = UnixConnection(str(engine.socket))
    connection.request("GET", f"/containers/{name}/stats")
    return connection, connection.getresponse()


def test_a_stream(engine: Daemon) -> None:
    """The first look has nothing before it; each other one has the last; removal ends the stream."""
    engine.docker("run", "-d", "--name", "busy", "busybox", "sh", "-c", BUSY)
    connection, answer = follow(engine, "busy")
    samples = [json.loads(answer.readline()) for _ in range(3)]
    assert samples[0]["precpu_stats"]["cpu_usage"]["total_usage"] == 0
    assert samples[2]["precpu_stats"] == samples[1]["cpu_stats"]
    assert samples[2]["preread"][:19] == samples[1]["read"][:19]
    engine.docker("stop", "-t", "0", "busy")
    while json.loads(answer.readline())["pids_stats"]:
        continue
    engine.docker("rm", "busy")
    while answer.readline():
        continue
    connection.close()


def test_a_hundred_followers_cost_little(ours: Isolated) -> None:
    """One look a second for all of them, and the same bytes to each."""
    ours.docker("run", "-d", "--name", "busy", "busybox", "sleep", "1000")
    assert ours.process
    with ThreadPoolExecutor(100) as pool:
        streams = list(pool.map(lambda _: follow(ours, "busy"), range(100)))
        for _, answer in streams:
            answer.readline()
        began, before = time.monotonic(), cpu_seconds(ours.process.pid)
        lines = list(pool.map(lambda stream: [stream[1].readline() for _ in range(3)], streams))
        took, spent = time.monotonic() - began, cpu_seconds(ours.process.pid) - before
    for connection, _ in streams:
        connection.close()
    ours.remove_all()
    assert len({line for found in lines for line in found}) <= 5
    assert spent < 0.2 * took, (spent, took)


def test_a_follower_that_does_not_read_costs_nothing(ours: Isolated) -> None:
    ours.docker("run", "-d", "--name", "busy", "busybox", "sleep", "1000")
    connection, answer = follow(ours, "busy")
    other, reading = follow(ours, "busy")
    for _ in range(3):
        reading.readline()
    assert len(answer.readline()) > 100
    for one in (connection, other):
        one.close()
    ours.remove_all()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_the_docker_command(engine: Daemon) -> None:
    engine.docker("run", "-d", "--name", "busy", "-m", "64m", "busybox", "sh", "-c", BUSY)
    title, row = engine.out("stats", "--no-stream", "busy").splitlines()
    assert title.split("  ")[0] == "CONTAINER ID"
    assert re.search(r"^[0-9a-f]{12}   busy      \d+\.\d\d% +[\d.]+[KM]iB / 64MiB ", row)
    form = "{{.Name}} {{.PIDs}} {{.MemPerc}}"
    assert re.fullmatch(r"busy 1 \d+\.\d\d%", engine.out("stats", "--no-stream", "--format", form, "busy"))
    assert engine.out("stats", "--no-stream", "--all", "--format", "{{.Name}}") == "busy"
    done = engine.docker("stats", "--no-stream", "nosuch", check=False)
    assert (done.returncode, b"No such container: nosuch" in done.stderr) == (1, True)
