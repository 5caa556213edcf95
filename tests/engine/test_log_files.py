"""Logs in several files: rotated, compressed, read on through them, and cut off at any place by a crash."""

from __future__ import annotations

import asyncio
import gzip
import os
import resource
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.engine.clock import parse_rfc3339
from labkit.engine.logging.formats import Format, Frames, JsonLines
from labkit.engine.logging.logger import Files, Logger
from labkit.engine.logging.options import Rotation
from labkit.engine.logging.rotation import RotatedFile, compress_file, find, rotated
from labkit.engine.logs import LINE_LIMIT, Selection, length_of
from labkit.engine.output import Output
from labkit.kernel import pipes

FORMATS = [JsonLines(), JsonLines('{"a":"\\"}{"}'), Frames()]
TIME = 1_764_000_000_123_456_789
ALL = Selection()


def text(path: str, form: Format) -> bytes:
    """What a file, plain or compressed, holds of output."""
    raw = Path(path).read_bytes()
    data = gzip.decompress(raw) if path.endswith(".gz") else raw
    assert form.complete(data) == len(data)
    return b"".join(piece.data for piece in form.decode(data, ALL))


def whole(path: str, count: int, form: Format) -> bytes:
    return b"".join(text(name, form) for name in (*rotated(path, count), path))


def log_lines(logger: Logger, data: bytes, stream: str = "stdout") -> int:
    """Write raw output as the pump does; how much of it was taken."""
    taken = 0
    for entries, raw in logger.pieces(data, stream, TIME, True):
        logger.append(entries)
        taken += raw
    return taken


def in_loop(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


@pytest.mark.parametrize("form", FORMATS)
@given(
    data=st.lists(st.binary(max_size=30).map(lambda one: one + b"\n"), max_size=8).map(b"".join),
    room=st.integers(1, 900),
)
@settings(deadline=None)
def test_entries_and_raw_output_are_split_at_the_same_place(form: Format, data: bytes, room: int) -> None:
    entries, held = form.encode(data, "stdout", TIME, True)
    assert held == len(data)
    if not data:
        return
    cut, raw = form.split(entries, data, room)
    assert form.encode(data[:raw], "stdout", TIME, True)[0] == entries[:cut]
    assert form.encode(data[raw:], "stdout", TIME, True)[0] == entries[cut:]
    before = form.starts(entries[:cut], ALL)[-1]
    assert before < room
    assert cut >= min(room, len(entries))


@given(st.lists(st.binary(max_size=9), max_size=9).map(b"\n".join), st.integers(0, 12))
@settings(deadline=None)
def test_the_length_of_messages(data: bytes, count: int) -> None:
    assert length_of(data, count) == len(b"".join(pieces(data)[:count]))


def pieces(data: bytes) -> list[bytes]:
    *lines, last = data.split(b"\n")
    return [line + b"\n" for line in lines] + ([last] if last else [])


def test_the_length_of_messages_in_pieces() -> None:
    data = b"a\n" + b"x" * (LINE_LIMIT + 5) + b"\nb\n"
    assert [length_of(data, count) for count in range(5)] == [0, 2, 2 + LINE_LIMIT, len(data) - 2, len(data)]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("compress", [False, True])
def test_nothing_is_lost_while_there_are_files_enough(tmp_path: Path, form: Format, compress: bool) -> None:
    path = str(tmp_path / "log")
    data = b"".join(b"line %d\n" % number for number in range(2000))

    async def write() -> None:
        logger = Logger(Files(path, form, Rotation(4000, 200, compress)))
        left = data
        while left := left[log_lines(logger, left) :]:
            await logger.ready()
        await logger.settled()
        logger.close()

    in_loop(write)
    assert whole(path, 200, form) == data
    names = list(rotated(path, 200))
    assert len(names) > 10
    assert all(name.endswith(".gz") == compress for name in names)
    sizes = [len(gzip.decompress(Path(name).read_bytes())) if compress else os.path.getsize(name) for name in names]
    assert all(4000 <= size < 4200 for size in sizes)


def test_the_oldest_goes(tmp_path: Path) -> None:
    path = str(tmp_path / "log")

    async def write() -> None:
        logger = Logger(Files(path, JsonLines(), Rotation(10, 3)))
        for number in range(6):
            log_lines(logger, b"%d\n" % number)
        logger.close()

    in_loop(write)
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2"]
    assert whole(path, 3, JsonLines()) == b"3\n4\n5\n"


def test_one_file_begins_anew(tmp_path: Path) -> None:
    path = str(tmp_path / "log")

    async def write() -> None:
        logger = Logger(Files(path, JsonLines(), Rotation(10, 1)))
        log_lines(logger, b"1\n2\n3\n")
        logger.close()

    in_loop(write)
    assert os.listdir(tmp_path) == ["log"]
    assert text(path, JsonLines()) == b"3\n"


class Killed(BaseException):
    """Stands for SIGKILL between two system calls."""


@pytest.mark.parametrize("moment", range(12))
@pytest.mark.parametrize("gap", [False, True])
def test_killed_between_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int, gap: bool) -> None:
    """Whatever a killed daemon leaves of a rotation, the next one loses nothing that was to be kept."""
    path, form = str(tmp_path / "log"), JsonLines()

    def logger() -> Logger:
        return Logger(Files(path, form, Rotation(10, 9)))

    async def begin() -> None:
        first = logger()
        log_lines(first, b"".join(b"%d\n" % number for number in range(5)))
        first.close()
        if gap:
            os.rename(f"{path}.4", f"{path}.5")
        await crash()

    async def crash() -> None:
        second, left = logger(), moment
        real_rename, real_open = os.rename, os.open

        def step() -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1

        def rename(source: str, target: str) -> None:
            step()
            real_rename(source, target)

        def opened(name: str, flags: int, mode: int = 0o777) -> int:
            step()
            return real_open(name, flags, mode)

        with monkeypatch.context() as patch, pytest.raises(Killed) if moment < 6 - gap else nullcontext():
            patch.setattr(os, "rename", rename)
            patch.setattr(os, "open", opened)
            log_lines(second, b"5\n")
        os.close(second.file.fd if second.file else -1)

    in_loop(begin)
    found = whole(path, 9, form) if os.path.exists(path) else b"".join(text(name, form) for name in rotated(path, 9))
    assert found.startswith(b"0\n1\n2\n3\n4\n")

    async def again() -> None:
        third = logger()
        log_lines(third, b"6\n7\n")
        third.close()

    in_loop(again)
    assert whole(path, 9, form) == found + b"6\n7\n"


