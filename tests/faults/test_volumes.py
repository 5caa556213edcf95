"""SIGKILL of the daemon at each change that it makes on the disk for a volume: whole or not at all."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, busybox, served

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
MOST = 200
"""Changes that one request makes at most: a test that gets there has killed nothing."""

PROGRAM = """
import os, signal, sys
CHANGES = {"os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.link", "os.truncate", "os.chown"}
armed, seen = sys.argv[1], []
def watch(event, arguments):
    changes = event in CHANGES or (event == "open" and arguments[2] & (os.O_CREAT | os.O_TRUNC))
    if changes and os.path.islink(armed):
        seen.append(event)
        if len(seen) == int(os.readlink(armed)):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
from labkit.cli.main import main
sys.exit(main(sys.argv[2:]))
"""
"""A daemon that kills itself right before its n-th change of the disk, once a link that says n is there."""


class Fragile(Daemon):
    """A daemon that can be told at which of its changes to die."""

    @property
    def armed(self) -> Path:
        return self.root / "armed"

    def command(self) -> list[str]:
        words = super().command()
        return [sys.executable, "-c", PROGRAM, str(self.armed), *words[words.index("daemon") :]]


@pytest.fixture
def own(tmp_path: Path, busybox_archive: None) -> Iterator[Fragile]:
    """A daemon with an image that has something at /data and a volume of its own."""
    root = tmp_path / "image"
    root.mkdir()
    subprocess.run(["tar", "-C", root, "-xf", busybox()], check=True)
    (root / "data/deep").mkdir(parents=True)
    for number in range(3):
        (root / f"data/deep/{number}").write_text("x" * 5000)
    subprocess.run(["tar", "-C", root, "-cf", tmp_path / "image.tar", "."], check=True)
    with served(Fragile(tmp_path / "daemon")) as fragile:
        fragile.docker("import", "-c", "VOLUME /own", str(tmp_path / "image.tar"), "withdata")
        yield fragile


def killed_at(daemon: Fragile, number: int, method: str, path: str, body: Any = None) -> bool:
    """Make a request of a daemon that dies at its n-th change of the disk; whether it came to that."""
    assert daemon.process
    daemon.armed.symlink_to(str(number))
    status = 0
    with contextlib.suppress(ConnectionError, http.client.HTTPException):
        status, answer = daemon.request(method, path, body)
        assert status < 300, answer
    daemon.armed.unlink()
    if status:
        return False
    assert daemon.process.wait(10) == -9
    daemon.start()
    return True


def check(daemon: Daemon) -> None:
    """What there is, is whole; anonymous volumes have their container."""
    assert all(not name.startswith(".") for name in os.listdir(daemon.data / "volumes"))
    containers = daemon.request("GET", "/containers/json?all=1")[1]
    assert sorted(one["Id"] for one in containers) == sorted(os.listdir(daemon.data / "containers"))
    used = {mount["Name"] for one in containers for mount in one["Mounts"] if mount.get("Name")}
    found = {one["Name"]: one for one in daemon.request("GET", "/volumes")[1]["Volumes"]}
    assert used <= found.keys()
    assert {name for name, one in found.items() if one["Labels"]} <= used
    for one in found.values():
        place = Path(one["Mountpoint"])
        assert sorted(os.listdir(place.parent)) == ["_data", "volume.json"]
        names = sorted(str(path.relative_to(place)) for path in place.rglob("*"))
        assert names in ([], ["deep", "deep/0", "deep/1", "deep/2"])
        assert all(len(path.read_text()) == 5000 for path in place.rglob("?"))
    assert str(daemon.data) not in Path("/proc/self/mountinfo").read_text()


def remove_everything(daemon: Daemon) -> None:
    daemon.remove_all()
    for one in daemon.request("GET", "/volumes")[1]["Volumes"]:
        assert daemon.request("DELETE", f"/volumes/{one['Name']}")[0] == 204


BODY = {"Image": "withdata", "Cmd": ["true"], "HostConfig": {"Binds": ["site:/data"], "NetworkMode": "none"}}


@pytest.mark.long
def test_create(own: Fragile) -> None:
    killed = 0
    for number in range(1, MOST):
        if not killed_at(own, number, "POST", "/containers/create?name=box", BODY):
            break
        killed = number
        check(own)
        if own.request("GET", "/containers/box/json")[0] != 200:
            assert own.request("POST", "/containers/create?name=box", BODY)[0] == 201
        check(own)
        assert len((own.data / "volumes/site/_data/deep/0").read_text()) == 5000  # filled now, if not before
        remove_everything(own)
    assert 10 < killed < MOST - 1


def test_remove(own: Fragile) -> None:
    killed = 0
    for number in range(1, MOST):
        assert own.request("POST", "/containers/create?name=box", BODY)[0] == 201
        ended = killed_at(own, number, "DELETE", "/containers/box?v=1")
        check(own)
        assert own.request("GET", "/volumes/site")[0] == 200
        remove_everything(own)
        if not ended:
            break
        killed = number
    assert 5 < killed < MOST - 1


@pytest.mark.parametrize(("method", "path"), [("POST", "/volumes/create"), ("DELETE", "/volumes/one")])
def test_a_volume_alone(own: Fragile, method: str, path: str) -> None:
    for number in range(1, MOST):
        if method == "DELETE":
            own.request("POST", "/volumes/create", {"Name": "one"})
        if not killed_at(own, number, method, path, {"Name": "one"} if method == "POST" else None):
            break
        check(own)
        remove_everything(own)
    assert 2 < number < MOST - 1


def test_what_was_mounted_for_a_start_that_never_was(own: Fragile) -> None:
    """The next daemon unmounts it; what a container has mounted that lives on stays mounted."""
    options = {"type": "tmpfs", "device": "tmpfs"}
    for name in ("lost", "held"):
        assert own.request("POST", "/volumes/create", {"Name": name, "DriverOpts": options})[0] == 201
    own.docker("run", "-d", "--network", "none", "--name", "alive", "-v", "held:/h", "busybox", "sleep", "1000")
    place = own.data / "volumes/lost/_data"
    own.docker("volume", "create", "plain")
    others = own.data / "volumes/plain/_data"
    for target in (place, others):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", target], check=True)
    own.kill()
    own.start()
    mounts = Path("/proc/self/mountinfo").read_text()
    assert f" {others} " in mounts  # an administrator's, who has put a disk there
    subprocess.run(["umount", others], check=True)
    assert (f" {place} " in mounts, f" {own.data}/volumes/held/_data " in mounts) == (False, True)
    own.docker("exec", "alive", "touch", "/h/x")
    own.docker("rm", "-f", "alive")
    assert str(own.data) not in Path("/proc/self/mountinfo").read_text()
