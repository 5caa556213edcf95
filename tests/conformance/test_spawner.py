"""What the spawner keeps ready is gone when its daemon has ended, and holds nothing of a container."""

from __future__ import annotations

import pytest

from tests.support.daemon import Daemon

pytestmark = pytest.mark.root


def test_input_ends_although_a_child_is_parked_meanwhile(daemon: Daemon) -> None:
    """A parked child that held a copy of the pipe would keep the container waiting for more."""
    for _ in range(5):
        daemon.docker("run", "--rm", "--network", "none", "busybox", "true")
        found = daemon.docker("run", "--rm", "-i", "--network", "none", "busybox", "cat", stdin=b"all", timeout=15)
        assert found.stdout == b"all"
