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
    """The iterator's pieces, each made on a thread; it is closed only when no thread is in it any more."""
    step: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(_next, pieces))
            piece = await asyncio.shield(step)
            if piece is None:
                return
            yield piece
    finally:
        if step and not step.done():
            await asyncio.wait([step])
        await asyncio.to_thread(pieces.close)


def _next(pieces: Pieces) -> bytes | None:
    try:
        return pieces.__next__()
    except StopIteration:
        return None  # which a coroutine could not pass on
