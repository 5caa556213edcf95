"""Why a container ended, in words."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.explain.choice import Choice
from labkit.explain.decode import Style
from labkit.explain.endings import ending_node, reason
from labkit.explain.telling import BY_ITSELF, tell
from labkit.explain.tree import Explanation


def ending(**fields: Any) -> dict[str, Any]:
    return {"By": "itself", "ExitCode": 0, "At": "2026-01-02T03:04:05Z", "Signal": 0} | fields


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "it left by itself, done"),
        ({"ExitCode": 3}, "it left by itself"),
        ({"ExitCode": 127}, "it left by itself: a shell says so when there is no such program"),
        ({"ExitCode": 139},
         "it left by itself with 128 + 11, as a shell does whose command was killed by SIGSEGV"),
        ({"ExitCode": 255}, "it left by itself"),
        ({"By": "memory", "ExitCode": 137, "Signal": 9},
         "killed by SIGKILL: its memory was used up, and the kernel chose this process"),
        ({"By": "client", "ExitCode": 143, "Signal": 15, "Verb": "stop"},
         "killed by the SIGTERM that a client's `stop` had it sent"),
        ({"By": "client", "ExitCode": 0, "Verb": "stop"},
         "it left by itself upon a signal that a client's `stop` had it sent"),
        ({"By": "daemon", "ExitCode": 143, "Signal": 15},
         "killed by the SIGTERM that the daemon sent when it was told to end"),
        ({"By": "lost", "ExitCode": 255}, "nobody saw its end"),
        ({"By": "start", "ExitCode": 126}, "it never ran: the program is there, and could not be run"),
        ({"By": "start", "ExitCode": 128}, "it never ran: its start failed"),
    ],
)  # fmt: skip
def test_reasons(fields: dict[str, Any], words: str) -> None:
    assert reason(ending(**fields)) == words


def test_what_speaks_for_it() -> None:
    memory = {"Limit": 20 << 20, "Peak": 20 << 20, "Failures": 7, "Kills": 1}
    health = {"Start": "", "End": "", "ExitCode": 1, "Output": "no answer\n"}
    found = ending(By="memory", ExitCode=137, Signal=9, Memory=memory, Health=health, Next="restart 1 after 0.1 s")
    told = Explanation((ending_node(found, Choice(Style(True, False))),)).text().split("\n")
    assert told[1:] == [
        "├─ memory: at most 20MiB of 20MiB, which was hit; the kernel killed some of its processes for want of memory",
        "├─ its health check was failing: exit code 1: no answer",
        "└─ after it: restart 1 after 0.1 s",
    ]


def test_a_trace_that_nobody_asked_for_is_told_too() -> None:
    operation = {"actor": "daemon", "name": "SendSignal", "describe": "send", "man": "", "error": "", "calls": []}
    plan = {"name": "start", "subject": "box", "parent_id": "1", "pids": {}, "exec_at": 0, "operations": [operation]}
    trace = {"trace_id": "t", "requests": [], "plans": [plan], "transfers": []}
    node = tell(trace, [], Choice(Style(True, False), calls=False, times=False))
    assert node.remarks == (BY_ITSELF,)
    assert [child.text for child in node.children] == ["plan: start box"]
