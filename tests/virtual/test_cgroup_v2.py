"""Containers on a kernel with cgroup v2 only: Debian's, in a virtual machine; what was tried stands in `guest`."""

from __future__ import annotations

import json

import pytest

from tests.virtual.guest import CHECKS
from tests.virtual.machine import boot

pytestmark = [pytest.mark.root, pytest.mark.timeout(1000)]
Report = dict[str, tuple[float, str]]
PATIENCE = 900
"""Seconds for all of it: half a minute on an idle machine."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What became of each check: seconds and what went wrong."""
    said, console = boot(tmp_path_factory.mktemp("machine"), "tests.virtual.guest", PATIENCE)
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("[")]
    found = {name: (seconds, wrong) for name, seconds, wrong in lines}
    assert CHECKS.keys() <= found.keys(), f"{found.get('machine', said)}\n{console}"
    return found


@pytest.mark.parametrize("name", CHECKS)
def test_on_v2(report: Report, name: str) -> None:
    assert not report[name][1], report[name][1] + report["log"][1]
