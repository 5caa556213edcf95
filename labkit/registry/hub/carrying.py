"""`labkit hub export` and `import`: all images of a hub in one file, to be carried to another machine.

The file is what `docker save` writes: a tar that is an OCI image layout and a docker-archive (image-spec
`image-layout.md`), each blob in it once. `labkit load`, `docker load` and skopeo read it too.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from labkit.errors import InvalidParameter, NotFound
from labkit.images.archives import Staged, StagedBlob, stage
from labkit.images.content import read_document as read_file
from labkit.images.content import sync_filesystem
from labkit.images.faults import disk_errors
from labkit.images.layout import LAYOUT_FILE, name_annotations, name_of
from labkit.images.manifests import MANIFESTS, Descriptor, Index, decode
from labkit.images.references import Reference
from labkit.images.streams import Readable, decompressed, read_chunks
from labkit.registry.endpoints import HUB
from labkit.registry.hub.images import remove_untagged
from labkit.registry.server.documents import read_document
from labkit.registry.server.storage import Repository, Storage

_BLOBS = "blobs/sha256/"


@dataclass(frozen=True, slots=True)
class Carried:
    """An image under one of its names: `descriptor` is of its manifest or index."""

    reference: Reference
    descriptor: Descriptor


def images(storage: Storage) -> list[Carried]:
    """All tagged images of a store."""
    return [
        Carried(Reference(HUB, name, tag), msgspec.structs.replace(descriptor, annotations=None))
        for name in storage.names()
        for tag, descriptor in sorted(storage.find(name).listing().tags.items())
    ]


def export(storage: Storage, wanted: Sequence[Carried], file: Path) -> int:
    """Writes images into a file, all or nothing; returns its size in bytes. Raises NotFound if there are none."""
    if not wanted:
        raise NotFound(f"{storage.root} has no images: `labkit hub build` makes some")
    with disk_errors(f"writing {file}"):
        descriptor, temporary = tempfile.mkstemp(dir=file.absolute().parent, prefix=f".{file.name}.")
        try:
            with open(descriptor, "wb") as opened:
                with tarfile.open(fileobj=opened, mode="w", format=tarfile.PAX_FORMAT) as archive:
                    _write(archive, storage, wanted)
                opened.flush()
                os.fchmod(opened.fileno(), 0o644)
                os.fsync(opened.fileno())
            os.replace(temporary, file)
        except BaseException:
            os.unlink(temporary)
            raise
        return file.stat().st_size


def _write(archive: tarfile.TarFile, storage: Storage, wanted: Sequence[Carried]) -> None:
    """Nothing goes in that changes from one export of the same images to the next."""
    blobs: dict[str, Repository] = {}
    for image in wanted:
        repository = storage.find(image.reference.path)
        blobs |= dict.fromkeys(_reachable(repository, image.descriptor.digest), repository)
    for digest in sorted(blobs):
        blob = blobs[digest].open_blob(digest)
        with open(blob.descriptor, "rb") as file:
            archive.addfile(_member(_BLOBS + digest.removeprefix("sha256:"), blob.size), file)
    documents = {
        "index.json": msgspec.json.encode(_index(wanted)),
        "manifest.json": msgspec.json.encode(_docker_manifest(storage, wanted)),
        "oci-layout": LAYOUT_FILE,
    }
    for name, data in documents.items():
        archive.addfile(_member(name, len(data)), io.BytesIO(data))


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


def _reachable(repository: Repository, digest: str) -> set[str]:
    document = repository.document(digest)
    found = {digest, *(target.digest for target in document.targets)}
    for target in document.manifests or ():
        found |= _reachable(repository, target.digest)
    return found


def _index(wanted: Iterable[Carried]) -> Index:
    return Index(
        tuple(
            msgspec.structs.replace(image.descriptor, annotations=name_annotations(image.reference)) for image in wanted
        )
    )


def _docker_manifest(storage: Storage, wanted: Iterable[Carried]) -> list[dict[str, Any]]:
    """What Docker reads first. An index of several platforms has no place there."""
    found: dict[str, dict[str, Any]] = {}
    for image in wanted:
        document = storage.find(image.reference.path).document(image.descriptor.digest)
        if document.media_type in MANIFESTS and document.config:
            entry = {
                "Config": _path(document.config.digest),
                "RepoTags": [],
                "Layers": [_path(layer.digest) for layer in document.layers or ()],
            }
            found.setdefault(image.descriptor.digest, entry)["RepoTags"].append(image.reference.familiar)
    return list(found.values())


def _path(digest: str) -> str:
    return _BLOBS + digest.removeprefix("sha256:")


def import_(storage: Storage, file: Path) -> list[Carried]:
    """Brings the images of a file into the store, besides those that are there. Raises InvalidParameter, and then
    nothing has come: every digest is verified before."""
    with (
        disk_errors(f"reading {file}"),
        open(file, "rb") as opened,
        tempfile.TemporaryDirectory(dir=storage.workspace, prefix="import-") as work,
    ):
        staged, carried = _read(file, opened, Path(work))
        blobs = [_verified(staged, image.descriptor) for image in carried]
        sync_filesystem(Path(work))
        for image, found in zip(carried, blobs, strict=True):
            repository = storage.make(image.reference.path)
            for blob in found.values():
                _take(repository, blob)
        for image in carried:
            repository = storage.find(image.reference.path)
            data = repository.manifest(image.descriptor.digest).data
            repository.put_manifest(image.reference.tag, read_document(data), data)
            remove_untagged(repository)
    return carried


def _read(file: Path, opened: Readable, work: Path) -> tuple[Staged, list[Carried]]:
    """What a file holds. Raises InvalidParameter, with the name of the file, which may be of another kind."""
    try:
        staged = stage(decompressed(read_chunks(opened)), work)
        _check_names(staged)
        return staged, _carried(staged)
    except InvalidParameter as error:
        raise InvalidParameter(f"{file} is no file of `labkit hub export`, or a damaged one: {error}") from error


def _check_names(staged: Staged) -> None:
    for name, blob in staged.files.items():
        if name.startswith("blobs/") and name != _path(blob.digest):
            raise InvalidParameter(f"invalid archive: {name} is damaged, its digest is {blob.digest}")


def _carried(staged: Staged) -> list[Carried]:
    index = decode(read_file(staged.find("index.json").path), Index, "index.json")
    found = []
    for descriptor in index.manifests:
        reference = name_of(descriptor.annotations)
        if reference and reference.domain == HUB and not reference.digest:
            found.append(Carried(reference, msgspec.structs.replace(descriptor, annotations=None)))
    if not found:
        raise InvalidParameter("invalid archive: it has no image with a name of Docker Hub's")
    return found


def _verified(staged: Staged, descriptor: Descriptor) -> dict[str, StagedBlob]:
    """All blobs of an image or an index of images, by digest. Raises InvalidParameter if one isn't there."""
    blob = staged.blob(descriptor)
    document = read_document(read_file(blob.path))
    found = {blob.digest: blob}
    for target in document.targets:
        described = Descriptor(target.media_type, target.digest, target.size)
        below = target in (document.manifests or ())
        found |= _verified(staged, described) if below else {target.digest: staged.blob(described)}
    return found


def _take(repository: Repository, blob: StagedBlob) -> None:
    """Brings a blob into a repository; another one may need the staged file too."""
    if repository.size(blob.digest) is not None or repository.mount(blob.digest, None):
        return
    own = blob.path.with_suffix(".own")
    try:
        os.link(blob.path, own)
    except OSError:
        shutil.copyfile(blob.path, own)  # on filesystems without hard links
    repository.adopt(own, blob.digest)
