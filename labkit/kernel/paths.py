"""Opening paths that someone else chose, without leaving a directory: openat2(2); and syncfs(2).

An image layer or a container names paths, and any component may be a symbolic link that points anywhere. openat2(2)
has the kernel resolve the whole path as if the given directory were `/` (RESOLVE_IN_ROOT), or refuse (RESOLVE_BENEATH,
RESOLVE_NO_SYMLINKS). It has been there since Linux 5.6; glibc has no wrapper, so this goes through syscall(2).
"""

from __future__ import annotations

import ctypes
import os

_OPENAT2 = 437  # the same number on every architecture (calls newer than 424 are)

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    """struct open_how, see openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(directory: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """A descriptor of `path`, resolved from the directory descriptor under the `RESOLVE_*` rules; close-on-exec.

    An empty path is the directory itself. Raises OSError as openat2(2) says: EXDEV for a path that leaves the directory
    (RESOLVE_BENEATH), ELOOP for a link where none is allowed.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    name = os.fsencode(path) or b"."
    descriptor: int = _libc.syscall(
        ctypes.c_long(_OPENAT2),
        ctypes.c_int(directory),
        ctypes.c_char_p(name),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(path))
    return descriptor


def syncfs(descriptor: int) -> None:
    """Writes all that the filesystem of `descriptor` still holds in memory to its disk (syncfs(2))."""
    if _libc.syncfs(ctypes.c_int(descriptor)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
