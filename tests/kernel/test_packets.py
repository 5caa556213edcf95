"""Packet sockets: filters as programs, run here and by the kernel, and what passes on a real link."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import KernelError
from labkit.kernel import packets
from tests.explain import frames

ACCEPTED = packets.SNAPSHOT


def run(program: bytes, data: bytes, ethernet_type: int) -> int:
    """What a filter returns (linux/filter.h): the instructions that this one uses, and no others."""
    instructions = list(struct.iter_unpack("=HBBI", program))
    place = a = x = 0
    while True:
        code, jt, jf, k = instructions[place]
        place += 1
        if code == 0x06:
            return int(k)
        if code == 0x20:
            assert k == 0xFFFFF000
            a = ethernet_type
        elif code in (0x28, 0x30, 0x48):
            at, size = k + (x if code == 0x48 else 0), 1 if code == 0x30 else 2
            if at + size > len(data):
                return 0
            a = int.from_bytes(data[at : at + size])
        elif code == 0xB1:
            if k >= len(data):
                return 0
            x = (data[k] & 15) * 4
        else:
            assert code in (0x15, 0x45)
            place += jt if (a == k if code == 0x15 else a & k) else jf


TCP, UDP = frames.tcp(source=40000, target=80), frames.udp(b"1", source=53, target=40000)
PAYLOADS = {
    "tcp": (frames.ipv4(TCP, 6, options=bytes(8)), 0x0800),
    "tcp6": (frames.ipv6(TCP, 6), 0x86DD),
    "udp": (frames.ipv4(UDP, 17), 0x0800),
    "udp6": (frames.ipv6(UDP, 17), 0x86DD),
    "icmp": (frames.ipv4(b"\x08\0" + bytes(6), 1), 0x0800),
    "icmp6": (frames.ipv6(b"\x80\0" + bytes(6), 58), 0x86DD),
    "fragment": (frames.ipv4(TCP, 6, offset=100), 0x0800),
    "arp": (frames.arp(1), 0x0806),
    "other": (bytes(40), 0x88CC),
}


@pytest.mark.parametrize(
    ("port", "protocol", "passing"),
    [
        (0, "tcp", {"tcp", "tcp6", "fragment"}),
        (0, "udp", {"udp", "udp6"}),
        (0, "icmp", {"icmp", "icmp6"}),
        (0, "arp", {"arp"}),
        (80, "", {"tcp", "tcp6"}),
        (40000, "", {"tcp", "tcp6", "udp", "udp6"}),
        (40000, "udp", {"udp", "udp6"}),
        (53, "udp", {"udp", "udp6"}),
        (53, "tcp", set()),
        (81, "", set()),
    ],
)
@pytest.mark.parametrize("start", [0, packets.ETHERNET])
def test_a_filter_lets_pass_what_was_asked_for(port: int, protocol: str, passing: set[str], start: int) -> None:
    program = packets.program(port, protocol, start)
    found = {name for name, (data, kind) in PAYLOADS.items() if run(program, bytes(start) + data, kind) == ACCEPTED}
    assert found == passing


def test_nothing_asked_for_is_no_filter() -> None:
    assert packets.program() == b""


@given(st.binary(max_size=80), st.sampled_from((0x0800, 0x86DD, 0x0806)), st.integers(0, 65535))
def test_a_filter_ends_with_any_packet(data: bytes, kind: int, port: int) -> None:
    assert run(packets.program(port, "tcp"), data, kind) in (0, ACCEPTED)


@pytest.fixture
def talk() -> Iterator[tuple[socket.socket, socket.socket, int]]:
    """Two UDP sockets on the loopback link, the first connected to the second, and the second's port."""
    sender, receiver = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with sender, receiver:
        receiver.bind(("127.0.0.1", 0))
        sender.connect(receiver.getsockname())
        yield sender, receiver, receiver.getsockname()[1]


def received(sock: socket.socket) -> list[packets.Frame]:
    """All packets that are there."""
    found, buffer = [], bytearray(packets.SNAPSHOT)
    while True:
        try:
            found.append(packets.receive(sock, buffer))
        except BlockingIOError:
            return found


@pytest.mark.root
@pytest.mark.parametrize("link", ["lo", packets.ANY])
def test_packets_of_a_port_pass_once_with_their_time(talk: tuple[socket.socket, socket.socket, int], link: str) -> None:
    sender, receiver, port = talk
    with packets.open_capture("", link, port, "udp") as sock:
        before = time.time_ns()
        sender.send(b"seen")
        sender.sendto(b"elsewhere", ("127.0.0.1", 9))
        receiver.recv(10)
        frame, *others = received(sock)
        assert others == []
        assert before <= frame.time <= time.time_ns()
        assert frame.data.endswith(b"seen")
        assert len(frame.data) == frame.length == 20 + 8 + 4 + (14 if link == "lo" else 0)
        assert (frame.link, frame.protocol) == ("lo", packets.ETH_P_IP)
        assert packets.index_of(sock, "lo") == 1
        assert packets.dropped(sock) == 0


@pytest.mark.root
def test_what_came_before_the_filter_is_not_told(
    talk: tuple[socket.socket, socket.socket, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, _, port = talk
    attach = packets._attach

    def attach_late(sock: socket.socket, program: bytes) -> None:
        sender.sendto(b"elsewhere", ("127.0.0.1", 9))
        attach(sock, program)

    monkeypatch.setattr(packets, "_attach", attach_late)
    with packets.open_capture("", packets.ANY, port) as sock:
        sender.send(b"seen")
        assert [frame.data[-4:] for frame in received(sock)] == [b"seen"]


@pytest.mark.root
def test_what_nobody_takes_is_counted(talk: tuple[socket.socket, socket.socket, int]) -> None:
    sender, _, port = talk
    with packets.open_capture("", "lo", port) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        for _ in range(200):
            sender.send(bytes(1000))
        taken = len(received(sock))
        assert 0 < taken < 200
        assert packets.dropped(sock) > 0
        assert packets.dropped(sock) == 0


@pytest.mark.root
def test_there_is_no_such_link() -> None:
    with pytest.raises(KernelError) as caught:
        packets.open_capture("", "nowhere0")
    assert caught.value.errno_name == "ENODEV"
