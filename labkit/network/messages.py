"""DNS messages, as far as the name server of containers needs them (RFC 1035; EDNS: RFC 6891; TCP: RFC 7766).

Queries are read whole, answers are made whole. What a resolver answers is checked and passed on as it is: only the
boundaries of its records are looked for. All bytes come from containers or from the network and may be anything.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from labkit.errors import InvalidParameter

HEADER = struct.Struct(">HHHHHH")  # number, flags, then how many questions, answers, authorities, additional records
_FIXED = struct.Struct(">HHIH")  # of a record, after its name: type, class, TTL, length of what follows
_KIND = struct.Struct(">HH")

A, PTR, MX, AAAA, OPT = 1, 12, 15, 28, 41
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
RESPONSE, TRUNCATED, RECURSE, RECURSION, CHECKING_DISABLED = 0x8000, 0x0200, 0x0100, 0x0080, 0x0010
_OPCODE, _DNSSEC_OK = 0x7800, 0x8000

TTL = 600
"""Seconds for which an answer about a container may be kept, as in moby."""
DATAGRAM = 512
"""What a client takes over UDP if it doesn't say more."""
STREAM = 65535
"""The longest message, and what a client takes over TCP."""
_OWN_SIZE = 4096  # what this server takes over UDP
_LONGEST_NAME = 255
_ASKED = b"\xc0\x0c"  # a pointer to the question's name, as the name of a record


class Malformed(InvalidParameter):
    """Bytes that are no DNS query that can be answered. `code` is what to reply; None: say nothing."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Query:
    """A client's question. `name` is in lower case, without the dot at its end; `asked` is the question as it came."""

    number: int
    flags: int
    name: str
    kind: int
    category: int
    asked: bytes
    wire: bytes
    size: int = DATAGRAM
    """Bytes that the client takes over UDP."""
    edns: bool = False
    dnssec: bool = False


class Record(NamedTuple):
    """Where a record of a message begins, what it is, where its content begins and ends."""

    start: int
    kind: int
    category: int
    ttl: int
    content: int
    end: int


def read_query(data: bytes) -> Query:
    """Read what a client sent. Raises Malformed, with the code to reply if it can be replied to."""
    if len(data) < HEADER.size:
        raise Malformed(f"{len(data)} bytes are no DNS message")
    number, flags, questions, answers, authorities, more = HEADER.unpack_from(data)
    if flags & RESPONSE:
        raise Malformed("a response instead of a query")
    if flags & _OPCODE:
        raise Malformed(f"opcode {(flags & _OPCODE) >> 11} instead of a query", NOTIMP)
    if questions != 1:
        raise Malformed(f"{questions} questions in a query", FORMERR)
    name, place = _read_name(data, HEADER.size)
    if place + 4 > len(data):
        raise Malformed("a question without type and class", FORMERR)
    kind, category = _KIND.unpack_from(data, place)
    asked, place = data[HEADER.size : place + 4], place + 4
    if not (answers or authorities or more):
        return Query(number, flags, name, kind, category, asked, data[:place])
    found = list(records(data, place, answers + authorities + more))
    size, version, dnssec = _edns(data, found)
    if version > 0:
        raise Malformed(f"EDNS version {version}", BADVERS)
    return Query(
        number, flags, name, kind, category, asked, data[: found[-1].end], max(size, DATAGRAM), version == 0, dnssec
    )


def _edns(data: bytes, found: list[Record]) -> tuple[int, int, bool]:
    """What a query's OPT record says: size, version (-1: there is none), whether DNSSEC's records are wanted."""
    options = [record for record in found if record.kind == OPT]
    if not options:
        return 0, -1, False
    if len(options) > 1 or data[options[0].start]:
        raise Malformed("more than one OPT record, or one with a name", FORMERR)
    return options[0].category, options[0].ttl >> 16 & 0xFF, bool(options[0].ttl & _DNSSEC_OK)


def _read_name(data: bytes, place: int) -> tuple[str, int]:
    """A name that isn't compressed, in lower case, and where it ends.

    A dot within a label is written `\\.`, so that it can't be taken for the end of the label.
    """
    start, labels = place, []
    while place < len(data) and (length := data[place]):
        if length > 63:
            raise Malformed("a question's name can't be compressed", FORMERR)
        labels.append(data[place + 1 : place + 1 + length])
        place += 1 + length
    if place >= len(data) or place - start >= _LONGEST_NAME:
        raise Malformed("a name that has no end", FORMERR)
    if b"." in b"".join(labels):
        labels = [label.replace(b".", b"\\.") for label in labels]
    return b".".join(labels).lower().decode("latin-1"), place + 1


