"""A daemon whose spawner is watched by strace while all the containers of these tests are started."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.load.measuring import spawners_of
from tests.strace.notation import STRACE_NAMES
from tests.strace.observing import SCENARIOS, Observation, observe
from tests.support.daemon import PATIENCE, make_busybox, running


@contextmanager
def strace(pid: int, output: Path, *more: str) -> Iterator[None]:
    """strace on a process and all that it forks, one file `output.PID` each; attached when this begins."""
    names = ["-e", f"trace={STRACE_NAMES}", *more]
    argv = ["strace", "-ff", "-y", "-s", "65536", *names, "-o", str(output), "-p", str(pid)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said = process.stderr.readline()
        try:
            assert "attached" in said, said
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.stderr.read()
            process.wait(PATIENCE)


@pytest.fixture(scope="session")
def observation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observation]:
    """All scenarios were run, with strace looking on from before the first one."""
    root = tmp_path_factory.mktemp("strace")
    make_busybox(tmp_path_factory.mktemp("busybox"))
    (root / "calls").mkdir()
    with running(root / "engine") as daemon:
        daemon.docker("network", "create", "--ipv6", "lab")
        spawner = spawners_of(daemon)[0]
        with strace(spawner, root / "calls" / "of"):
            found = observe(daemon, SCENARIOS, root / "calls", spawner)
        yield found
        daemon.docker("rm", "-f", *daemon.out("ps", "-aq").split())
        daemon.docker("network", "rm", "lab")
