"""`docker run` and its flags, with the real docker command: what the container sees is what was asked."""

from __future__ import annotations

import pytest

from tests.support.daemon import Daemon

pytestmark = pytest.mark.root
RUN = ("run", "--rm", "--network", "none")


def test_output_streams_and_exit_status(daemon: Daemon) -> None:
    done = daemon.docker(*RUN, "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_input_reaches_the_process_and_ends(daemon: Daemon) -> None:
    data = bytes(range(256)) * 2000
    assert daemon.docker(*RUN, "-i", "busybox", "cat", stdin=data).stdout == data


def test_removed_afterwards(daemon: Daemon) -> None:
    daemon.docker(*RUN, "--name", "once", "busybox", "true")
    assert daemon.request("GET", "/containers/once/json")[0] == 404
    assert list((daemon.data / "containers").iterdir()) == []
