"""A descriptor that is kept for when there are no others (accept(2), EMFILE).

What a process has to do whether it is at its limit or not, such as to take back what it has made, needs one at a time.
"""

from __future__ import annotations

import os
from typing import Self


class Spare:
    """Within `with`, there is room for one more descriptor. A spare that can't be had again is tried for next time."""

    def __init__(self) -> None:
        self._fd = -1
        self._have()

    def __enter__(self) -> Self:
        self.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._have()

    def _have(self) -> None:
        if self._fd < 0:
            try:
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self._fd = -1  # what took its place goes, and then there is room

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
