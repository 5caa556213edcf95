"""Output that is sent away: messages as syslog and journald want them, others that block, die and come back."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.engine.logging import journald, options, syslog
from labkit.engine.logging.formats import Frames
from labkit.engine.logging.logger import Files, Logger
from labkit.engine.logging.options import Rotation
from labkit.engine.logging.sending import Datagrams, Sender, Stream
from labkit.engine.logs import LINE_LIMIT, Selection
from labkit.engine.output import Output
from labkit.errors import InvalidParameter, LabkitError
from labkit.kernel import pipes
from tests.engine.records import record as make_record
from tests.engine.test_log_files import whole

TIME = 1_764_000_000_123_456_789


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(main())


def plain(message: bytes, stream: str, time: int) -> bytes:
    return message


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("", r"<30>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d tag\[PID\]: hi\n"),
        ("rfc3164", r"<30>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d HOST tag\[PID\]: hi\n"),
        ("rfc5424", r"<30>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d) HOST tag PID tag - hi\n"),
        ("rfc5424micro", r"<30>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.123456(Z|[+-]\d\d:\d\d) HOST tag PID tag - hi\n"),
    ],
)
def test_syslog_messages(form: str, expected: str) -> None:
    pattern = expected.replace("PID", str(os.getpid())).replace("HOST", re.escape(socket.gethostname()))
    assert re.fullmatch(pattern, syslog.encoder(form, 3, "tag", "udp")(b"hi\n", "stdout", TIME).decode())
    assert syslog.encoder(form, 3, "tag", "udp")(b"hi", "stderr", TIME).startswith(b"<27>")
    if form.startswith("rfc5424"):
        length, _, rest = syslog.encoder(form, 3, "tag", "tcp+tls")(b"hi\n", "stdout", TIME).partition(b" ")
        assert int(length) == len(rest)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ("", "")), ("udp://h", ("udp", "h:514")), ("tcp://1.2.3.4:99", ("tcp", "1.2.3.4:99")),
        ("unix:///a/b", ("unix", "/a/b")), ("tcp://[::1]:5", ("tcp", "[::1]:5")), ("tcp://[::1]", ("tcp", "[::1]:514")),
        ("tcp+tls://h:1", ("tcp+tls", "h:1")),
    ],
)  # fmt: skip
def test_addresses(text: str, found: tuple[str, str]) -> None:
    assert options.syslog_address(text) == found


def test_facilities() -> None:
    assert [options.facility(text) for text in ("", "kern", "local7", "23", "0")] == [3, 0, 23, 23, 0]
    for text in ("24", "15", "x", "-1"):
        with pytest.raises(InvalidParameter, match="invalid syslog facility"):
            options.facility(text)


def fields(datagram: bytes) -> dict[str, bytes]:
    """A message in the journal's native protocol, read."""
    found, rest = {}, datagram
    while rest:
        line, _, rest = rest.partition(b"\n")
        name, sign, value = line.partition(b"=")
        if not sign:
            length = struct.unpack("<Q", rest[:8])[0]
            value, rest = rest[8 : 8 + length], rest[9 + length :]
        found[name.decode()] = value
    return found


def container(**config: str) -> Any:
    record = make_record(Labels={"com.x-y": "1\n2", "_under": "u"}, Env=["A=b"])
    record.HostConfig.LogConfig.Type = "journald"
    record.HostConfig.LogConfig.Config = config
    return record


