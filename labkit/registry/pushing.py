"""Push: from an image in the store to a registry (moby `distribution/push_v2.go`, OCI distribution-spec "Push").

Blobs that the registry has are not sent again; those that another of its repositories has are mounted from there.
Layers that lie here as plain tars are compressed on the way, as dockerd does it. The manifest goes last: what it names
is there when it appears.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from labkit.errors import NotFound
from labkit.images.compressing import CompressedLayers, compress, is_plain
from labkit.images.image import Image, short_id
from labkit.images.manifests import Descriptor
from labkit.images.progress import Progress, Report, counted
from labkit.images.references import Reference
from labkit.images.store import ImageStore, Lent
from labkit.images.streams import file_chunks
from labkit.registry.repository import Repository
from labkit.registry.transfers import BlobRecord, Meter, Transfer
from labkit.registry.uploading import Uploader

PARALLEL = 3
"""Layers that are uploaded at once; on few cores, more only compete for them."""
MOUNTS = 2
"""Repositories to try to take a layer over from: each that fails costs a request, and an upload left open there."""


def push(
    store: ImageStore, repository: Repository, reference: Reference, report: Report, transfer: Transfer
) -> Descriptor:
    """Send an image under its tag; returns the descriptor of the manifest that the registry has now.

    Raises NotFound in dockerd's words if there is no such image here.
    """
    image = find(store, reference)
    with store.lending(image) as lent:
        uploader = Uploader(repository)
        _push_config(repository, uploader, image, lent, transfer)
        pushed = _Layers(store, repository, report, transfer, lent.directory).push(image)
        body = lent.manifest if pushed == image.layers else with_layers(lent.manifest, pushed)
        digest = uploader.put_manifest(reference.tag, image.manifest.media_type, body)
    manifest = Descriptor(image.manifest.media_type, digest, len(body))
    transfer.blobs.append(BlobRecord("manifest", digest, len(body), manifest.media_type, f"stored as {reference.tag}"))
    store.tag(image, Reference(reference.domain, reference.path, "", digest))
    report(Progress(f"{reference.tag}: digest: {digest} size: {len(body)}", message=True))
    report(Progress("", aux={"Tag": reference.tag, "Digest": digest, "Size": len(body)}))
    return manifest


def _push_config(repository: Repository, uploader: Uploader, image: Image, lent: Lent, transfer: Transfer) -> None:
    """The configuration goes first: small, it shows whether the registry lets us write, and which address answers."""
    record = BlobRecord("configuration", image.id, lent.config.size, lent.config.media_type)
    transfer.blobs.append(record)
    if repository.has(image.id):
        record.fate = "skipped: the registry has it"
    else:
        record.fate = "uploaded"
        uploader.upload(lent.config, lambda offset: _chunks(_blob(lent.directory, image.id), offset))


def find(store: ImageStore, reference: Reference) -> Image:
    """The image that has this name here. Raises NotFound in dockerd's words."""
    try:
        return store.resolve(str(reference))
    except NotFound:
        known = any(name.name == reference.name for image in store.list() for name in image.references)
        if known:
            raise NotFound(f"tag does not exist: {reference.familiar}") from None
        raise NotFound(f"An image does not exist locally with the tag: {reference.familiar_name}") from None


def with_layers(manifest: bytes, layers: Sequence[Descriptor]) -> bytes:
    """The manifest with other layers, and everything else as it was."""
    document: dict[str, msgspec.Raw] = msgspec.json.decode(manifest, type=dict[str, msgspec.Raw])
    return msgspec.json.encode(document | {"layers": msgspec.Raw(msgspec.json.encode(layers))})


def _blob(directory: Path, digest: str) -> Path:
    return directory / digest.removeprefix("sha256:")


def _chunks(file: Path, offset: int) -> Iterator[bytes]:
    with open(file, "rb") as opened:
        yield from file_chunks(opened.fileno(), offset)


