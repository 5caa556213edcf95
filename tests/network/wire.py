"""DNS messages for tests, written and read by code of their own: labkit is compared with the RFC, not with itself."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

A, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, OPT = 1, 5, 6, 12, 15, 16, 28, 33, 41


class Answer(NamedTuple):
    """What a message says."""

    number: int
    flags: int
    question: tuple[str, int, int] | None
    answers: list[tuple[str, int, int, str]]  # name, type, TTL, content
    authorities: list[tuple[str, int, int, str]]
    additional: list[tuple[str, int, int, str]]
    options: tuple[int, int] | None  # OPT: class (size), TTL (version and flags)

    @property
    def code(self) -> int:
        return self.flags & 15

    @property
    def truncated(self) -> bool:
        return bool(self.flags & 0x200)

    @property
    def contents(self) -> set[str]:
        return {content for *_, content in self.answers}


def name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".") if label) + b"\0"


def query(
    text: str,
    kind: int = A,
    number: int = 0x1234,
    size: int = 0,
    flags: int = 0x0100,
    category: int = 1,
    version: int = 0,
) -> bytes:
    """A question, with an OPT record if a size is given."""
    asked = name(text) + struct.pack(">HH", kind, category)
    options = b"\0" + struct.pack(">HHIH", OPT, size, version << 16, 0) if size else b""
    return struct.pack(">HHHHHH", number, flags, 1, 0, 0, 1 if size else 0) + asked + options


def record(text: str, kind: int, content: bytes, ttl: int = 60) -> bytes:
    return name(text) + struct.pack(">HHIH", kind, 1, ttl, len(content)) + content


def respond(
    asked: bytes,
    answers: tuple[bytes, ...] = (),
    authorities: tuple[bytes, ...] = (),
    additional: tuple[bytes, ...] = (),
    code: int = 0,
    flags: int = 0x8180,
) -> bytes:
    """The response of a resolver to a query; its question alone is taken over."""
    end = 12
    while asked[end]:
        end += 1 + asked[end]
    counts = struct.pack(">HHHH", 1, len(answers), len(authorities), len(additional))
    head = asked[:2] + struct.pack(">H", flags | code) + counts + asked[12 : end + 5]
    return head + b"".join((*answers, *authorities, *additional))


def read(data: bytes) -> Answer:
    """Take a message apart. Fails if anything is left over or missing."""
    number, flags, questions, *counts = struct.unpack_from(">HHHHHH", data)
    place, question = 12, None
    assert questions <= 1
    if questions:
        text, place = _name(data, place)
        question = (text, *struct.unpack_from(">HH", data, place))
        place += 4
    sections: list[list[tuple[str, int, int, str]]] = [[], [], []]
    options = None
    for section, count in zip(sections, counts, strict=True):
        for _ in range(count):
            text, place = _name(data, place)
            kind, category, ttl, length = struct.unpack_from(">HHIH", data, place)
            place += 10
            assert place + length <= len(data)
            if kind == OPT:
                assert options is None
                assert section is sections[2]
                options = category, ttl
            else:
                section.append((text, kind, ttl, _content(data, kind, place, length)))
            place += length
    assert place == len(data)
    return Answer(number, flags, question, sections[0], sections[1], sections[2], options)


def _content(data: bytes, kind: int, place: int, length: int) -> str:
    if kind == A:
        return socket.inet_ntop(socket.AF_INET, data[place : place + length])
    if kind == AAAA:
        return socket.inet_ntop(socket.AF_INET6, data[place : place + length])
    if kind in (PTR, CNAME):
        return _name(data, place)[0]
    return data[place : place + length].hex()


def _name(data: bytes, place: int) -> tuple[str, int]:
    labels, end, jumps = [], 0, 0
    while length := data[place]:
        if length >= 0xC0:
            end, place = end or place + 2, int.from_bytes(data[place : place + 2]) & 0x3FFF
            jumps += 1
            assert jumps < 20
            continue
        assert length < 64
        labels.append(data[place + 1 : place + 1 + length].decode("latin-1"))
        place += 1 + length
    return ".".join(labels), end or place + 1
