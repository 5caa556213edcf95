"""Pulls that a SIGKILL or a full disk ends: nothing half-made is seen, space comes back, the next try goes on."""

from __future__ import annotations

import gzip
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.test_crashes import moments
from tests.images.tars import digest, member, tar
from tests.registry.images import Honest
from tests.support.daemon import PATIENCE, Daemon, running
from tests.support.registries import Asked, scripted

pytestmark = pytest.mark.root
PIECE = 256 << 10
"""Bytes that the client takes at once: what is less than that when the daemon dies comes again."""
LAYERS = [tar(*(member(f"{name}{n}", os.urandom(5000)) for n in range(200))) for name in "abc"]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as daemon:
        daemon.docker("rmi", "busybox")
        yield daemon


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon on a disk of 3 MB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", tmp_path], check=True)
    try:
        with running(tmp_path / "engine") as daemon:
            daemon.docker("rmi", "busybox")
            resize(daemon, "3m")
            yield daemon
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def resize(daemon: Daemon, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", daemon.root.parent], check=True)


def ingests(daemon: Daemon) -> int:
    """Bytes that wait for the next try."""
    return sum(path.stat().st_size for path in (daemon.data / "images/ingests").iterdir())


def assert_nothing(daemon: Daemon) -> None:
    assert daemon.out("images", "-aq") == ""
    for name in ("tmp", "snapshots", "blobs/sha256"):
        assert list((daemon.data / "images" / name).iterdir()) == []


def pulling(daemon: Daemon, reference: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["docker", "pull", reference], env=daemon.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def test_killed_at_any_moment(own: Daemon) -> None:
    image = Honest(LAYERS)
    with scripted(image.answer) as server:
        reference = f"{server.host}/app:1"
        for pause in moments(6, 0.15):
            client = pulling(own, reference)
            time.sleep(pause)  # the moment is the test
            own.kill()
            client.wait(PATIENCE)
            own.start()
            if own.out("images", "-q", reference):
                own.docker("rmi", reference)
            assert_nothing(own)
        own.docker("pull", reference)
        assert own.out("images", "-q", "--no-trunc", reference) == digest(image.config)
        assert ingests(own) == 0


class Half(Honest):
    """A registry that keeps still in the middle of its second layer, as long as it is asked for all of it."""

    def __init__(self) -> None:
        super().__init__(LAYERS)
        self.reached, self.go = threading.Event(), threading.Event()

    def blob(self, asked: Asked, data: bytes) -> None:
        if data != self.blobs[1] or "Range" in asked.headers:
            return super().blob(asked, data)
        asked.say(200, data[: len(data) // 2], Content_Length=str(len(data)))
        asked.wfile.flush()
        self.reached.set()
        assert self.go.wait(PATIENCE)
        return asked.end()


def until_taken(daemon: Daemon, size: int) -> None:
    """Wait until the daemon has written so many bytes of what it downloads."""
    deadline = time.monotonic() + PATIENCE
    while ingests(daemon) < size:
        assert time.monotonic() < deadline
        time.sleep(0.01)  # nothing tells of another process's writes


def test_resumed_after_a_crash(own: Daemon) -> None:
    image = Half()
    half = len(image.blobs[1]) // 2
    taken = half - half % PIECE
    with scripted(image.answer) as server:
        reference = f"{server.host}/app:1"
        client = pulling(own, reference)
        assert image.reached.wait(PATIENCE)
        until_taken(own, len(image.blobs[0]) + taken + len(image.blobs[2]))
        own.kill()
        image.go.set()
        client.wait(PATIENCE)
        own.start()
        assert_nothing(own)
        own.docker("pull", reference)
        ranges = [seen.headers.get("Range") for seen in server.seen if "/blobs/" in seen.path][-2:]
    assert ranges == [None, f"bytes={taken}-{len(image.blobs[1]) - 1}"]  # the configuration, and the rest of a layer


def refused(daemon: Daemon, reference: str) -> None:
    """A pull that the disk is too small for: it says so, and gives back all space."""
    free = os.statvfs(daemon.data).f_bfree
    done = daemon.docker("pull", reference, check=False)
    assert done.returncode == 1
    assert b"no space left on device" in done.stderr
    assert_nothing(daemon)
    assert os.statvfs(daemon.data).f_bfree >= free - 16  # pages of the daemon's log


def test_a_full_disk_in_the_middle(small: Daemon) -> None:
    with scripted(Honest(LAYERS).answer) as server:
        refused(small, f"{server.host}/app:1")
        resize(small, "30m")
        small.docker("pull", f"{server.host}/app:1")


def test_a_layer_that_unpacks_to_more_than_the_disk(small: Daemon) -> None:
    """A bomb of 64 MB in 64 kB ends at the disk's end."""
    bomb = tar(member("zeros", bytes(64 << 20)))
    with scripted(Honest([bomb], pack=gzip.compress).answer) as server:
        refused(small, f"{server.host}/bomb:1")