def test_the_journal_gets_fields(tmp_path: Path) -> None:
    async def work() -> None:
        path = str(tmp_path / "socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(path)
            record = container(labels="com.x-y,_under", env="A", tag="{{.Name}}!")
            sender = journald.sender(record, path)
            await sender.connect()
            data = b"one\n" + b"x" * LINE_LIMIT + b"\n\xff\n"
            assert sender.send(data, "stderr", TIME, False) == len(data)
            got = [fields(server.recv(1 << 20)) for _ in range(4)]
            sender.close()
        first = got[0]
        epoch = first.pop("CONTAINER_LOG_EPOCH")
        assert re.fullmatch(rb"[0-9a-f]{32}", epoch)
        assert first == {
            "CONTAINER_ID": record.Id[:12].encode(), "CONTAINER_ID_FULL": record.Id.encode(), "CONTAINER_NAME": b"box",
            "CONTAINER_TAG": b"box!", "SYSLOG_IDENTIFIER": b"box!", "IMAGE_NAME": record.Config.Image.encode(),
            "COM_X_Y": b"1\n2", "UNDER": b"u", "A": b"b", "PRIORITY": b"3", "MESSAGE": b"one",
            "SYSLOG_TIMESTAMP": b"2025-11-24T16:00:00.123456789Z", "CONTAINER_LOG_ORDINAL": b"1",
        }  # fmt: skip
        assert got[1]["CONTAINER_PARTIAL_MESSAGE"] == b"true"
        assert got[1]["MESSAGE"] == b"x" * LINE_LIMIT
        assert (got[2]["MESSAGE"], got[3]["MESSAGE"]) == (b"", b"\xff")

    run(work)


def test_no_journal(tmp_path: Path) -> None:
    with pytest.raises(LabkitError, match="journald is not enabled on this host"):
        journald.sender(container(), str(tmp_path / "nosuch"))


def test_entries_of_the_journal() -> None:
    entry = {
        "__REALTIME_TIMESTAMP": "1764000000123456", "PRIORITY": "6", "MESSAGE": "hi", "COM_X": "1", "_PID": "3",
        "CONTAINER_ID": "abc",
    }  # fmt: skip
    found = journald.parse(entry, Selection(details=True, timestamps=True))
    assert found == ("stdout", b"2025-11-24T16:00:00.123456000Z COM_X=1 hi\n")
    odd = entry | {"MESSAGE": [255, 10], "PRIORITY": "3", "CONTAINER_PARTIAL_MESSAGE": "true"}
    assert journald.parse(odd, Selection()) == ("stderr", b"\xff\n")
    assert journald.parse(odd, Selection(stderr=False)) is None
    assert journald.parse(entry, Selection(since=TIME)) is None
    assert journald.parse(entry, Selection(until=TIME - 1000)) is None


def test_journalctl_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in its place says what it was asked, and goes on until it is ended; then it is asked for the rest."""
    script = tmp_path / "journalctl"
    line = json.dumps(
        {"MESSAGE": "ARGS", "PRIORITY": "6", "__REALTIME_TIMESTAMP": "1764000000123456", "__CURSOR": "s=1"}
    )
    script.write_text(
        f"#!/bin/sh\n[ $1 = --sync ] && exit\necho '{line}' | sed \"s/ARGS/$*/\"\n"
        "case $* in *--follow*) exec sleep 1000;; esac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    async def work() -> None:
        journal = journald.Journal(container(), Selection(since=5 * 10**9), 7)
        pieces = journal.read(follow=True)
        said = (await anext(pieces)).data.decode()
        assert said.split()[:6] == ["--output=json", "--all", "--quiet", "--lines=7", "--since=@5", "--follow"]
        assert said.split()[6].startswith("CONTAINER_ID_FULL=")
        await pieces.aclose()
        (rest,) = [piece.data.decode() async for piece in journal.rest()]
        assert rest.split()[3:-1] == ["--after-cursor=s=1"]

    run(work)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LabkitError, match="configured logging driver does not support reading"):
        journald.Journal(container(), Selection(), None)


def test_who_does_not_read_lets_the_container_wait(tmp_path: Path) -> None:
    """A socket that is full: nothing is taken of what it can't hold, and what was taken arrives in order."""
    path = str(tmp_path / "socket")

    async def work() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(path)
            sender = Sender(Datagrams("unixgram", socket.AF_UNIX, path), plain)
            await sender.connect()
            data = b"".join(b"%d\n" % number for number in range(5000))
            taken = sender.send(data, "stdout", TIME, False)
            assert 0 < taken < len(data)
            got, left = [], data
            while left := left[taken:]:
                waiting = asyncio.create_task(sender.ready())
                while not waiting.done():
                    got.append(server.recv(100))
                    await asyncio.sleep(0)
                taken = sender.send(left, "stdout", TIME, False)
            while sum(map(len, got)) < len(data):
                got.append(server.recv(100))
            assert b"".join(got) == data
            sender.close()

    run(work)


def test_a_buffer_that_is_full_loses_the_newest(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    async def work() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(path)
            sender = Sender(Datagrams("unixgram", socket.AF_UNIX, path), plain, buffer=1000)
            await sender.connect()
            data = b"".join(b"%04d\n" % number for number in range(5000))
            assert sender.send(data, "stdout", TIME, False) == len(data)
            assert sender.size <= 1000
            got: list[bytes] = []
            server.setblocking(False)
            loop = asyncio.get_running_loop()
            loop.add_reader(server, lambda: got.append(server.recv(100)))
            await sender.settled()
            while len(got) < 200:
                await asyncio.sleep(0)
            loop.remove_reader(server)
            assert b"".join(got) == data[:1000]
            sender.close()

    run(work)


def test_who_has_died_costs_messages_and_no_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tmp_path / "socket")

    async def work() -> None:
        sender = Sender(transport := Datagrams("unixgram", socket.AF_UNIX, path), plain)
        with pytest.raises(LabkitError, match="dial unixgram: connect: no such file or directory"):
            await sender.connect()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(path)
            await sender.connect()
        assert sender.send(b"lost\n" * 1000, "stdout", TIME, False) == 5000
        os.unlink(path)
        assert sender.send(b"lost\n", "stdout", TIME, False) == 5
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(path)
            transport.lost_at -= 1
            assert sender.send(b"back\n", "stdout", TIME, False) == 5
            assert server.recv(100) == b"back\n"
        sender.close()

    run(work)
    assert caplog.text.count("is lost") == 1


def test_a_connection_that_breaks_is_made_again(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    async def work() -> None:
        got: list[bytes] = []
        told = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.append(await reader.readline())
            told.set()
            writer.close()

        server = await asyncio.start_unix_server(serve, path)
        sender = Sender(transport := Stream("unix", path), plain)
        await sender.connect()
        for number in range(3):
            message = b"%d\n" % number
            while not sender.send(message, "stdout", TIME, False):
                await sender.ready()
            await told.wait()
            told.clear()
            while transport.transport is not None:
                await asyncio.sleep(0.01)  # until the other end's close has come
        assert got == [b"0\n", b"1\n", b"2\n"]
        server.close()
        Path(path).unlink(missing_ok=True)  # from 3.13 on the server does so
        while not sender.send(b"lost\n", "stdout", TIME, False):
            await sender.ready()
        assert transport.lost == 1 or transport.lost == 2
        sender.close()

    run(work)


def test_a_connection_whose_other_end_does_not_read(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    async def work() -> None:
        gone = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await gone.wait()
            writer.transport.abort()

        server = await asyncio.start_unix_server(serve, path)
        sender = Sender(transport := Stream("unix", path), plain)
        await sender.connect()
        line = b"x" * 1000 + b"\n"
        taken = sender.send(line * 10_000, "stdout", TIME, False)
        assert taken < 1_000_000  # the socket's buffer, and 64 KiB here
        assert sender.send(line, "stdout", TIME, False) == 0
        sender.deadline = asyncio.get_running_loop().call_later(0, sender._give_up)
        await sender.ready()
        assert sender.send(line * 10_000, "stdout", TIME, False) == len(line) * 10_000
        gone.set()
        sender.close()
        assert transport.transport is None or transport.transport.is_closing()
        server.close()
        await asyncio.sleep(0.05)

    run(work)


def test_what_is_sent_is_kept_once_too(tmp_path: Path) -> None:
    """The copy of what is sent is complete, and nothing is sent twice, though both make the pump wait."""
    path = str(tmp_path / "socket")
    data = b"".join(b"line %d\n" % number for number in range(20_000))

    async def work() -> None:
        got: list[bytes] = []
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as server:
            server.bind(path)
            loop.add_reader(server, lambda: got.append(server.recv(100)))
            sender = Sender(Datagrams("unixgram", socket.AF_UNIX, path), plain)
            await sender.connect()
            log = Logger(Files(str(tmp_path / "log"), Frames(), Rotation(20_000, 100, True)), sender)
            source, stage, scratch = pipes.make_pipe(), pipes.make_pipe(), pipes.make_pipe()
            output = Output(log)
            output.add("stdout", source[0], stage, None, scratch)
            output.begin()
            os.write(source[1], data)
            os.close(source[1])
            await output.ended.wait()
            while len(got) < 20_000:
                await asyncio.sleep(0)
            loop.remove_reader(server)
            log.close()
            for fd in scratch:
                os.close(fd)
        assert b"".join(got) == data

    run(work)

    assert whole(str(tmp_path / "log"), 100, Frames()) == data


def test_this_machines_syslog(tmp_path: Path) -> None:
    """The first socket where somebody listens, of either kind; none, if all are dead."""
    dead, stream, missing = (str(tmp_path / name) for name in ("dead", "stream", "missing"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
        gone.bind(dead)
    with pytest.raises(LabkitError, match="Unix syslog delivery error"):
        syslog.local([missing, dead])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(stream)
        server.listen()
        assert isinstance(syslog.local([missing, dead, stream]), Stream)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(missing)
        assert isinstance(syslog.local([missing, dead]), Datagrams)
