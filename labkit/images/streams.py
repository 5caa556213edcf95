"""Pipelines of bytes: layers and archives flow as iterators of chunks through gunzip, hash and unpacking.

Decompression and SHA-256 release the interpreter lock, so a digest runs on a thread of its own beside the unpacking.
Compressions are told by their first bytes, as dockerd does: gzip (RFC 1952), zstd (RFC 8878), xz, bzip2.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import os
import queue
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from types import TracebackType
from typing import Any, Protocol, TypeVar, cast

import zstandard
from isal import igzip_lib

from labkit.errors import InvalidParameter

_Buffer = TypeVar("_Buffer", bytes, memoryview)
CHUNK = 1 << 18  # bytes; fits the second-level cache, so that a chunk is hashed and written while it is there
_GZIP, _ZSTD, _XZ, _BZIP2 = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh"
_GZIP_ERROR = cast(type[Exception], igzip_lib.error)  # the stubs of isal call this class a value
_ZSTD_WINDOW = 1 << 27  # 128 MiB, what `zstd` itself accepts without asking


class Readable(Protocol):
    """A file, a pipe, a request's body."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; b"" at the end."""


def read_chunks(file: Readable) -> Iterator[bytes]:
    """The bytes of a file or stream that may not be seekable."""
    return iter(lambda: file.read(CHUNK), b"")


def file_chunks(descriptor: int, start: int = 0, size: int | None = None) -> Iterator[bytes]:
    """The bytes of an open file from `start`, at most `size`; its offset stays where it is."""
    at, end = start, None if size is None else start + size
    while chunk := os.pread(descriptor, CHUNK if end is None else min(CHUNK, end - at), at):
        at += len(chunk)
        yield chunk


def compression_of(head: bytes) -> str:
    """The compression that a stream which begins with these bytes has: "gzip", "zstd", "xz", "bzip2" or "" for none."""
    for magic, name in ((_GZIP, "gzip"), (_ZSTD, "zstd"), (_XZ, "xz"), (_BZIP2, "bzip2")):
        if head.startswith(magic):
            return name
    return ""


def decompressed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The stream without its compression, in chunks of bounded size, whatever it claims to unpack to.

    Raises InvalidParameter if it is damaged or ends early.
    """
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= len(_XZ):
            break
    stream = chain((head,) if head else (), chunks)
    compression = compression_of(head)
    if compression == "zstd":
        return _members(stream, _Zstd)
    if compression == "gzip":
        return _members(stream, lambda: _Buffering(igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)))
    if compression == "xz":
        return _members(stream, lambda: _Buffering(lzma.LZMADecompressor()))
    if compression == "bzip2":
        return _members(stream, lambda: _Buffering(bz2.BZ2Decompressor()))
    return stream


class _Buffering:
    """igzip's, lzma's and bz2's decompressors in the form of zlib's: they keep the input that zlib hands back."""

    unconsumed_tail = b""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.decompress = inner.decompress

    @property
    def pending(self) -> bool:
        """Whether there is output to fetch without more input."""
        return not self._inner.eof and not self._inner.needs_input

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)


class _Zstd:
    """zstd's decompressor in the form of zlib's. It can't limit its output, so it gets its input in small bites:
    the worst (an RLE block of 128 KiB in four bytes) makes 64 MiB of one."""

    _BITE = 2048

    def __init__(self) -> None:
        self._inner = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
        self.unconsumed_tail = b""

    def decompress(self, data: bytes, limit: int) -> bytes:
        view, out, size, at = memoryview(data), [], 0, 0
        while at < len(view) and size < limit and not self._inner.eof:
            out.append(self._inner.decompress(view[at : at + self._BITE]))
            size += len(out[-1])
            at += self._BITE
        self.unconsumed_tail = data[at:]
        return b"".join(out)

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data + self.unconsumed_tail


def _members(chunks: Iterator[bytes], new: Callable[[], Any]) -> Iterator[bytes]:
    """Unpacks a stream of one or more members (RFC 1952 2.2, zstd frames), as `cat a.gz b.gz` makes it."""
    member, begun = new(), False
    try:
        for data in chunks:
            while data or getattr(member, "pending", False):
                begun = True
                if out := member.decompress(data, CHUNK):
                    yield out
                data = member.unconsumed_tail
                if member.eof:
                    data = member.unused_data.lstrip(b"\0")  # padding of a tape block is no member
                    member, begun = new(), False
    except (_GZIP_ERROR, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError) as error:
        raise InvalidParameter(f"compressed stream is damaged: {error}") from error
    if begun:
        raise InvalidParameter("compressed stream ends early: unexpected EOF")


class Digest:
    """SHA-256 and length of a stream, computed on another thread while the caller works with the same chunks.

    A context manager: leaving it ends the thread, also after an error.
    """

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()
        self._queue: queue.Queue[bytes | memoryview | None] = queue.Queue(
            8
        )  # bounds the memory of a hash that lags behind
        self._thread = threading.Thread(target=self._run, name="sha256", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (chunk := self._queue.get()) is not None:
            self._hash.update(chunk)

    def __enter__(self) -> Digest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._finish()

    def _finish(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def through(self, chunks: Iterator[_Buffer]) -> Iterator[_Buffer]:
        """The same chunks; each is hashed as it passes."""
        for chunk in chunks:
            self.size += len(chunk)
            self._queue.put(chunk)
            yield chunk

    def digest(self) -> str:
        """The digest of all that passed, `sha256:HEX`. Nothing may pass after that."""
        self._finish()
        return f"sha256:{self._hash.hexdigest()}"


def digest_of(data: bytes) -> str:
    """The digest of a small document."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
