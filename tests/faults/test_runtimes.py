"""SIGKILL of the daemon, and of the spawner, while runc and crun make a container, and before it ends.

What `test_operations` looks at holds for a container of another runtime, too; besides, nothing is left of the runtime.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.killing import Mortal, Requests, ask
from tests.faults.test_operations import BODY, MOST, START, check, check_nothing_is_left, check_usable, post, until_up
from tests.load.measuring import spawner_of
from tests.support.daemon import PATIENCE, Daemon, processes, running, served

pytestmark = [pytest.mark.root, pytest.mark.timeout(3000)]
RUNTIMES = ("runc", "crun")
STARTING = """
from labkit.kernel.oci_runtime import CreateByRuntime
class StartByRuntime:
    ahead = False
    def __init__(self, start):
        self.run = lambda context: start()
def start(self, original=CreateByRuntime.start):
    plan.perform(0, StartByRuntime(lambda: original(self)), plan.Context())
CreateByRuntime.start = start
"""
"""`RUNTIME start` is no operation of the plan, since it comes when all of them are done: here it is one more."""
SCENARIOS: dict[str, tuple[bool, Requests, set[str]]] = {
    "start": (False, (START,), {"CloneInit", "HoldNetwork", "CreateByRuntime", "StartByRuntime"}),
    "stop": (True, (post("stop?t=20"),), {"~CreateCgroup", "~MakeDirectory"}),
    "remove by force": (True, (("DELETE", "/containers/box?force=1", None),), {"~CreateCgroup", "~MakeDirectory"}),
}
"""Whether it runs, what somebody is killed at, and operations that it must have been killed at."""


class Foreign(Mortal):
    """A `Mortal` that may die at a runtime's `start` as well."""

    def command(self) -> list[str]:
        return [word + STARTING if word.startswith("FOLDER = ") else word for word in super().command()]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, busybox_archive: None) -> Iterator[Foreign]:
    daemon = Foreign(tmp_path_factory.mktemp("foreign"))
    with daemon.network(), served(daemon):
        ask(daemon, (("POST", "/networks/create", {"Name": "lab"}), ("POST", "/volumes/create", {"Name": "kept"})))
        yield daemon
        daemon.remove_all()
        ask(daemon, (("DELETE", "/networks/lab", None), ("DELETE", "/volumes/kept", None)))


@pytest.fixture(autouse=True)
def cleared(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a failed test has left doesn't fail the next."""
    yield
    if "own" in request.fixturenames:
        request.getfixturevalue("own").remove_all()


def try_moment(own: Foreign, runtime: str, scenario: str, victim: str, when: str, number: int) -> str:
    """One cell of the matrix; the operation at which the victim died, empty if it came to no such moment."""
    runs, requests, _ = SCENARIOS[scenario]
    host: Any = BODY["HostConfig"]
    body = BODY | {"HostConfig": host | {"Runtime": runtime}}
    ask(own, (("POST", "/containers/create?name=box", body), *([START] if runs else [])))
    if runs:
        until_up(own)
    moment = own.killed_at(victim, when, number, requests)
    told = f"{runtime}: {scenario}: {victim} {moment}"
    check(own, told, victim)
    if moment:
        check_usable(own, told)
    own.remove_all()
    check_nothing_is_left(own, told)
    assert [path for path in (own.run / "runtimes").glob("*") if path.is_dir()] == [], told
    assert [line for line in processes(f"{own.run}/runtimes") if "daemon --data-root" not in line] == [], told
    return moment


@pytest.mark.long
@pytest.mark.parametrize("victim", ["daemon", "spawner"])
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_each_operation(own: Foreign, runtime: str, scenario: str, victim: str) -> None:
    killed = set()
    for number in range(1, MOST):
        moments = [try_moment(own, runtime, scenario, victim, when, number) for when in ("before", "after")]
        killed |= {moment.split()[1].rstrip(",") for moment in moments if moment}
        if not any(moments):
            break
    assert killed >= SCENARIOS[scenario][2], killed
    assert number < MOST - 1


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_some_operations(own: Foreign, runtime: str, scenario: str) -> None:
    """One moment for each victim: other ones in each run, told when a test fails."""
    assert try_moment(own, runtime, scenario, "nobody", "before", MOST) == ""
    operations = own.operations()
    assert set(operations) >= SCENARIOS[scenario][2], operations
    for victim in ("daemon", "spawner"):
        when, number = random.choice(["before", "after"]), random.randint(1, len(operations))
        try_moment(own, runtime, scenario, victim, when, number)


@pytest.fixture
def slow(tmp_path: Path, busybox_archive: None) -> Iterator[Daemon]:
    """A daemon with a runtime that tells its pid and does nothing more when it shall create a container."""
    os.mkfifo(tmp_path / "begun")
    os.mkfifo(tmp_path / "never")
    program = tmp_path / "slow"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/begun\nread go < {tmp_path}/never\n")
    program.chmod(0o755)
    with running(tmp_path, "--add-runtime", f"slow={program}") as daemon:
        yield daemon


def test_a_runtime_that_is_at_work_ends_with_the_spawner(slow: Daemon) -> None:
    """It would go on to make cgroups and a container of which nobody knows."""
    slow.docker("create", "--name", "box", "--runtime", "slow", "--network", "none", "busybox", "true")
    with subprocess.Popen(
        ["docker", "start", "box"], env=slow.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as start:
        runtime = os.pidfd_open(int((slow.root / "begun").read_text()))
        try:
            os.kill(spawner_of(slow), signal.SIGKILL)
            assert start.wait(PATIENCE) != 0
            assert select.select([runtime], [], [], 10)[0]
        finally:
            if not select.select([runtime], [], [], 0)[0]:
                signal.pidfd_send_signal(runtime, signal.SIGKILL)
            os.close(runtime)
