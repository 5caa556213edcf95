"""Reading tar as a stream: the format of layers, image archives and build contexts.

Written for speed (an entry costs some microseconds) and for bad input: every size is checked before it is believed.
Formats: v7, ustar, star, GNU (long names, base-256 numbers, sparse), pax with SCHILY.xattr and GNU.sparse 0.0, 0.1 and
1.0. See tar(5) of libarchive, `tar.h`, the GNU tar manual ("Tar Internals"), POSIX pax(1).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from zlib import adler32

import msgspec

from labkit.errors import InvalidParameter

BLOCK = 512
_ZERO = bytes(BLOCK)
_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
_EXTENSION_LIMIT = 1 << 20  # of pax headers, long names and sparse maps: what Go's archive/tar takes
_SIZE_LIMIT = 1 << 44  # 16 TiB, ext4's largest file
_ID_LIMIT = (1 << 32) - 1  # that number itself means "unchanged" to chown(2)
_SECOND = 1_000_000_000  # in nanoseconds
_TIME_LIMIT = 1 << 40  # seconds; far beyond what a filesystem stores

REGULAR, HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_REGULAR_TYPES = frozenset((b"0", b"\0", b"7", b"S"))
_HEADER_ONLY = frozenset((HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO))
_ADLER = 65521  # the prime of Adler-32
_NO_PAX: dict[str, bytes] = {}


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One member of an archive.

    `name` and `link` are as written, unchecked. `size` is the file's size, `stored` the bytes of data in the archive;
    they differ for sparse files, whose `extents` are (offset, length) pairs. `mtime` is in nanoseconds.
    """

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[str, bytes] = _NO_PAX
    stored: int = 0
    extents: tuple[tuple[int, int], ...] | None = None


def _text(field: bytes) -> bytes:
    end = field.find(0)
    return field if end < 0 else field[:end]


@lru_cache(4096)  # modes, owners and times of an archive repeat
def _number(field: bytes) -> int:
    """A header's number: octal digits, or base 256 where the first bit is set (GNU, star)."""
    first = field[0]
    if first & 0x80:
        if first & 0x40:
            return int.from_bytes(field, "big", signed=True)
        return int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
    digits = _text(field).strip()
    if not digits:
        return 0
    try:
        return int(digits, 8) if digits.isdigit() else _malformed(f"number {digits!r}")
    except ValueError:
        return _malformed(f"number {digits!r}")


def _malformed(what: str) -> int:
    raise InvalidParameter(f"archive/tar: invalid tar header: {what}")


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        _malformed(f"number {text[:30]!r}")
    return int(text)


def _bounded(value: int, limit: int, what: str) -> int:
    if not 0 <= value < limit:
        _malformed(f"{what} {value}")
    return value


def _owner(field: bytes, pax: bytes | None) -> int:
    """A user or group ID."""
    return _bounded(_number(field) if pax is None else _decimal(pax), _ID_LIMIT, "owner")


def _mtime(field: bytes, pax: bytes | None) -> int:
    """The time of the last change in nanoseconds."""
    nanoseconds = _number(field) * _SECOND if pax is None else _nanoseconds(pax)
    if abs(nanoseconds) >= _TIME_LIMIT * _SECOND:
        _malformed(f"time {nanoseconds // _SECOND}")
    return nanoseconds


def _nanoseconds(text: bytes) -> int:
    """A pax time, `[-]SECONDS[.FRACTION]`, in nanoseconds."""
    seconds, _, fraction = text.partition(b".")
    negative = seconds.startswith(b"-")
    whole = _decimal(seconds[negative:])
    nanos = _decimal(fraction[:9].ljust(9, b"0")) if fraction else 0
    total = whole * _SECOND + nanos
    return -total if negative else total


