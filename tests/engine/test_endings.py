"""Why a container ended, from what is known of it."""

from __future__ import annotations

from labkit.engine.endings import ending
from labkit.engine.models import Health, HealthResult
from labkit.engine.run import Asked
from labkit.runtime.spawning import Outcome

AT = 10**18
TERM = Asked("stop", 15, "client", "t1")
KILL = Asked("stop", 9, "client", "t2")


def outcome(code: int, signal: int = 0, oom: bool = False) -> Outcome:
    counts = {"Limit": 1, "Peak": 1, "Failures": 3, "Kills": 1} if oom else None
    return Outcome(code, AT, oom, signal, counts)


def test_by_itself() -> None:
    found = ending(outcome(3), [], "", None)
    assert (found.By, found.ExitCode, found.Signal) == ("itself", 3, 0)


def test_by_a_request() -> None:
    found = ending(outcome(137, 9), [TERM, KILL], "", None)
    assert (found.By, found.Verb, found.Trace, found.Signal) == ("client", "stop", "t2", 9)
    handled = ending(outcome(0), [TERM], "", None)
    assert (handled.By, handled.Verb, handled.Trace) == ("client", "stop", "t1")


def test_by_the_daemon() -> None:
    assert ending(outcome(143, 15), [Asked("stop", 15, "daemon", "t")], "", None).By == "daemon"


def test_by_somebody_else() -> None:
    assert ending(outcome(137, 9), [TERM], "", None).By == "signal"
    assert ending(outcome(139, 11), [], "", None).By == "signal"


def test_memory_is_told_apart_from_a_kill() -> None:
    found = ending(outcome(137, 9, oom=True), [], "", None)
    assert found.By == "memory"
    assert found.Memory
    assert found.Memory.Failures == 3
    assert ending(outcome(137, 9, oom=True), [KILL], "", None).By == "client"
    assert ending(outcome(1, oom=True), [], "", None).By == "itself"


def test_lost() -> None:
    found = ending(outcome(255), [], "the machine went", None)
    assert (found.By, found.Error) == ("lost", "the machine went")


def test_a_failing_health_check_is_told_of() -> None:
    last = HealthResult(Start="", End="", ExitCode=1, Output="no answer")
    assert ending(outcome(0), [], "", Health(FailingStreak=2, Log=[last])).Health == last
    assert ending(outcome(0), [], "", Health(Log=[last])).Health is None
