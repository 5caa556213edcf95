"""The docker command on a real terminal: a pty that the test types into and reads from."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.daemon import PATIENCE, Daemon


class Terminal:
    """One docker command that has this terminal as its own."""

    def __init__(self, daemon: Daemon, arguments: tuple[str, ...], rows: int, columns: int) -> None:
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        self.text = ""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "docker", *arguments],
            env=daemon.environment(),
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, wanted: str) -> str:
        """Read until `wanted` has come; returns all before it, and forgets it."""
        deadline = time.monotonic() + PATIENCE
        while wanted not in self.text:
            left = deadline - time.monotonic()
            assert left > 0, f"{wanted!r} did not come: {self.text!r}"
            if select.select([self.master], [], [], left)[0] and not self._read():
                raise AssertionError(f"the terminal ended without {wanted!r}: {self.text!r}")
        before, self.text = self.text.split(wanted, 1)
        return before

    def _read(self) -> bool:
        try:
            data = os.read(self.master, 4096)
        except OSError:  # EIO: the last process that had the terminal open is gone
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def end(self) -> int:
        """Read to the end; the exit status of the command."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._read():
            pass
        return self.process.wait(PATIENCE)


@contextmanager
def terminal(daemon: Daemon, *arguments: str, rows: int = 24, columns: int = 80) -> Iterator[Terminal]:
    found = Terminal(daemon, arguments, rows, columns)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.process.send_signal(signal.SIGKILL)
            found.process.wait(PATIENCE)
        os.close(found.master)
