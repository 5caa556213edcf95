"""Pull: from a reference to an image in the store (moby `distribution/pull_v2.go`, OCI distribution-spec "Pull").

Each layer is one pipeline: network, SHA-256 and disk on a download thread, then gunzip, SHA-256 and unpacking while it
still comes in. Layers are downloaded three at a time and unpacked in their order. Nothing is visible before all of it
was verified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from labkit.errors import InvalidParameter, LabkitError, NotFound
from labkit.images.archives import Incoming, StagedBlob
from labkit.images.image import short_id
from labkit.images.ingests import Ingest
from labkit.images.manifests import (
    Descriptor,
    ImageConfig,
    Manifest,
    Platform,
    chain_ids,
    decode_config,
    decode_manifest,
    resolve_platform,
)
from labkit.images.progress import Progress, Report, counted
from labkit.images.receiving import Reception
from labkit.images.references import Reference
from labkit.images.store import ImageStore
from labkit.images.streams import decompressed, file_chunks
from labkit.registry.repository import Repository
from labkit.registry.transfers import BlobRecord, Meter, Transfer

PARALLEL = 3
"""Layers that are downloaded at once; dockerd's `max-concurrent-downloads`."""

_CONFIGS = frozenset(
    ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json", "")
) | {"application/octet-stream"}
_LAYERS = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")


@dataclass(frozen=True)
class Documents:
    """What an image says of itself, verified: `named` is what its reference stands for, maybe an index."""

    named: Descriptor
    chosen: Descriptor
    manifest_bytes: bytes
    manifest: Manifest
    config_bytes: bytes
    config: ImageConfig


@dataclass(frozen=True)
class Pulled:
    """The image that came, the digest that its reference stands for, and whether the name was another's before."""

    identifier: str
    digest: str
    newer: bool


def pull(
    store: ImageStore,
    repository: Repository,
    reference: Reference,
    platform: Platform | None,
    report: Report,
    transfer: Transfer,
) -> Pulled:
    """Bring an image into the store. Raises what the registry, the disk and a lie in the content raise."""
    documents = fetch_documents(repository, reference, platform, report, transfer)
    named = Reference(reference.domain, reference.path, "", documents.named.digest)
    references = (named, *((reference,) if reference.tag and not reference.digest else ()))
    before, known = _identifier(store, str(references[-1])), _known(store, documents, report, transfer)
    with store.receiving() as reception:
        layers = () if known else _Layers(repository, reception, report, transfer).bring(documents)
        image = Incoming(
            documents.config_bytes, documents.manifest_bytes, documents.chosen.media_type, layers, references
        )
        with Meter(transfer.times).of("sync and make visible"):
            reception.admit([image])
    report(Progress(f"Digest: {documents.named.digest}", message=True))
    if repository.rate_limit:
        limit = repository.rate_limit
        transfer.rate_limit = f"{limit.remaining} of {limit.limit} pulls left"
    identifier = documents.manifest.config.digest
    return Pulled(identifier, documents.named.digest, before != identifier)


def _known(store: ImageStore, documents: Documents, report: Report, transfer: Transfer) -> bool:
    """Whether the image is here already, maybe under another name or with its layers compressed in another way."""
    if not _identifier(store, documents.manifest.config.digest):
        return False
    for layer in documents.manifest.layers:
        transfer.blobs.append(_record("layer", layer, "skipped: the image is here already"))
        report(Progress("Already exists", short_id(layer.digest)))
    return True


def _identifier(store: ImageStore, reference: str) -> str:
    try:
        return store.resolve(reference).id
    except NotFound:
        return ""


def fetch_documents(
    repository: Repository, reference: Reference, platform: Platform | None, report: Report, transfer: Transfer
) -> Documents:
    """The manifest for a platform and its configuration. Raises NotFound, InvalidParameter, LabkitError."""
    wanted = reference.digest or reference.tag
    named = repository.manifest(wanted)
    report(Progress(f"Pulling from {reference.path}", wanted, message=True))
    bodies = {named.descriptor.digest: named.body}

    def read(descriptor: Descriptor) -> bytes:
        if descriptor.digest not in bodies:
            bodies[descriptor.digest] = repository.manifest(descriptor.digest).body
        transfer.blobs.append(_record("index", descriptor, f"lists manifests for platforms; {reference.familiar}"))
        return bodies[descriptor.digest]

    chosen = resolve_platform(named.descriptor, read, platform)
    if chosen.digest not in bodies:
        bodies[chosen.digest] = repository.manifest(chosen.digest).body
    manifest = decode_manifest(bodies[chosen.digest])
    transfer.blobs.append(_record("manifest", chosen, "names the configuration and the layers"))
    _check_types(manifest)
    config = repository.document(manifest.config)
    transfer.blobs.append(_record("configuration", manifest.config, "downloaded: its digest is the image's ID"))
    return Documents(named.descriptor, chosen, bodies[chosen.digest], manifest, config, _checked(config, manifest))


def _record(role: str, descriptor: Descriptor, fate: str) -> BlobRecord:
    return BlobRecord(role, descriptor.digest, descriptor.size, descriptor.media_type, fate)


def _check_types(manifest: Manifest) -> None:
    """Refuse artifacts that are no images, in dockerd's words."""
    if manifest.config.media_type not in _CONFIGS:
        raise InvalidParameter(f'Encountered remote "{manifest.config.media_type}"(unknown) when fetching')
    for layer in manifest.layers:
        if not layer.media_type.startswith(_LAYERS):
            raise InvalidParameter(f"layer {layer.digest}: unsupported media type {layer.media_type}")


