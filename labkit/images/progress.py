"""Progress of loads and imports, as data; the API turns it into Docker's JSON lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec

_INTERVAL = 0.1  # seconds between two reports of one layer; dockerd's


class Progress(msgspec.Struct, frozen=True):
    """One step: what (`status`), of which layer (`id`, short), how many bytes of how many (0: not known)."""

    status: str
    id: str = ""
    current: int = 0
    total: int = 0


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The report of someone who doesn't want to know."""


def counted(chunks: Iterator[bytes], report: Report, status: str, id: str = "", total: int = 0) -> Iterator[bytes]:
    """The same chunks; reports now and then how many bytes have passed, and once more at the end."""
    current, reported = 0, 0.0
    for chunk in chunks:
        current += len(chunk)
        now = time.monotonic()
        if now - reported >= _INTERVAL:
            report(Progress(status, id, current, total))
            reported = now
        yield chunk
    report(Progress(status, id, current, total))
