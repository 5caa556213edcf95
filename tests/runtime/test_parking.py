"""A child that is forked ahead: what is in the way of it costs nothing."""

from __future__ import annotations

import os
import resource

import pytest

from labkit.runtime.parking import Kind, park


def test_without_descriptors_nothing_is_kept() -> None:
    free = os.dup(0)
    os.close(free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            park(Kind(0, [], b""))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    again = os.dup(0)
    os.close(again)
    assert again == free
