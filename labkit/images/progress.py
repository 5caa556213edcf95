"""Progress of loads, imports, pulls and pushes, as data; the API turns it into Docker's JSON lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

_INTERVAL = 0.1  # seconds between two reports of one layer; dockerd's


class Progress(msgspec.Struct, frozen=True):
    """One step: what (`status`), of which layer (`id`, short), how many bytes of how many (0: not known).

    `message` marks a sentence about the whole, which no step replaces; `aux` is data for programs.
    """

    status: str
    id: str = ""
    current: int = 0
    total: int = 0
    message: bool = False
    aux: dict[str, Any] | None = None


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The report of someone who doesn't want to know."""


def counted(
    chunks: Iterator[bytes], report: Report, status: str, id: str = "", total: int = 0, begin: int = 0
) -> Iterator[bytes]:
    """The same chunks; reports now and then how many bytes have passed, and once more at the end.

    `begin` are those that had passed before.
    """
    current, reported = begin, 0.0
    for chunk in chunks:
        current += len(chunk)
        now = time.monotonic()
        if now - reported >= _INTERVAL:
            report(Progress(status, id, current, total))
            reported = now
        yield chunk
    report(Progress(status, id, current, total))
