"""Restart policies as data: who is started again, after how long, and what may be asked for."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.engine.backoff import FIRST, MOST, NAMES, STEADY, Backoff, check, next_delay, wants_restart
from labkit.engine.models import RestartPolicy
from labkit.errors import InvalidParameter

CODES = st.integers(0, 255)


def policy(name: str, count: int = 0) -> RestartPolicy:
    return RestartPolicy(Name=name, MaximumRetryCount=count)


@pytest.mark.parametrize(
    ("name", "count", "words"),
    [
        ("never", 0,
         "unknown policy 'never'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"),
        ("always", 3, "maximum retry count can only be used with 'on-failure'"),
        ("no", -1, "maximum retry count can only be used with 'on-failure' and cannot be negative"),
        ("", 1, "maximum retry count can only be used with 'on-failure'"),
        ("on-failure", -1, "maximum retry count cannot be negative"),
    ],
)  # fmt: skip
def test_what_is_no_policy(name: str, count: int, words: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check(policy(name, count))
    assert str(caught.value) == f"invalid restart policy: {words}"


def test_what_is_a_policy() -> None:
    for name in ("", *NAMES):
        check(policy(name))
    check(policy("on-failure", 5))


@given(CODES, st.booleans(), st.integers(0, 100))
def test_who_is_started_again(code: int, stopped: bool, count: int) -> None:
    assert not wants_restart(policy("no"), code, stopped, count)
    assert not wants_restart(policy(""), code, stopped, count)
    assert wants_restart(policy("always"), code, stopped, count)
    assert wants_restart(policy("unless-stopped"), code, stopped, count) is not stopped
    assert wants_restart(policy("on-failure"), code, stopped, count) is (code != 0)
    assert wants_restart(policy("on-failure", 5), code, stopped, count) is (code != 0 and count < 5)


def test_delays_double_up_to_a_minute() -> None:
    delays = [next_delay(0, 0)]
    while len(delays) < 12:
        delays.append(next_delay(delays[-1], 0))
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-2:] == [MOST, MOST]


@given(st.floats(0, MOST), st.floats(0, 1000))
def test_a_long_run_begins_anew(last: float, ran: float) -> None:
    delay = next_delay(last, ran)
    assert FIRST <= delay <= MOST or delay == last * 2
    if ran >= STEADY:
        assert delay == FIRST


def test_a_stop_counts_until_somebody_starts_it() -> None:
    backoff = Backoff(cancelled=True)
    assert not backoff.decide(policy("always"), 1, False, 0, 0)
    assert backoff.delay == 0
    assert Backoff().decide(policy("always"), 0, True, 0, 0)


def test_the_timer() -> None:
    async def wait() -> list[str]:
        called: list[str] = []
        done = asyncio.Event()
        stopped, kept = Backoff(delay=0.01), Backoff(delay=0.02)

        def restart() -> None:
            called.append("kept")
            done.set()

        stopped.begin(lambda: called.append("stopped"))
        kept.begin(restart)
        stopped.stop()
        await done.wait()
        assert [stopped.waiting, kept.waiting] == [False, False]
        return called

    assert asyncio.run(wait()) == ["kept"]
