"""A file that says where a server listens, and that counts for nothing once its process has died, however it died.

The process holds an open file description lock (fcntl(2), F_OFD_SETLK) on it, which others ask for without taking it.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit.errors import Conflict
from labkit.images.faults import disk_errors

_LOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, process
_WHOLE = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_LIMIT = 2048  # bytes


@contextmanager
def published(file: Path, text: str) -> Iterator[None]:
    """The file has this text as long as the block runs. Raises Conflict if another process has published there."""
    with disk_errors(f"writing {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with open(descriptor, "r+b", buffering=0) as opened:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _WHOLE)
        except BlockingIOError as error:
            raise Conflict(f"{_text(descriptor)} is served already, says {file}: stop that first") from error
        opened.truncate()
        opened.write(f"{text}\n".encode())
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def published_text(file: Path) -> str:
    """What the file says if its process lives; else nothing."""
    try:
        with open(file, "rb", buffering=0) as opened:
            kind, *_ = _LOCK.unpack(fcntl.fcntl(opened, fcntl.F_OFD_GETLK, _WHOLE))
            return "" if kind == fcntl.F_UNLCK else _text(opened.fileno())
    except FileNotFoundError:
        return ""


def _text(descriptor: int) -> str:
    return os.pread(descriptor, _LIMIT, 0).decode("utf-8", "replace").strip()
