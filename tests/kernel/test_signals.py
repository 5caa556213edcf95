"""Signals, and waiting for the end that they bring."""

from __future__ import annotations

import fcntl
import os
import resource
import signal

from labkit.kernel.signals import ends_within
from tests.support.daemon import PATIENCE

MANY = 1100
"""More than select(2) knows."""


def test_the_end_of_a_process_is_seen_by_a_descriptor_of_any_number() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2 * MANY), limits[1]))
    pid = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
    low = os.pidfd_open(pid)
    high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, MANY)
    try:
        assert not ends_within(high, 0)
        os.kill(pid, signal.SIGKILL)
        assert ends_within(high, PATIENCE)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(low)
        os.close(high)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
