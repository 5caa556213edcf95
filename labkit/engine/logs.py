"""Container logs in Docker's json-file format: one JSON object a line, with the text, its stream and its time.

moby `daemon/logger/jsonfilelog`. Both directions work on whole chunks: a line costs Python nothing of its own
where the text allows it, which is what makes it fast. `labkit.engine.logging` has what surrounds the format.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote_plus

import msgspec

from labkit.engine.clock import parse_rfc3339

LINE_LIMIT = 16 << 10
"""A longer line is stored in pieces of this size, as dockerd does."""
BLOCK = 256 << 10


def complete(data: bytes, final: bool) -> int:
    """How many bytes of raw output make whole lines, or whole pieces of a long one; all of them if no more comes."""
    end = len(data) if final else data.rfind(b"\n") + 1
    if len(data) - end >= LINE_LIMIT:
        end = len(data) - (len(data) - end) % LINE_LIMIT
    return end


def encode(data: bytes, stream: str, time: str, final: bool = False, attrs: str = "") -> tuple[bytes, int]:
    """The log lines for raw output, and how many bytes of it they hold: a line that isn't complete stays out.

    `final` says that no more comes: what is left then makes a last line without a line break. Bytes that aren't
    UTF-8 are replaced by U+FFFD, as Docker's format can't hold them. `attrs` is the JSON of the container's extra
    attributes.
    """
    end = complete(data, final)
    if not end:
        return b"", 0
    extra = f'"attrs":{attrs},' if attrs else ""
    tail = f'","stream":"{stream}",{extra}"time":"{time}"}}\n'
    data = data[:end]
    if b"\\" in data or _has_long_line(data, end):
        return _encode_lines(data, tail), end
    joint = b"\\n" + tail.encode() + _BEGIN
    if data.translate(None, _PLAIN):
        body = _encode_text(data.decode("utf-8", "replace"))[1:-1].replace(b"\\n", joint)
    else:
        body = data.replace(b"\n", joint)
    return _BEGIN + (body[: -len(_BEGIN)] if data.endswith(b"\n") else body + tail.encode()), end


def _has_long_line(data: bytes, end: int) -> bool:
    """Whether a line may be longer than the limit: looked for in steps, without splitting the text."""
    start = 0
    while end - start > LINE_LIMIT:
        start = data.rfind(b"\n", start, start + LINE_LIMIT) + 1 or end + 1
    return start > end


def _encode_lines(data: bytes, tail: str) -> bytes:
    pieces = []
    for line in lines(data):
        for start in range(0, len(line), LINE_LIMIT):
            text = line[start : start + LINE_LIMIT].decode("utf-8", "replace")
            pieces.append(f'{{"log":{json.dumps(text, ensure_ascii=False)[:-1]}{tail}')
    return "".join(pieces).encode()


def lines(data: bytes) -> Iterator[bytes]:
    """Lines that end at line feeds only."""
    *whole, last = data.split(b"\n")
    yield from (line + b"\n" for line in whole)
    if last:
        yield last


def messages(data: bytes) -> Iterator[bytes]:
    """What makes an entry each: lines, those that are too long in pieces."""
    for line in lines(data):
        for start in range(0, len(line), LINE_LIMIT):
            yield line[start : start + LINE_LIMIT]


def length_of(data: bytes, count: int) -> int:
    """How many bytes the first `count` messages have."""
    if not _has_long_line(data, len(data)):
        parts = data.split(b"\n", count)
        return len(data) - len(parts[count]) if len(parts) > count else len(data)
    length = 0
    for message in messages(data):
        if not count:
            break
        length, count = length + len(message), count - 1
    return length


def split(entries: bytes, data: bytes, room: int) -> tuple[int, int]:
    """How many bytes of the encoded entries go into a file with this room, and of how much of the raw output they are.

    As in moby a file takes the entry that passes its limit.
    """
    cut = entries.find(b"\n", max(0, room - 1)) + 1
    if cut in (0, len(entries)):
        return len(entries), len(data)
    return cut, length_of(data, entries.count(b"\n", 0, cut))


_BEGIN = b'{"log":"'
_PLAIN = bytes(set(range(0x20, 0x7F)) - set(b'"\\')) + b"\n"
"""What stands in JSON as it is, and the line feed."""
_encode_text = msgspec.json.Encoder().encode


class Entry(msgspec.Struct):
    """One line of a json-file log."""

    log: str = ""
    stream: str = "stdout"
    attrs: dict[str, str] | None = None
    time: str = ""


class Piece(NamedTuple):
    """Log text of one stream, as it is sent to clients."""

    stream: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Selection:
    """Which part of a log a client wants, and how. Times are nanoseconds since the epoch, 0 for no bound."""

    stdout: bool = True
    stderr: bool = True
    since: int = 0
    until: int = 0
    timestamps: bool = False
    details: bool = False

    @property
    def plain(self) -> bool:
        """Whether the text is wanted as it stands, without a look at each line's time."""
        return not (self.since or self.until or self.timestamps or self.details)

    def wants(self, stream: str) -> bool:
        return self.stderr if stream == "stderr" else self.stdout