def test_half_compressed_files_are_settled(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    for number in (1, 2):
        Path(f"{path}.{number}").write_bytes(b"old %d" % number)
    Path(f"{path}.1.gz.tmp").write_bytes(b"half")
    compress_file(f"{path}.2")
    Path(f"{path}.2").write_bytes(b"old 2")

    async def open_it() -> None:
        RotatedFile(path, 10, 3, True).close()

    in_loop(open_it)
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2.gz"]


def test_a_file_that_can_not_be_compressed_stays(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        compress_file(str(tmp_path / "log.1"))
    assert os.listdir(tmp_path) == []
    assert find(str(tmp_path / "log"), 1) is None


def test_a_full_disk_loses_output_and_damages_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The limit of a file's size stands for the disk's: write(2) fails on its way, too."""

    async def write() -> None:
        file = RotatedFile(str(tmp_path / "log"))
        file.append(b"kept\n")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            file.append(b"x" * 200)
            file.append(b"x" * 200)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert file.end == os.path.getsize(file.path) == 5
        file.append(b"more\n")
        file.close()

    in_loop(write)
    assert (tmp_path / "log").read_bytes() == b"kept\nmore\n"
    assert caplog.text.count("output is lost") == 1


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("compress", [False, True])
def test_the_pump_waits_for_a_file_that_is_being_compressed(tmp_path: Path, form: Format, compress: bool) -> None:
    path = str(tmp_path / "log")
    data = b"".join(b"line %d\n" % number for number in range(20_000))

    async def pump() -> None:
        source, stage, scratch = pipes.make_pipe(), pipes.make_pipe(), pipes.make_pipe()
        mark = pipes.Mark.open(str(tmp_path / "mark"))
        output = Output(logger := Logger(Files(path, form, Rotation(50_000, 100, compress))))
        output.add("stdout", source[0], stage, mark, scratch)
        output.begin()
        os.write(source[1], data)
        os.close(source[1])
        await output.ended.wait()
        logger.close()
        for fd in scratch:
            os.close(fd)

    in_loop(pump)
    assert whole(path, 100, form) == data
    assert len(list(rotated(path, 100))) > 5


MOBY = bytes.fromhex(
    "00000016" "0a067374646f7574" "10ffabe1a39599dcf518" "1a026869" "00000016"
    "00000017" "0a06737464657272" "10a6dde7a39599dcf518" "1a03657272" "00000017"
    "00000060" "0a067374646f7574" "1082ce93af9599dcf518" "1a0470617274" "2001" "2a44"
    "1240" "6631333033663935663439613130326139" "34643132393263366464303236623964"
    "39353836336439343961613439623031" "666564653263666639376631366137" "1801" "00000060"
)  # fmt: skip
"""What dockerd 20.10 wrote for `echo hi; echo err >&2; printf part`."""


def test_frames_are_mobys() -> None:
    form = Frames()
    assert form.complete(MOBY) == len(MOBY)
    found = [(piece.stream, piece.data) for piece in form.decode(MOBY, ALL)]
    assert found == [("stdout", b"hi\n"), ("stderr", b"err\n"), ("stdout", b"part")]
    stamp = next(iter(form.decode(MOBY, Selection(timestamps=True)))).data.decode().split()[0]
    assert form.encode(b"hi\n", "stdout", parse_rfc3339(stamp), True)[0] == MOBY[:30]
    assert [MOBY[start + 6 : start + 12] for start in form.starts(MOBY, Selection(stderr=False))] == [b"stdout"] * 2


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_damaged_frame_ends_the_file(cut: int) -> None:
    form = Frames()
    assert form.complete(MOBY[:30] + MOBY[30 : 30 + cut]) == 30
    damaged = MOBY[:30] + b"\xff" * cut
    assert b"".join(piece.data for piece in form.decode(damaged, ALL)) == b"hi\n"


@given(st.binary(max_size=40))
@settings(deadline=None)
def test_any_bytes_are_no_message_or_one(data: bytes) -> None:
    list(Frames().decode(len(data).to_bytes(4, "big") + data + len(data).to_bytes(4, "big"), ALL))


@pytest.mark.parametrize("count", range(5))
@pytest.mark.parametrize("selection", [ALL, Selection(stderr=False), Selection(stdout=False)])
def test_the_tail_of_frames(tmp_path: Path, count: int, selection: Selection) -> None:
    (tmp_path / "log").write_bytes(MOBY)
    starts = Frames().starts(MOBY, selection)
    with open(tmp_path / "log", "rb") as file:
        found = Frames().tail_offset(file.fileno(), len(MOBY), count, selection)
    if count <= len(starts):
        assert found == (starts[-count] if count else len(MOBY), 0)
    else:
        assert found == (0, count - len(starts))
