"""Elastic tab stops, as Go's text/tabwriter aligns Docker's tables.

A column is a run of consecutive lines that have a tab-terminated cell there; it is as wide as its widest
cell plus padding, and each column is laid out only within the run of the column before it.
"""

from __future__ import annotations

from unicodedata import combining, east_asian_width


def align(text: str, minimum: int = 10, padding: int = 3) -> str:
    """The text with its tabs replaced by spaces. `minimum` and `padding` are in columns of a terminal."""
    lines = [line.split("\t") for line in text.split("\n")]
    widths: list[list[int]] = [[] for _ in lines]
    _layout(lines, widths, 0, len(lines), 0, minimum, padding)
    return "\n".join(_padded(cells, width) for cells, width in zip(lines, widths, strict=True))


def _layout(
    lines: list[list[str]], widths: list[list[int]], begin: int, end: int, column: int, minimum: int, padding: int
) -> None:
    row = begin
    while row < end:
        if len(lines[row]) - 1 <= column:
            row += 1
            continue
        first = row
        while row < end and len(lines[row]) - 1 > column:
            row += 1
        width = max(minimum, *(display_width(lines[line][column]) + padding for line in range(first, row)))
        for line in range(first, row):
            widths[line].append(width)
        _layout(lines, widths, first, row, column + 1, minimum, padding)


def _padded(cells: list[str], widths: list[int]) -> str:
    *terminated, last = cells
    aligned = (cell + " " * (width - display_width(cell)) for cell, width in zip(terminated, widths, strict=True))
    return "".join(aligned) + last


def display_width(text: str) -> int:
    """Columns on a terminal: wide East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)
