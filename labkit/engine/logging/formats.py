"""How entries lie in a log's files: lines of JSON (`json-file`), or framed protocol buffers (`local`, and the cache).

moby `daemon/logger/jsonfilelog` and `daemon/logger/local`; the latter's message is LogEntry of
`api/types/plugins/logdriver/entry.proto`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Protocol

from labkit.engine import logs
from labkit.engine.clock import rfc3339
from labkit.engine.logs import Piece, Selection

_LENGTH = struct.Struct(">I")
_FRAME = 2 * _LENGTH.size
_SOURCES = (b"stdout", b"stderr")
MOST = 1 << 20
"""An entry that claims to be larger is none: the file is damaged, as in moby."""


class Format(Protocol):
    """Entries as bytes. `encode` and `split` are for writing, the others for reading whole entries."""

    def encode(self, data: bytes, stream: str, time: int, final: bool) -> tuple[bytes, int]:
        """Entries for raw output at a time (ns), and how many bytes of it they hold."""
        ...

    def split(self, entries: bytes, data: bytes, room: int) -> tuple[int, int]:
        """How many bytes of entries go into a file with this room, and of how many raw bytes they are."""
        ...

    def complete(self, block: bytes) -> int:
        """How many bytes of a file's block are whole entries."""
        ...

    def decode(self, block: bytes, selection: Selection) -> Iterator[Piece]:
        """The text in whole entries."""
        ...

    def tail_offset(self, fd: int, size: int, count: int, selection: Selection) -> tuple[int, int]:
        """Where the last `count` wanted entries of a file begin, and how many are missing."""
        ...

    def starts(self, block: bytes, selection: Selection) -> list[int]:
        """Where the wanted entries of a block begin."""
        ...


class JsonLines:
    """`json-file`. `attrs` is the JSON of the extra attributes, or empty."""

    def __init__(self, attrs: str = "") -> None:
        self.attrs = attrs

    def encode(self, data: bytes, stream: str, time: int, final: bool) -> tuple[bytes, int]:
        return logs.encode(data, stream, rfc3339(time), final, self.attrs)

    def split(self, entries: bytes, data: bytes, room: int) -> tuple[int, int]:
        return logs.split(entries, data, room)

    def complete(self, block: bytes) -> int:
        return block.rfind(b"\n") + 1

    def decode(self, block: bytes, selection: Selection) -> Iterator[Piece]:
        return logs.decode(block, selection)

    def tail_offset(self, fd: int, size: int, count: int, selection: Selection) -> tuple[int, int]:
        return logs.tail_offset(fd, size, count, selection)

    def starts(self, block: bytes, selection: Selection) -> list[int]:
        found, at = [], 0
        for line in logs.lines(block):
            if logs.is_wanted(line, selection):
                found.append(at)
            at += len(line)
        return found


class Frames:
    """`local`: each message between its length and its length again, so that it can be read backwards."""

    def encode(self, data: bytes, stream: str, time: int, final: bool) -> tuple[bytes, int]:
        held = logs.complete(data, final)
        source = stream.encode()
        head = b"\x0a" + bytes((len(source),)) + source + b"\x10" + varint(time) + b"\x1a"
        return b"".join(_framed(head, message) for message in logs.messages(data[:held])), held

    def split(self, entries: bytes, data: bytes, room: int) -> tuple[int, int]:
        cut = count = 0
        while cut < room and cut < len(entries):
            cut += _FRAME + _LENGTH.unpack_from(entries, cut)[0]
            count += 1
        return (len(entries), len(data)) if cut >= len(entries) else (cut, logs.length_of(data, count))

    def complete(self, block: bytes) -> int:
        return max((end for _, _, end in _frames(block)), default=0)

    def decode(self, block: bytes, selection: Selection) -> Iterator[Piece]:
        for start, end, _ in _frames(block):
            entry = parse(block[start:end])
            if entry is None or not selection.wants(entry.stream):
                continue
            if entry.time < selection.since or (selection.until and entry.time > selection.until):
                continue
            yield Piece(entry.stream, logs.prefix(selection, rfc3339(entry.time), None) + entry.data)

    def tail_offset(self, fd: int, size: int, count: int, selection: Selection) -> tuple[int, int]:
        at = size
        while count > 0 and at >= _FRAME:
            length = _LENGTH.unpack(os.pread(fd, _LENGTH.size, at - _LENGTH.size))[0]
            start = at - length - _FRAME
            if start < 0 or length > MOST:
                break  # what lies before is damaged
            source = os.pread(fd, 8, start + _LENGTH.size)
            count -= selection.wants("stderr" if source.endswith(b"stderr") else "stdout")
            at = start
        return at, count

    def starts(self, block: bytes, selection: Selection) -> list[int]:
        wanted = [name for name in _SOURCES if selection.wants(name.decode())]
        return [start - _LENGTH.size for start, _, _ in _frames(block) if block[start + 2 : start + 8] in wanted]


class Message:
    """One entry of a `local` log."""

    __slots__ = ("data", "stream", "time")

    def __init__(self, stream: str, time: int, data: bytes) -> None:
        self.stream, self.time, self.data = stream, time, data


def _framed(head: bytes, message: bytes) -> bytes:
    whole = message.endswith(b"\n")
    line = message[:-1] if whole else message
    # A piece of a line: partial, with (empty) metadata that doesn't call it the last.
    body = head + varint(len(line)) + line + (b"" if whole else b"\x20\x01\x2a\x00")
    length = _LENGTH.pack(len(body))
    return length + body + length


def _frames(block: bytes) -> Iterator[tuple[int, int, int]]:
    """Begin and end of each whole message, and the end of its frame."""
    at = 0
    while at + _FRAME <= len(block):
        length = _LENGTH.unpack_from(block, at)[0]
        end = at + _FRAME + length
        if length > MOST or end > len(block):
            return
        yield at + _LENGTH.size, end - _LENGTH.size, end
        at = end


def varint(number: int) -> bytes:
    """A number in protocol buffers' base-128 encoding."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def parse(body: bytes) -> Message | None:
    """A LogEntry; None if it is damaged."""
    try:
        fields = _fields(body)
        partial, metadata = fields.get(4, 0), _fields(bytes(fields.get(5, b"")))
        end = b"" if partial and not metadata.get(1, 0) else b"\n"
        return Message(bytes(fields.get(1, b"")).decode(), int(fields.get(2, 0)), bytes(fields.get(3, b"")) + end)
    except (IndexError, ValueError, TypeError):
        return None


def _fields(body: bytes) -> dict[int, int | bytes]:
    """The fields of a message by number: numbers (wire type 0) and bytes (2)."""
    found: dict[int, int | bytes] = {}
    at = 0
    while at < len(body):
        key, at = _read_varint(body, at)
        value, at = _read_varint(body, at)
        if key & 7 == 0:
            found[key >> 3] = value
        elif key & 7 == 2:
            found[key >> 3] = body[at : at + value]
            at += value
        else:
            raise ValueError(f"wire type {key & 7}")
    return found
