"""Questions before something is lost, as docker asks them: only `y` is a yes."""

from __future__ import annotations

import os

from labkit.cli.session import Session


def confirmed(session: Session, question: str) -> bool:
    """Asks on standard output, and reads one line of standard input; without any, the answer is no."""
    session.out(f"{question} [y/N] ")
    if session.streams.stdin is None:
        return False
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(session.streams.stdin, 1)):  # what follows isn't ours
        line += byte
    return line.strip().lower() == b"y"