def _checked(document: bytes, manifest: Manifest) -> ImageConfig:
    config = decode_config(document)
    if len(config.rootfs.diff_ids) != len(manifest.layers):
        raise InvalidParameter(
            "number of layers and diffIDs don't match: "
            f"{len(manifest.layers)} in the manifest, {len(config.rootfs.diff_ids)} in the configuration"
        )
    return config


class _Layers:
    """The layers of one pull."""

    def __init__(self, repository: Repository, reception: Reception, report: Report, transfer: Transfer) -> None:
        self._repository = repository
        self._reception = reception
        self._report = report
        self._transfer = transfer
        self._ingests: dict[str, Ingest] = {}
        self._downloads: dict[str, Future[None]] = {}
        self._records: dict[str, BlobRecord] = {}

    def bring(self, documents: Documents) -> tuple[StagedBlob, ...]:
        """Download and unpack what is missing; the blobs of all layers."""
        diff_ids = documents.config.rootfs.diff_ids
        chains = chain_ids(diff_ids)
        layers = documents.manifest.layers
        missing = [chain for chain in chains if not self._reception.has_snapshot(chain)]
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(PARALLEL, "download"))
            stack.callback(self._stop)
            for layer, chain in zip(layers, chains, strict=True):
                self._begin(pool, layer, chain not in missing)
            for layer, diff_id, chain, parent in zip(layers, diff_ids, chains, ("", *chains), strict=False):
                if chain in missing:
                    self._unpack(layer, chain, parent, diff_id)
            for download in self._downloads.values():
                download.result()
        return tuple(self._blob(layer) for layer in layers)

    def _begin(self, pool: ThreadPoolExecutor, layer: Descriptor, unpacked: bool) -> None:
        """Have a layer's blob downloaded if it isn't here."""
        if layer.digest in self._records:
            return
        record = self._records[layer.digest] = _record("layer", layer, "")
        self._transfer.blobs.append(record)
        stored = self._reception.blob(layer.digest)
        if stored and unpacked:
            record.fate = "skipped: already here, as part of another image or an earlier pull"
            self._report(Progress("Already exists", short_id(layer.digest)))
            return
        record.fate = "unpacked: its blob was here already"
        self._report(Progress("Pulling fs layer", short_id(layer.digest)))
        if not stored:
            ingest = self._ingests[layer.digest] = self._reception.ingest(layer)
            if len(self._downloads) >= PARALLEL:
                self._report(Progress("Waiting", short_id(layer.digest)))
            download = self._downloads[layer.digest] = pool.submit(self._download, layer, ingest, record)
            download.add_done_callback(lambda _: ingest.wake())

    def _download(self, layer: Descriptor, ingest: Ingest, record: BlobRecord) -> None:
        meter, name = Meter(record.times), short_id(layer.digest)
        record.fate = "shared: another pull downloaded it at the same time"

        def begun(offset: int) -> None:
            record.fate = f"resumed at byte {offset}" if offset else "downloaded"

        def source(offset: int) -> Iterator[bytes]:
            chunks = meter.through(self._repository.blob(layer, offset), "network")
            return counted(chunks, self._report, "Downloading", name, layer.size, offset)

        with meter.of("hash and store"):
            ingest.download(source, begun, self._repository.cancelled.check)
        self._report(Progress("Verifying Checksum", name))
        self._report(Progress("Download complete", name))

    def _unpack(self, layer: Descriptor, chain: str, parent: str, diff_id: str) -> None:
        """Unpack a layer while it comes in."""
        record, name = self._records[layer.digest], short_id(layer.digest)
        meter = Meter(record.times)
        with ExitStack() as stack, meter.of("unpack"):
            chunks = meter.through(self._source(layer, stack), "wait for bytes")
            passing = counted(chunks, self._report, "Extracting", name, layer.size)
            self._reception.unpack(meter.through(decompressed(passing), "gunzip"), chain, parent, diff_id)
        self._report(Progress("Pull complete", name))

    def _source(self, layer: Descriptor, stack: ExitStack) -> Iterator[bytes]:
        if ingest := self._ingests.get(layer.digest):
            return ingest.chunks(self._expecting(self._downloads[layer.digest]))
        stored = self._reception.blob(layer.digest)
        if not stored:
            raise LabkitError(f"layer {layer.digest} has vanished from the store: pull again")
        return file_chunks(stack.enter_context(open(stored, "rb")).fileno())

    def _expecting(self, download: Future[None]) -> Callable[[], None]:
        """Raises what ended the download, or the pull."""

        def check() -> None:
            self._repository.cancelled.check()
            if download.done():
                download.result()

        return check

    def _stop(self) -> None:
        """End the downloads that a failed unpacking has left running; after a success there are none."""
        if not all(download.done() for download in self._downloads.values()):
            self._repository.cancelled.cancel()
            for download, ingest in zip(self._downloads.values(), self._ingests.values(), strict=True):
                download.cancel()
                ingest.wake()

    def _blob(self, layer: Descriptor) -> StagedBlob:
        ingest = self._ingests.get(layer.digest)
        path = ingest.path if ingest else self._reception.blob(layer.digest)
        if path is None:
            raise LabkitError(f"layer {layer.digest} has vanished from the store: pull again")
        return StagedBlob(path, layer.digest, layer.size)
