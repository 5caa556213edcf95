"""/dev/null, known by its numbers (null(4)): in a /dev that comes from elsewhere there may be something else."""

from __future__ import annotations

import errno
import os
import stat

from labkit.errors import KernelError

NUMBER = os.makedev(1, 3)


def open_null(flags: int) -> int:
    """Open /dev/null, close-on-exec. Raises KernelError if there is none, or something else in its place."""
    try:
        fd = os.open("/dev/null", flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError("open('/dev/null')", error.errno or errno.EIO, "a container needs it") from error
    found = os.fstat(fd)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != NUMBER:
        os.close(fd)
        raise KernelError("open('/dev/null')", errno.ENODEV, "the container has something else there")
    return fd
