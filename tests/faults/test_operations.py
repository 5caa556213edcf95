"""SIGKILL of the daemon, and of the spawner, before and after each operation of a container's life.

After it the container runs, with all that this needs, or is cleanly gone: exit status and output complete, nothing left
in the kernel or on the disk. Networks and volumes have their own: `test_networks`, `test_volumes`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.killing import Mortal, Requests, ask
from tests.support.daemon import PATIENCE, served

pytestmark = [pytest.mark.root, pytest.mark.timeout(3000)]
MOST = 400
"""Operations that a scenario has at most."""
SAMPLE = 2
"""Moments of each scenario in the short form: other ones in each run, told when a test fails."""
SCRIPT = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.02; done"
BODY = {
    "Image": "busybox",
    "Cmd": ["sh", "-c", SCRIPT],
    "ExposedPorts": {"80/tcp": {}},
    "HostConfig": {
        "NetworkMode": "lab",
        "Binds": ["kept:/kept"],
        "Tmpfs": {"/tmp": ""},
        "Memory": 64 << 20,
        "PidsLimit": 50,
        "PortBindings": {"80/tcp": [{"HostPort": "8080"}]},
    },
}
CREATE = ("POST", "/containers/create?name=box", BODY)
START = ("POST", "/containers/box/start", None)
RUNNING = (CREATE, START)
EXEC = ("POST", "/containers/box/exec", {"Cmd": ["sh", "-c", "echo begun; exit 3"]})
START_EXEC = ("POST", "/exec/{Id}/start", {"Detach": True})
ATTACHED = ("POST", "/containers/box/exec", {"Cmd": ["sh", "-c", "echo begun; exit 3"], "AttachStdout": True})
START_ATTACHED = ("POST", "/exec/{Id}/start", {"Detach": False})
OTHER = "other"
BACK = ("POST", f"/containers/{OTHER}/rename?name=box", None)
MORE = {"Memory": 96 << 20, "MemorySwap": 192 << 20, "PidsLimit": 60}
Request = tuple[str, str, Any]


def post(path: str) -> Request:
    return "POST", f"/containers/box/{path}", None


SCENARIOS: dict[str, tuple[Requests, Requests, set[str]]] = {
    "create": ((), (CREATE,), {"MakeDirectory", "WriteFile"}),
    "start": ((CREATE,), (START,), {"CloneInit", "CreateCgroup", "PivotRoot", "PublishPort", "MountOverlay"}),
    "stop": (RUNNING, (post("stop?t=20"),), {"~CreateCgroup", "UnpublishPort"}),
    "kill": (RUNNING, (post("kill"),), {"~CreateCgroup", "UnpublishPort"}),
    "restart": (RUNNING, (post("restart?t=20"),), {"~CreateCgroup", "CloneInit", "PublishPort"}),
    "pause": (RUNNING, (post("pause"),), {"WriteCgroup"}),
    "unpause": ((*RUNNING, post("pause")), (post("unpause"),), {"WriteCgroup"}),
    "stop what is paused": ((*RUNNING, post("pause")), (post("stop?t=20"),), {"WriteCgroup", "~CreateCgroup"}),
    "exec": (RUNNING, (EXEC, START_EXEC), {"CloneIntoPidNamespace", "JoinCgroup", "JoinNamespaces", "Execute"}),
    "another exec": (
        (*RUNNING, EXEC, START_EXEC),
        (ATTACHED, START_ATTACHED),
        {"CloneIntoPidNamespace", "JoinCgroup", "JoinNamespaces", "Execute"},
    ),
    "remove": ((CREATE,), (("DELETE", "/containers/box?v=1", None),), {"rename", "rmdir", "unlink"}),
    "remove by force": (RUNNING, (("DELETE", "/containers/box?force=1", None),), {"~CreateCgroup", "rename", "rmdir"}),
    "rename": ((CREATE,), (post(f"rename?name={OTHER}"), BACK), {"rename"}),
    "update": (RUNNING, (("POST", "/containers/box/update", MORE),), {"ChangeCgroup", "rename"}),
}
"""What is done before, what somebody is killed at, and operations that it must have been killed at."""
MAY_BE_GONE = {"create", "remove", "remove by force"}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, busybox_archive: None) -> Iterator[Mortal]:
    daemon = Mortal(tmp_path_factory.mktemp("mortal"))
    with daemon.network(), served(daemon):
        ask(daemon, (("POST", "/networks/create", {"Name": "lab"}), ("POST", "/volumes/create", {"Name": "kept"})))
        yield daemon
        daemon.remove_all()
        ask(daemon, (("DELETE", "/networks/lab", None), ("DELETE", "/volumes/kept", None)))


@pytest.fixture(autouse=True)
def cleared(own: Mortal) -> Iterator[None]:
    """What a failed test has left doesn't fail the next."""
    yield
    own.remove_all()


