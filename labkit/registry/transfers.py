"""What a pull or push did, as data: the blobs and what became of each, the requests, and where the time went.

Filled in by several threads while the transfer runs; the engine keeps it with the trace of the request that asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from labkit.registry.exchange import Exchange


@dataclass(slots=True)
class BlobRecord:
    """One blob: `role` is what it is for (manifest, configuration, layer), `fate` what was done with it and why.

    `times` are nanoseconds of this blob by what they were spent on; blobs of one transfer overlap in time.
    """

    role: str
    digest: str
    size: int
    media_type: str
    fate: str = ""
    times: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Transfer:
    """A pull or push of one reference. `times` are nanoseconds of the whole, by what they were spent on."""

    verb: str
    reference: str
    exchanges: list[Exchange] = field(default_factory=list)
    blobs: list[BlobRecord] = field(default_factory=list)
    times: dict[str, int] = field(default_factory=dict)
    rate_limit: str = ""


class Meter:
    """Where a pipeline spends its time: each stage's own nanoseconds, without those of the stages that it draws from.

    For one thread: the stages of a pipeline of generators call each other.
    """

    def __init__(self, times: dict[str, int]) -> None:
        self.times = times
        self._counted = 0

    def through(self, chunks: Iterator[bytes], stage: str) -> Iterator[bytes]:
        """The same chunks; the time that each takes to come counts for `stage`."""
        iterator = iter(chunks)
        while True:
            with self.of(stage):
                chunk = next(iterator, None)
            if chunk is None:
                return
            yield chunk

    def of(self, stage: str) -> _Stage:
        """A block that is (the rest of) a stage."""
        return _Stage(self, stage)

    def add(self, stage: str, nanoseconds: int) -> None:
        self.times[stage] = self.times.get(stage, 0) + nanoseconds
        self._counted += nanoseconds

    @property
    def counted(self) -> int:
        return self._counted


class _Stage:
    """A context manager that counts a block's own time."""

    __slots__ = ("_before", "_began", "_meter", "_stage")

    def __init__(self, meter: Meter, stage: str) -> None:
        self._meter = meter
        self._stage = stage

    def __enter__(self) -> None:
        self._before = self._meter.counted
        self._began = time.monotonic_ns()

    def __exit__(self, *raised: object) -> None:
        within = self._meter.counted - self._before
        self._meter.add(self._stage, time.monotonic_ns() - self._began - within)
