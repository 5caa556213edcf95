"""A log's file and those that it was before: NAME, NAME.1, NAME.2 or NAME.2.gz … (moby `loggerutils/logfile.go`).

Rotated between entries, when nothing is being written down, so that a mark (`labkit.kernel.pipes`) always tells of the
present file. A daemon that is killed while it rotates leaves a gap in the numbers, which readers pass over and the next
rotation closes, or a file half compressed, which is removed.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import shutil
import zlib
from collections.abc import Iterator

log = logging.getLogger("labkit.engine.logging")
CHUNK = 1 << 20


class RotatedFile:
    """The present file, and those who wait for it to grow. `generation` counts the rotations.

    `capacity` is in bytes, 0 for no bound; `count` how many files there are at most, the present one included.
    """

    def __init__(self, path: str, capacity: int = 0, count: int = 1, compress: bool = False) -> None:
        self.path, self.capacity, self.count, self.compress = path, capacity, count, compress
        self.generation = 0
        self.failed = False
        self.grown = asyncio.Event()
        self.compressing: asyncio.Future[None] | None = None
        self._settle()
        self.fd = self._open()
        self.end = os.fstat(self.fd).st_size

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _settle(self) -> None:
        """End what a killed daemon was doing."""
        for number in range(1, self.count + 1):
            plain = f"{self.path}.{number}"
            _remove(f"{plain}.gz.tmp")
            if os.path.exists(f"{plain}.gz"):
                _remove(plain)

    @property
    def room(self) -> int:
        """How many bytes there are until the file is full; a large number without a bound."""
        return self.capacity - self.end if self.capacity else 1 << 62

    def append(self, data: bytes) -> None:
        """Write entries at the end, and wake who follows. What the disk has no room for is lost, as with dockerd."""
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self.fd, data[written:], self.end + written)
        except OSError as error:
            if not self.failed:
                log.error("output is lost, %s can't be written: %s", self.path, error)
            self.failed = True
            self.truncate(self.end)
            return
        self.failed = False
        self.end += written
        self.wake()

    def truncate(self, end: int) -> None:
        os.ftruncate(self.fd, end)
        self.end = end

    def make_room(self) -> bool:
        """Begin another file if this one is full. False while the one before is still being compressed."""
        if self.room > 0:
            return True
        if self.compressing:
            return False
        try:
            self._shift()
            fresh = self._open()
        except OSError as error:
            log.error("%s can't be rotated, and grows beyond its size: %s", self.path, error)
            return True
        os.close(self.fd)
        self.fd, self.end = fresh, 0
        self.generation += 1
        if self.compress:
            self._compress()
        return True

    def _shift(self) -> None:
        if self.count < 2:
            os.unlink(self.path)
            return
        gap = next((number for number in range(1, self.count - 1) if not find(self.path, number)), self.count - 1)
        for number in range(gap, 1, -1):
            if source := find(self.path, number - 1):
                self._move(source, number)
        self._move(self.path, 1)

    def _move(self, source: str, number: int) -> None:
        """Rename a file to a number; the one that had it goes, however it was called."""
        target = f"{self.path}.{number}" + (".gz" if source.endswith(".gz") else "")
        for old in (f"{self.path}.{number}", f"{self.path}.{number}.gz"):
            if old != target:
                _remove(old)
        os.rename(source, target)

    def _compress(self) -> None:
        loop = asyncio.get_running_loop()
        self.compressing = loop.run_in_executor(None, compress_file, f"{self.path}.1")
        self.compressing.add_done_callback(self._compressed)

    def _compressed(self, future: asyncio.Future[None]) -> None:
        self.compressing = None
        if not future.cancelled() and (error := future.exception()):
            log.error("a rotated log stays uncompressed: %s", error)

    async def settled(self) -> None:
        """Wait until nothing is being compressed."""
        if self.compressing:
            await asyncio.wait({self.compressing})

    def wake(self) -> None:
        """Let followers look again."""
        self.grown.set()
        self.grown = asyncio.Event()

    def close(self) -> None:
        self.wake()
        os.close(self.fd)
        self.fd = -1


def _remove(path: str) -> None:
    if os.path.lexists(path):
        os.unlink(path)


def find(path: str, number: int) -> str | None:
    """The file that a log was `number` rotations ago: plain or compressed, or None."""
    plain = f"{path}.{number}" if number else path
    return next((name for name in (plain, f"{plain}.gz") if os.path.exists(name)), None)


def compress_file(path: str) -> None:
    """Replace a file by PATH.gz. Takes time; for a thread."""
    partial = f"{path}.gz.tmp"
    try:
        with open(path, "rb") as source, gzip.open(partial, "wb", 6) as target:
            shutil.copyfileobj(source, target, CHUNK)
        os.rename(partial, f"{path}.gz")
        os.unlink(path)
    except BaseException:
        _remove(partial)
        raise


class Inflation:
    """The content of a gzip file, from its beginning, in pieces of at most about `CHUNK` bytes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._offset = 0
        self._stream = zlib.decompressobj(wbits=31)
        self._input = b""

    def read(self) -> bytes:
        """The next piece; b"" at the end. What is damaged ends there."""
        while not self._stream.eof:
            if not self._input:
                self._input = os.pread(self._fd, CHUNK, self._offset)
                self._offset += len(self._input)
                if not self._input:
                    return b""
            try:
                found = self._stream.decompress(self._input, CHUNK)
            except zlib.error as error:
                log.warning("a compressed log is damaged: %s", error)
                return b""
            self._input = self._stream.unconsumed_tail
            if found:
                return found
        return b""


def rotated(path: str, count: int) -> Iterator[str]:
    """The files that a log was before, the oldest first."""
    for number in range(count - 1, 0, -1):
        if name := find(path, number):
            yield name
