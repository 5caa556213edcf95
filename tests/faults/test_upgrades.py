"""Another version of the daemon takes over what runs; one that doesn't understand the spawner leaves it alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import PATIENCE, REPOSITORY, Daemon, served

pytestmark = pytest.mark.root
NEWER = "99.1"
SCRIPT = "i=0; while [ $i -lt {last} ]; do i=$((i+1)); echo line $i; sleep 0.01; done; exit 9"
LAST = 300

PROGRAM = """import sys
sys.path.insert(0, sys.argv[1])
import labkit
assert labkit.__file__.startswith(sys.argv[1])
from labkit.runtime import channel, spawning
protocol = int(sys.argv[2])
channel.PROTOCOL = protocol
spawning._PROGRAM = f'''import sys
sys.path.append(sys.argv[1])
from labkit.runtime import channel
channel.PROTOCOL = {protocol}
''' + spawning._PROGRAM
from labkit.cli.main import main
sys.exit(main(sys.argv[3:]))
"""
"""A daemon of the labkit in a directory. It speaks a version of the protocol, and so does a spawner that it starts."""


class Upgraded(Daemon):
    """A daemon whose code and protocol may be others after each start."""

    code = REPOSITORY
    protocol = 1

    def command(self) -> list[str]:
        words = super().command()
        program = [sys.executable, "-c", PROGRAM, str(self.code), str(self.protocol)]
        return [*program, *words[words.index("daemon") :]]

    @property
    def version(self) -> str:
        return self.out("version", "--format", "{{.Server.Version}}")


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """A labkit of a newer version."""
    folder = tmp_path / "newer"
    shutil.copytree(REPOSITORY / "labkit", folder / "labkit", ignore=shutil.ignore_patterns("__pycache__"))
    start = folder / "labkit/__init__.py"
    text = start.read_text()
    lines = [f'__version__ = "{NEWER}"' if line.startswith("__version__") else line for line in text.splitlines()]
    start.write_text("\n".join(lines) + "\n")
    assert start.read_text() != text
    return folder


@pytest.fixture(params=[(), ("--live-restore",)], ids=["killed", "live-restore"])
def own(request: pytest.FixtureRequest, tmp_path: Path, busybox_archive: None) -> Iterator[Upgraded]:
    with served(Upgraded(tmp_path / "daemon", *request.param)) as daemon:
        yield daemon
        daemon.remove_all()


def replace(daemon: Upgraded) -> None:
    """End the daemon, in order if containers live on then; its successor isn't started."""
    if daemon.flags:
        daemon.stop()
    else:
        daemon.kill()


def test_a_newer_version_takes_over(own: Upgraded, newer: Path) -> None:
    own.docker("run", "-d", "--name", "counter", "--network", "none", "busybox", "sh", "-c", SCRIPT.format(last=LAST))
    own.docker("run", "-d", "--name", "web", "-p", "127.0.0.1::80", "busybox", "httpd", "-f", "-h", "/etc")
    own.docker("run", "-d", "--name", "frozen", "--network", "none", "busybox", "sleep", "1000")
    own.docker("pause", "frozen")
    pids = [own.inspect(name)["State"]["Pid"] for name in ("counter", "web", "frozen")]
    first = own.version
    replace(own)
    own.code = newer
    own.start()
    assert (own.version, own.version == first) == (NEWER, False)
    assert [own.inspect(name)["State"]["Pid"] for name in ("counter", "web", "frozen")] == pids
    assert own.inspect("frozen")["State"]["Paused"] is True
    port = own.out("port", "web", "80/tcp")
    fetch = ["busybox", "wget", "-q", "-O", "-", f"http://{port}/passwd"]
    assert b"root:" in subprocess.run(fetch, check=True, capture_output=True, timeout=PATIENCE).stdout
    assert own.out("exec", "web", "echo", "inside") == "inside"
    assert own.out("run", "--rm", "--network", "none", "busybox", "echo", "another") == "another"
    assert own.out("wait", "counter") == "9"
    assert own.out("logs", "counter").split("\n") == [f"line {number}" for number in range(1, LAST + 1)]
    own.docker("unpause", "frozen")


def test_a_spawner_of_another_protocol_is_left_alone(own: Upgraded) -> None:
    own.docker("run", "-d", "--name", "on", "--network", "none", "busybox", "sleep", "1000")
    pid = own.inspect("on")["State"]["Pid"]
    replace(own)
    own.protocol = 2
    began = time.monotonic()
    done = subprocess.run(own.command(), cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert time.monotonic() - began < PATIENCE
    assert done.returncode == 1
    assert "speaks version 1 of its protocol, this labkit 2: stop its containers" in done.stderr
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\0"
    own.protocol = 1
    own.start()
    assert own.inspect("on")["State"]["Pid"] == pid
    assert own.out("exec", "on", "echo", "still") == "still"
