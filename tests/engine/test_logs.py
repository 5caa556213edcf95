"""The json-file log: what goes in comes out, in Docker's format, however it was cut on its way."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.engine import logs
from labkit.engine.attaching import DEFAULT_KEYS, KeyWatch, parse_keys
from labkit.engine.clock import parse_rfc3339, parse_timestamp, rfc3339
from labkit.engine.logs import Selection
from labkit.engine.output import LogFile, Output
from labkit.engine.users import resolve
from labkit.engine.views import human_duration
from labkit.errors import InvalidParameter
from labkit.kernel import pipes

TIME = "2026-01-02T03:04:05.6Z"
piece = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(str.encode),
    st.sampled_from([b"\n", b"\r\n", b"\\", b'"', b'{"log":"', b'","stream":"stdout","time":"x"}\n', b"x" * 20000]),
)


def stored(chunks: list[tuple[str, bytes]]) -> bytes:
    """The log after these chunks, and the end of both streams."""
    log, held = b"", {"stdout": b"", "stderr": b""}
    for stream, chunk in [*chunks, ("stdout", b""), ("stderr", b"")]:
        data = held[stream] + chunk
        lines, taken = logs.encode(data, stream, TIME, final=not chunk)
        held[stream] = data[taken:]
        log += lines
    return log


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), piece), max_size=12))
def test_what_goes_in_comes_out(chunks: list[tuple[str, bytes]]) -> None:
    chunks = [(stream, chunk) for stream, chunk in chunks if chunk]
    log = stored(chunks)
    for line in log.splitlines():
        entry = json.loads(line)
        assert set(entry) == {"log", "stream", "time"}
        assert len(entry["log"].encode("utf-8", "replace")) <= 3 * logs.LINE_LIMIT
    for stream in ("stdout", "stderr"):
        selection = Selection(stdout=stream == "stdout", stderr=stream == "stderr")
        found = b"".join(piece.data for piece in logs.decode(log, selection))
        whole = b"".join(chunk for name, chunk in chunks if name == stream)
        if whole.isascii() or all(len(line) < logs.LINE_LIMIT for line in whole.split(b"\n")):
            assert found == whole.decode("utf-8", "replace").encode()


def test_a_long_line_is_cut_as_dockerd_does() -> None:
    entries = [json.loads(line) for line in stored([("stdout", b"x" * 40_000 + b"\n")]).splitlines()]
    assert [len(entry["log"]) for entry in entries] == [16384, 16384, 7233]


@given(st.lists(st.sampled_from([("stdout", b"a\n"), ("stderr", b"b\r\xc2\x85\n")]), max_size=20), st.integers(0, 25))
def test_the_tail(chunks: list[tuple[str, bytes]], wanted: int) -> None:
    log = stored(chunks)
    fd = os.memfd_create("log")
    try:
        os.write(fd, log)
        offset = logs.tail_offset(fd, len(log), wanted, Selection(stderr=False))
    finally:
        os.close(fd)
    count = sum(stream == "stdout" for stream, _ in chunks)
    found = b"".join(piece.data for piece in logs.decode(log[offset:], Selection(stderr=False)))
    assert found == b"a\n" * min(wanted, count)


def test_what_a_killed_daemon_had_staged_is_in_the_log_at_once(tmp_path: Path) -> None:
    async def take_over() -> bytes:
        source, stage, scratch = pipes.make_pipe(), pipes.make_pipe(), pipes.make_pipe()
        os.write(stage[1], b"whole line\npart")
        output = Output(log := LogFile(str(tmp_path / "log")))
        output.add("stdout", source[0], stage, None, scratch)
        found = Path(log.path).read_bytes()
        os.close(source[1])
        await output.ended.wait()
        log.close()
        for fd in scratch:
            os.close(fd)
        return found

    assert json.loads(asyncio.run(take_over()))["log"] == "whole line\n"
    lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(line)["log"] for line in lines] == ["whole line\n", "part"]


@given(st.integers(0, 4 * 10**18))
def test_times_come_back(ns: int) -> None:
    assert parse_rfc3339(rfc3339(ns)) == ns


def test_timestamps() -> None:
    assert parse_timestamp("1.5") == 1_500_000_000
    assert parse_timestamp("1h30m", at=6 * 3600 * 10**9) == int(4.5 * 3600) * 10**9
    assert parse_timestamp("2026-01-01T00:00:00+01:00") == parse_timestamp("2025-12-31T23:00:00Z")
    with pytest.raises(InvalidParameter):
        parse_timestamp("yesterday")


@given(st.lists(st.sampled_from([b"\x10", b"\x11", b"a", b"\x10\x11"]), max_size=12))
def test_detach_keys_are_found_however_they_come(chunks: list[bytes]) -> None:
    watch, passed, detached = KeyWatch(DEFAULT_KEYS), b"", False
    for chunk in chunks:
        data, detached = watch.feed(chunk)
        passed += data
        if detached:
            break
    whole = b"".join(chunks)
    place = whole.find(DEFAULT_KEYS)
    assert detached == (place >= 0)
    assert passed + (b"" if detached else watch.held) == (whole[:place] if detached else whole)


def test_detach_keys_as_text() -> None:
    assert parse_keys("") == b"\x10\x11"
    assert parse_keys("ctrl-a,d,ctrl-[") == b"\x01d\x1b"
    for text in ("ctrl-1", "ctrl-", "word", "a,,b"):
        with pytest.raises(InvalidParameter, match="Invalid detach keys"):
            parse_keys(text)


PASSWD = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:100::/home/bob:\nbroken:x:no:1::/:\nshort:x\n"
GROUP = "root:x:0:\nwheel:x:10:bob,eve\nusers:x:100:\n"


@pytest.mark.parametrize(
    ("user", "added", "expected"),
    [
        ("", (), (0, 0, (0,), "/root")),
        ("bob", ("7", "users"), (1000, 100, (100, 10, 7), "/home/bob")),
        ("1000:wheel", (), (1000, 10, (10,), "/home/bob")),
        ("4242", (), (4242, 0, (0,), "/")),
    ],
)
def test_users(user: str, added: tuple[str, ...], expected: tuple[object, ...]) -> None:
    found = resolve(user, PASSWD, GROUP, added)
    assert (found.uid, found.gid, found.groups, found.home) == expected


@pytest.mark.parametrize("user", ["eve", "broken", "bob:missing", "-1", "99999999999"])
def test_users_that_are_not_there(user: str) -> None:
    with pytest.raises(InvalidParameter, match="unable to find"):
        resolve(user, PASSWD, GROUP)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (119, "About a minute"),
     (3600, "About an hour"), (7200, "2 hours"), (86400 * 3, "3 days"), (86400 * 15, "2 weeks"),
     (86400 * 70, "2 months"),
     (86400 * 800, "2 years")],
)  # fmt: skip
def test_durations_as_go_units_says_them(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text
