"""Reading image archives: what `docker save`, `skopeo` (docker-archive, oci-archive) and `umoci` write.

An archive is a tar, maybe compressed, that may come through a pipe: its members are staged as files of their own, each
hashed as it passes, and then its manifests are followed. Docker's form has `manifest.json` (v1.2 of its image
specification; layers as `ID/layer.tar` until Docker 24, as OCI blobs since), the OCI form only `index.json`.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from labkit.errors import InvalidParameter, NotFound
from labkit.images import tar
from labkit.images.content import read_document
from labkit.images.faults import disk_errors
from labkit.images.layers import clean
from labkit.images.layout import name_of
from labkit.images.manifests import (
    MANIFESTS,
    OCI_CONFIG,
    OCI_LAYER,
    Descriptor,
    Index,
    Manifest,
    Platform,
    decode,
    decode_config,
    decode_manifest,
    resolve_platform,
)
from labkit.images.platforms import formatted, runs_on
from labkit.images.references import Reference, parse
from labkit.images.streams import Digest, compression_of, digest_of
from labkit.images.tar import Entry, TarReader

_INLINE = 1 << 16  # bytes up to which a member is hashed right away: a thread costs more
_MEMBERS = 100_000


@dataclass(frozen=True, slots=True)
class StagedBlob:
    """A blob on disk that may enter the content store: verified, in the workspace or as an ingest."""

    path: Path
    digest: str
    size: int

    def tar_digest(self) -> str:
        """Of a layer: the digest of its tar, if it is not compressed, so that it needn't be computed again."""
        with open(self.path, "rb") as file:
            return "" if compression_of(file.read(8)) else self.digest


@dataclass(frozen=True)
class Staged:
    """The members of an archive by name, and by digest."""

    files: dict[str, StagedBlob]
    links: dict[str, str]
    by_digest: dict[str, StagedBlob] = field(default_factory=dict)

    def find(self, name: str) -> StagedBlob:
        """The member of that name, through links within the archive. Raises InvalidParameter."""
        path, seen = posixpath.normpath(name), 0
        while path in self.links and seen < 8:
            path, seen = self.links[path], seen + 1
        if path not in self.files:
            raise InvalidParameter(f"invalid archive: it has no file {name!r}")
        return self.files[path]

    def blob(self, descriptor: Descriptor) -> StagedBlob:
        """The member that is the descriptor's blob. Raises InvalidParameter if it is missing or of another size."""
        found = self.by_digest.get(descriptor.digest)
        if found is None:
            raise InvalidParameter(f"invalid archive: it has no blob {descriptor.digest}, or one with another digest")
        if found.size != descriptor.size:
            raise InvalidParameter(
                f"invalid archive: blob {descriptor.digest} has {found.size} bytes instead of {descriptor.size}"
            )
        return found


@dataclass(frozen=True)
class Incoming:
    """An image that is about to enter the store: its documents, the blobs of its layers, and names for it.

    `parent` is the ID of the image that it was made from here, if it was.
    """

    config: bytes
    manifest: bytes
    manifest_type: str
    layers: tuple[StagedBlob, ...]
    references: tuple[Reference, ...]
    parent: str = ""


class _DockerImage(msgspec.Struct, frozen=True, rename="pascal"):
    """One element of `manifest.json`."""

    config: str
    layers: tuple[str, ...] | None = None
    repo_tags: tuple[str, ...] | None = None


def stage(chunks: Iterator[bytes], workspace: Path) -> Staged:
    """Writes the members of an uncompressed archive into the workspace, hashed. Raises InvalidParameter."""
    files: dict[str, StagedBlob] = {}
    links: dict[str, str] = {}
    reader = TarReader(chunks)
    with disk_errors("storing the archive"):
        for entry in reader:
            name = os.fsdecode(clean(entry.name))
            if len(files) + len(links) > _MEMBERS:
                raise InvalidParameter(f"invalid archive: it has more than {_MEMBERS} members")
            if entry.kind == tar.REGULAR and entry.extents is None:
                files[name] = _stage_member(reader, entry, workspace / str(len(files)))
            elif entry.kind in (tar.SYMLINK, tar.HARDLINK):
                links[name] = _link_target(name, entry)
            elif entry.kind != tar.DIRECTORY:
                raise InvalidParameter(f"invalid archive: {name!r} is neither file, directory nor link")
        reader.drain()
    return Staged(files, links, {blob.digest: blob for blob in files.values()})


def _link_target(name: str, entry: Entry) -> str:
    """Old Docker archives have `A/layer.tar -> ../B/layer.tar` for equal layers."""
    target = os.fsdecode(entry.link)
    base = posixpath.dirname(name) if entry.kind == tar.SYMLINK else ""
    return os.fsdecode(clean(os.fsencode(posixpath.join(base, target)), "link target"))


