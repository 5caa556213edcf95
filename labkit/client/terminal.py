"""The user's terminal: raw mode while a container's tty is attached, lines typed unseen, its size (termios(3),
ioctl_tty(2))."""

from __future__ import annotations

import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def raw_mode(descriptor: int) -> Iterator[None]:
    """Passes every key on as typed, without echo; the terminal is as before afterwards."""
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSANOW)  # at once: what has been typed ahead is for the container
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def read_line(descriptor: int, echo: bool = True) -> str:
    """The next line that is typed, without its end; empty at the end of the input. Unseen without `echo`."""
    before = termios.tcgetattr(descriptor)
    if not echo:
        unseen = termios.tcgetattr(descriptor)
        unseen[3] &= ~termios.ECHO
        termios.tcsetattr(descriptor, termios.TCSADRAIN, unseen)
    try:
        typed = bytearray()
        while (piece := os.read(descriptor, 1)) not in (b"", b"\n"):
            typed += piece
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
    return typed.decode("utf-8", "surrogateescape")


def terminal_size(descriptor: int) -> tuple[int, int] | None:
    """(rows, columns), or None if the descriptor is no terminal or doesn't know its size."""
    try:
        columns, rows = os.get_terminal_size(descriptor)
    except OSError:
        return None
    return (rows, columns) if rows and columns else None
