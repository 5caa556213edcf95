"""Images made piece by piece are images: the store takes them, and other tools' readers agree."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from labkit.errors import InvalidParameter
from labkit.images.by_hand import archive, as_json, blob, contents, descriptor, digest_of, layer
from labkit.images.manifests import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from labkit.images.store import ImageStore


def made(tar: bytes) -> tuple[bytes, bytes]:
    config = as_json(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(tar)]}}
    )
    layers = [descriptor(OCI_LAYER, tar)]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG, config)}
    return config, as_json({**document, "layers": layers})


@pytest.mark.root
def test_an_image_by_hand(tmp_path: Path) -> None:
    tar = layer({"bin/hello": b"#!/bin/sh\n", "etc/motd": "hello\n"}, executable=["bin/hello"])
    config, manifest = made(tar)
    store = ImageStore(tmp_path / "store")
    assert store.load(io.BytesIO(archive("hand/made", manifest, [config, tar]))) == ["hand/made:latest"]
    image = store.resolve("hand/made")
    assert (image.id, image.manifest.digest) == (digest_of(config), digest_of(manifest))
    (directory,) = map(Path, store.lower_dirs(image))
    assert (directory / "bin/hello").stat().st_mode & 0o777 == 0o755
    assert (directory / "etc/motd").read_text() == "hello\n"
    store.close()


def test_the_same_files_are_the_same_layer() -> None:
    assert layer({"b": "2", "a": "1"}) == layer({"a": b"1", "b": b"2"})
    assert contents(layer({"b": "2", "a": "1"})) == {"a": b"1", "b": b"2"}


def test_what_an_archive_holds() -> None:
    tar = layer({"a": "1"})
    config, manifest = made(tar)
    found = contents(archive("x:y", manifest, [config, tar]))
    assert set(found) == {"index.json", "oci-layout"} | {
        f"blobs/sha256/{digest_of(blob)[7:]}" for blob in (config, manifest, tar)
    }
    (entry,) = json.loads(found["index.json"])["manifests"]
    assert blob(found, entry) == manifest
    assert blob(found, json.loads(manifest)["layers"][0]) == tar
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == "x:y"
    with pytest.raises(InvalidParameter):
        archive("No Name", manifest, [])
