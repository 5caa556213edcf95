"""Standard streams and terminals: pipes or a pseudoterminal of the container's own (pipe(7), pty(7), ioctl_tty(2)).

The daemon makes the pipes and the spawner passes their ends here by name; a pseudoterminal is opened inside
the container, from its own devpts, and its master travels back over the control socket.
"""

from __future__ import annotations

import os
import struct
import termios
from dataclasses import dataclass
from typing import ClassVar

from labkit.kernel import constants as c
from labkit.kernel import syscalls
from labkit.kernel.null import open_null
from labkit.plan import Context, Operation, Result


@dataclass(frozen=True, slots=True)
class ConnectStdio(Operation):
    """Put the descriptors that the spawner was given onto 0, 1 and 2; a stream that wasn't given is /dev/null."""

    streams: tuple[str, ...] = ("stdin", "stdout", "stderr")
    man: ClassVar[str] = "dup(2)"

    def run(self, context: Context) -> Result:
        for target, name in enumerate(("stdin", "stdout", "stderr")):
            fd = context.descriptors[name] if name in self.streams else open_null(os.O_RDWR)
            syscalls.dup3(fd, target)
        return None

    def describe(self) -> str:
        return f"connect {', '.join(self.streams) or 'nothing'} (the rest to /dev/null)"


@dataclass(frozen=True, slots=True)
class OpenTerminal(Operation):
    """Open a pseudoterminal, make it the controlling terminal and the standard streams, send the master home.

    `console` also shows it at /dev/console. Rows and columns of 0 leave the kernel's default.
    """

    rows: int = 0
    columns: int = 0
    console: bool = True
    man: ClassVar[str] = "pty(7)"

    def run(self, context: Context) -> Result:
        master = syscalls.open_path("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
        syscalls.ioctl(master, c.TIOCSPTLCK, struct.pack("i", 0))
        number = syscalls.ioctl(master, c.TIOCGPTN, bytes(4))
        path = f"/dev/pts/{int.from_bytes(number, 'little') if isinstance(number, bytes) else number}"
        slave = syscalls.open_path(path, os.O_RDWR | os.O_NOCTTY)
        if self.rows or self.columns:
            size = struct.pack("HHHH", self.rows, self.columns, 0, 0)
            syscalls.ioctl(slave, termios.TIOCSWINSZ, size)
        syscalls.sendmsg_fds(context.descriptors["control"], b"\x00terminal", (master,))
        if self.console:
            os.close(syscalls.open_path("/dev/console", os.O_CREAT | os.O_WRONLY, 0o600))
            syscalls.mount(path, "/dev/console", None, c.MS_BIND)
        syscalls.ioctl(slave, c.TIOCSCTTY, 0)
        for fd in (0, 1, 2):
            syscalls.dup3(slave, fd)
        os.close(slave)
        os.close(master)
        return path

    def describe(self) -> str:
        return "open a terminal of the container's own and talk through it"


def set_window_size(master: int, rows: int, columns: int) -> None:
    """Resize the terminal whose master this is; its foreground processes get SIGWINCH (ioctl_tty(2))."""
    syscalls.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