class _Layers:
    """The layers of one push."""

    def __init__(
        self, store: ImageStore, repository: Repository, report: Report, transfer: Transfer, directory: Path
    ) -> None:
        self._compressed: CompressedLayers = store.compressed
        self._sources = _sources(store, repository.reference)
        self._repository = repository
        self._uploader = Uploader(repository)
        self._report = report
        self._transfer = transfer
        self._directory = directory
        self._records: dict[str, BlobRecord] = {}

    def push(self, image: Image) -> tuple[Descriptor, ...]:
        """Send what the registry lacks; the layers as it has them now."""
        pairs = zip(image.layers, image.config.rootfs.diff_ids, strict=True)
        work = {layer.digest: (layer, diff_id) for layer, diff_id in pairs}
        for layer, diff_id in work.values():
            self._records[layer.digest] = BlobRecord("layer", layer.digest, layer.size, layer.media_type)
            self._report(Progress("Preparing", short_id(diff_id)))
        self._transfer.blobs += self._records.values()
        with ThreadPoolExecutor(PARALLEL, "upload") as pool:
            sent = {digest: pool.submit(self._push, *pair) for digest, pair in work.items()}
            try:
                return tuple(sent[layer.digest].result() for layer in image.layers)
            except BaseException:
                self._repository.cancelled.cancel()
                for one in sent.values():
                    one.cancel()
                raise

    def _push(self, layer: Descriptor, diff_id: str) -> Descriptor:
        self._repository.cancelled.check()
        name, record = short_id(diff_id), self._records[layer.digest]
        ready = self._compressed.find(layer.digest) if is_plain(layer) else layer
        if ready and (fate := self._present(ready, name)):
            record.fate = fate
            return ready
        meter, file = Meter(record.times), _blob(self._directory, layer.digest)
        if is_plain(layer):
            with meter.of("gzip"):
                ready, file = self._compress(layer, file, name)
            record.fate = f"compressed to {ready.digest} ({ready.size} bytes) and "
            if self._present(ready, name):
                record.fate += "found in the registry"
                return ready
        assert ready
        with meter.of("network"):
            self._upload(ready, file, name)
        record.fate += "uploaded"
        return ready

    def _present(self, layer: Descriptor, name: str) -> str:
        """Have the registry take the blob from where it has it; what was done, or "" if it has to be sent."""
        if self._repository.has(layer.digest):
            self._report(Progress("Layer already exists", name))
            return "skipped: the registry has it"
        for source in self._sources.get(layer.digest, ())[:MOUNTS]:
            if self._uploader.mount(layer.digest, source):
                self._report(Progress(f"Mounted from {source.path}", name))
                return f"mounted from {source.path}, where the registry has it"
        return ""

    def _compress(self, layer: Descriptor, tar: Path, name: str) -> tuple[Descriptor, Path]:
        target = tar.with_suffix(".gz")
        ready = compress(layer, tar, target, lambda done: self._repository.cancelled.check())
        self._compressed.remember(layer.digest, ready)
        return ready, target

    def _upload(self, layer: Descriptor, file: Path, name: str) -> None:
        def chunks(offset: int) -> Iterator[bytes]:
            return counted(_chunks(file, offset), self._report, "Pushing", name, layer.size, offset)

        self._uploader.upload(layer, chunks)
        self._report(Progress("Pushed", name))


def _sources(store: ImageStore, target: Reference) -> Mapping[str, Sequence[Reference]]:
    """The repositories of the same registry that are known to have a layer, since images were pulled from there."""
    found: dict[str, list[Reference]] = {}
    for image in store.list():
        for name in image.references:
            if name.digest and name.domain == target.domain and name.path != target.path:
                for layer in image.layers:
                    sent = (store.compressed.find(layer.digest) if is_plain(layer) else None) or layer
                    found.setdefault(sent.digest, []).append(name)
    return found
