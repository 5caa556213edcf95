"""Text that is drawn over itself: a table that goes on (`stats`), as docker/cli draws it on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType


class Live(AbstractContextManager["Live"]):
    """One place for a text that changes. `show` replaces what was shown."""

    def show(self, text: str) -> None:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


class Redrawn(Live):
    """On a terminal: from its top left corner, the old rest of each line erased, and what was below (ECMA-48)."""

    def __init__(self, out: Callable[[str], None]) -> None:
        self._out = out

    def show(self, text: str) -> None:
        lines = "".join(f"{line} \033[K\n" for line in text.split("\n"))
        self._out(f"\033[H{lines}\033[J")
