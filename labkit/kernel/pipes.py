"""Pipes whose content can be looked at before it is taken (pipe(7), splice(2), tee(2)).

What a container writes must outlive a daemon that is killed between reading it and writing it down. So it is
moved, within the kernel, from the container's pipe to a second one, the stage, which the spawner holds open
too; it is taken out of the stage only once it is in the log. `Mark` remembers, outside the process, what is
being written, so that a restarted daemon can tell whether that had been finished.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import termios
from dataclasses import dataclass

CAPACITY = 1 << 20
_F_SETPIPE_SZ = 1031
_SPLICE_F_NONBLOCK = 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.tee.restype = ctypes.c_ssize_t
_libc.tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)


def make_pipe(capacity: int = CAPACITY) -> tuple[int, int]:
    """A pipe (read end, write end) of the given capacity; the default one where the kernel refuses it (pipe(7))."""
    ends = os.pipe2(os.O_CLOEXEC)
    try:
        fcntl.fcntl(ends[0], _F_SETPIPE_SZ, capacity)
    except PermissionError:
        pass  # the user's pipes have reached /proc/sys/fs/pipe-user-pages-soft: 64 KiB do as well, slower
    return ends


def waiting(fd: int) -> int:
    """How many bytes wait in a pipe (FIONREAD, ioctl_tty(2))."""
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))[0])


def move(source: int, target: int) -> int:
    """Move what waits in `source` to the pipe `target`, within the kernel; 0 at the end of the stream.

    Raises BlockingIOError if there is nothing, or no room. A terminal's hangup (EIO) is the end of its stream.
    """
    try:
        return os.splice(source, target, CAPACITY, flags=_SPLICE_F_NONBLOCK)
    except OSError as error:
        if error.errno == 5:  # EIO, pty(7): the last process that had the terminal open is gone
            return 0
        raise


def copy(source: int, scratch: tuple[int, int], size: int) -> bytes:
    """The first `size` bytes that wait in a pipe, left in it. `scratch` is an empty pipe to copy them through."""
    if size == 0:
        return b""
    copied = _libc.tee(source, scratch[1], size, _SPLICE_F_NONBLOCK)
    if copied < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return os.read(scratch[0], copied)


@dataclass(slots=True)
class Mark:
    """What is being written down, in a file that is mapped into memory: valid, bytes staged, end of the log before.

    The map belongs to the page cache, so what is stored survives the process that stored it.
    """

    memory: mmap.mmap

    @classmethod
    def open(cls, path: str) -> Mark:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, 24)
            return cls(mmap.mmap(fd, 24))
        finally:
            os.close(fd)

    def set(self, staged: int, log_end: int) -> None:
        """`staged` bytes are in the stage; from `log_end` on, the log is about to be written."""
        struct.pack_into("=qq", self.memory, 8, staged, log_end)
        self.memory[0] = 1

    def clear(self) -> None:
        """What was written down has been taken out of the stage."""
        self.memory[0] = 0

    def unfinished(self) -> tuple[int, int] | None:
        """What `set` was told, if `clear` was never reached."""
        staged, log_end = struct.unpack_from("=qq", self.memory, 8)
        return (staged, log_end) if self.memory[0] else None

    def close(self) -> None:
        self.memory.close()
