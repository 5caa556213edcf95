"""Container logs in Docker's json-file format: one JSON object a line, with the text, its stream and its time.

moby `daemon/logger/jsonfilelog`. Both directions work on whole chunks: a line costs Python nothing of its own
where the text allows it, which is what makes it fast.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from labkit.engine.clock import parse_rfc3339

LINE_LIMIT = 16 << 10
"""A longer line is stored in pieces of this size, as dockerd does."""
BLOCK = 256 << 10


def encode(data: bytes, stream: str, time: str, final: bool = False) -> tuple[bytes, int]:
    """The log lines for raw output, and how many bytes of it they hold: a line that isn't complete stays out.

    `final` says that no more comes: what is left then makes a last line without a line break. Bytes that aren't
    UTF-8 are replaced by U+FFFD, as Docker's format can't hold them.
    """
    end = len(data) if final else data.rfind(b"\n") + 1
    if len(data) - end >= LINE_LIMIT:
        end = len(data) - (len(data) - end) % LINE_LIMIT
    if not end:
        return b"", 0
    tail = f'","stream":"{stream}","time":"{time}"}}\n'
    text = data[:end].decode("utf-8", "replace")
    if "\\" in text or _has_long_line(data, end):
        return _encode_lines(data[:end], tail), end
    body = json.dumps(text, ensure_ascii=False)[1:-1]
    joint = f'\\n{tail}{{"log":"'
    body = body.replace("\\n", joint)
    whole = f'{{"log":"{body}'
    whole = whole[: -len('{"log":"')] if text.endswith("\n") else whole + tail
    return whole.encode(), end


def _has_long_line(data: bytes, end: int) -> bool:
    """Whether a line may be longer than the limit: looked for in steps, without splitting the text."""
    start = 0
    while end - start > LINE_LIMIT:
        start = data.rfind(b"\n", start, start + LINE_LIMIT) + 1 or end + 1
    return start > end


def _encode_lines(data: bytes, tail: str) -> bytes:
    pieces = []
    for line in _lines(data):
        for start in range(0, len(line), LINE_LIMIT):
            text = line[start : start + LINE_LIMIT].decode("utf-8", "replace")
            pieces.append(f'{{"log":{json.dumps(text, ensure_ascii=False)[:-1]}{tail}')
    return "".join(pieces).encode()


def _lines(data: bytes) -> Iterator[bytes]:
    """Lines that end at line feeds only."""
    *lines, last = data.split(b"\n")
    yield from (line + b"\n" for line in lines)
    if last:
        yield last


class Entry(msgspec.Struct):
    """One line of a json-file log."""

    log: str = ""
    stream: str = "stdout"
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

    @property
    def plain(self) -> bool:
        """Whether the text is wanted as it stands, without a look at each line's time."""
        return not (self.since or self.until or self.timestamps)

    def wants(self, stream: str) -> bool:
        return self.stderr if stream == "stderr" else self.stdout


_JOINT = re.compile(rb'","stream":"(?:stdout|stderr)","time":"[^"]*"}\n{"log":"')
_END = re.compile(rb'","stream":"(stdout|stderr)","time":"[^"]*"}\n$')
_decode_entry = msgspec.json.Decoder(Entry).decode
_decode_text = msgspec.json.Decoder(str).decode


def decode(block: bytes, selection: Selection) -> Iterator[Piece]:
    """The text in whole lines of a log, in order. Lines of one stream that follow each other are joined."""
    if not block:
        return
    streams = {name for name in ("stdout", "stderr") if b'","stream":"' + name.encode() + b'","time":"' in block}
    if selection.plain and len(streams) == 1 and block.startswith(b'{"log":"'):
        (stream,) = streams
        if selection.wants(stream) and (end := _END.search(block, max(0, len(block) - 200))):
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
        stamp = f"{entry.time} " if selection.timestamps else ""
        yield Piece(entry.stream, (stamp + entry.log).encode())


def tail_offset(fd: int, size: int, lines: int, selection: Selection) -> int:
    """Where the last `lines` log lines of the wanted streams begin."""
    if lines <= 0:
        return size
    end, found = size, 0
    carried = b""
    while end > 0:
        start = max(0, end - BLOCK)
        block = os.pread(fd, end - start, start) + carried
        first = 0 if start == 0 else block.find(b"\n") + 1
        position = len(block)
        for line in reversed(block[first:].splitlines(keepends=True)):
            position -= len(line)
            found += selection.wants("stderr" if b'","stream":"stderr","time":"' in line else "stdout")
            if found == lines:
                return start + position
        carried = block[:first]
        end = start
    return 0
