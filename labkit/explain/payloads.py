"""What is inside of packets, told in a line: DNS messages (RFC 1035) and the first lines of HTTP/1 (RFC 9112)."""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Iterator

_CODES = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
_KINDS = {1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 65: "HTTPS"}
_OPT = 41
_LONGEST = 96
_SHOWN = 8  # answers of a DNS message
_HTTP = re.compile(rb"(?:[A-Z]{3,8} [^\s]+ HTTP/1\.[01]|HTTP/1\.[01] \d{3}[^\r\n]*)(?=\r?\n)")


class CutShort(Exception):
    """The bytes end too early, or make no sense."""


def take(data: bytes, place: int, length: int) -> bytes:
    """So many bytes from a place on. Raises CutShort if there are fewer."""
    if place + length > len(data):
        raise CutShort(f"{place + length} bytes expected, {len(data)} there")
    return data[place : place + length]


def printable(data: bytes) -> str:
    """Bytes as text that does no harm to a terminal; shortened."""
    text = "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in data[: _LONGEST + 1])
    return text if len(data) <= _LONGEST else text[:_LONGEST] + "…"


def first_line(payload: bytes) -> str:
    """The request or status line that a segment begins with; empty if it begins with neither."""
    found = _HTTP.match(payload[:4096])
    return printable(found[0]) if found else ""


def dns(message: bytes) -> str:
    """`A? web`, `A web → 10.0.0.2`, `NXDOMAIN A web`. Raises CutShort if it is no such message."""
    _, flags, questions, answers = struct.unpack(">HHHH", take(message, 0, 8))
    is_response = bool(flags & 0x8000)
    place, asked = 12, []
    for _ in range(min(questions, _SHOWN)):
        name, place = _name(message, place)
        asked.append(f"{_kind(int.from_bytes(take(message, place, 2)))}{'' if is_response else '?'} {name}")
        place += 4
    question = ", ".join(asked)
    if not is_response:
        return question
    if flags & 15:
        return f"{_CODES.get(flags & 15, f'code {flags & 15}')} {question}".rstrip()
    found = list(_answers(message, place, answers))
    told = ", ".join(found[:_SHOWN]) or "nothing"
    rest = f" and {answers - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{question} → {told}{rest}{' (truncated)' if flags & 0x200 else ''}"


def _answers(message: bytes, place: int, count: int) -> Iterator[str]:
    for _ in range(min(count, _SHOWN + 1)):
        _, place = _name(message, place)
        kind, _, _, length = struct.unpack(">HHIH", take(message, place, 10))
        place += 10
        yield _content(message, kind, place, length)
        place += length


def _content(message: bytes, kind: int, place: int, length: int) -> str:
    content = take(message, place, length)
    if (kind, length) in ((1, 4), (28, 16)):
        return str(ipaddress.ip_address(content))
    if kind in (2, 5, 12):
        return f"{_name(message, place)[0]} ({_kind(kind)})"
    return f"{_kind(kind)}, {length} bytes"


def _kind(number: int) -> str:
    return _KINDS.get(number, f"type {number}")


def _name(message: bytes, place: int) -> tuple[str, int]:
    """A name, and where it ends. Pointers lead backwards only, so that they come to an end."""
    labels: list[bytes] = []
    end, before = 0, place
    while length := take(message, place, 1)[0]:
        if length >= 0xC0:
            end = end or place + 2
            place = int.from_bytes(take(message, place, 2)) & 0x3FFF
            if place >= before:
                raise CutShort("a name that leads nowhere")
            before = place
            continue
        if length > 63:
            raise CutShort("a name that is none")
        labels.append(take(message, place + 1, length))
        place += 1 + length
        if len(labels) > 127:
            raise CutShort("a name without end")
    return printable(b".".join(labels)) or ".", end or place + 1
