"""Values of options, and the numbers and times that are printed."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.cli.units import ago, ansi_date, api_timestamp, bytes_size, human_size
from labkit.cli.values import (
    VALUES,
    read_bytes,
    read_csv,
    read_duration,
    read_extra_host,
    read_gpus,
    read_nano_cpus,
    read_ulimit,
)
from labkit.errors import InvalidParameter
from labkit.templates.quoting import go_quote


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("32", 32), ("32b", 32), ("32K", 32768), ("32kb", 32768), ("32 KiB", 32768), ("1.5g", 1610612736)],
)
def test_sizes(text: str, size: int) -> None:
    assert read_bytes(text) == size


@pytest.mark.parametrize("text", ["", "foo", "-1", "1.2.3", "1q", "ib", "1 2"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"^invalid size: "):
        read_bytes(text)


@pytest.mark.parametrize(
    ("text", "duration"),
    [("0", 0), ("1s", 10**9), ("1m30s", 90 * 10**9), ("1.5h", 5400 * 10**9), ("-2ms", -2 * 10**6), ("3µs", 3000)],
)
def test_durations(text: str, duration: int) -> None:
    assert read_duration(text) == duration


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", 'time: missing unit in duration "5"'),
        ("x", 'time: invalid duration "x"'),
        ("", 'time: invalid duration ""'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
    ],
)
def test_what_is_no_duration(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        read_duration(text)
    assert str(caught.value) == message


@given(st.integers(0, 10**12))
def test_cpus_are_exact_billionths(nano: int) -> None:
    assert read_nano_cpus(f"{nano // 10**9}.{nano % 10**9:09d}") == nano


@pytest.mark.parametrize("text", ["", ".", "x", "1.0000000001"])
def test_what_is_no_number_of_cpus(text: str) -> None:
    with pytest.raises(ValueError, match=r"rational|precise"):
        read_nano_cpus(text)


def test_ulimits() -> None:
    assert read_ulimit("nofile=10:20") == {"Name": "nofile", "Soft": 10, "Hard": 20}
    assert read_ulimit("core=-1") == {"Name": "core", "Soft": -1, "Hard": -1}
    with pytest.raises(ValueError, match="soft limit must be less than or equal to hard limit: 20 > 10"):
        read_ulimit("nofile=20:10")


def test_gpus_and_hosts() -> None:
    assert read_gpus("all")["Count"] == -1
    assert read_gpus('"device=0,1",driver=nvidia')["DeviceIDs"] == ["0", "1"]
    assert read_extra_host("db=[::1]") == "db:::1"


@given(st.lists(st.text(st.characters(exclude_characters='"', exclude_categories=["Cs"])), min_size=1))
def test_quoted_fields_may_contain_commas(fields: list[str]) -> None:
    assert read_csv(",".join(f'"{field}"' for field in fields)) == fields


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_flag_type_reads_or_refuses_any_text(text: str) -> None:
    for read in VALUES.values():
        try:
            read(text)
        except (ValueError, InvalidParameter) as error:
            assert str(error)  # noqa: PT017 - it may also be accepted


@given(st.text(st.characters(max_codepoint=126, min_codepoint=32)))
def test_printable_ascii_is_quoted_as_json_quotes_it(text: str) -> None:
    assert go_quote(text) == json.dumps(text)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (999, "999B"), (1000, "1kB"), (1_986_000, "1.99MB"), (10**12, "1TB")]
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert human_size(size, 3) == text


def test_other_forms_for_people() -> None:
    assert bytes_size(25276502016) == "23.54GiB"
    assert ansi_date("2026-05-07T21:09:36.000000000+00:00") == "Thu May  7 21:09:36 2026"
    assert ansi_date("now") == "now"
    assert ago(time.time() - 7200) == "2 hours ago"


def test_points_in_time_for_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    assert api_timestamp("10m", now=1_000_000) == "999400"
    assert api_timestamp("1700000000") == "1700000000"
    assert api_timestamp("2013-01-02T13:23:37Z") == "1357133017.000000000"
    assert api_timestamp("2013-01-02T13:23:37.5+01:00") == "1357129417.500000000"
    with pytest.raises(InvalidParameter, match=r'^failed to parse value as time or duration: "foo"$'):
        api_timestamp("foo")
