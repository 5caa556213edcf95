"""Reading a container's log for a client: from a place on, to its end, or as it grows (moby `daemon/logs.go`)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from labkit.engine import logs
from labkit.engine.container import Container
from labkit.engine.logs import Selection
from labkit.engine.output import frame
from labkit.engine.validation import check_log_driver

CHUNK = 1 << 20


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
    check_log_driver(container.record.HostConfig)
    return _read(container, selection, tail, follow)


async def _read(container: Container, selection: Selection, tail: int | None, follow: bool) -> AsyncIterator[bytes]:
    run, log = container.run, container.log
    if log is None:
        return
    fd = os.open(log.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        offset = 0 if tail is None else logs.tail_offset(fd, log.end, tail, selection)
        while True:
            grown, over = log.grown, not follow or not run.running
            end = log.end
            while offset < end:
                block = _whole_lines(fd, offset, end)
                offset += len(block)
                for piece in logs.decode(block, selection):
                    yield piece.data if run.has_terminal else frame(piece.stream, piece.data)
            if over:
                return
            await grown.wait()
    finally:
        os.close(fd)


def _whole_lines(fd: int, offset: int, end: int) -> bytes:
    """Log lines from `offset` on, a chunk of them or one that is larger."""
    size = min(CHUNK, end - offset)
    while True:
        block = os.pread(fd, size, offset)
        last = block.rfind(b"\n") + 1
        if last or size >= end - offset:
            return block[: last or None]
        size = min(size * 2, end - offset)
