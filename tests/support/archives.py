"""Tar archives made of a few words, good and bad ones."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
REGULAR, DIRECTORY, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@dataclass(frozen=True)
class Member:
    """One entry. A mode of None is 0755 for a directory and 0644 for everything else."""

    name: str
    kind: bytes = REGULAR
    data: bytes = b""
    link: str = ""
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    device: tuple[int, int] = (0, 0)
    pax: dict[str, str] = field(default_factory=dict)


def archive(*members: Member) -> bytes:
    """The tar of these entries, as they are written: nothing is checked."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as made:
        for member in members:
            entry = tarfile.TarInfo(member.name)
            entry.type, entry.linkname, entry.mtime = member.kind, member.link, 1_000_000_000
            entry.mode = (0o755 if member.kind == DIRECTORY else 0o644) if member.mode is None else member.mode
            entry.uid, entry.gid, entry.pax_headers = member.uid, member.gid, member.pax
            entry.devmajor, entry.devminor = member.device
            entry.size = len(member.data) if member.kind == REGULAR else 0
            made.addfile(entry, io.BytesIO(member.data))
    return out.getvalue()


def names(data: bytes) -> list[str]:
    """The names of an archive's entries, in order."""
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        return found.getnames()


def content(data: bytes, name: str) -> bytes:
    """The data of one regular entry."""
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        file = found.extractfile(name)
        assert file is not None
        return file.read()


@contextlib.contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Two files change places, at once and all the time (renameat2(2), RENAME_EXCHANGE), while the block runs."""
    libc, done, failed = ctypes.CDLL(None, use_errno=True), threading.Event(), []

    def swap() -> None:
        while not done.is_set():
            if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
                failed.append(os.strerror(ctypes.get_errno()))
                return

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert failed == []