_ATTRS = rb'(?:"attrs":\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\},)?'
_JOINT = re.compile(rb'","stream":"(?:stdout|stderr)",' + _ATTRS + rb'"time":"[^"]*"}\n{"log":"')
_END = re.compile(rb'","stream":"(stdout|stderr)",' + _ATTRS + rb'"time":"[^"]*"}\n$')
_decode_entry = msgspec.json.Decoder(Entry).decode
_decode_text = msgspec.json.Decoder(str).decode


def decode(block: bytes, selection: Selection) -> Iterator[Piece]:
    """The text in whole lines of a log, in order. Lines of one stream that follow each other are joined."""
    if not block:
        return
    streams = {name for name in ("stdout", "stderr") if b'","stream":"' + name.encode() + b'",' in block}
    if selection.plain and len(streams) == 1 and block.startswith(b'{"log":"'):
        (stream,) = streams
        if selection.wants(stream) and (end := _END.search(block, block.rfind(b'","stream":"'))):
            body = _JOINT.sub(b"", block[8 : end.start()])
            try:
                text = _decode_text(b'"' + body + b'"')
            except msgspec.DecodeError:
                pass  # some line is damaged: to be skipped alone, below
            else:
                yield Piece(stream, text.encode())
                return
    yield from _decode_entries(block, selection)


def _decode_entries(block: bytes, selection: Selection) -> Iterator[Piece]:
    for line in block.split(b"\n"):
        if not line:
            continue
        try:
            entry = _decode_entry(line)
        except msgspec.DecodeError:
            continue  # a line that a power loss cut: dockerd skips those too
        if not selection.wants(entry.stream):
            continue
        if selection.since or selection.until:
            at = parse_rfc3339(entry.time)
            if at < selection.since or (selection.until and at > selection.until):
                continue
        yield Piece(entry.stream, prefix(selection, entry.time, entry.attrs) + entry.log.encode())


def prefix(selection: Selection, time: str, attrs: dict[str, str] | None) -> bytes:
    """What a client wants to see before a line: its time with all nine digits, its attributes (moby `httputils`)."""
    found = ""
    if selection.timestamps:
        whole, _, fraction = time.removesuffix("Z").partition(".")
        found = f"{whole}.{fraction:0<9}Z "
    if selection.details:
        pairs = (f"{quote_plus(key)}={quote_plus(value)}" for key, value in sorted((attrs or {}).items()))
        found += f"{','.join(pairs)} "
    return found.encode()


def is_wanted(line: bytes, selection: Selection) -> bool:
    """Whether an encoded entry is of a wanted stream."""
    return selection.wants("stderr" if b'","stream":"stderr",' in line else "stdout")


def tail_offset(fd: int, size: int, count: int, selection: Selection) -> tuple[int, int]:
    """Where the last `count` log lines of the wanted streams begin, and how many of them are missing."""
    if count <= 0:
        return size, 0
    end, found = size, 0
    carried = b""
    while end > 0:
        start = max(0, end - BLOCK)
        block = os.pread(fd, end - start, start) + carried
        first = 0 if start == 0 else block.find(b"\n") + 1
        position = len(block)
        for line in reversed(block[first:].splitlines(keepends=True)):
            position -= len(line)
            found += is_wanted(line, selection)
            if found == count:
                return start + position, 0
        carried = block[:first]
        end = start
    return 0, count - found
