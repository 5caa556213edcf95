"""Copy-up: what an image has at a volume's place arrives as it is, whole or not at all."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from labkit.errors import LabkitError
from labkit.plan import Context
from labkit.volumes import copying
from labkit.volumes.copying import UNFINISHED, WHOLE, FillVolume, copy_data, finish_moving

pytestmark = pytest.mark.root
MINUTE = 60 * 10**9


@pytest.fixture
def layers(tmp_path: Path) -> tuple[str, str]:
    """Two layers, topmost first; the place is reached through a link, and hides some of what is below."""
    low, top = tmp_path / "low", tmp_path / "top"
    for path in (low / "srv/data/dir", low / "srv/data/hidden", top / "srv/data/dir"):
        path.mkdir(parents=True)
    (low / "var").symlink_to("srv")
    (low / "srv/data/old").write_text("old")
    (low / "srv/data/changed").write_text("below")
    (low / "srv/data/hidden/file").write_text("hidden")
    (low / "srv/data/dir/a").write_text("a")
    (top / "srv/data/changed").write_text("above")
    os.mknod(top / "srv/data/hidden", stat.S_IFCHR, os.makedev(0, 0))
    (top / "srv/data/dir/b").write_text("b")
    data = top / "srv/data"
    os.chown(data, 1000, 1001)
    data.chmod(0o2750)
    os.utime(data, ns=(MINUTE, 2 * MINUTE))
    return str(top), str(low)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume/_data").mkdir(parents=True)
    return tmp_path / "volume"


def fill(layers: tuple[str, ...], volume: Path, path: str = "/var/data", staged: bool = True) -> object:
    return FillVolume(layers, path, str(volume), staged).run(Context())


@pytest.mark.parametrize("staged", [True, False])
def test_the_layers_are_merged_and_the_place_itself_is_as_it_was(
    layers: tuple[str, str], volume: Path, staged: bool
) -> None:
    assert fill(layers, volume, staged=staged) == 5
    found = volume / "_data"
    tree = {str(path.relative_to(found)): path.is_file() and path.read_text() for path in found.rglob("*")}
    assert tree == {"old": "old", "changed": "above", "dir": False, "dir/a": "a", "dir/b": "b"}
    status = found.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime_ns) == (
        0o2750,
        1000,
        1001,
        2 * MINUTE,
    )
    assert os.listdir(volume) == ["_data"]


def test_every_kind_of_file(tmp_path: Path, volume: Path) -> None:
    source = tmp_path / "layer/x"
    source.mkdir(parents=True)
    program = source / "program"
    program.write_text("#!/bin/sh\n")
    os.chown(program, 5, 6)
    program.chmod(0o6755)
    os.setxattr(program, "user.note", b"n")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(program, "security.capability", capability)
    os.utime(program, ns=(MINUTE, 3 * MINUTE))
    os.link(program, source / "same")
    (source / "link").symlink_to("/nowhere/../program")
    os.link(source / "link", source / "same-link", follow_symlinks=False)
    os.lchown(source / "link", 7, 8)
    os.mkfifo(source / "fifo", 0o604)
    os.mknod(source / "null", stat.S_IFCHR, os.makedev(1, 3))
    (source / "null").chmod(0o620)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{source}/socket")
    (source / "closed").mkdir(0o000)
    (source / "closed/in").write_text("in")
    assert fill((f"{tmp_path}/layer",), volume, "/x") == 8
    data = volume / "_data"
    status = (data / "program").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime_ns) == (0o6755, 5, 6, 3 * MINUTE)
    assert os.getxattr(data / "program", "user.note") == b"n"
    assert os.getxattr(data / "program", "security.capability") == capability
    assert os.path.samefile(data / "program", data / "same")
    assert os.readlink(data / "link") == "/nowhere/../program"
    assert (data / "link").lstat().st_uid == 7
    assert (data / "link").lstat().st_ino == (data / "same-link").lstat().st_ino
    assert stat.S_ISFIFO((data / "fifo").stat().st_mode)
    assert ((data / "null").stat().st_rdev, (data / "null").stat().st_mode & 0o777) == (os.makedev(1, 3), 0o620)
    assert not (data / "socket").exists()
    assert stat.S_IMODE((data / "closed").stat().st_mode) == 0
    assert (data / "closed/in").read_text() == "in"


def test_holes_stay_holes(tmp_path: Path) -> None:
    size = 64 << 20
    with open(tmp_path / "source", "wb") as file:
        file.truncate(size)
        for offset in (1 << 20, 40 << 20):
            file.seek(offset)
            file.write(b"data")
    source, target = os.open(tmp_path / "source", os.O_RDONLY), os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    try:
        copy_data(source, target)
    finally:
        os.close(source)
        os.close(target)
    found = (tmp_path / "target").stat()
    assert found.st_size == size
    assert found.st_blocks * 512 < 1 << 20
    assert (tmp_path / "source").read_bytes() == (tmp_path / "target").read_bytes()


def test_without_a_shortcut_the_bytes_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between filesystems of two kinds the kernel has no copy_file_range(2)."""

    def refuse(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    test_holes_stay_holes(tmp_path)


def test_a_volume_that_has_something_is_left_alone(layers: tuple[str, str], volume: Path) -> None:
    (volume / "_data/mine").write_text("mine")
    assert fill(layers, volume) == 0
    assert os.listdir(volume / "_data") == ["mine"]


def test_where_the_image_has_nothing_the_volume_stays_empty(layers: tuple[str, str], volume: Path) -> None:
    assert fill(layers, volume, "/var/missing") == fill(layers, volume, "/srv/data/hidden") == 0
    assert os.listdir(volume / "_data") == []


def test_a_file_is_no_content_for_a_volume(layers: tuple[str, str], volume: Path) -> None:
    with pytest.raises(LabkitError, match="source /srv/data/old is not directory"):
        fill(layers, volume, "/srv/data/old")


@pytest.mark.parametrize("staged", [True, False])
def test_a_copy_that_fails_leaves_nothing(
    layers: tuple[str, str], volume: Path, staged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def full(source: int, target: int) -> None:
        done.append(source)
        if len(done) > 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(copying, "copy_data", full)
    with pytest.raises(LabkitError, match=r"filling the volume volume: no space left on device"):
        fill(layers, volume, staged=staged)
    assert os.listdir(volume) == ["_data"]
    assert os.listdir(volume / "_data") == []
    monkeypatch.undo()
    assert fill(layers, volume, staged=staged) == 5


@pytest.mark.parametrize("staged", [True, False])
def test_a_disk_that_is_full(layers: tuple[str, str], volume: Path, staged: bool) -> None:
    Path(layers[0], "srv/data/large").write_bytes(os.urandom(1 << 20))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", volume], check=True)
    try:
        (volume / "_data").mkdir()
        with pytest.raises(LabkitError, match="no space left on device"):
            fill(layers, volume, staged=staged)
        assert os.listdir(volume) == ["_data"]
        assert os.listdir(volume / "_data") == []
    finally:
        subprocess.run(["umount", volume], check=True)


def test_a_copy_that_was_cut_off_begins_anew(layers: tuple[str, str], volume: Path) -> None:
    (volume / UNFINISHED / "half").mkdir(parents=True)
    assert fill(layers, volume) == 5
    assert os.listdir(volume) == ["_data"]


def test_a_whole_copy_that_was_cut_off_on_its_way_in_goes_on(layers: tuple[str, str], volume: Path) -> None:
    """Whatever had been moved already; and what a container has written meanwhile stays."""
    fill(layers, volume)
    for moved in ((), ("old",), ("old", "dir", "changed")):
        (volume / WHOLE).mkdir()
        shutil.copystat(volume / "_data", volume / WHOLE)
        os.chown(volume / WHOLE, 1000, 1001)
        for name in ("old", "dir", "changed"):
            if name not in moved:
                os.rename(volume / "_data" / name, volume / WHOLE / name)
        os.chown(volume / "_data", 0, 0)
        finish_moving(str(volume))
        assert sorted(os.listdir(volume / "_data")) == ["changed", "dir", "old"]
        assert (volume / "_data").stat().st_uid == 1000
        assert os.listdir(volume) == ["_data"]
    (volume / WHOLE).mkdir()
    (volume / WHOLE / "old").write_text("from the image")
    (volume / "_data/old").write_text("by a container")
    finish_moving(str(volume))
    assert (volume / "_data/old").read_text() == "by a container"


def test_the_script_does_the_same(layers: tuple[str, str], volume: Path) -> None:
    operation = FillVolume(layers[1:], "/srv/data", str(volume))
    assert os.system(operation.shell()) == 0
    assert sorted(os.listdir(volume / "_data")) == ["changed", "dir", "hidden", "old"]
    assert str(volume) in operation.describe()
