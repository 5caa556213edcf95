"""`stats` and the prunes: rows from samples, and the words of docker's own command."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from typing import Any

import pytest

from labkit.cli.live import Redrawn
from labkit.cli.runners.stats import cpu_percent, memory_used, row
from tests.cli.test_parity import differences, docker, labkit

LINES = """
stats --no-stream nosuch
stats --no-stream --format {{.Foo}} web
stats --no-stream --format {{ web
stats --no-stream --format {{.Name}}:{{.PIDs}}:{{.Container}} web
stats --no-stream --format '{{.Name}} {{.MemUsage}}' gone
stats --no-stream -a --format {{.Name}}
container prune
container prune -f --filter label=nosuch
container prune -f --filter foo=bar
container prune -f --filter until=1h --filter until=2h
container prune -f --filter until=nonsense
system prune
system prune -a
system prune --volumes
system prune -a --volumes --filter label=a=b --filter label=c
system prune -f --volumes --filter until=1h
system prune -f --filter label=nosuch
"""
HELPS = ("stats", "container prune", "system prune")


def sample(total: int, system: int, **more: Any) -> dict[str, Any]:
    return {
        "id": "0123456789abcdef", "name": "/web", "pids_stats": {"current": 3},
        "cpu_stats": {"cpu_usage": {"total_usage": total}, "system_cpu_usage": system, "online_cpus": 2},
        "memory_stats": {"usage": 3 << 20, "limit": 12 << 20, "stats": {"total_inactive_file": 1 << 20}},
        "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 2}, "eth1": {"rx_bytes": 500, "tx_bytes": 0}},
        "blkio_stats": {"io_service_bytes_recursive": [
            {"op": "Read", "value": 4096}, {"op": "write", "value": 8}, {"op": "Total", "value": 9}]},
        **more,
    }  # fmt: skip


def test_a_row() -> None:
    found = row("web", sample(0, 0), sample(50, 200), truncate=True)
    assert found == {
        "Container": "web", "ID": "0123456789ab", "Name": "web", "CPUPerc": "50.00%", "MemUsage": "2MiB / 12MiB",
        "MemPerc": "16.67%", "NetIO": "1.5kB / 2B", "BlockIO": "4.1kB / 8B", "PIDs": "3",
    }  # fmt: skip
    assert row("web", None, sample(1, 2), truncate=False)["ID"] == "0123456789abcdef"
    assert row("web", sample(0, 0), None, truncate=True)["MemUsage"] == "-- / --"


def test_percents_and_memory() -> None:
    assert cpu_percent(None, sample(50, 200)) == 0
    assert cpu_percent(sample(60, 100), sample(50, 200)) == 0
    assert cpu_percent(sample(0, 200), sample(50, 200)) == 0
    assert memory_used({"usage": 10, "stats": {"inactive_file": 4}}) == 6
    assert memory_used({"usage": 10, "stats": {"inactive_file": 40}}) == 10
    assert memory_used({}) == 0


def test_a_text_that_is_drawn_over() -> None:
    said: list[str] = []
    with Redrawn(said.append) as live:
        live.show("one\ntwo")
        live.show("x")
    assert said == ["\033[Hone \033[K\ntwo \033[K\n\033[J", "\033[Hx \033[K\n\033[J"]


@pytest.fixture
def containers(engine: str) -> None:
    docker("run -d --name web --network none -l a=b labbb sleep 1000")
    docker("run --name gone --network none labbb true")


@pytest.mark.root
def test_the_same_words_give_the_same(containers: None) -> None:
    assert differences(LINES.strip().splitlines()) == ""


@pytest.mark.root
def test_help(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/x.sock")
    assert differences([f"{command} --help" for command in HELPS]) == ""


@pytest.mark.root
def test_what_is_pruned(containers: None) -> None:
    identity = docker("inspect -f {{.Id}} gone")[1].strip()
    docker("network create unused")
    status, out, err = labkit("system prune -f")
    assert (status, err) == (0, "")
    expected = rf"Deleted Containers:\n{identity}\n\nDeleted Networks:\nunused\n\nTotal reclaimed space: [\d.]+k?B\n"
    assert re.fullmatch(expected, out)
    assert labkit("container prune -f") == (0, "Total reclaimed space: 0B\n", "")
    assert docker("ps -aq")[1].count("\n") == 1


@pytest.mark.root
def test_a_live_table_until_an_interrupt(containers: None) -> None:
    argv = [sys.executable, "-m", "labkit.cli.main", "stats", "web"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as live:
        assert live.stdout
        found = [live.stdout.readline() for _ in range(6)]
        live.send_signal(signal.SIGINT)
        assert live.wait(30) == 130
    assert found[0].startswith(b"\033[HCONTAINER ID   NAME      CPU %")
    assert found[3].startswith(b"\033[J\033[HCONTAINER ID")
    assert b"web" in found[1]
    assert b"web" in found[4]
