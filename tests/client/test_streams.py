"""Multiplexed frames, detach keys and the pump, on real sockets."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.client import Answer, Client
from labkit.client.signals import SignalPipe, forwarded_signals, signal_name
from labkit.client.streams import AttachedStream, Attachment, Demultiplexer, DetachKeys, parse_detach_keys
from labkit.client.transport import Connection
from labkit.errors import InvalidParameter, Unavailable

_HEAD = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40))), st.integers(1, 50))
def test_frames_come_out_however_they_are_cut(frames: list[tuple[int, bytes]], size: int) -> None:
    wire = b"".join(frame(stream, data) for stream, data in frames)
    demultiplexer = Demultiplexer()
    got = {1: b"", 2: b""}
    for at in range(0, len(wire), size):
        for stream, data in demultiplexer.feed(wire[at : at + size]):
            got[stream] += data
    for stream in (1, 2):
        assert got[stream] == b"".join(data for number, data in frames if number == stream)


def test_a_raw_stream_is_not_taken_for_frames() -> None:
    with pytest.raises(Unavailable, match="unrecognized stream"):
        list(Demultiplexer().feed(b"hello, this is no frame"))


@given(st.binary(max_size=60).map(lambda data: bytes(b"ab\x10\x11"[byte % 4] for byte in data)), st.integers(1, 9))
def test_detach_keys_are_found_however_they_are_typed(typed: bytes, size: int) -> None:
    keys = DetachKeys(b"\x10\x11")
    passed, detached = b"", False
    for at in range(0, len(typed), size):
        more, detached = keys.feed(typed[at : at + size])
        passed += more
        if detached:
            break
    before, found, _ = typed.partition(b"\x10\x11")
    assert detached == bool(found)
    # What might become the sequence is held back.
    assert passed == before if found else passed == typed.removesuffix(b"\x10")


@pytest.mark.parametrize(("text", "keys"), [("ctrl-p,ctrl-q", b"\x10\x11"), ("a,ctrl-@", b"a\0"), ("ctrl-[", b"\x1b")])
def test_detach_keys_are_read(text: str, keys: bytes) -> None:
    assert parse_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["", "ctrl-", "ab", "ctrl-1"])
def test_unknown_detach_keys_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="Unknown character"):
        parse_detach_keys(text)


def pumped(peer: Callable[[socket.socket], None], attachment: Attachment) -> bool:
    """Pumps a stream whose engine side is `peer`, in a thread."""
    ours, theirs = socket.socketpair()

    def run() -> None:
        with theirs:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += theirs.recv(4096)
            theirs.sendall(_HEAD)
            peer(theirs)

    thread = threading.Thread(target=run)
    thread.start()
    client = Client("unix:///unused")
    client.adopt(Connection(ours, "test"))
    answer: Answer = client.hijack("/containers/x/attach")
    try:
        return AttachedStream(answer, attachment).pump()
    finally:
        thread.join(10)


def test_input_and_output_flow_both_ways_without_blocking_each_other() -> None:
    size = 8 * 1024 * 1024  # far beyond what sockets and pipes hold

    def echo(sock: socket.socket) -> None:
        while data := sock.recv(65536):
            sock.sendall(frame(1, data))
        sock.sendall(frame(2, b"input ended"))

    read, write = os.pipe()
    sent = os.urandom(1024) * (size // 1024)

    def feed() -> None:
        with open(write, "wb") as file:
            file.write(sent)

    feeder = threading.Thread(target=feed)
    feeder.start()
    got = {1: bytearray(), 2: bytearray()}

    def take(stream: int, data: bytes | memoryview) -> None:
        got[stream] += data

    assert pumped(echo, Attachment(take, read)) is False
    feeder.join()
    os.close(read)
    assert got[1] == sent
    assert got[2] == b"input ended"


def test_without_input_the_container_sees_its_end_at_once() -> None:
    got = bytearray()

    def peer(sock: socket.socket) -> None:
        sock.sendall(b"eof" if sock.recv(1) == b"" else b"data")

    assert pumped(peer, Attachment(lambda _, data: got.extend(data), None, tty=True)) is False
    assert got == b"eof"


def test_the_detach_keys_end_the_pump() -> None:
    read, write = os.pipe()
    os.write(write, b"ls\n\x10\x11rest")
    received = bytearray()

    def peer(sock: socket.socket) -> None:
        while data := sock.recv(100):
            received.extend(data)

    assert pumped(peer, Attachment(lambda *_: None, read, True, b"\x10\x11")) is True
    os.close(read)
    os.close(write)
    assert received == b"ls\n"


def test_signals_are_passed_on_and_a_stream_that_outlives_them_is_told() -> None:
    said: list[object] = []

    def peer(sock: socket.socket) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        while "lingers" not in said:
            sock.settimeout(0.1)
            try:
                sock.recv(1)
            except TimeoutError:
                continue

    with SignalPipe([signal.SIGUSR1]) as pipe:
        pumped(peer, Attachment(lambda *_: None, None, True, b"", pipe, said.append, lambda: said.append("lingers")))
    assert said == [signal.SIGUSR1, "lingers"]
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_all_but_a_commands_own_signals_are_forwarded() -> None:
    numbers = forwarded_signals()
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH} <= set(numbers)
    assert not {signal.SIGKILL, signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG} & set(numbers)
    assert signal_name(signal.SIGINT) == "SIGINT"
    assert signal_name(40) == "40"
