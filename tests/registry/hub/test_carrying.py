"""One file with all images of a hub: out of one, into another, or nothing."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from labkit.errors import InvalidParameter, NotFound
from labkit.images.store import ImageStore
from labkit.registry.hub import command
from labkit.registry.hub.building import build
from tests.registry.hub.conftest import say
from tests.registry.server.processes import run


def digests(root: Path) -> dict[str, str]:
    return {row.name: row.digest for row in command.ls(str(root))}


def test_into_an_empty_hub(small: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "hub.tar", tmp_path / "other"
    assert command.export(str(file), str(small)) == (2, file.stat().st_size)
    again = tmp_path / "again.tar"
    command.export(str(again), str(small))
    assert again.read_bytes() == file.read_bytes()
    assert command.import_(str(file), str(other)) == ["alpine:latest", "busybox:latest"]
    assert digests(other) == digests(small) != {}
    assert os.listdir(other / ".uploads") == ["lock"]
    with tarfile.open(file) as archive:
        blobs = [member.name for member in archive if member.name.startswith("blobs/")]
    assert len(blobs) == len(set(blobs)) == 6  # two manifests, two configurations, two layers: the base's once
    command.import_(str(file), str(other))  # nothing is new
    assert digests(other) == digests(small)


def test_beside_other_images(small: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "hub.tar", tmp_path / "other"
    command.export(str(file), str(small))
    build(other, ["hello-world"], (), say)
    command.import_(str(file), str(other))
    assert sorted(digests(other)) == ["alpine", "busybox", "hello-world"]


@pytest.mark.root
def test_load_and_skopeo_read_it(small: Path, tmp_path: Path) -> None:
    file = tmp_path / "hub.tar"
    command.export(str(file), str(small))
    store = ImageStore(tmp_path / "store")
    with open(file, "rb") as opened:
        assert store.load(opened) == ["alpine:latest", "busybox:latest"]
    store.close()
    found = run("skopeo", "inspect", "--format", "{{.Digest}}", f"oci-archive:{file}:busybox:latest")
    assert found


@pytest.mark.parametrize("place", range(4))
def test_a_damaged_file_brings_nothing(small: Path, tmp_path: Path, place: int) -> None:
    file, other = tmp_path / "hub.tar", tmp_path / "other"
    command.export(str(file), str(small))
    with tarfile.open(file) as archive:
        member = [member for member in archive if member.name.startswith("blobs/")][place]
    data = bytearray(file.read_bytes())
    data[member.offset_data + member.size // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InvalidParameter, match="is damaged"):
        command.import_(str(file), str(other))
    assert digests(other) == {}
    assert os.listdir(other / ".uploads") == ["lock"]
    assert not any((other / ".blobs/sha256").iterdir())


def test_a_file_that_ends_early(small: Path, tmp_path: Path) -> None:
    file = tmp_path / "hub.tar"
    command.export(str(file), str(small))
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(InvalidParameter):
        command.import_(str(file), str(tmp_path / "other"))
    assert digests(tmp_path / "other") == {}


def test_nothing_to_carry(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        command.export(str(tmp_path / "file"), str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="labkit hub build"):
        command.export(str(tmp_path / "file"), str(tmp_path / "empty"))
    assert not (tmp_path / "file").exists()


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    """It is named, and nothing of it is taken for an image."""
    (tmp_path / "letter").write_text("Dear hub,\n" * 100)
    with pytest.raises(InvalidParameter, match="letter is no file of `labkit hub export`"):
        command.import_(str(tmp_path / "letter"), str(tmp_path / "hub"))
    assert digests(tmp_path / "hub") == {}
