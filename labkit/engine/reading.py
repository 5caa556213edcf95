"""Reading a container's log for a client: from a place on, to its end, or as it grows (moby `daemon/logs.go`).

Also through files that were rotated, compressed or not, and on into those that come. A client that doesn't read
costs the few blocks that are on their way to it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from labkit.engine.container import Container
from labkit.engine.logging import journald, rotation
from labkit.engine.logging.formats import Format
from labkit.engine.logging.logger import Files, files
from labkit.engine.logging.rotation import Inflation, RotatedFile
from labkit.engine.logs import Piece, Selection
from labkit.engine.output import frame
from labkit.engine.run import Run
from labkit.errors import NotImplementedByLabkit

CHUNK = 256 << 10


def parse_tail(text: str) -> int | None:
    """The `tail` parameter: how many lines, None for all of them. What is no number stands for all, as in dockerd."""
    try:
        lines = int(text)
    except ValueError:
        return None
    return lines if lines >= 0 else None


def read(container: Container, selection: Selection, tail: int | None, follow: bool) -> AsyncIterator[bytes]:
    """The log as attach sends output: multiplexed without a terminal, raw with one.

    Raises NotImplementedByLabkit at once if the log driver keeps nothing.
    """
    if container.record.HostConfig.LogConfig.Type == "journald":
        journal = journald.Journal(container.record, selection, tail)
        return _framed(journal, follow and container.run.running, container.run)
    places = files(container.record, container.directory)
    if places is None:
        raise NotImplementedByLabkit("configured logging driver does not support reading")
    return _read(container, places, selection, tail, follow)


async def _framed(journal: journald.Journal, follow: bool, run: Run) -> AsyncIterator[bytes]:
    """What the journal has, until it has told all, or the container ends and all of it is told."""
    pieces = journal.read(follow)
    ending = asyncio.create_task(run.exited.wait()) if follow else None
    coming: asyncio.Future[Piece | None] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(anext(pieces, None))
            await asyncio.wait({coming, ending} if ending else {coming}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done() or (piece := coming.result()) is None:
                break
            yield _as_sent(piece, run)
    finally:
        for waiting in (coming, ending):
            if waiting and not waiting.done():
                waiting.cancel()
        await asyncio.gather(*([coming] if coming else []), return_exceptions=True)
        await pieces.aclose()
    if follow:
        async for piece in journal.rest():
            yield _as_sent(piece, run)


def _as_sent(piece: Piece, run: Run) -> bytes:
    return piece.data if run.has_terminal else frame(piece.stream, piece.data)


@dataclass(slots=True)
class _Source:
    """One file of a log: a descriptor, how much of it there is, where to begin (`skip`: how many wanted entries in)."""

    fd: int
    size: int
    compressed: bool
    start: int = 0
    skip: int = 0


async def _read(
    container: Container, places: Files, selection: Selection, tail: int | None, follow: bool
) -> AsyncIterator[bytes]:
    run, live = container.run, container.log.file if container.log else None
    with ExitStack() as opened:
        generation = live.generation if live else 0
        sources = list(_open(opened, places, live))
        if tail is not None:
            await _find_tail(places.format, sources, tail, selection)
        for source in sources:
            async for block in _blocks(places.format, source, selection):
                for chunk in _encoded(places.format, block, selection, run):
                    yield chunk
        if follow and live and sources:
            async for block in _growth(places.format, live, sources[-1], generation, run, selection, opened):
                for chunk in _encoded(places.format, block, selection, run):
                    yield chunk


def _encoded(form: Format, block: bytes, selection: Selection, run: Run) -> Iterator[bytes]:
    for piece in form.decode(block, selection):
        yield _as_sent(piece, run)


def _open(opened: ExitStack, places: Files, live: RotatedFile | None) -> Iterator[_Source]:
    """All files of a log as they are now, the oldest first. No rotation comes between: it is one step of the loop."""
    for number in range(places.rotation.count - 1, -1, -1):
        if source := _open_one(opened, places.path, number):
            if number == 0 and live:
                source.size = live.end
            yield source


def _open_one(opened: ExitStack, path: str, number: int) -> _Source | None:
    """The file that a log was some rotations ago. It may be replaced by its compressed self while we look."""
    while name := rotation.find(path, number):
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        opened.callback(os.close, fd)
        return _Source(fd, os.fstat(fd).st_size, name.endswith(".gz"))
    return None


async def _find_tail(form: Format, sources: list[_Source], tail: int, selection: Selection) -> None:
    """Let the sources begin where the last `tail` wanted entries do."""
    missing = tail
    for source in reversed(sources):
        if missing == 0:
            source.start, source.compressed = source.size, False  # nothing of it
        elif source.compressed:
            total = 0
            async for block in _inflated(form, source):
                total += len(form.starts(block, selection))
            source.skip, missing = max(0, total - missing), max(0, missing - total)
        else:
            source.start, missing = form.tail_offset(source.fd, source.size, missing, selection)


async def _blocks(form: Format, source: _Source, selection: Selection) -> AsyncIterator[bytes]:
    """A file's whole entries from where it begins, in blocks. Leaves `start` where it ended."""
    if not source.compressed:
        while block := _whole_entries(form, source.fd, source.start, source.size):
            source.start += len(block)
            yield block
        return
    async for block in _inflated(form, source):
        if source.skip:
            starts = form.starts(block, selection)
            skipped = min(source.skip, len(starts))
            source.skip -= skipped
            block = block[starts[skipped] :] if skipped < len(starts) else b""
        yield block


async def _inflated(form: Format, source: _Source) -> AsyncIterator[bytes]:
    """The whole entries in a compressed file; the work is done on a thread."""
    stream, carried = Inflation(source.fd), b""
    while data := await asyncio.to_thread(stream.read):
        data = carried + data
        end = form.complete(data)
        carried = data[end:]
        yield data[:end]


async def _growth(
    form: Format,
    live: RotatedFile,
    source: _Source,
    generation: int,
    run: Run,
    selection: Selection,
    opened: ExitStack,
) -> AsyncIterator[bytes]:
    """What is added to a log, until the container ends. `source` is the file of this generation, read so far."""
    while True:
        grown, over = live.grown, not run.running
        rotated = live.generation != generation
        source.size = os.fstat(source.fd).st_size if rotated else live.end
        async for block in _blocks(form, source, selection):
            yield block
        if rotated:
            opened.pop_all().close()
            if not (found := _next(live, generation, opened)):
                return
            source, generation = found
        elif over or not await _grows(grown, selection.until):
            return


def _next(live: RotatedFile, generation: int, opened: ExitStack) -> tuple[_Source, int] | None:
    """The file after one of a generation, or the first after it that there still is; None once all are removed."""
    for number in range(live.generation - generation - 1, -1, -1):
        if source := _open_one(opened, live.path, number):
            return source, live.generation - number
    return None


async def _grows(grown: asyncio.Event, until: int) -> bool:
    """Wait for more; False when what comes is later than a client wants."""
    left = (until - time.time_ns()) / 1e9 if until else None
    try:
        await asyncio.wait_for(grown.wait(), left)
    except TimeoutError:
        return False
    return True


def _whole_entries(form: Format, fd: int, offset: int, end: int) -> bytes:
    """Entries from `offset` on, a chunk of them or one that is larger; b"" at the end."""
    size = min(CHUNK, end - offset)
    while size > 0:
        block = os.pread(fd, size, offset)
        whole = form.complete(block)
        if whole or size >= end - offset or len(block) < size:
            return block[:whole]
        size = min(size * 2, end - offset)
    return b""
