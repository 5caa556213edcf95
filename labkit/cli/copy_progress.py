"""The progress of `cp`, drawn as docker draws it: a line on a terminal that counts, and at the end what was copied."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from labkit.cli.streams import Streams
from labkit.cli.units import human_size

_SAVE, _RESTORE, _ERASE, _ERASE_TAIL = "\x1b[s", "\x1b[u", "\x1b[2K", "\x1b[0K"
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_PAUSE = 0.075  # seconds between two counts that are shown


class CopyProgress:
    """Counts the bytes that pass; shows the count on standard error if that is a terminal, unless it is to be quiet."""

    def __init__(self, streams: Streams, header: str, quiet: bool) -> None:
        self._streams = streams
        self._header = header
        self._quiet = quiet
        self._shows = not quiet and streams.stderr_is_terminal
        self._shown = 0.0
        self.total = 0

    def __enter__(self) -> Self:
        if self._shows:
            self._streams.err(f"{_SAVE}{_HIDE}{_ERASE}{self._header}{human_size(0, 3)}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shows:
            self._streams.err(f"{_SHOW}{_RESTORE}{_ERASE}")

    def count(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The same pieces, counted."""
        for piece in pieces:
            self.total += len(piece)
            now = time.monotonic()
            if self._shows and now - self._shown > _PAUSE:
                self._shown = now
                self._streams.err(f"\x1b[{len(self._header) + 1}G{_ERASE_TAIL}{human_size(self.total, 3)}")
            yield piece

    def tell(self, destination: str) -> None:
        """Says what was copied, to its end."""
        if not self._quiet:
            self._streams.err(f"Successfully copied {human_size(self.total, 3)} to {destination}\n")
