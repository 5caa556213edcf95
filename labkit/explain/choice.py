"""What of a trace is told, and the words that all parts of the tree share."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass

from labkit.explain.decode import Style


@dataclass(frozen=True, slots=True)
class Choice:
    """What of a trace is told: kernel calls or operations only, times, and which operations (none named: all).

    `folded` hides, in HTML, what is below a process and an operation until it is opened.
    """

    style: Style
    calls: bool = True
    times: bool = True
    only: frozenset[str] = frozenset()
    folded: bool = True


def count(things: Sized, name: str) -> str:
    """`1 request`, `2 requests`."""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def milliseconds(nanoseconds: int) -> str:
    """A duration as people read it."""
    return f"{nanoseconds / 1e6:.1f} ms"
