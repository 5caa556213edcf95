"""One process at a store: an advisory lock that ends with the process, however it ends (flock(2))."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from labkit.errors import Conflict


def lock_store(root: Path) -> int:
    """A descriptor that holds the lock on `root`/lock until it is closed. Raises Conflict if another process has it."""
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise Conflict(
            f"the image store {root} is in use by another process (PID {owner}): stop it, or choose another data root"
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
