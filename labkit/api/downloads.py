"""Answers that are made on a thread, piece by piece: archives of images and containers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol


class Pieces(Protocol):
    """An iterator that can be given up."""

    def __next__(self) -> bytes: ...
    def close(self) -> None: ...


async def threaded(pieces: Pieces) -> AsyncIterator[bytes]:
    """The iterator's pieces, each made on a thread while the one before is sent.

    It is closed only when no thread is in it any more.
    """
    step = _begin(pieces)
    try:
        while (piece := await asyncio.shield(step)) is not None:
            step = _begin(pieces)
            yield piece
    finally:
        if not step.done():
            await asyncio.wait([step])
        if not step.cancelled():
            step.exception()  # of a piece that nobody waits for any more
        await asyncio.to_thread(pieces.close)


def _begin(pieces: Pieces) -> asyncio.Future[bytes | None]:
    return asyncio.ensure_future(asyncio.to_thread(_next, pieces))


def _next(pieces: Pieces) -> bytes | None:
    try:
        return pieces.__next__()
    except StopIteration:
        return None  # which a coroutine could not pass on
