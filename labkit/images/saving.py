"""Writing image archives, as `docker save` of Docker 28 does: one tar that is an OCI image layout and a docker-archive.

OCI image-spec `image-layout.md`; `manifest.json` and `repositories` are Docker's own (image specification v1.2), which
let older engines load it. Blobs go out as they are stored, so manifests keep their digests.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from labkit.images.image import Image
from labkit.images.layout import FULL_NAME, LAYOUT_FILE, REF_NAME
from labkit.images.manifests import Index
from labkit.images.references import Reference

_PIECE = 1 << 20  # bytes a piece
_END = bytes(2 * 512)

Selection = dict[str, tuple[Image, tuple[Reference, ...]]]


def blob_digests(images: Sequence[Image]) -> list[str]:
    """All blobs that an archive of these images holds, each once, in order."""
    found = {digest for image in images for digest in (image.id, image.manifest.digest)}
    found.update(layer.digest for image in images for layer in image.layers)
    return sorted(found)


class Archive(Iterator[bytes]):
    """The archive in pieces. `blobs` is a directory with links to the blobs, named by their digests' digits.

    It belongs to the archive, which removes it at the end, after an error, or when it is closed before.
    """

    def __init__(self, selection: Selection, blobs: Path) -> None:
        self.images = [image for image, _ in selection.values()]
        self._blobs = blobs
        self._pieces = _pieces(selection, blobs)

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives up the rest."""
        self._pieces.close()
        if self._blobs.exists():
            shutil.rmtree(self._blobs)


def _pieces(selection: Selection, blobs: Path) -> Generator[bytes, None, None]:
    yield _header("blobs/", 0, tarfile.DIRTYPE)
    yield _header("blobs/sha256/", 0, tarfile.DIRTYPE)
    for digest in blob_digests([image for image, _ in selection.values()]):
        name = digest.removeprefix("sha256:")
        yield from _file(f"blobs/sha256/{name}", blobs / name)
    documents = {
        "index.json": msgspec.json.encode(_index(selection)),
        "manifest.json": msgspec.json.encode(_docker_manifest(selection)),
        "oci-layout": LAYOUT_FILE,
        "repositories": msgspec.json.encode(_repositories(selection)),
    }
    for name, document in documents.items():
        yield _header(name, len(document)) + document + bytes(-len(document) % 512)
    yield _END


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar header with nothing in it that changes from one save to the next."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mode = size, kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def _file(name: str, path: Path) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        yield _header(name, size)
        while piece := file.read(_PIECE):
            yield piece
        if size % 512:
            yield bytes(-size % 512)


def _index(selection: Selection) -> Index:
    entries = []
    for image, references in selection.values():
        for reference in references or (None,):
            annotations = {FULL_NAME: str(reference), REF_NAME: reference.tag} if reference else None
            entries.append(msgspec.structs.replace(image.manifest, annotations=annotations))
    return Index(tuple(entries))


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _docker_manifest(selection: Selection) -> list[dict[str, Any]]:
    return [
        {
            "Config": _path(image.id),
            "RepoTags": [reference.familiar for reference in references] or None,
            "Layers": [_path(layer.digest) for layer in image.layers],
            "LayerSources": dict(zip(image.config.rootfs.diff_ids, image.layers, strict=True)),
        }
        for image, references in selection.values()
    ]


def _repositories(selection: Selection) -> dict[str, dict[str, str]]:
    """Names to the ID of the topmost layer; nothing but very old engines reads it."""
    found: dict[str, dict[str, str]] = {}
    for image, references in selection.values():
        top = image.chain_ids[-1] if image.chain_ids else image.id
        for reference in references:
            found.setdefault(reference.familiar_name, {})[reference.tag] = top.removeprefix("sha256:")
    return found
