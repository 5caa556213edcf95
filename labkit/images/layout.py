"""The layout's `index.json`: which names stand for which manifests. Docker keeps the like in `repositories.json`.

A name is an annotation of a manifest's descriptor: `org.opencontainers.image.ref.name` has the familiar form, which
skopeo, umoci and podman understand (`oci:ROOT:busybox:latest`), `io.containerd.image.name` the complete one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from labkit.errors import InvalidParameter
from labkit.images.content import read_document, write_durably
from labkit.images.manifests import Descriptor, Index, decode
from labkit.images.references import Reference, parse

REF_NAME = "org.opencontainers.image.ref.name"
FULL_NAME = "io.containerd.image.name"
_TAGGED = "io.github.labkit.tagged"
_PARENT = "io.github.labkit.parent"
_REMOVED = "io.github.labkit.removed"
LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'


class Record(msgspec.Struct, frozen=True):
    """One entry of the index: a manifest, under a name or none.

    `tagged` is the time of the name in RFC 3339. `parent` is the ID of the image that this one was made from here.
    `removed` marks an image that is gone for users, but that stopped containers still stand on.
    """

    manifest: Descriptor
    reference: Reference | None = None
    tagged: str = ""
    parent: str = ""
    removed: bool = False


def read_index(file: Path) -> tuple[Record, ...]:
    """The records of an index file; none if there is no file. Raises InvalidParameter if it is damaged."""
    if not file.exists():
        return ()
    index = decode(read_document(file), Index, str(file))
    return tuple(_record(descriptor) for descriptor in index.manifests)


def write_index(file: Path, records: Iterable[Record], workspace: Path) -> None:
    """Replaces the index file, durably."""
    index = Index(tuple(_descriptor(record) for record in records))
    write_durably(file, msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n", workspace)


def name_of(annotations: dict[str, str] | None) -> Reference | None:
    """The reference that a descriptor's annotations give it; None where there is none that Docker could name."""
    found = annotations or {}
    for text in (found.get(FULL_NAME), found.get(REF_NAME)):
        if text:
            try:
                return parse(text).tagged()
            except InvalidParameter:
                continue  # other tools allow more in a name: the image stays reachable by ID
    return None


def name_annotations(reference: Reference) -> dict[str, str]:
    """The annotations that name a manifest in a layout."""
    return {FULL_NAME: str(reference), REF_NAME: reference.familiar}


def _record(descriptor: Descriptor) -> Record:
    annotations = descriptor.annotations or {}
    return Record(
        msgspec.structs.replace(descriptor, annotations=None),
        name_of(annotations),
        annotations.get(_TAGGED, ""),
        annotations.get(_PARENT, ""),
        _REMOVED in annotations,
    )


def _descriptor(record: Record) -> Descriptor:
    annotations = name_annotations(record.reference) if record.reference else {}
    marks = ((_TAGGED, record.tagged), (_PARENT, record.parent), (_REMOVED, "true" if record.removed else ""))
    annotations |= {key: value for key, value in marks if value}
    return msgspec.structs.replace(record.manifest, annotations=annotations or None)