def try_moment(own: Mortal, scenario: str, victim: str, when: str, number: int) -> str:
    """One cell of the matrix; the operation at which the victim died, empty if it came to no such moment."""
    before, requests, _ = SCENARIOS[scenario]
    running = before.index(START) + 1 if START in before else 0
    ask(own, before[:running])
    if running:
        until_up(own)
    ask(own, before[running:])
    moment = own.killed_at(victim, when, number, requests)
    told = f"{scenario}: {victim} {moment}"
    own.request(*BACK)  # unless it has its own name already
    assert state_of(own) or scenario in MAY_BE_GONE, told
    check(own, told, victim)
    if moment:
        check_usable(own, told)
    own.remove_all()
    check_nothing_is_left(own, told)
    return moment


@pytest.mark.long
@pytest.mark.parametrize("victim", ["daemon", "spawner"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_operation(own: Mortal, scenario: str, victim: str) -> None:
    killed = set()
    for number in range(1, MOST):
        moments = [try_moment(own, scenario, victim, when, number) for when in ("before", "after")]
        killed |= {moment.split()[1].rstrip(",") for moment in moments if moment}
        if not any(moments):
            break
    assert number < MOST - 1
    for name in SCENARIOS[scenario][2] - killed:
        assert any(tried == name for tried in seek(own, scenario, victim, name)), killed


def seek(own: Mortal, scenario: str, victim: str, name: str) -> Iterator[str]:
    """Try to kill at this operation. What several processes do is never quite in the same order: it can be missed."""
    for _ in range(SAMPLE * 2):
        try_moment(own, scenario, "nobody", "before", MOST)
        number = own.operations().index(name) + 1
        moment = try_moment(own, scenario, victim, "before", number)
        yield moment.split()[1].rstrip(",") if moment else ""


@pytest.mark.parametrize("victim", ["daemon", "spawner"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_some_operations(own: Mortal, scenario: str, victim: str) -> None:
    assert try_moment(own, scenario, "nobody", "before", MOST) == ""
    operations = own.operations()
    assert set(operations) >= SCENARIOS[scenario][2], operations
    for _ in range(SAMPLE):
        try_moment(own, scenario, victim, random.choice(["before", "after"]), random.randint(1, len(operations)))


def state_of(own: Mortal) -> dict[str, Any] | None:
    """The state of the container; None if there is none."""
    status, found = own.request("GET", "/containers/box/json")
    assert status in (200, 404), found
    return found["State"] if status == 200 else None


def until_up(own: Mortal) -> None:
    """Wait until the script has said that its trap is set."""
    deadline = time.monotonic() + PATIENCE
    state = state_of(own)
    while state and state["Running"] and own.out("logs", "box").split("\n")[-1] != "up":
        assert time.monotonic() < deadline
        time.sleep(0.01)  # the log is a file: following it would be one more thing that may break
        state = state_of(own)


def check(own: Mortal, told: str, victim: str) -> None:
    """It runs with all that this needs, or has ended with nothing of it, status and output complete."""
    deadline = time.monotonic() + PATIENCE
    while found := wrong(own, victim):
        assert time.monotonic() < deadline, (told, found)
        time.sleep(0.01)  # a daemon that has just lost its spawner, and the next spawner, are at work


def wrong(own: Mortal, victim: str) -> list[str]:
    """What is not as it has to be."""
    state = state_of(own)
    if not state:
        return []
    identity = own.inspect("box")["Id"]
    bundle, journal = own.run / "bundles" / identity / "config.json", own.run / "journal" / identity
    if state["Running"]:
        needed = {"bundle": bundle, "journal": journal, "process": Path(f"/proc/{state['Pid']}/root/kept")}
        missing = [f"no {name}" for name, path in needed.items() if not path.exists()]
        return missing + strangers(own) + other_limits(own, identity)
    found = remains(own, identity)
    if state["Status"] not in ("created", "exited"):
        found.append(f"it is {state['Status']}")
    if victim == "daemon" and state["Status"] == "exited":
        code, lines = state["ExitCode"], own.out("logs", "box").split("\n")
        if lines not in {7: (["up", "bye"], ["up", "bye"] * 2), 137: (["up"], ["up", "bye", "up"])}[code]:
            found.append(f"exit status {code} with {lines}")
    return found


def strangers(own: Mortal) -> list[str]:
    """Processes in the running container that are neither its own nor an exec that still ends."""
    status, found = own.request("GET", "/containers/box/top?ps_args=-o%20pid,args")
    if status != 200:  # it has ended meanwhile, or is about to
        return [f"{status}: {found}"]
    return [line for line in (" ".join(one) for one in found["Processes"]) if "begun" in line or "python" in line]


def other_limits(own: Mortal, identity: str) -> list[str]:
    """Limits that the kernel keeps and that are not what `inspect` says."""
    host = own.inspect("box")["HostConfig"]
    said = {"memory.limit_in_bytes": host["Memory"], "memory.max": host["Memory"], "pids.max": host["PidsLimit"]}
    said["memory.memsw.limit_in_bytes"] = host["MemorySwap"] or 2 * host["Memory"]
    files = [path / name for path in own.cgroups() if path.name == identity for name in said]
    return [
        f"{file}, but not {said[file.name]}"
        for file in files
        if file.exists() and int(file.read_text()) != said[file.name]
    ]


def remains(own: Mortal, identity: str) -> list[str]:
    """What there is of a container that doesn't run."""
    found = [str(path) for path in own.cgroups() if path.name == identity]
    found += [str(path) for path in (own.run / "journal" / identity, own.run / "bundles" / identity) if path.exists()]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return found + [line for line in mounts if identity in line]


def check_usable(own: Mortal, told: str) -> None:
    """Whatever has become of it, it can be used."""
    state = state_of(own)
    if not state:
        return
    if state["Paused"]:
        assert own.request("POST", "/containers/box/unpause")[0] == 204, told
    if not used(own, told):  # the signal of a stop had been sent, and takes effect only now
        assert used(own, told), told
    assert own.request("POST", "/containers/box/stop?t=20")[0] in (204, 304), told
    state = state_of(own)
    assert state, told
    assert state["ExitCode"] == 7, (told, state)


def used(own: Mortal, told: str) -> bool:
    """Start the container unless it runs, and use it; whether it ran as long as that."""
    status, answer = own.request("POST", "/containers/box/start")
    assert status in (204, 304), (told, answer)
    until_up(own)
    done = own.docker("exec", "box", "sh", "-c", "echo used > /kept/x; cat /kept/x", check=False)
    assert done.stdout == b"used\n" or b"is not running" in done.stderr, (told, done)
    return done.returncode == 0


def check_nothing_is_left(own: Mortal, told: str) -> None:
    assert [str(path) for path in own.cgroups() if path.name != own.cgroup] == [], told
    assert list((own.data / "containers").iterdir()) == [], told
    for name in ("journal", "bundles", "marks", "daemon-journal"):
        folder = own.run / name
        assert not folder.exists() or list(folder.iterdir()) == [], (told, name)
    deadline = time.monotonic() + PATIENCE
    while links := own.on_host("ip", "-o", "link", "show", "type", "veth"):
        assert time.monotonic() < deadline, (told, links)
        time.sleep(0.02)  # the kernel ends a network namespace behind the death of its last process
    assert "8080" not in own.on_host("nft", "list", "ruleset"), told
