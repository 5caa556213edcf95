"""Packets told in a line, whatever bytes they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.explain.packets import COOKED, ETHERNET, decode
from tests.explain import frames
from tests.network import wire

QUERY = wire.query("web.front", wire.A)
ANSWER = wire.respond(QUERY, tuple(wire.record("web.front", wire.A, bytes([10, 0, 0, i])) for i in (2, 3)))
ALIAS = wire.respond(QUERY, (wire.record("web.front", wire.CNAME, b"\x03www\xc0\x10"), wire.record("x", 16, b"\1a")))
REQUEST = b"GET /a?b=c HTTP/1.1\r\nHost: web\r\n\r\n"


def told(data: bytes, link_type: int = ETHERNET) -> tuple[str, str, str, str]:
    found = decode(data, link_type)
    return found.source, found.target, found.protocol, found.what


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (frames.ipv4(frames.tcp(flags=0x02), 6), ("10.0.0.2:40000", "10.0.0.3:80", "TCP", "SYN")),
        (frames.ipv4(frames.tcp(flags=0x12), 6), ("10.0.0.2:40000", "10.0.0.3:80", "TCP", "SYN ACK")),
        (frames.ipv4(frames.tcp(flags=0), 6), ("10.0.0.2:40000", "10.0.0.3:80", "TCP", "no flags")),
        (frames.ipv4(frames.tcp(b"abc", 0x18), 6), ("10.0.0.2:40000", "10.0.0.3:80", "TCP", "PSH ACK, 3 bytes")),
        (frames.ipv4(frames.tcp(REQUEST), 6), ("10.0.0.2:40000", "10.0.0.3:80", "HTTP", "GET /a?b=c HTTP/1.1")),
        (
            frames.ipv4(frames.tcp(b"HTTP/1.1 404 Not Found\r\n\r\n", source=80, target=40000, options=bytes(12)), 6),
            ("10.0.0.2:80", "10.0.0.3:40000", "HTTP", "HTTP/1.1 404 Not Found"),
        ),
        (frames.ipv4(frames.udp(b"12345"), 17), ("10.0.0.2:40000", "10.0.0.3:9", "UDP", "5 bytes")),
        (frames.ipv4(frames.udp(b"1", 1, 2), 17, options=bytes(8)), ("10.0.0.2:1", "10.0.0.3:2", "UDP", "1 bytes")),
        (frames.ipv4(frames.udp(QUERY, target=53), 17), ("10.0.0.2:40000", "10.0.0.3:53", "DNS", "A? web.front")),
        (
            frames.ipv4(frames.udp(QUERY, target=4711), 17, target="127.0.0.11"),
            ("10.0.0.2:40000", "127.0.0.11:4711", "DNS", "A? web.front"),
        ),
        (
            frames.ipv4(frames.tcp(len(ANSWER).to_bytes(2) + ANSWER, source=53), 6),
            ("10.0.0.2:53", "10.0.0.3:80", "DNS", "A web.front → 10.0.0.2, 10.0.0.3"),
        ),
        (frames.ipv4(frames.udp(b"none", target=53), 17), ("10.0.0.2:40000", "10.0.0.3:53", "UDP", "4 bytes")),
        (frames.ipv4(b"\x08\0\0\0\0\1\0\7", 1), ("10.0.0.2", "10.0.0.3", "ICMP", "echo request 7")),
        (frames.ipv4(b"\x03\x03\0\0", 1), ("10.0.0.2", "10.0.0.3", "ICMP", "port unreachable")),
        (frames.ipv4(b"\x2a\1\0\0", 1), ("10.0.0.2", "10.0.0.3", "ICMP", "type 42, code 1")),
        (frames.ipv4(b"more", 17, offset=185), ("10.0.0.2", "10.0.0.3", "IPv4", "a fragment, from byte 1480 on")),
        (frames.ipv4(b"12", 47), ("10.0.0.2", "10.0.0.3", "IP protocol 47", "2 bytes")),
        (frames.ipv4(b"12", 6), ("10.0.0.2", "10.0.0.3", "TCP", "not understood: 20 bytes expected, 2 there")),
    ],
)
def test_over_ipv4(payload: bytes, expected: tuple[str, ...]) -> None:
    assert told(frames.ethernet(payload)) == expected
    assert told(frames.ethernet(payload, tags=(7, 9))) == expected
    assert told(frames.cooked(payload), COOKED) == expected


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (frames.ipv6(frames.tcp(flags=0x02), 6), ("[fd00::2]:40000", "[fd00::3]:80", "TCP", "SYN")),
        (frames.ipv6(b"\x06\0" + bytes(6) + frames.udp(b"1"), 0), ("fd00::2", "fd00::3", "TCP", "not understood: ")),
        (frames.ipv6(b"\x11\0" + bytes(6) + frames.udp(b"1"), 0), ("[fd00::2]:40000", "[fd00::3]:9", "UDP", "1 bytes")),
        (frames.ipv6(b"\x3a\0\0\0\0\0\0\1\x81\0\0\0\0\1\0\5", 44), ("fd00::2", "fd00::3", "ICMPv6", "echo reply 5")),
        (frames.ipv6(b"\x3a\0\0\x10" + bytes(4), 44), ("fd00::2", "fd00::3", "IPv6", "a fragment, from byte 16 on")),
        (frames.ipv6(b"\x87\0" + bytes(6) + bytes(15) + b"\1", 58), ("fd00::2", "fd00::3", "ICMPv6", "who has ::1?")),
        (frames.ipv6(b"\x88\0" + bytes(6) + bytes(15) + b"\1", 58), ("fd00::2", "fd00::3", "ICMPv6", "::1 is here")),
        (frames.ipv6(b"\x8f\0", 58), ("fd00::2", "fd00::3", "ICMPv6", "multicast listener report")),
    ],
)
def test_over_ipv6(payload: bytes, expected: tuple[str, ...]) -> None:
    found = told(frames.ethernet(payload, 0x86DD))
    assert found[:3] == expected[:3]
    assert found[3].startswith(expected[3])


def test_arp() -> None:
    asked = ("10.0.0.2", "everybody", "ARP", "who has 10.0.0.3? tell 10.0.0.2")
    assert told(frames.ethernet(frames.arp(1), 0x0806)) == asked
    assert told(frames.cooked(frames.arp(2), 0x0806), COOKED)[3] == "10.0.0.2 is at 02:42:ac:14:00:02"
    assert told(frames.ethernet(bytes(28), 0x0806))[3] == "operation 0"


def test_other_kinds_and_the_link() -> None:
    assert told(frames.ethernet(b"123", 0x88CC)) == ("02:42:ac:14:00:02", "02:42:ac:14:00:03", "0x88cc", "3 bytes")
    assert told(b"123", 147)[2:] == ("?", "not understood: link type 147")
    assert decode(frames.cooked(frames.arp(1), 0x0806, link=5), COOKED).link == 5
    found = decode(frames.ethernet(b"", 0x88CC), ETHERNET, 7, 1500)
    assert (found.time, found.length, found.link) == (7, 1500, 0)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (wire.query("", wire.SOA), "SOA? ."),
        (wire.query("web", 99), "type 99? web"),
        (wire.respond(QUERY), "A web.front → nothing"),
        (wire.respond(QUERY, code=3), "NXDOMAIN A web.front"),
        (wire.respond(QUERY, code=11), "code 11 A web.front"),
        (ALIAS, "A web.front → www.front (CNAME), TXT, 2 bytes"),
        (ANSWER[:2] + b"\x83" + ANSWER[3:], "A web.front → 10.0.0.2, 10.0.0.3 (truncated)"),
        (
            wire.respond(QUERY, tuple(wire.record("x", wire.A, bytes([10, 0, 0, i])) for i in range(12))),
            f"A web.front → {', '.join(f'10.0.0.{i}' for i in range(8))} and 4 more",
        ),
        (wire.query("a{b}.{}", wire.A), "A? a{b}.{}"),
        (wire.query("x\x1b[2Jy", wire.A), "A? x\\x1b[2Jy"),
    ],
)
def test_dns(message: bytes, expected: str) -> None:
    assert told(frames.ethernet(frames.ipv4(frames.udp(message, target=53), 17)))[2:] == ("DNS", expected)


def test_names_that_lead_in_circles_are_no_dns() -> None:
    for name in (b"\xc0\x0c", b"\x01a\xc0\x0c", b"\xc0\x20", b"\x80"):
        message = QUERY[:12] + name + b"\0\1\0\1" + bytes(40)
        assert told(frames.ethernet(frames.ipv4(frames.udp(message, target=53), 17)))[2] == "UDP"


def test_what_a_stranger_says_does_no_harm_to_a_terminal() -> None:
    line = b"GET /\x1b]0;gotcha\x07 HTTP/1.1\r\n"
    said = told(frames.ethernet(frames.ipv4(frames.tcp(line), 6)))[3]
    assert said == "GET /\\x1b]0;gotcha\\x07 HTTP/1.1"
    long = told(frames.ethernet(frames.ipv4(frames.tcp(b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\n"), 6)))[3]
    assert (len(long), long[-1]) == (97, "…")


WHOLE = st.sampled_from(
    [
        frames.ipv4(frames.udp(ANSWER, target=53), 17),
        frames.ipv4(frames.tcp(REQUEST), 6),
        frames.ipv6(b"\x11\0" + bytes(6) + frames.udp(ALIAS, source=53), 0),
        frames.ipv6(b"\x87\0" + bytes(22), 58),
        frames.ipv4(b"\x08\0\0\0\0\1\0\7", 1),
        frames.arp(1),
    ]
)


@given(st.binary(max_size=200), st.sampled_from((0x0800, 0x86DD, 0x0806, 0x8100, 0x1234)), st.sampled_from((1, 276, 9)))
def test_any_bytes_are_told(data: bytes, kind: int, link_type: int) -> None:
    for frame in (data, frames.ethernet(data, kind), frames.cooked(data, kind)):
        assert decode(frame, link_type).what.isprintable()


@given(WHOLE, st.data(), st.sampled_from((0x0800, 0x86DD, 0x0806)))
def test_changed_and_shortened_packets_are_told(payload: bytes, drawn: st.DataObject, kind: int) -> None:
    changed = bytearray(payload)
    for place in drawn.draw(st.lists(st.integers(0, len(changed) - 1), max_size=4)):
        changed[place] = drawn.draw(st.integers(0, 255))
    data = bytes(changed)[: drawn.draw(st.integers(0, len(changed)))]
    for frame, link_type in ((frames.ethernet(data, kind), ETHERNET), (frames.cooked(data, kind), COOKED)):
        found = decode(frame, link_type)
        assert all(text.isprintable() for text in (found.source, found.target, found.protocol, found.what))
