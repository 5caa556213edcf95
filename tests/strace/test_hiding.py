"""Between its fork and its program, an exec is in the container with the host's files open: nobody there may look."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.load.measuring import spawners_of
from tests.strace.conftest import strace
from tests.support.daemon import make_busybox, running

pytestmark = pytest.mark.root

LOOK = "while usleep 50000; do ls -l /proc/[0-9]*/exe 2>&1; done"
"""What a container does that looks into all processes that it can see, as root in it."""

DELAYED = ("-e", "inject=execve:delay_enter=1500000")
"""The program begins so many microseconds later."""


def test_a_container_cannot_look_into_an_exec_that_is_no_program_yet(tmp_path: Path) -> None:
    make_busybox(tmp_path / "busybox")
    with running(tmp_path / "engine") as daemon:
        daemon.docker("run", "-d", "--name", "eve", "--network", "none", "busybox", "sh", "-c", LOOK)
        with strace(spawners_of(daemon)[0], tmp_path / "of", *DELAYED):
            daemon.docker("exec", "eve", "true")
        seen = daemon.out("logs", "eve")
        daemon.docker("rm", "-f", "eve")
    assert "Permission denied" in seen
    assert {line.partition(" -> ")[2] for line in seen.splitlines() if " -> " in line} == {"/bin/busybox"}
