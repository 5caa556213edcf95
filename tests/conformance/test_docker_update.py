"""`docker update` on real cgroups, and what is kept of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.kernel.cgroups import read_layout
from tests.support.daemon import Daemon, running

pytestmark = pytest.mark.root
RUN = ("run", "-d", "--network", "none", "--name", "box")
SLEEP = ("busybox", "sleep", "1000")
MIB = 1 << 20
V1 = read_layout().version == 1


@pytest.fixture
def own(tmp_path: Path, busybox_archive: None) -> Iterator[Daemon]:
    """A daemon that is killed."""
    with running(tmp_path) as daemon:
        yield daemon


def value(daemon: Daemon, controller: str, v1: str, v2: str) -> str:
    """A limit of the container `box`, as the kernel has it."""
    directory = read_layout().directory(controller, f"{daemon.cgroup}/{daemon.inspect('box')['Id']}")
    return Path(directory, v1 if V1 else v2).read_text().strip()


def memory(daemon: Daemon) -> int:
    return int(value(daemon, "memory", "memory.limit_in_bytes", "memory.max"))


def test_limits_of_a_running_container(daemon: Daemon) -> None:
    daemon.docker(*RUN, "-m", "64m", "--cpus", "0.5", *SLEEP)
    assert daemon.out("update", "-m", "100m", "--cpus", "1", "--pids-limit", "9", "box") == "box"
    assert memory(daemon) == 100 * MIB
    assert value(daemon, "pids", "pids.max", "pids.max") == "9"
    assert value(daemon, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "100000"
    daemon.docker("update", "--pids-limit", "-1", "box")
    assert value(daemon, "pids", "pids.max", "pids.max") == "max"
    daemon.docker("update", "-m", "300m", "--memory-swap", "400m", "box")
    assert memory(daemon) == 300 * MIB
    daemon.docker("update", "-m", "64m", "--memory-swap", "128m", "box")
    assert memory(daemon) == 64 * MIB
    host = daemon.inspect("box")["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (64 * MIB, 10**9, 0)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-m", "200m"), "Memory limit should be smaller than already set memoryswap limit"),
        (("-m", "1m"), "Minimum memory limit allowed is 6MB"),
        (("--cpu-period", "5000"), "CPU Period cannot be updated as NanoCPUs has already been set"),
        (("--restart", "nope"), "unknown policy 'nope'"),
        (("--cpuset-cpus", "99"), "Requested CPUs are not available"),
    ],
)
def test_what_is_refused_changes_nothing(daemon: Daemon, flags: tuple[str, ...], words: str) -> None:
    daemon.docker(*RUN, "-m", "64m", "--cpus", "0.5", *SLEEP)
    before = daemon.inspect("box")["HostConfig"]
    assert words in daemon.docker("update", *flags, "box", check=False).stderr.decode()
    assert daemon.inspect("box")["HostConfig"] == before
    assert memory(daemon) == 64 * MIB


def test_a_limit_that_the_kernel_refuses_is_taken_back(daemon: Daemon) -> None:
    daemon.docker(*RUN, "--cpuset-cpus", "0", "--cpu-shares", "100", "-m", "64m", *SLEEP)
    before = daemon.inspect("box")["HostConfig"]
    body = {"CpuShares": 200, "CpuQuota": 2**60}  # written in this order; no quota may be that large
    status, answer = daemon.request("POST", "/containers/box/update", body)
    assert status == 500
    assert answer["message"].startswith(f"Cannot update container {daemon.inspect('box')['Id']}: ")
    assert daemon.inspect("box")["HostConfig"] == before
    if V1:
        assert value(daemon, "cpu", "cpu.shares", "") == "100"


def test_a_stopped_container_has_its_limits_at_the_next_start(daemon: Daemon) -> None:
    daemon.docker("create", "--network", "none", "--name", "box", *SLEEP)
    daemon.docker("update", "-m", "64m", "--memory-swap", "64m", "box")
    daemon.docker("start", "box")
    assert memory(daemon) == 64 * MIB


def test_no_policy_for_one_that_removes_itself(daemon: Daemon) -> None:
    daemon.docker(*RUN, "--rm", *SLEEP)
    status, answer = daemon.request("POST", "/containers/box/update", {"RestartPolicy": {"Name": "always"}})
    assert status == 409
    assert "Restart policy cannot be updated because AutoRemove is enabled for the container" in answer["message"]
    assert daemon.request("POST", "/containers/box/update", {"RestartPolicy": {"Name": "no"}}) == (
        200,
        {"Warnings": None},
    )


def test_what_was_updated_outlives_the_daemon(own: Daemon) -> None:
    own.docker(*RUN, "-m", "64m", *SLEEP)
    own.docker("update", "-m", "90m", "--restart", "unless-stopped", "box")
    own.kill()
    own.start()
    host = own.inspect("box")["HostConfig"]
    assert (host["Memory"], host["RestartPolicy"]["Name"]) == (90 * MIB, "unless-stopped")
    assert memory(own) == 90 * MIB


def test_it_is_in_the_trace(daemon: Daemon) -> None:
    daemon.docker(*RUN, *SLEEP)
    daemon.docker("update", "--cpu-shares", "77", "box")
    trace = daemon.request("GET", "/labkit/traces/last")[1]
    (plan,) = trace["plans"]
    assert plan["name"] == "update"
    assert [operation["name"] for operation in plan["operations"]] == ["ChangeCgroup"]
    assert "77" in plan["operations"][0]["shell"]
