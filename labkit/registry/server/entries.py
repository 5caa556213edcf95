"""The entries of a repository's `index.json`: tags, and manifests without one (image-spec `image-layout.md`).

Pure: an index in, an index out. A tag is the annotation `org.opencontainers.image.ref.name` of a descriptor, which is
how skopeo, umoci and podman read the same directory. A manifest that loses its last tag stays, as in a registry.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from labkit.images.layout import FULL_NAME, REF_NAME
from labkit.images.manifests import OCI_INDEX, Descriptor
from labkit.registry.server.names import is_digest, is_tag


class LayoutIndex(msgspec.Struct, frozen=True, rename="camel"):
    """`index.json`."""

    schema_version: int = 2
    media_type: str = OCI_INDEX
    manifests: tuple[Descriptor, ...] = ()
    annotations: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Listing:
    """An index, by what requests ask for."""

    index: LayoutIndex
    tags: dict[str, Descriptor]
    digests: dict[str, Descriptor]

    def find(self, reference: str) -> Descriptor | None:
        """The manifest of a tag or digest."""
        return self.tags.get(reference) or self.digests.get(reference)


def tag_of(entry: Descriptor) -> str:
    return (entry.annotations or {}).get(REF_NAME, "")


def listing_of(index: LayoutIndex) -> Listing:
    """What requests can name. Other tools put in names that are no tags, and these entries count by their digest."""
    known = [entry for entry in index.manifests if is_digest(entry.digest)]
    return Listing(
        index,
        {tag_of(entry): entry for entry in known if is_tag(tag_of(entry))},
        {entry.digest: entry for entry in known},
    )


def with_manifest(index: LayoutIndex, manifest: Descriptor, tag: str) -> LayoutIndex:
    """The index with a manifest under a tag, or under none; another one that had the tag loses it."""
    entries = [_untagged(entry) if tag and tag_of(entry) == tag else entry for entry in index.manifests]
    named = msgspec.structs.replace(manifest, annotations={REF_NAME: tag}) if tag else manifest
    return _with(index, [*entries, named])


def without_tag(index: LayoutIndex, tag: str) -> LayoutIndex:
    """The index without a tag; its manifest stays."""
    return _with(index, [_untagged(entry) if tag_of(entry) == tag else entry for entry in index.manifests])


def without_manifest(index: LayoutIndex, digest: str) -> LayoutIndex:
    """The index without a manifest and all tags that it had."""
    return _with(index, [entry for entry in index.manifests if entry.digest != digest])


def _untagged(entry: Descriptor) -> Descriptor:
    rest = {key: value for key, value in (entry.annotations or {}).items() if key not in (REF_NAME, FULL_NAME)}
    return msgspec.structs.replace(entry, annotations=rest or None)


def _with(index: LayoutIndex, entries: Iterable[Descriptor]) -> LayoutIndex:
    """The index with these entries: without a tag only those manifests, once, that no tag leads to."""
    entries = tuple(entries)
    seen = {entry.digest for entry in entries if tag_of(entry)}
    kept = []
    for entry in entries:
        if tag_of(entry) or entry.digest not in seen:
            kept.append(entry)
            seen.add(entry.digest)
    return msgspec.structs.replace(index, manifests=tuple(kept))
