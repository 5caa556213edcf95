"""From a layer to an image in the hub's store: configuration, manifest, tags (OCI image-spec `config.md`).

An image is a layer of its own on the layers of its base, which is in the store already, as with `FROM` in a Dockerfile.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from labkit.images.compressing import compress
from labkit.images.faults import disk_errors
from labkit.images.manifests import (
    OCI_CONFIG,
    OCI_LAYER,
    ContainerConfig,
    Descriptor,
    History,
    ImageConfig,
    Manifest,
    RootFS,
    decode_config,
    decode_manifest,
    host_platform,
)
from labkit.images.streams import digest_of
from labkit.registry.hub.layers import Layer
from labkit.registry.hub.recipes import Recipe, merged
from labkit.registry.server.documents import read_document
from labkit.registry.server.refusals import Refused
from labkit.registry.server.storage import Repository, Storage


@dataclass(frozen=True, slots=True)
class Stored:
    """An image of the store."""

    manifest: Manifest
    config: ImageConfig


def find(storage: Storage, path: str, tag: str = "latest") -> Stored | None:
    """An image by repository and tag; None if there is none."""
    try:
        repository = storage.find(path)
        manifest = decode_manifest(repository.manifest(tag).data)
    except Refused:
        return None
    return Stored(manifest, decode_config(_read(repository, manifest.config.digest)))


def _read(repository: Repository, digest: str) -> bytes:
    with open(repository.open_blob(digest).descriptor, "rb") as file:
        return file.read()


def store(
    storage: Storage,
    recipe: Recipe,
    base: Stored | None,
    layer: Layer,
    versions: Mapping[str, str],
    tags: tuple[str, ...],
    work: Path,
) -> Stored:
    """Puts an image into the store, under all its tags at the end; a former one goes. `versions` are its packages."""
    repository = storage.make(recipe.path)
    own = _compressed(repository, layer, work)
    config = _config(recipe, base, layer, versions)
    document = msgspec.json.encode(config)
    described = Descriptor(OCI_CONFIG, digest_of(document), len(document))
    _adopt(repository, document, described.digest, work / "config")
    below = base.manifest.layers if base else ()
    for blob in below:
        if repository.size(blob.digest) is None:
            repository.mount(blob.digest, None)
    manifest = Manifest(described, (*below, own))
    # Annotations and not labels: those of an image become those of its containers.
    data = msgspec.json.encode(msgspec.to_builtins(manifest) | {"annotations": _annotations(recipe, versions)})
    for tag in tags:
        repository.put_manifest(tag, read_document(data), data)
    remove_untagged(repository)
    return Stored(manifest, config)


def _compressed(repository: Repository, layer: Layer, work: Path) -> Descriptor:
    plain, target = Descriptor(OCI_LAYER, layer.diff_id, layer.size), work / "layer.gz"
    descriptor = compress(plain, layer.tar, target, lambda done: None)
    _take(repository, target, descriptor.digest)
    return descriptor


def _adopt(repository: Repository, data: bytes, digest: str, file: Path) -> None:
    file.write_bytes(data)
    _take(repository, file, digest)


def _take(repository: Repository, file: Path, digest: str) -> None:
    """Moves a file into the store, durably."""
    with disk_errors(f"storing {digest}"), open(file, "rb") as written:
        os.fsync(written.fileno())
    if repository.size(digest) is None:
        repository.adopt(file, digest)
    else:
        file.unlink()


def remove_untagged(repository: Repository) -> None:
    """Removes manifests that lost their tags to newer ones, and the blobs that only they had."""
    listing = repository.listing()
    kept = {descriptor.digest for descriptor in listing.tags.values()}
    needed = _needed(repository, kept)
    for digest in listing.digests.keys() - needed:
        gone = _needed(repository, {digest}) - needed - {digest}
        repository.remove_manifest(digest)
        for blob in gone:
            if repository.size(blob) is not None:
                repository.remove_blob(blob)


def _needed(repository: Repository, digests: set[str]) -> set[str]:
    found = set(digests)
    for digest in digests:
        document = repository.document(digest)
        found |= {target.digest for target in document.targets}
        found |= _needed(repository, {target.digest for target in document.manifests or ()})
    return found


def _config(recipe: Recipe, base: Stored | None, layer: Layer, versions: Mapping[str, str]) -> ImageConfig:
    created = max(layer.created, seconds(base.config.created) if base else 0)
    time = _time(created)
    step = History(time, f"labkit hub build {recipe.name}", comment=_made_of(recipe, versions))
    defaults = base.config.defaults if base else ContainerConfig()
    before = base.config if base else ImageConfig()
    return ImageConfig(
        architecture=host_platform().architecture,
        os="linux",
        created=time,
        config=merged(defaults, recipe.config),
        rootfs=RootFS(diff_ids=(*before.rootfs.diff_ids, layer.diff_id)),
        history=(*(before.history or ()), step),
    )


def _annotations(recipe: Recipe, versions: Mapping[str, str]) -> dict[str, str]:
    found = {
        "io.github.labkit.hub": "built by labkit hub, in the place of Docker Hub's image of this name",
        "io.github.labkit.packages": _made_of(recipe, versions),
        "org.opencontainers.image.title": recipe.name,
        "org.opencontainers.image.description": recipe.summary,
    }
    return {name: text for name, text in found.items() if text}


def _made_of(recipe: Recipe, versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in recipe.packages if name in versions)


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def seconds(time: str | None) -> int:
    """The time of a configuration, in seconds since 1970."""
    return int(datetime.fromisoformat((time or "1970-01-01T00:00:00Z").replace("Z", "+00:00")).timestamp())