def _pax_records(data: bytes) -> list[tuple[str, bytes]]:
    """The `LENGTH KEY=VALUE\\n` records of a pax header, in order: GNU.sparse.offset may be repeated."""
    records, at = [], 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        length = _decimal(data[at:space]) if space > 0 else _malformed("pax record")
        record = data[space + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if length < 5 or at + length > len(data) or not equals or not key or not value.endswith(b"\n"):
            _malformed("pax record")
        records.append((key.decode("utf-8", "surrogateescape"), value[:-1]))
        at += length
    return records


class TarReader:
    """The entries of a tar stream, in order; `data()` gives the contents of the entry that came last.

    `chunks` may have any sizes. Memory is one chunk and one extension header. After the last entry, `drain` reads
    what follows the end marker, for those who hash the stream. A malformed or truncated archive is an InvalidParameter.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._at = 0
        self._left = 0  # bytes of the present entry's data that were not read
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        while (block := self._header_block()) is not None:
            yield self._entry(block)
            self._skip_rest()

    def data(self) -> Iterator[memoryview]:
        """The rest of the present entry's data, in pieces of at most a chunk."""
        while self._left:
            if self._at == len(self._chunk) and not self._next_chunk():
                raise InvalidParameter("archive/tar: unexpected EOF")
            piece = memoryview(self._chunk)[self._at : self._at + self._left]
            self._at += len(piece)
            self._left -= len(piece)
            yield piece

    def read(self, limit: int) -> bytes:
        """The rest of the present entry's data, if it is no more than `limit` bytes."""
        if self._left > limit:
            raise InvalidParameter(f"archive/tar: entry of {self._left} bytes where at most {limit} are allowed")
        return b"".join(self.data())

    def drain(self) -> None:
        """Reads the stream to its end."""
        while self._next_chunk():
            pass

    def _next_chunk(self) -> bool:
        self._chunk, self._at = next(self._chunks, b""), 0
        return bool(self._chunk)

    def _take(self, count: int) -> bytes:
        """Exactly `count` bytes; b"" at the end of the stream."""
        end = self._at + count
        if end <= len(self._chunk):
            taken = self._chunk[self._at : end]
            self._at = end
            return taken
        taken = self._chunk[self._at :]
        while len(taken) < count and self._next_chunk():
            self._at = min(count - len(taken), len(self._chunk))
            taken += self._chunk[: self._at]
        if 0 < len(taken) < count:
            raise InvalidParameter("archive/tar: unexpected EOF")
        return taken

    def whole(self) -> memoryview | None:
        """All of the present entry's data, if there is some and it lies in one chunk; else `data` gives it."""
        end = self._at + self._left
        if not self._left or end > len(self._chunk):
            return None
        piece = memoryview(self._chunk)[self._at : end]
        self._at, self._left = end, 0
        return piece

    def _skip_rest(self) -> None:
        if self._left:
            for _ in self.data():
                pass
        end = self._at + self._padding
        if end <= len(self._chunk):
            self._at = end
        else:
            self._take(self._padding)
        self._padding = 0

    def _expect(self, stored: int) -> None:
        self._left, self._padding = stored, -stored % BLOCK

    def _header_block(self) -> bytes | None:
        """The next header block; None at the end, which is two zero blocks or the end of the stream."""
        block = self._take(BLOCK)
        if not block:
            return None
        if block == _ZERO:
            if (self._take(BLOCK) or _ZERO) != _ZERO:
                _malformed("a zero block in the middle")
            return None
        return block

    def _extension(self, size: int) -> bytes:
        self._expect(_bounded(size, _EXTENSION_LIMIT, "size of an extension header"))
        data = self.read(_EXTENSION_LIMIT)
        self._skip_rest()
        return data

    def _entry(self, block: bytes) -> Entry:
        """The entry that begins with this block: extension headers before it are read and applied."""
        records: list[tuple[str, bytes]] = []
        long_name = long_link = b""
        while True:
            fields = _checked(block)
            kind, size = fields[7], fields[4]
            if kind == b"x":
                records = _pax_records(self._extension(_number(size)))
            elif kind == b"g":  # a comment of `git archive`, or defaults; dockerd ignores them too
                self._extension(_number(size))
            elif kind == b"L":
                long_name = _text(self._extension(_number(size)))
            elif kind == b"K":
                long_link = _text(self._extension(_number(size)))
            else:
                return self._member(fields, block, records, long_name, long_link)
            following = self._header_block()
            if following is None:
                raise InvalidParameter("archive/tar: unexpected EOF")
            block = following

    def _member(
        self, fields: tuple[bytes, ...], block: bytes, records: list[tuple[str, bytes]], name: bytes, link: bytes
    ) -> Entry:
        """The entry of this header, with what the extension headers before it said."""
        pax = {key: value for key, value in records if value} if records else _NO_PAX
        name = pax.get("path") or name or _header_name(fields, block)
        link = pax.get("linkpath") or link or _text(fields[8])
        kind = fields[7]
        if kind == b"\0" and name.endswith(b"/"):  # v7 has no other mark of a directory
            kind = DIRECTORY
        size = _decimal(pax["size"]) if "size" in pax else _number(fields[4])
        stored = 0 if kind in _HEADER_ONLY else _bounded(size, _SIZE_LIMIT, "size")
        name, size, extents = self._begin_data(kind, name, stored, block, records)
        if b"\0" in name or b"\0" in link:
            _malformed("a name with a NUL")
        device = kind in (CHARACTER, BLOCK_DEVICE)
        return Entry(
            name,
            REGULAR if kind in _REGULAR_TYPES else kind,
            _bounded(_number(fields[1]), 1 << 32, "mode") & 0o7777,
            _owner(fields[2], pax.get("uid")),
            _owner(fields[3], pax.get("gid")),
            size,
            _mtime(fields[5], pax.get("mtime")),
            link,
            _bounded(_number(fields[12]), 1 << 12, "device number") if device else 0,
            _bounded(_number(fields[13]), 1 << 20, "device number") if device else 0,
            {key[13:]: value for key, value in records if key.startswith("SCHILY.xattr.")} if records else _NO_PAX,
            self._left,
            extents,
        )

    def _begin_data(
        self, kind: bytes, name: bytes, stored: int, block: bytes, records: list[tuple[str, bytes]]
    ) -> tuple[bytes, int, tuple[tuple[int, int], ...] | None]:
        """Gets ready for the entry's data; its name, size and extents, which sparse formats say in their own ways."""
        size, extents = stored, None
        if kind == b"S":
            size, extents = self._gnu_sparse(block)
        self._expect(stored)
        if records and kind in _REGULAR_TYPES:
            sparse = [record for record in records if record[0].startswith("GNU.sparse.")]
            name, size, extents = self._pax_sparse(name, sparse) if sparse else (name, size, extents)
        if extents is not None:
            _check_extents(extents, self._left, size)
        return name, size, extents

    def _gnu_sparse(self, block: bytes) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Size and extents of an old GNU sparse entry: four extents in the header, 21 in each block that follows."""
        extents: list[tuple[int, int]] = []
        numbers, more = block[386:482], block[482]
        while True:
            for at in range(0, len(numbers), 24):
                if numbers[at]:  # the first unused pair ends the map
                    extents.append((_number(numbers[at : at + 12]), _number(numbers[at + 12 : at + 24])))
            if not more:
                return _bounded(_number(block[483:495]), _SIZE_LIMIT, "size"), tuple(extents)
            if len(extents) * 24 > _EXTENSION_LIMIT:
                _malformed("sparse map")
            extension = self._take(BLOCK)
            if not extension:
                raise InvalidParameter("archive/tar: unexpected EOF")
            numbers, more = extension[:504], extension[504]

    def _pax_sparse(
        self, name: bytes, records: list[tuple[str, bytes]]
    ) -> tuple[bytes, int, tuple[tuple[int, int], ...] | None]:
        """Name, size and extents of a sparse entry in one of pax's three ways; extents are None if it is not sparse."""
        last = dict(records)
        name = last.get("GNU.sparse.name") or name
        size = last.get("GNU.sparse.realsize") or last.get("GNU.sparse.size")
        if size is None:
            return name, self._left, None
        if last.get("GNU.sparse.major") == b"1":
            numbers = self._sparse_map()
        elif "GNU.sparse.map" in last:
            numbers = [_decimal(number) for number in last["GNU.sparse.map"].split(b",") if number]
        else:
            numbers = [_decimal(value) for key, value in records if key in ("GNU.sparse.offset", "GNU.sparse.numbytes")]
        if len(numbers) % 2:
            _malformed("sparse map")
        return name, _bounded(_decimal(size), _SIZE_LIMIT, "size"), tuple(zip(numbers[::2], numbers[1::2], strict=True))

    def _sparse_map(self) -> list[int]:
        """The map that format 1.0 puts before the data: a count and its numbers, one a line, padded to a block."""
        text = b""
        while True:
            if self._left < BLOCK or len(text) > _EXTENSION_LIMIT:
                _malformed("sparse map")
            self._left -= BLOCK
            text += self._take(BLOCK) or b"\n"
            lines = text.split(b"\n")
            if len(lines) > 1 and len(lines) - 2 >= 2 * _decimal(lines[0]):
                return [_decimal(line) for line in lines[1 : 1 + 2 * int(lines[0])]]


def _checked(block: bytes) -> tuple[bytes, ...]:
    """A header's fields, its checksum verified: of unsigned bytes, or of signed ones as some old writers do."""
    fields: tuple[bytes, ...] = _FIELDS.unpack(block)
    expected = _number(fields[6])
    # The checksum counts as eight spaces. Adler's first half is 1 and the sum of the bytes, modulo a prime (RFC 1950).
    total = (adler32(block) & 0xFFFF) - (adler32(fields[6]) & 0xFFFF) + 256
    if (total - expected) % _ADLER and not _is_signed_sum(block, fields[6], expected):
        _malformed("checksum")
    return fields


def _is_signed_sum(block: bytes, own: bytes, expected: int) -> bool:
    total = sum(block) - sum(own) + 256
    return total - 256 * sum(byte > 127 for byte in block[:148] + block[156:]) == expected


def _header_name(fields: tuple[bytes, ...], block: bytes) -> bytes:
    """The name of the header itself; ustar splits long ones in two, star does with a shorter prefix."""
    name, magic = _text(fields[0]), fields[9]
    if magic[:6] == b"ustar\0" and block[345]:
        prefix = _text(block[345:476] if block[508:] == b"tar\0" else fields[14])
        return prefix + b"/" + name
    return name


def _check_extents(extents: tuple[tuple[int, int], ...], stored: int, size: int) -> None:
    """A sparse map is in order, within the file, and accounts for all stored bytes; else it is refused."""
    end = total = 0
    for offset, length in extents:
        if offset < end or length < 0:
            _malformed("sparse map")
        end, total = offset + length, total + length
    if end > size or total != stored:
        _malformed("sparse map")
