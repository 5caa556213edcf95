"""What the tests of the image store share."""

from __future__ import annotations

import io
from pathlib import Path

from labkit.images.removal import ContainerUse
from labkit.images.store import ImageStore
from tests.images.tars import digest, directory, member, tar

BASE = tar(directory("etc"), member("etc/name", b"base"), member("gone", b"x"))
TOP = tar(member("etc/name", b"top!"), member(".wh.gone"))


def unused(image: str) -> list[ContainerUse]:
    return []


def assert_whole(root: Path) -> None:
    """Nothing is half-made: the workspace is empty, each blob is what its name says."""
    assert list((root / "tmp").iterdir()) == []
    for blob in (root / "blobs/sha256").iterdir():
        assert digest(blob.read_bytes()) == f"sha256:{blob.name}"


def blobs(root: Path) -> set[str]:
    return {path.name for path in (root / "blobs/sha256").iterdir()}


def load(store: ImageStore, archive: bytes) -> list[str]:
    return list(store.load(io.BytesIO(archive)))
