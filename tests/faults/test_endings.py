"""Daemons that end in order, that may not start, and that meet a machine which doesn't let them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import PATIENCE, REPOSITORY, Daemon, processes, running

pytestmark = pytest.mark.root


def outcome(command: list[str], prefix: tuple[str, ...] = ()) -> tuple[int, str]:
    """Status and message of a daemon that is expected to end by itself."""
    done = subprocess.run(
        [*prefix, *command], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    return done.returncode, done.stderr


def test_sigterm_ends_all(tmp_path: Path, busybox_archive: None) -> None:
    with running(tmp_path) as daemon:
        for name, flags in (("polite", ()), ("paused", ()), ("removed", ("--rm",))):
            script = "trap 'exit 3' TERM; while :; do sleep 0.05; done"
            daemon.docker("run", "-d", "--network", "none", "--name", name, *flags, "busybox", "sh", "-c", script)
        daemon.docker(
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            "host",
            "--pid=host",
            "busybox",
            "sh",
            "-c",
            "sleep 987654 & wait",
        )
        daemon.docker(
            "run", "-d", "--network", "none", "--stop-timeout", "0", "--name", "deaf", "busybox", "sleep", "1000"
        )
        daemon.docker("exec", "-d", "polite", "sleep", "987655")
        daemon.docker("pause", "paused")
        daemon.docker("stop", "-t", "0", "paused")
        daemon.stop()
        assert daemon.left() == []
        assert processes("98765") == []
        daemon.start()
        assert daemon.inspect("polite")["State"]["ExitCode"] == 3
        assert daemon.inspect("deaf")["State"]["ExitCode"] == 137
        assert daemon.request("GET", "/containers/removed/json")[0] == 404


def test_sigterm_during_starts(tmp_path: Path, busybox_archive: None) -> None:
    with running(tmp_path) as daemon:
        names = [f"start{number}" for number in range(5)]
        for name in names:
            daemon.docker(
                "create", "--stop-timeout", "0", "--network", "none", "--name", name, "busybox", "sleep", "987656"
            )
        threads = [threading.Thread(target=ask, args=(daemon, name)) for name in names]
        for thread in threads:
            thread.start()
        daemon.stop()
        for thread in threads:
            thread.join()
        assert daemon.left() == []
        assert processes("987656") == []
        daemon.start()
        assert {daemon.inspect(name)["State"]["Status"] for name in names} <= {"created", "exited"}


def ask(daemon: Daemon, name: str) -> None:
    try:
        status, _ = daemon.request("POST", f"/containers/{name}/start")
    except (OSError, ValueError):
        return  # the daemon has ended before it could answer
    assert status in (204, 503)


def test_live_restore_lets_containers_run_on(tmp_path: Path, busybox_archive: None) -> None:
    with running(tmp_path, "--live-restore") as daemon:
        daemon.docker("run", "-d", "--network", "none", "--name", "on", "busybox", "sleep", "1000")
        pid = daemon.inspect("on")["State"]["Pid"]
        daemon.stop()
        assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\0"
        daemon.start()
        assert daemon.inspect("on")["State"]["Pid"] == pid


def test_a_second_daemon_on_the_same_roots_is_refused(tmp_path: Path, busybox_archive: None) -> None:
    with running(tmp_path) as daemon:
        status, message = outcome(daemon.command())
        assert status == 1
        assert f"another labkit daemon uses {daemon.data}: stop it" in message
        assert daemon.out("run", "--rm", "--network", "none", "busybox", "echo", "still") == "still"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A directory on a filesystem that can't be written to."""
    place = tmp_path / "read-only"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_read_only_data_root_is_refused(tmp_path: Path, read_only: Path) -> None:
    command = [
        "--data-root",
        str(read_only / "data"),
        "--exec-root",
        str(tmp_path / "run"),
        "--cgroup-parent",
        "lk-none",
    ]
    status, message = outcome([*Daemon(tmp_path).command()[:4], *command])
    assert status == 1
    assert f"can't use {read_only}/data" in message
    assert "Read-only file system" in message
    assert "--data-root" in message


def test_without_privilege_the_reason_and_the_remedy_are_told() -> None:
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o777)  # `nobody` shall fail for want of privilege, not of a place
    try:
        command = Daemon(Path(folder)).command()
        status, message = outcome(command, ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"))
    finally:
        shutil.rmtree(folder)
    assert status == 1
    assert "needs root" in message
    assert "sudo" in message
