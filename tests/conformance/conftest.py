"""The daemons for these tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.registry.conftest import registry
from tests.support.daemon import REPOSITORY, Daemon, running
from tests.support.fixtures import busybox_archive, daemon, shared_daemon

__all__ = ["busybox_archive", "daemon", "registry", "shared_daemon"]
BUILD = 300
"""Seconds that three images of Debian's packages may take."""


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with three images of `labkit hub`: nginx, redis, postgres."""
    with running(tmp_path_factory.mktemp("services")) as daemon:
        build = [sys.executable, "-m", "labkit.cli.main", "-H", daemon.host, "hub", "build"]
        images = ["nginx", "redis", "postgres"]
        done = subprocess.run(
            [*build, *images], cwd=REPOSITORY, capture_output=True, text=True, timeout=BUILD, check=False
        )
        assert done.returncode == 0, done.stderr
        yield daemon