def _stage_member(reader: TarReader, entry: Entry, path: Path) -> StagedBlob:
    if entry.size <= _INLINE:
        document = reader.read(_INLINE)
        path.write_bytes(document)
        return StagedBlob(path, digest_of(document), len(document))
    with open(path, "xb", buffering=0) as file, Digest() as hashing:
        for piece in hashing.through(reader.data()):
            written = file.write(piece)
            while written < len(piece):
                written += file.write(piece[written:])
        return StagedBlob(path, hashing.digest(), entry.size)


def read_images(staged: Staged, platform: Platform | None = None) -> list[Incoming]:
    """The images of an archive; with `platform`, those that are for it.

    Raises InvalidParameter where something is missing or is not what it says, NotFound if nothing is for the platform.
    """
    images = _read_images(staged, platform)
    if platform is None:
        return images
    fitting = [image for image in images if runs_on(decode_config(image.config), platform)]
    if not fitting:
        raise NotFound(f"requested platform ({formatted(platform)}) not found in the archive")
    return fitting


def _read_images(staged: Staged, platform: Platform | None) -> list[Incoming]:
    if "manifest.json" in staged.files:
        documents = read_document(staged.files["manifest.json"].path)
        images = decode(documents, list[_DockerImage], "manifest.json")
        originals = _manifests(staged)
        return [_docker_image(staged, image, originals) for image in images]
    if "index.json" in staged.files:
        return _oci_images(staged, platform)
    raise InvalidParameter("invalid archive: does not contain a manifest.json")


def _docker_image(staged: Staged, image: _DockerImage, originals: dict[tuple[str, ...], Descriptor]) -> Incoming:
    config_blob = staged.find(image.config)
    config = read_document(config_blob.path)
    layers = tuple(staged.find(layer) for layer in image.layers or ())
    _check_layers(config, layers)
    references = tuple(parse(tag).tagged() for tag in image.repo_tags or ())
    original = originals.get((config_blob.digest, *(layer.digest for layer in layers)))
    if original:
        manifest = read_document(staged.by_digest[original.digest].path)
        return Incoming(config, manifest, original.media_type, layers, references)
    return Incoming(config, *make_manifest(config, layers), layers, references)


def _check_layers(config: bytes, layers: tuple[StagedBlob, ...]) -> None:
    expected = len(decode_config(config).rootfs.diff_ids)
    if len(layers) != expected:
        raise InvalidParameter(f"invalid manifest, layers length mismatch: expected {expected}, got {len(layers)}")


def make_manifest(config: bytes, layers: tuple[StagedBlob, ...]) -> tuple[bytes, str]:
    """The manifest of an image that comes without one, and its media type."""
    described = Descriptor(OCI_CONFIG, digest_of(config), len(config))
    blobs = tuple(Descriptor(OCI_LAYER + _suffix(layer.path), layer.digest, layer.size) for layer in layers)
    manifest = Manifest(described, blobs)
    return msgspec.json.encode(manifest), manifest.media_type


def _suffix(layer: Path) -> str:
    with open(layer, "rb") as file:
        compression = compression_of(file.read(8))
    if compression in ("", "gzip", "zstd"):
        return f"+{compression}" if compression else ""
    raise InvalidParameter(f"invalid archive: a layer compressed with {compression}, which no media type stands for")


def _manifests(staged: Staged) -> dict[tuple[str, ...], Descriptor]:
    """The archive's OCI manifests by what they consist of: an image keeps the manifest that it was saved with."""
    found: dict[tuple[str, ...], Descriptor] = {}
    if "index.json" not in staged.files:
        return found
    index = decode(read_document(staged.files["index.json"].path), Index, "index.json")
    for descriptor in index.manifests:
        if descriptor.media_type in MANIFESTS:
            manifest = decode_manifest(read_document(staged.blob(descriptor).path))
            found[(manifest.config.digest, *(layer.digest for layer in manifest.layers))] = descriptor
    return found


def _oci_images(staged: Staged, platform: Platform | None) -> list[Incoming]:
    """The images of an OCI layout: each manifest of `index.json`; of several platforms, this one or the machine's."""
    index = decode(read_document(staged.files["index.json"].path), Index, "index.json")
    images: dict[str, Incoming] = {}
    for named in index.manifests:
        descriptor = resolve_platform(named, lambda one: read_document(staged.blob(one).path), platform)
        reference = name_of(named.annotations)
        references = (reference,) if reference else ()
        if earlier := images.get(descriptor.digest):  # several names of one image
            images[descriptor.digest] = replace(earlier, references=earlier.references + references)
            continue
        document = read_document(staged.blob(descriptor).path)
        manifest = decode_manifest(document)
        layers = tuple(staged.blob(layer) for layer in manifest.layers)
        config = read_document(staged.blob(manifest.config).path)
        _check_layers(config, layers)
        images[descriptor.digest] = Incoming(config, document, descriptor.media_type, layers, references)
    return list(images.values())
