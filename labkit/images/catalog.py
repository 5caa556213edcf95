"""The names and images of a store: the index file and what it leads to, kept in memory.

What Docker's reference store and image store are together. Changes go through `replace`, which writes the file first;
readers see one consistent tuple. Who changes something holds the store's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from labkit.errors import InvalidParameter, LabkitError, NotFound
from labkit.images.content import ContentStore
from labkit.images.image import Image
from labkit.images.inspecting import seconds
from labkit.images.layout import Record, read_index, write_index
from labkit.images.manifests import (
    INDEXES,
    Descriptor,
    ImageConfig,
    Index,
    chain_ids,
    decode,
    decode_config,
    decode_manifest,
    resolve_platform,
)
from labkit.images.references import Reference, parse
from labkit.images.snapshots import SnapshotStore

_log = logging.getLogger(__name__)


class _Documents(NamedTuple):
    """What one manifest says: it never changes, so it is read once."""

    manifest: Descriptor
    config_digest: str
    document: bytes
    config: ImageConfig
    layers: tuple[Descriptor, ...]


def _tags(images: Mapping[str, Image]) -> Mapping[str, str]:
    return {tag: image.id for image in images.values() for tag in image.repo_tags}


class Catalog:
    """All records of `root`/index.json, and the images that they stand for; `tags` leads from NAME:TAG to an ID."""

    def __init__(self, root: Path, workspace: Path, content: ContentStore, snapshots: SnapshotStore) -> None:
        self._file = root / "index.json"
        self._workspace = workspace
        self._content = content
        self._snapshots = snapshots
        self._read: dict[str, _Documents] = {}
        self.records = read_index(self._file)
        self._images = self._build()
        self.tags = _tags(self._images)

    def images(self) -> list[Image]:
        """All images, newest first."""
        return sorted(self._images.values(), key=_age, reverse=True)

    def replace(self, records: Iterable[Record]) -> None:
        """Makes these the records, on disk and then in memory."""
        records = tuple(records)
        write_index(self._file, records, self._workspace)
        self.records = records
        self._images = self._build()
        self.tags = _tags(self._images)

    def find(self, text: str) -> tuple[Image, Reference | None]:
        """The image that a name, an ID or an unambiguous prefix of one stands for; and the name, if it was one.

        Raises InvalidParameter for what is none of these, NotFound otherwise.
        """
        bare = text.removeprefix("sha256:")
        if len(bare) == 64 and f"sha256:{bare}" in self._images:
            return self._images[f"sha256:{bare}"], None
        if len(bare) == 64 and not bare.strip("0123456789abcdef"):
            raise NotFound(f"No such image: sha256:{bare}")
        reference = parse(text).tagged()
        lookup = Reference(reference.domain, reference.path, "", reference.digest) if reference.digest else reference
        for image in self._images.values():
            if lookup in image.references:
                return image, lookup
        found = [image for identifier, image in self._images.items() if bare and identifier[7:].startswith(bare)]
        if len(found) == 1:
            return found[0], None
        raise NotFound(f"No such image: {reference.familiar}")

    def select(self, texts: Iterable[str]) -> dict[str, tuple[Image, tuple[Reference, ...]]]:
        """The images to save, by ID, with the names to save them under: one that was named, or all of a repository.

        An image that was given by its ID goes without a name. Raises as `find` does.
        """
        selected: dict[str, tuple[Image, tuple[Reference, ...]]] = {}

        def add(image: Image, *references: Reference) -> None:
            names = selected[image.id][1] if image.id in selected else ()
            selected[image.id] = (image, (*names, *(name for name in references if name not in names)))

        for text in texts:
            for image, reference in self._repository(text) or (self.find(text),):
                add(image, *((reference,) if reference and reference.tag else ()))
        return selected

    def _repository(self, text: str) -> list[tuple[Image, Reference | None]]:
        """All tags of a repository that is named without one; nothing if there is none of that name."""
        try:
            wanted = parse(text)
        except InvalidParameter:
            return []  # an ID; `find` tells what it is
        if wanted.tag or wanted.digest:
            return []
        everything = ((image, reference) for image in self._images.values() for reference in image.references)
        return [(image, found) for image, found in everything if found.name == wanted.name and found.tag]

    def get(self, identifier: str) -> Image | None:
        """The image with exactly this ID."""
        return self._images.get(identifier)

    def records_of(self, image: Image) -> tuple[Record, ...]:
        """All records that lead to this image."""
        return tuple(record for record in self.records if self.identifier(record) == image.id)

    def manifest_of(self, identifier: str) -> Descriptor | None:
        """The manifest of an image that is here, even if it is marked as removed."""
        return next((record.manifest for record in self.records if self.identifier(record) == identifier), None)

    def retained(self) -> tuple[set[str], set[str]]:
        """The blobs and the snapshots (by chain ID) that records still need. Raises InvalidParameter or NotFound if a
        document is damaged or missing, so that this can't be known.
        """
        blobs: set[str] = set()
        chains: set[str] = set()
        for record in self.records:
            blobs.update(self._reachable(record.manifest))
            if documents := self._documents(record):
                chains.update(chain_ids(documents.config.rootfs.diff_ids))
        return blobs, chains

    def _reachable(self, descriptor: Descriptor) -> Iterator[str]:
        """All blobs that a descriptor leads to, also through indexes of several platforms."""
        yield descriptor.digest
        if descriptor.media_type in INDEXES:
            index = decode(self._content.read(descriptor.digest), Index, "image index")
            for nested in index.manifests:
                if self._content.has(nested.digest):  # other platforms may not be here
                    yield from self._reachable(nested)
        else:
            manifest = decode_manifest(self._content.read(descriptor.digest))
            yield manifest.config.digest
            yield from (layer.digest for layer in manifest.layers)

    def identifier(self, record: Record) -> str:
        """The ID of a record's image; empty if it is damaged."""
        documents = self._documents(record)
        return documents.config_digest if documents else ""

    def _documents(self, record: Record) -> _Documents | None:
        """The documents of a record; None, and a line in the log, if they are damaged: other images still work."""
        digest = record.manifest.digest
        if digest not in self._read:
            try:
                self._read[digest] = self._load(record.manifest)
            except LabkitError as error:
                _log.warning("image %s in %s can't be used: %s", record.reference or digest, self._file, error)
                return None
        return self._read[digest]

    def _load(self, descriptor: Descriptor) -> _Documents:
        chosen = resolve_platform(descriptor, lambda nested: self._content.read(nested.digest))
        manifest = decode_manifest(self._content.read(chosen.digest))
        document = self._content.read(manifest.config.digest)
        return _Documents(chosen, manifest.config.digest, document, decode_config(document), manifest.layers)

    def _build(self) -> dict[str, Image]:
        groups: dict[str, list[Record]] = {}
        for record in self.records:
            if not record.removed and (identifier := self.identifier(record)):
                groups.setdefault(identifier, []).append(record)
        return {identifier: self._image(identifier, records) for identifier, records in groups.items()}

    def _image(self, identifier: str, records: list[Record]) -> Image:
        documents = self._read[records[0].manifest.digest]
        return Image(
            identifier,
            documents.manifest,
            documents.layers,
            documents.config,
            documents.document,
            tuple(record.reference for record in records if record.reference),
            sum(self.layer_sizes(documents.config, documents.layers)),
            max(record.tagged for record in records),
            next((record.parent for record in records if record.parent), ""),
        )

    def layer_sizes(self, config: ImageConfig, layers: tuple[Descriptor, ...]) -> list[int]:
        """Bytes of each layer, unpacked; of one that never was (another tool brought it), as it is stored."""
        snapshots = [self._snapshots.find(chain) for chain in chain_ids(config.rootfs.diff_ids)]
        return [found.size if found else layer.size for found, layer in zip(snapshots, layers, strict=False)]


def _age(image: Image) -> tuple[int, str]:
    """For sorting: the second that an image was created in, then the text, which may have more digits."""
    created = image.config.created or ""
    return seconds(created), created


def with_name(
    records: Iterable[Record], manifest: Descriptor, reference: Reference | None, tagged: str = "", parent: str = ""
) -> list[Record]:
    """The records after an image got a name, or just came (None). Who had the name before stays, nameless."""
    records = list(records)
    own = [record for record in records if record.manifest.digest == manifest.digest]
    parent = parent or next((record.parent for record in own if record.parent), "")
    out: list[Record] = []
    for record in records:
        mine = record.manifest.digest == manifest.digest
        if reference and record.reference == reference:
            others = [other for other in records if other.manifest.digest == record.manifest.digest]
            if not mine and len(others) == 1:
                out.append(Record(record.manifest, parent=record.parent))
        elif not (mine and record.reference is None):
            out.append(record)
    if reference or not any(record.manifest.digest == manifest.digest for record in out):
        out.append(Record(manifest, reference, tagged, parent))
    return out
