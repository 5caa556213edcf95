"""Health checks as data: what is asked for, what an image adds, and what results mean."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.engine import health_checks
from labkit.engine.clock import rfc3339
from labkit.engine.health import MOST_OUTPUT, Collector
from labkit.engine.health_checks import SECOND, command, go_duration, interval, judge, settings
from labkit.engine.models import Config, Health, HealthConfig, HealthResult, State
from labkit.errors import InvalidParameter
from tests.engine.records import record

STARTED = 1_000 * SECOND


def result(code: int, at: float = 100) -> HealthResult:
    moment = rfc3339(STARTED + int(at * SECOND))
    return HealthResult(Start=moment, End=moment, ExitCode=code, Output="")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("Interval", 999_999, "Interval in Healthcheck cannot be less than 1ms"),
        ("Timeout", -1, "Timeout in Healthcheck cannot be less than 1ms"),
        ("StartPeriod", 1, "StartPeriod in Healthcheck cannot be less than 1ms"),
        ("StartInterval", 1, "StartInterval in Healthcheck cannot be less than 1ms"),
        ("Retries", -1, "Retries in Healthcheck cannot be negative"),
    ],
)
def test_what_is_no_check(field: str, value: int, words: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        health_checks.check(msgspec.convert({field: value}, HealthConfig))
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (None, None),
        ([], None),
        (["NONE"], None),
        (["CMD", "/probe", "-x"], ["/probe", "-x"]),
        (["CMD-SHELL", "exit 1"], ["/bin/sh", "-c", "exit 1"]),
        (["OTHER", "x"], None),
        (["CMD"], None),
    ],
)
def test_the_command(test: list[str] | None, words: list[str] | None) -> None:
    assert command(Config(Healthcheck=HealthConfig(Test=test))) == words
    assert command(Config()) is None


def test_the_shell_of_the_image_runs_it() -> None:
    config = Config(Healthcheck=HealthConfig(Test=["CMD-SHELL", "ok"]), Shell=["/bin/ash", "-ec"])
    assert command(config) == ["/bin/ash", "-ec", "ok"]


def test_what_an_image_adds() -> None:
    image = {"Healthcheck": {"Test": ["CMD", "/probe"], "Interval": 5 * SECOND, "Retries": 7}}
    assert record(image).Config.Healthcheck == HealthConfig(Test=["CMD", "/probe"], Interval=5 * SECOND, Retries=7)
    own = record(image, Healthcheck={"Interval": SECOND}).Config.Healthcheck
    assert own == HealthConfig(Test=["CMD", "/probe"], Interval=SECOND, Retries=7)
    none = record(image, Healthcheck={"Test": ["NONE"]})
    assert command(none.Config) is None
    assert record({}, Healthcheck=None).Config.Healthcheck is None


def test_defaults_are_dockers() -> None:
    found = settings(Config(Healthcheck=HealthConfig(Test=["CMD", "x"])))
    assert (found.Interval, found.Timeout, found.Retries) == (30 * SECOND, 30 * SECOND, 3)
    assert (found.StartPeriod, found.StartInterval) == (0, 5 * SECOND)


def test_it_is_asked_more_often_while_it_starts() -> None:
    check = HealthConfig(Interval=30, StartPeriod=100, StartInterval=2)
    assert interval(check, "starting", 99) == 2
    assert interval(check, "starting", 100) == 30
    assert interval(check, "healthy", 1) == 30


@given(st.lists(st.integers(0, 2), max_size=20), st.integers(1, 5))
def test_what_results_make_of_a_container(codes: list[int], retries: int) -> None:
    check = settings(Config(Healthcheck=HealthConfig(Retries=retries)))
    health = Health()
    for code in codes:
        health = judge(health, result(code), check, STARTED)
    streak = next((place for place, code in enumerate(reversed(codes)) if code == 0), len(codes))
    assert health.FailingStreak == streak
    assert [one.ExitCode for one in health.Log] == codes[-5:]
    if streak >= retries:
        assert health.Status == "unhealthy"
    if codes and not streak:
        assert health.Status == "healthy"


def test_failures_of_the_start_period_do_not_count_before_it_was_healthy() -> None:
    check = settings(Config(Healthcheck=HealthConfig(Retries=1, StartPeriod=10 * SECOND)))
    early = judge(Health(), result(1, 9.9), check, STARTED)
    assert (early.Status, early.FailingStreak) == ("starting", 0)
    assert judge(early, result(1, 10), check, STARTED).Status == "unhealthy"
    assert judge(Health(Status="healthy"), result(1, 1), check, STARTED).Status == "unhealthy"


@given(st.lists(st.binary(max_size=3000), max_size=6))
def test_output_is_kept_up_to_a_page(pieces: list[bytes]) -> None:
    collector = Collector()
    for piece in pieces:
        collector.write(piece)
    whole = b"".join(pieces)
    assert bytes(collector.kept) == whole[:MOST_OUTPUT]
    assert collector.text().endswith("...") or len(whole) <= MOST_OUTPUT


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.3, "300ms"), (1, "1s"), (1.5, "1.5s"), (30, "30s"), (90, "1m30s"), (3600, "1h0m0s")]
)
def test_durations_as_go_prints_them(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


def test_the_state_shows_health_only_where_there_is_a_check() -> None:
    assert "Health" not in msgspec.to_builtins(State())
    assert msgspec.to_builtins(State(Health=Health()))["Health"]["Status"] == "starting"
    assert health_checks.status_of(State()) == "none"
