"""What holds for all tests: what they need is there, or they fail and say what is missing."""

from __future__ import annotations

import os
import signal

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """A worker of pytest-xdist ignores SIGINT, and its children would: it is back to what a program begins with."""
    if hasattr(config, "workerinput"):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.fail("this test runs real containers and needs root: `make test` runs it through sudo", pytrace=False)
