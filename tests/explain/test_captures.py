"""Pcap files read as they grow, and packets as lines and tables."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import InvalidParameter
from labkit.explain.captures import Capture, line, names_of, read
from labkit.explain.packets import Packet
from tests.explain import frames

SYN = frames.ethernet(frames.ipv4(frames.tcp(flags=2), 6))
PING = frames.ethernet(frames.ipv6(b"\x80\0\0\0\0\1\0\1", 58), 0x86DD)


def pcap(*packets: bytes, order: str = "=", magic: int = 0xA1B23C4D, link_type: int = 1) -> bytes:
    """A file with packets at 1.5 s, 2.5 s and so on."""
    half = 500_000_000 if magic == 0xA1B23C4D else 500_000
    records = (
        struct.pack(f"{order}IIII", number, half, len(packet), len(packet) + 10) + packet
        for number, packet in enumerate(packets, 1)
    )
    return struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262144, link_type) + b"".join(records)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [0xA1B2C3D4, 0xA1B23C4D])
def test_both_orders_and_units(order: str, magic: int) -> None:
    first, second = read([pcap(SYN, PING, order=order, magic=magic)])
    assert (first.time, second.time) == (1_500_000_000, 2_500_000_000)
    assert (first.what, second.what) == ("SYN", "echo request 1")
    assert first.length == len(SYN) + 10


@given(st.lists(st.integers(1, 60), max_size=30))
def test_pieces_of_any_size(sizes: list[int]) -> None:
    data, place, pieces = pcap(SYN, PING, SYN), 0, []
    for size in sizes:
        pieces.append(data[place : place + size])
        place += size
    assert [packet.what for packet in read([*pieces, data[place:]])] == ["SYN", "echo request 1", "SYN"]


def test_a_packet_is_told_as_soon_as_it_is_whole() -> None:
    data, told = pcap(SYN, SYN), []

    def arriving() -> Iterator[bytes]:
        yield data[:24]
        yield data[24 : 24 + 16 + len(SYN)]
        told.append("the first was told before the second came")
        yield data[24 + 16 + len(SYN) :]

    packets = read(arriving())
    next(packets)
    assert told == []
    next(packets)


def test_what_is_cut_short_or_no_pcap_file() -> None:
    assert [packet.what for packet in read([pcap(SYN, PING)[:-1]])] == ["SYN"]
    assert list(read([])) == []
    for data, message in ((b"x" * 24, "begins with 78787878"), (b"x" * 23, "no pcap file")):
        with pytest.raises(InvalidParameter, match=message):
            list(read([data]))
    with pytest.raises(InvalidParameter, match="damaged"):
        list(read([pcap() + struct.pack("=IIII", 1, 1, 1 << 30, 1 << 30)]))


@given(st.binary(max_size=200))
def test_no_bytes_of_a_file_do_harm(data: bytes) -> None:
    for file in (data, pcap() + data):
        try:
            list(read([file]))
        except InvalidParameter:
            continue


PACKETS = [
    Packet(10**9, 60, "10.0.0.2:40000", "10.0.0.3:80", "TCP", "SYN"),
    Packet(10**9 + 1_500_000, 60, "[fd00::3]:80", "[fd00::2]:40000", "TCP", "<b>"),
    Packet(10**9 + 2_000_000, 60, "10.0.0.3", "everybody", "ARP", "who has 10.0.0.2? tell 10.0.0.3"),
]
NAMES = {"10.0.0.2": "app", "10.0.0.3": "web", "fd00::3": "web"}


def test_lines() -> None:
    assert line(PACKETS[1]).endswith(":01.001500 [fd00::3]:80 > [fd00::2]:40000 TCP: <b>")


def test_tables() -> None:
    plain = repr(Capture(PACKETS)).split("\n")
    assert plain[0].split() == ["TIME", "FROM", "TO", "PROTOCOL", "WHAT"]
    assert plain[2].split() == ["1.500", "ms", "[fd00::3]:80", "[fd00::2]:40000", "TCP", "<b>"]
    named = Capture(PACKETS, times=False, names=NAMES).rows()
    assert named == [
        ("From", "To", "Protocol", "What"),
        ("app", "web:80", "TCP", "SYN"),
        ("web:80", "[fd00::2]", "TCP", "<b>"),
        ("web", "everybody", "ARP", "who has 10.0.0.2? tell 10.0.0.3"),
    ]
    assert Capture(PACKETS, names=NAMES).rows()[1][1] == "app:40000"


def test_html_says_the_same_and_escapes_what_strangers_said() -> None:
    page = Capture(PACKETS)._repr_html_()
    assert "<caption>3 packets</caption>" in page
    assert "<td>&lt;b&gt;</td>" in page
    assert page.count("<tr>") == 4
    assert "<caption>1 packet</caption>" in Capture(PACKETS[:1])._repr_html_()
    assert Capture([]).rows() == [("Time", "From", "To", "Protocol", "What")]


def test_names_of_addresses() -> None:
    endpoint = {"IPAddress": "10.0.0.2", "GlobalIPv6Address": "fd00::2"}
    containers: list[dict[str, Any]] = [
        {"Names": ["/web"], "NetworkSettings": {"Networks": {"front": endpoint, "none": {"IPAddress": ""}}}},
        {"Names": ["/host"], "NetworkSettings": None},
    ]
    assert names_of(containers) == {"127.0.0.11": "name server", "10.0.0.2": "web", "fd00::2": "web"}