def records(data: bytes, place: int, count: int) -> Iterator[Record]:
    """The records of a message from a place on. Raises Malformed where they don't fit into it."""
    for _ in range(count):
        start = place
        place = _skip_name(data, place)
        if place + _FIXED.size > len(data):
            raise Malformed("a record beyond the end of its message", FORMERR)
        kind, category, ttl, length = _FIXED.unpack_from(data, place)
        content = place + _FIXED.size
        place = content + length
        if place > len(data):
            raise Malformed("a record beyond the end of its message", FORMERR)
        yield Record(start, kind, category, ttl, content, place)


def _skip_name(data: bytes, place: int) -> int:
    """Where a name ends, at its zero or behind its pointer."""
    start = place
    while place < len(data) and place - start < _LONGEST_NAME:
        length = data[place]
        if not length:
            return place + 1
        if length >= 0xC0:
            return place + 2
        if length > 63:
            break
        place += 1 + length
    raise Malformed("a name that has no end", FORMERR)


def write_name(name: str) -> bytes | None:
    """A name on the wire; None if DNS can't say it: a label over 63 bytes, or empty, or a name over 255."""
    labels = [label.encode() for label in name.rstrip(".").split(".")]
    if not all(0 < len(label) < 64 for label in labels):
        return None
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return wire if len(wire) <= _LONGEST_NAME else None


def record(kind: int, content: bytes) -> bytes:
    """A record about the name that was asked for."""
    return _ASKED + _FIXED.pack(kind, IN, TTL, len(content)) + content


def reply(query: Query, answers: Sequence[bytes] = (), code: int = NOERROR, stream: bool = False) -> bytes:
    """The answer to a query, with as many of the answering records as fit; it says so if these are not all."""
    ending = _options(query.dnssec) if query.edns else b""
    room = (STREAM if stream else query.size) - HEADER.size - len(query.asked) - len(ending)
    fitting = 0
    for answer in answers:
        room -= len(answer)
        if room < 0:
            break
        fitting += 1
    flags = RESPONSE | RECURSION | query.flags & (RECURSE | CHECKING_DISABLED) | code
    if fitting < len(answers):
        flags |= TRUNCATED
    header = HEADER.pack(query.number, flags, 1, fitting, 0, 1 if ending else 0)
    return b"".join((header, query.asked, *answers[:fitting], ending))


def _options(dnssec: bool = False, upper: int = 0) -> bytes:
    """The OPT record that answers a client's; `upper` are the code's bits above the four of the header."""
    return b"\0" + _FIXED.pack(OPT, _OWN_SIZE, upper << 24 | (_DNSSEC_OK if dnssec else 0), 0)


def refusal(data: bytes, code: int) -> bytes:
    """The reply to bytes with a header and a rest that couldn't be read."""
    number, flags = _KIND.unpack_from(data)
    ending = _options(upper=code >> 4) if code > 15 else b""
    said = RESPONSE | RECURSION | flags & (_OPCODE | RECURSE) | code & 15
    return HEADER.pack(number, said, 0, 0, 0, 1 if ending else 0) + ending


def code_of(message: bytes) -> int:
    """The response code in a message's header."""
    return message[3] & 15


def is_truncated(message: bytes) -> bool:
    return bool(message[2] & TRUNCATED >> 8)


def numbered(message: bytes, number: int) -> bytes:
    """The message under another number."""
    return number.to_bytes(2) + message[2:]


def answers_to(message: bytes, query: bytes, asked: bytes) -> bool:
    """Whether a message is a whole answer to a query with the question `asked`.

    A refusal may come without the question. Case is no difference: some resolvers don't keep it.
    """
    if len(message) < HEADER.size or message[:2] != query[:2]:
        return False
    _, flags, questions, answers, authorities, more = HEADER.unpack_from(message)
    if not flags & RESPONSE or flags & _OPCODE:
        return False
    place = HEADER.size
    if questions:
        place += len(asked)
        if questions != 1 or message[HEADER.size : place].lower() != asked.lower():
            return False
    elif not flags & 15:
        return False
    try:
        for _ in records(message, place, answers + authorities + more):
            pass
    except Malformed:
        return False
    return True


def fit(message: bytes, limit: int) -> bytes:
    """An answer cut to a limit in bytes, between records (RFC 2181, 9).

    Additional records go first, the OPT record last. The answer says that it is truncated if others are missing.
    """
    if len(message) <= limit:
        return message
    number, flags, questions, answers, authorities, more = HEADER.unpack_from(message)
    place = _skip_name(message, HEADER.size) + 4 if questions else HEADER.size
    found = list(records(message, place, answers + authorities + more))
    options = (message[one.start : one.end] for one in found[answers + authorities :] if one.kind == OPT)
    ending = next(options, b"")
    kept = 0
    while kept < answers + authorities and found[kept].end + len(ending) <= limit:
        place = found[kept].end
        kept += 1
    if place + len(ending) > limit:
        ending = b""
    flags |= TRUNCATED if kept < answers + authorities else 0
    header = HEADER.pack(number, flags, questions, min(kept, answers), max(0, kept - answers), 1 if ending else 0)
    return header + message[HEADER.size : place] + ending
