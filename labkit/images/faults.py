"""What can go wrong with the disk below the image store, told so that people can mend it.

dockerd's clients show the message: a full disk, a read-only data root and missing privilege say what they are and what
to do, all other errors keep the kernel's words.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from labkit.errors import Forbidden, KernelError, LabkitError

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
_REFUSED = frozenset((errno.EROFS, errno.EACCES, errno.EPERM))


def disk_error(error: OSError, what: str) -> LabkitError:
    """The error to raise for a failed call on the store's files; `what` says what was being done, on which path."""
    number = error.errno or 0
    if number in _FULL:
        return LabkitError(f"{what}: no space left on device (free some, or remove images and containers not in use)")
    if number in _REFUSED:
        remedy = "mount it writable" if number == errno.EROFS else "run as root, or choose a data root of your own"
        return Forbidden(f"{what}: {error.strerror} ({remedy})")
    return KernelError(what, number)


def is_full(error: BaseException | None) -> bool:
    """Whether this is what a full disk, or a used up quota, says."""
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turns an OSError of the block into the LabkitError that tells it."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, what) from error
