"""Times as Docker's API has them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.engine.clock import now, parse_rfc3339, parse_timestamp, rfc3339
from labkit.errors import InvalidParameter


@given(st.integers(0, 2**62))
def test_nanoseconds_survive(ns: int) -> None:
    text = rfc3339(ns)
    assert parse_rfc3339(text) == ns
    assert datetime.fromisoformat(text).replace(microsecond=0) == datetime.fromtimestamp(ns // 10**9, UTC)


@given(st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_any_zone(at: datetime, minutes: int) -> None:
    sign, (hours, rest) = "+" if minutes >= 0 else "-", divmod(abs(minutes), 60)
    text = f"{at.isoformat()}{sign}{hours:02}:{rest:02}"
    expected = (at - timedelta(minutes=minutes)).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_rfc3339(text) == expected // timedelta(microseconds=1) * 1000


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1, "1970-01-01T00:00:00.000000001Z"), (15 * 10**8, "1970-01-01T00:00:01.5Z")],
)
def test_trailing_zeros_are_left_out_as_go_does(ns: int, text: str) -> None:
    assert rfc3339(ns) == text


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-11", "2026-11-24T", "2026-11-24T18:14:06.1234567891Z", "x2026-11-24T1:1Z"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="not RFC 3339"):
        parse_rfc3339(text)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("", 0), ("0", 0), ("12", 12 * 10**9), ("12.5", 125 * 10**8), ("1.000000001", 10**9 + 1),
        ("1970-01-01T00:00:02Z", 2 * 10**9), ("10s", 90 * 10**9), ("1m30s", 10 * 10**9), ("1.5s", 985 * 10**8),
        ("1970-01-02", 86400 * 10**9), ("1970-01-01T01:00+01:00", 0), ("1970-01-01T02", 7200 * 10**9),
        ("0.5h", (100 - 1800) * 10**9), ("100ms", 999 * 10**8), ("5ns", 10**11 - 5),
    ],
)  # fmt: skip
def test_since_and_until(text: str, ns: int) -> None:
    assert parse_timestamp(text, at=100 * 10**9) == ns


def test_what_is_neither_a_time_nor_a_duration_is_refused() -> None:
    with pytest.raises(InvalidParameter, match=r'^failed to parse value as time or duration: "bad"$'):
        parse_timestamp("bad")


@pytest.mark.parametrize("text", ["2026-13-01", "2026-00-01T10:00", "9" * 5000, "9" * 400 + "h"])
def test_what_can_not_be_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_timestamp(text)


def test_now_is_a_time() -> None:
    first, second = parse_rfc3339(now()), parse_rfc3339(now())
    assert 0 < first <= second
