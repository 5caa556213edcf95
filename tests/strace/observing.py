"""Containers of many kinds, started one after the other, and what the engine's traces say of each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from labkit.explain.telling import Data
from tests.strace.notation import NETLINK, WATCHED, calls_in, from_trace
from tests.support.daemon import PATIENCE, Daemon

SLEEP = ("busybox", "sleep", "1000")
"""What they run: nothing ends while strace looks on, so that all that it sees is starting."""

SCENARIOS: dict[str, tuple[str, ...]] = {
    "plain": ("run", "-d", "--network", "none", *SLEEP),
    "again": ("run", "-d", "--network", "none", *SLEEP),
    "user": (
        "run",
        "-d",
        "--network",
        "none",
        "--user",
        "bob:wheel",
        "-w",
        "/tmp/new/folder",
        "--hostname",
        "labhost",
        *SLEEP,
    ),
    "terminal": ("run", "-d", "-t", "--network", "none", *SLEEP),
    "read-only": ("run", "-d", "--read-only", "--network", "none", "--tmpfs", "/tmp", *SLEEP),
    "limits": (
        *("run", "-d", "--network", "none", "-m", "64m", "--cpus", "0.5", "--cpu-shares", "512", "--pids-limit", "20"),
        *("--ulimit", "nofile=100:200", "--oom-score-adj", "100", *SLEEP),
    ),
    "no-new-privileges": ("run", "-d", "--network", "none", "--security-opt", "no-new-privileges", *SLEEP),
    "capabilities": ("run", "-d", "--network", "none", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN", *SLEEP),
    "privileged": ("run", "-d", "--network", "none", "--privileged", *SLEEP),
    "volumes": (
        *("run", "-d", "--network", "none", "-v", "/tmp:/host/deep:ro", "-v", "site:/s", "-v", "/etc/hostname:/name"),
        *("--tmpfs", "/t:size=1m", *SLEEP),
    ),
    "host-network": ("run", "-d", "--network", "host", "--security-opt", "seccomp=unconfined", *SLEEP),
    "network-and-volumes": ("run", "-d", "-p", "80", "-v", "things:/things", "-v", "/usr/share:/shared:ro", *SLEEP),
    "network": ("run", "-d", "--network", "lab", "--network-alias", "x", "-P", "--expose", "80", *SLEEP),
    "exec": ("exec", "-d", "plain", "sleep", "1000"),
    "exec-as-user": ("exec", "-d", "-t", "-u", "bob", "-w", "/tmp", "plain", "/bin/sleep", "1000"),
}


@dataclass(frozen=True, slots=True)
class Observation:
    """The plan that the engine's trace tells for each scenario, and where strace's files are."""

    plans: dict[str, Data]
    folder: Path
    spawner: int

    def traced(self, name: str, actor: str) -> list[str]:
        """The watched calls that the trace of a scenario tells of an actor."""
        operations = [operation for operation in self.plans[name]["operations"] if operation["actor"] == actor]
        calls = [
            call
            for operation in operations
            for call in operation["calls"]
            if call["name"].removesuffix("at") in (*WATCHED, NETLINK)
        ]
        return [from_trace(call) for call in calls]

    def seen(self, pid: int) -> list[str]:
        """The watched calls that strace saw a process make, up to the exec of a program."""
        return calls_in(self.folder / f"of.{pid}")

    def processes(self) -> list[int]:
        """The processes that strace saw, besides the spawner."""
        return sorted({int(file.suffix[1:]) for file in self.folder.iterdir()} - {self.spawner})


def observe(daemon: Daemon, scenarios: dict[str, tuple[str, ...]], folder: Path, spawner: int) -> Observation:
    """Run the scenarios in order; containers are named as their scenarios."""
    plans = {}
    for name, (command, *words) in scenarios.items():
        daemon.docker(command, *(["--name", name] if command == "run" else []), *words)
        plans[name] = last_plan(daemon)
    found = Observation(plans, folder, spawner)
    deadline = time.monotonic() + PATIENCE
    while not _is_whole(found):
        assert time.monotonic() < deadline, "strace has not seen the last exec"
        time.sleep(0.02)  # it tells nobody
    return found


def _is_whole(observation: Observation) -> bool:
    """Whether strace has written down all that the last start or exec has led to."""
    programs = [plan["pids"]["init"] for plan in observation.plans.values()]
    others = [pid for pid in observation.processes() if pid not in programs]
    executed = all(any(call.startswith("execve(") for call in observation.seen(pid)) for pid in programs)
    returned = all(sum("setns(" in call for call in observation.seen(pid)) % 2 == 0 for pid in others)
    return executed and returned


def last_plan(daemon: Daemon) -> Data:
    """The plan that was carried out last."""
    status, trace = daemon.request("GET", "/labkit/traces/last")
    assert status == 200, trace
    plan: Data = trace["plans"][-1]
    return plan
