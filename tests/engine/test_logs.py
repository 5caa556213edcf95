"""Docker's json-file logs: what goes in comes out, whatever the bytes and however they came."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.engine.clock import parse_rfc3339
from labkit.engine.logs import BLOCK, LINE_LIMIT, Piece, Selection, decode, encode, tail_offset

TIME = "2026-11-24T18:14:06.123456789Z"
LATER = "2026-11-24T18:14:07Z"
ALL = Selection()
odd_bytes = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"\n", b"\r\n", b"\\n", b'"', b"\xe2\x82", "ä€\u2028\x85".encode(), b"\0", b"\x1b[1m"]),
    st.sampled_from([b'","stream":"stdout","time":"x"}\n{"log":"', b'","stream":"stderr","time":"']),
)


def write(chunks: list[bytes], stream: str = "stdout") -> tuple[bytes, bytes]:
    """The log of what came in these chunks, and what was still held back before the end."""
    log, held = b"", b""
    for chunk in chunks:
        held += chunk
        lines, taken = encode(held, stream, TIME)
        log, held = log + lines, held[taken:]
    lines, taken = encode(held, stream, TIME, final=True)
    assert taken == len(held)
    return log + lines, held


def text(log: bytes, selection: Selection = ALL) -> bytes:
    return b"".join(piece.data for piece in decode(log, selection))


@given(st.lists(st.lists(odd_bytes, max_size=4).map(b"".join), max_size=6))
def test_any_bytes_in_any_chunks_come_out_again(chunks: list[bytes]) -> None:
    log, held = write(chunks)
    shown = b"".join(chunks).decode("utf-8", "replace").encode()
    assert b"\n" not in held
    assert text(log) == shown
    entries = [json.loads(line) for line in log.split(b"\n")[:-1]]
    assert "".join(entry["log"] for entry in entries).encode() == shown
    assert all((entry["stream"], entry["time"]) == ("stdout", TIME) for entry in entries)
    assert all("\n" not in entry["log"][:-1] for entry in entries)
    stamped = text(log, Selection(timestamps=True))
    assert stamped.decode() == "".join(f"{TIME} {entry['log']}" for entry in entries)


def test_a_line_waits_until_it_is_complete() -> None:
    assert encode(b"no line yet", "stdout", TIME) == (b"", 0)
    lines, taken = encode(b"one\ntwo", "stderr", TIME)
    assert (lines, taken) == (b'{"log":"one\\n","stream":"stderr","time":"%s"}\n' % TIME.encode(), 4)
    assert encode(b"", "stdout", TIME, final=True) == (b"", 0)


@pytest.mark.parametrize("length", [LINE_LIMIT - 1, LINE_LIMIT, LINE_LIMIT + 1, 3 * LINE_LIMIT + 5, 3 * LINE_LIMIT])
@pytest.mark.parametrize("filling", [b"x", b"\\"])
@pytest.mark.parametrize("before", [b"", b"short\n"])
def test_a_long_line_is_stored_in_pieces(length: int, filling: bytes, before: bytes) -> None:
    log, held = write([before + filling * length + b"\nnext\n"])
    entries = [json.loads(line)["log"].encode() for line in log.splitlines()][len(before) > 0 :]
    assert held == b""
    assert entries[-1] == b"next\n"
    whole = filling * length + b"\n"
    assert entries[:-1] == [whole[start : start + LINE_LIMIT] for start in range(0, len(whole), LINE_LIMIT)]
    assert text(log) == before + whole + b"next\n"


def test_a_long_line_does_not_wait_for_its_end() -> None:
    lines, taken = encode(b"x" * (LINE_LIMIT * 2 + 3), "stdout", TIME)
    assert taken == 2 * LINE_LIMIT
    assert [len(json.loads(line)["log"]) for line in lines.splitlines()] == [LINE_LIMIT, LINE_LIMIT]


def test_many_short_lines_are_no_long_line() -> None:
    data = b"".join(b"%d\n" % number for number in range(LINE_LIMIT))
    log, _ = write([data])
    assert log.count(b"\n") == LINE_LIMIT
    assert text(log) == data


def mixed() -> bytes:
    return b"".join(
        encode(data, stream, time)[0]
        for data, stream, time in [
            (b"a\n", "stdout", TIME), (b"b\nc\n", "stderr", TIME), (b"d\n", "stdout", LATER), (b"e\n", "stderr", LATER),
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("selection", "found"),
    [
        (Selection(), b"abcde"),
        (Selection(stderr=False), b"ad"),
        (Selection(stdout=False), b"bce"),
        (Selection(stdout=False, stderr=False), b""),
        (Selection(since=parse_rfc3339(TIME)), b"abcde"),
        (Selection(since=parse_rfc3339(TIME) + 1), b"de"),
        (Selection(until=parse_rfc3339(LATER)), b"abcde"),
        (Selection(until=parse_rfc3339(LATER) - 1), b"abc"),
        (Selection(since=parse_rfc3339(TIME) + 1, until=parse_rfc3339(LATER) - 1), b""),
        (Selection(since=parse_rfc3339(LATER), stdout=False), b"e"),
    ],
)
def test_what_a_client_selects(selection: Selection, found: bytes) -> None:
    assert text(mixed(), selection).replace(b"\n", b"") == found


def test_streams_keep_their_order() -> None:
    pieces = list(decode(mixed(), ALL))
    assert Piece("stderr", b"b\n") in pieces
    assert [piece.stream for piece in pieces] == ["stdout", "stderr", "stderr", "stdout", "stderr"]


def test_one_stream_is_one_piece() -> None:
    log, _ = write([b"a\nb\n", b"c\n"], "stderr")
    assert list(decode(log, ALL)) == [Piece("stderr", b"a\nb\nc\n")]
    assert list(decode(log, Selection(stderr=False))) == []
    assert list(decode(b"", ALL)) == []


@pytest.mark.parametrize("cut", range(1, 40))
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("line", [b'x"y', b"xyz"])
def test_a_damaged_line_is_skipped(cut: int, stream: str, line: bytes) -> None:
    """A power loss may leave a line cut, and the next one after it."""
    whole, _ = write([b"first\n"])
    damaged, _ = write([line + b"\n"], stream)
    assert text(whole + damaged[:cut] + b"\n" + whole) == b"first\nfirst\n"
    assert text(damaged[:cut] + b"\n" + whole) == b"first\n"
    assert text(whole + damaged[:cut] + b"\n") == b"first\n"


def naive_tail(log: bytes, lines: int, selection: Selection) -> int:
    """Where the last lines begin, found by reading everything."""
    starts = [0] + [match.end() for match in re.finditer(rb"\n", log)]
    wanted = [start for start in starts[:-1] if selection.wants(json.loads(log[start:].split(b"\n", 1)[0])["stream"])]
    if lines <= 0:
        return len(log)
    return wanted[-lines] if lines <= len(wanted) else 0


@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), odd_bytes.map(lambda data: data + b"\n")), max_size=12),
    st.integers(0, 14),
    st.sampled_from([ALL, Selection(stdout=False), Selection(stderr=False)]),
)
def test_where_the_tail_begins(parts: list[tuple[str, bytes]], lines: int, selection: Selection) -> None:
    log = b"".join(write([data], stream)[0] for stream, data in parts)
    with open(os.memfd_create("log"), "w+b", buffering=0) as file:
        file.write(log)
        assert tail_offset(file.fileno(), len(log), lines, selection)[0] == naive_tail(log, lines, selection)


@pytest.mark.parametrize("lines", [1, 2, 5, 4000, 4500, 9000])
def test_a_tail_longer_than_a_block(tmp_path: Path, lines: int) -> None:
    log = b"".join(write([b"%d %s\n" % (n, b"x" * (n % 97))], ("stdout", "stderr")[n % 3 == 0])[0] for n in range(5000))
    assert len(log) > 2 * BLOCK
    (tmp_path / "log").write_bytes(log)
    with open(tmp_path / "log", "rb") as file:
        for selection in (ALL, Selection(stdout=False), Selection(stderr=False)):
            assert tail_offset(file.fileno(), len(log), lines, selection)[0] == naive_tail(log, lines, selection)


FILLINGS = [b"plain", b'quo"te', b"back\\slash", "umläut!".encode(), b"tab\t", b"\\n not a break"]


@pytest.mark.parametrize("filling", FILLINGS)
@pytest.mark.parametrize("attrs", ["", '{"a":"\\"}{\\n"}'])
def test_large_blocks_of_several_times(filling: bytes, attrs: str) -> None:
    """More than what is read entry by entry, written at different times, pieces of long lines among them."""
    parts = [b"%s %d\n" % (filling, number) * (number % 500) for number in range(600)]
    parts.insert(300, filling * LINE_LIMIT + b"\n")
    times = [f"2026-11-24T18:14:{number % 60:02}Z" for number in range(len(parts))]
    encoded = [encode(part, "stdout", time, attrs=attrs)[0] for part, time in zip(parts, times, strict=True)]
    log = b"".join(encoded)
    assert len(log) > 4 << 20
    assert text(log) == b"".join(parts)
    last = [json.loads(line)["log"].encode() for line in log.splitlines()[-3:]]
    assert last == parts[-1].splitlines(keepends=True)[-3:]
    damaged = log[: len(encoded[0] + encoded[1]) - 5] + b"\n" + b"".join(encoded[2:])
    assert text(damaged) == b"".join(parts[2:])
