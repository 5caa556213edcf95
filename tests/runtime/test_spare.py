"""A descriptor for when there are no others."""

from __future__ import annotations

import os
import resource

import pytest

from labkit.runtime.spare import Spare


def test_room_for_one_more() -> None:
    spare = Spare()
    free = os.dup(0)
    os.close(free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        with spare:
            taken = os.dup(0)
        with spare:  # its place was taken, and it could not be had again
            os.close(taken)
        with spare, spare:
            os.close(os.dup(0))
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        spare.close()
