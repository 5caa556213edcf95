"""The image store where things go wrong: crashes, damage, a full or read-only disk, a second process."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.errors import Forbidden, LabkitError
from labkit.images.store import ImageStore
from tests.images.stores import BASE, TOP, assert_whole, blobs, load, unused
from tests.images.tars import contents, docker_archive, member, tar

pytestmark = pytest.mark.root  # layers carry owners


def test_one_process_at_a_store(store: ImageStore, tmp_path: Path) -> None:
    code = "import sys, pathlib, labkit.images.store as s; s.ImageStore(pathlib.Path(sys.argv[1]))"
    second = subprocess.run([sys.executable, "-c", code, tmp_path / "store"], capture_output=True, text=True)
    assert second.returncode == 1
    assert f"is in use by another process (PID {os.getpid()})" in second.stderr


def test_a_crash_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    """The process dies while it has half an archive; what it had begun is gone at the next start."""
    code = (
        "import sys, pathlib, labkit.images.store as s\n"
        "store = s.ImageStore(pathlib.Path(sys.argv[1]))\n"
        "store.load(sys.stdin.buffer)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "store"], stdin=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(docker_archive([tar(member("big", bytes(3 << 20)))], ["app"])[: 2 << 20])
    process.stdin.flush()
    while not list((tmp_path / "store").glob("tmp/*/*")):
        assert process.poll() is None
    process.kill()
    process.wait()
    process.stdin.close()
    store = ImageStore(tmp_path / "store")
    assert store.list() == []
    store.close()
    assert_whole(tmp_path / "store")
    assert blobs(tmp_path / "store") == set()


def test_orphans_of_a_crash_go_at_the_next_start(tmp_path: Path) -> None:
    """Renamed, but not yet in the index when the power went."""
    store = ImageStore(tmp_path / "store")
    load(store, docker_archive([BASE], ["app"]))
    store.close()
    (tmp_path / "store/index.json").write_text('{"schemaVersion":2,"manifests":[]}')
    ImageStore(tmp_path / "store").close()
    assert blobs(tmp_path / "store") == set()
    assert os.listdir(tmp_path / "store/snapshots") == []


def test_a_damaged_image_does_not_take_the_others_along(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ImageStore(tmp_path / "store")
    load(store, docker_archive([BASE], ["good"]))
    load(store, docker_archive([TOP], ["bad"]))
    bad = store.resolve("bad")
    store.close()
    (tmp_path / "store/blobs/sha256" / bad.manifest.digest[7:]).write_text("{}")
    again = ImageStore(tmp_path / "store")
    assert [image.repo_tags for image in again.list()] == [["good:latest"]]
    assert "can't be used: content sha256:" in caplog.text
    again.remove("good", False, unused)
    assert "nothing is removed until this is repaired" in caplog.text
    assert bad.layers[0].digest[7:] in blobs(tmp_path / "store")
    load(again, docker_archive([TOP], ["bad"]))
    assert again.resolve("bad").manifest == bad.manifest
    again.close()
    assert_whole(tmp_path / "store")


def test_missing_snapshots_are_made_again(tmp_path: Path) -> None:
    """As after `skopeo copy … oci:ROOT:name` into the store of an engine that doesn't run."""
    store = ImageStore(tmp_path / "store")
    load(store, docker_archive([BASE, TOP], ["app"]))
    lower_dirs = store.lower_dirs(store.resolve("app"))
    store.close()
    for lower in lower_dirs:
        shutil.rmtree(Path(lower).parent)
    again = ImageStore(tmp_path / "store")
    assert again.lower_dirs(again.resolve("app")) == lower_dirs
    assert contents(Path(lower_dirs[1])) == {"etc/name": b"base", "gone": b"x"}
    again.close()


def test_a_read_only_root(tmp_path: Path) -> None:
    ImageStore(tmp_path / "store").close()
    subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", tmp_path], check=True)
        with pytest.raises(Forbidden, match=r"Read-only file system \(mount it writable\)"):
            ImageStore(tmp_path / "store")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_full_disk(tmp_path: Path) -> None:
    """The error says so; all space is given back, and the store goes on."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], check=True)
    try:
        store = ImageStore(tmp_path / "store")
        load(store, docker_archive([BASE], ["small"]))
        free = os.statvfs(tmp_path).f_bfree
        for size in (1 << 20, 3 << 20):  # fits as a blob but not unpacked as well; doesn't fit at all
            with pytest.raises(LabkitError, match="no space left on device"):
                load(store, docker_archive([tar(member("big", os.urandom(size)))], ["big"]))
            assert os.statvfs(tmp_path).f_bfree == free
        with pytest.raises(LabkitError, match="no space left on device"):
            store.import_(io.BytesIO(tar(member("big", os.urandom(3 << 20)))))
        assert [image.repo_tags for image in store.list()] == [["small:latest"]]
        store.close()
        assert_whole(tmp_path / "store")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_an_index_that_can_not_be_written(store: ImageStore, tmp_path: Path) -> None:
    """The last step of a load fails: what was in place already is taken away again, and the old names stand."""
    load(store, docker_archive([BASE], ["old"]))
    before = store.list()
    (tmp_path / "store/index.json").unlink()
    (tmp_path / "store/index.json").mkdir()
    with pytest.raises(LabkitError, match="Is a directory"):
        load(store, docker_archive([TOP], ["new"]))
    assert store.list() == before
    assert len(blobs(tmp_path / "store")) == 3
    assert len(os.listdir(tmp_path / "store/snapshots")) == 1
