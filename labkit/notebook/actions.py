"""The last thing that was asked of an engine from this notebook, so that `%explain` can tell what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.trace import Span

_last: list[Span] = []


def remember(spans: list[Span]) -> None:
    """Keeps the client's spans of an action: one trace, what a magic or a cell asked."""
    if spans:
        _last[:] = spans


def last_spans() -> list[Span]:
    """The spans of the last action; none if there was none."""
    return list(_last)


def last_trace_id() -> str:
    """The trace of the last action; empty if there was none."""
    return _last[-1].context.trace_id if _last else ""
