"""The image store: what `docker images`, `load`, `save`, `import`, `tag` and `rmi` work on.

On disk it is an OCI image layout (image-spec `image-layout.md`) with snapshots beside it, so that skopeo reads it and
people can look at it with `ls` and `jq`. Names and images change under one lock; the long work (staging, unpacking)
runs outside of it in a workspace, and becomes visible by renames at the end: all of an archive, or nothing.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from labkit.errors import Conflict, InvalidParameter, NotFound
from labkit.images import inspecting, saving
from labkit.images.archives import Incoming, StagedBlob, make_manifest, read_images, stage
from labkit.images.catalog import Catalog, with_name
from labkit.images.changes import apply_changes
from labkit.images.committing import Commit, committed
from labkit.images.compressing import CompressedLayers
from labkit.images.content import ContentStore, sync_directory, sync_filesystem, write_durably
from labkit.images.faults import disk_errors
from labkit.images.image import Image, short_id
from labkit.images.importing import imported_config, now, written_to
from labkit.images.ingests import Ingests
from labkit.images.layers import PERMISSIVE, LayerPolicy
from labkit.images.layout import LAYOUT_FILE, Record
from labkit.images.locking import lock_store
from labkit.images.manifests import (
    OCI_CONFIG,
    ContainerConfig,
    Descriptor,
    Platform,
    chain_ids,
    decode_config,
    decode_manifest,
    parse_platform,
)
from labkit.images.platforms import check_platform
from labkit.images.progress import Report, counted, silent
from labkit.images.receiving import Pins, Reception, Stores
from labkit.images.references import Reference
from labkit.images.removal import ContainerUse, Removal, Removed, plan_removal
from labkit.images.snapshots import Prepared, SnapshotStore
from labkit.images.streams import Readable, decompressed, digest_of, file_chunks, read_chunks

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lent:
    """An image's blobs in a directory, named by their digests' digits, where files may be put beside them."""

    directory: Path
    manifest: bytes
    config: Descriptor


InUse = Callable[[str], Sequence[ContainerUse]]


class ImageStore:
    """The images below `root`. All methods may be called from any thread.

    Opening it locks it against other processes (Conflict) and removes what a crash left half-made. A root that can't be
    written is Forbidden. `policy` says whether layers may hold device nodes.
    """

    def __init__(self, root: Path, policy: LayerPolicy = PERMISSIVE) -> None:
        self._root = root.absolute()
        self._workspace = self._root / "tmp"
        self._lock = threading.RLock()
        with disk_errors(f"opening the image store {root}"):
            self._root.mkdir(parents=True, exist_ok=True, mode=0o710)
            self._store_lock = lock_store(self._root)
            try:
                self._open(policy)
            except BaseException:
                os.close(self._store_lock)
                raise

    def _open(self, policy: LayerPolicy) -> None:
        if self._workspace.exists():
            shutil.rmtree(self._workspace)
        self._workspace.mkdir(mode=0o700)
        if not (self._root / "oci-layout").exists():
            write_durably(self._root / "oci-layout", LAYOUT_FILE, self._workspace)
        self._content = ContentStore(self._root, self._workspace)
        self._snapshots = SnapshotStore(self._root, policy)
        self.compressed = CompressedLayers(self._root / "compressed", self._workspace)
        self._pins = Pins()
        ingests = Ingests(self._root / "ingests")
        self._stores = Stores(self._lock, self._content, self._snapshots, ingests, self._pins, self._commit)
        self._catalog = Catalog(self._root, self._workspace, self._content, self._snapshots)
        if not self._catalog.records:
            self._catalog.replace(())  # a layout has an index, also an empty one
        with self._emptied() as grave:
            self._discard_garbage(grave)

    def close(self) -> None:
        """Lets go of the lock."""
        os.close(self._store_lock)

    @contextmanager
    def _emptied(self) -> Iterator[Path]:
        """A fresh directory in the workspace; all that is left in it is removed at the end."""
        with disk_errors(f"working in {self._workspace}"):
            directory = Path(tempfile.mkdtemp(dir=self._workspace))
        try:
            yield directory
        finally:
            shutil.rmtree(directory)

    def list(self) -> Sequence[Image]:
        """All images, newest first."""
        return self._catalog.images()

    @property
    def tags(self) -> Mapping[str, str]:
        """From the familiar form of each NAME:TAG to the image's ID; another mapping whenever a name has changed."""
        return self._catalog.tags

    def resolve(self, reference: str) -> Image:
        """The image that a name, an ID or a unique prefix of one stands for. Raises NotFound, InvalidParameter."""
        return self._catalog.find(reference)[0]

    def load(self, archive: Readable, report: Report = silent, platform: Platform | None = None) -> Sequence[str]:
        """Takes in all images of an archive (docker-archive, OCI archive; also compressed; also from a pipe), or none.
        With `platform`, only those for it.

        Returns the names that were loaded, the ID of an image without name.
        Raises InvalidParameter for an archive that is malformed, truncated or lies about a digest.
        """
        with self.receiving() as reception:
            images = read_images(stage(decompressed(read_chunks(archive)), reception.workspace), platform)
            for image in images:
                self._unpack(image, reception, report)
            return reception.admit(images)

    @contextmanager
    def receiving(self) -> Iterator[Reception]:
        """Where images come in from a registry or an archive; see `labkit.images.receiving`."""
        try:
            with self._emptied() as workspace, Reception(self._stores, workspace) as reception:
                yield reception
        except BaseException:
            with self._emptied() as grave, self._lock:
                self._discard_garbage(grave)  # what nothing could be removed of while it was held
            raise

    def _unpack(self, image: Incoming, reception: Reception, report: Report) -> None:
        """Unpacks the layers that have no snapshot yet.

        One after the other: two threads take turns at the interpreter lock, which measured no faster.
        """
        diff_ids = decode_config(image.config).rootfs.diff_ids
        chains = chain_ids(diff_ids)
        for layer, diff_id, chain, parent in zip(image.layers, diff_ids, chains, ("", *chains), strict=False):
            if not reception.has_snapshot(chain):
                with open(layer.path, "rb") as file:
                    raw = file_chunks(file.fileno())
                    chunks = counted(raw, report, "Loading layer", short_id(diff_id), layer.size)
                    reception.unpack(decompressed(chunks), chain, parent, diff_id, layer.tar_digest())

    def _commit(self, images: Sequence[Incoming], prepared: Sequence[Prepared]) -> Sequence[str]:
        """Makes images visible: syncs, renames blobs and snapshots to their names, then writes the index."""
        sync_filesystem(self._workspace)
        with self._emptied() as grave, self._lock:
            try:
                for snapshot in prepared:
                    self._snapshots.adopt(snapshot)
                loaded = []
                records: Sequence[Record] = self._catalog.records
                for image in images:
                    identifier, records = self._adopt(image, records)
                    loaded += [reference.familiar for reference in image.references] or [identifier]
                sync_directory(self._root / "snapshots")
                self._catalog.replace(records)
            except BaseException:
                self._discard_garbage(grave)  # what was renamed already, and is in no record
                raise
            return loaded

    def _adopt(self, image: Incoming, records: Sequence[Record]) -> tuple[str, Sequence[Record]]:
        """Stores an image's blobs; returns its ID and the records with it. One that is here keeps its manifest."""
        identifier = digest_of(image.config)
        manifest = self._catalog.manifest_of(identifier)
        if manifest is None:
            if len(image.layers) != len(decode_config(image.config).rootfs.diff_ids):
                raise Conflict(f"image {short_id(identifier)} was removed while it was being pulled: pull it again")
            for layer in image.layers:
                self._content.adopt(layer.path, layer.digest)
            self._content.write(image.config, OCI_CONFIG)
            manifest = self._content.write(image.manifest, image.manifest_type)
        for reference in image.references or (None,):
            records = with_name(records, manifest, reference, now() if reference else "", image.parent)
        return identifier, records

    def import_(
        self,
        archive: Readable,
        reference: Reference | None = None,
        changes: Sequence[str] = (),
        message: str = "",
        platform: str = "",
        report: Report = silent,
    ) -> str:
        """Makes an image of one layer from the tar of a root filesystem; returns its ID. Raises InvalidParameter."""
        defaults, runs_on = apply_changes(ContainerConfig(), list(changes)), parse_platform(platform)
        with self._emptied() as directory:
            path = directory / "layer"
            with open(path, "xb", buffering=0) as file:
                chunks = counted(decompressed(read_chunks(archive)), report, "Importing")
                prepared = self._snapshots.prepare(written_to(file, chunks), directory, "")
            diff_id = prepared.snapshot.diff_id
            config = imported_config(diff_id, defaults, message, runs_on, now())
            layers = (StagedBlob(path, diff_id, path.stat().st_size),)
            image = Incoming(config, *make_manifest(config, layers), layers, (reference,) if reference else ())
            self._commit([image], [prepared])
            return digest_of(config)

    def commit(self, parent: Image, layer: Iterator[bytes], commit: Commit, reference: Reference | None) -> str:
        """Makes an image of its parent and one more layer (a tar); returns its ID. One that is empty is left out.

        Raises NotFound if the parent has gone.
        """
        with self.receiving() as reception:
            chains = [chain for chain in parent.chain_ids if reception.has_snapshot(chain)]
            paths = [(layer, reception.blob(layer.digest)) for layer in parent.layers]
            below = tuple(StagedBlob(path, layer.digest, layer.size) for layer, path in paths if path)
            if (len(chains), len(below)) != (len(parent.chain_ids), len(parent.layers)):
                raise NotFound(f"No such image: {parent.id}")
            path = reception.workspace / "layer"
            with open(path, "xb", buffering=0) as file:
                tar = written_to(file, layer)
                prepared = self._snapshots.prepare(tar, reception.workspace, chains[-1] if chains else "")
            blob = StagedBlob(path, prepared.snapshot.diff_id, path.stat().st_size)
            image = committed(parent, commit, below, blob, reference, now())
            self._commit([image], [prepared] if blob in image.layers else [])
            return digest_of(image.config)

    def tag(self, image: Image, reference: Reference) -> None:
        """Gives an image another name; an image that had it loses it."""
        with self._lock:
            current = self._catalog.find(image.id)[0]
            self._catalog.replace(with_name(self._catalog.records, current.manifest, reference.tagged(), now()))

    def remove(self, reference: str, force: bool, in_use: InUse, noprune: bool = False) -> Sequence[Removed]:
        """Takes away a name, or an image with all its names, as `docker rmi` does; returns what went, in that order.

        `in_use` gives the containers of an image. Raises NotFound, Conflict. The layers of an image that is removed by
        force while stopped containers stand on it stay until `collect` finds them unused.
        """
        with self._emptied() as grave, self._lock:
            image, named = self._catalog.find(reference)
            uses = in_use(image.id)
            plan = plan_removal(image, named, force, uses, self._has_children(image))
            removed = [Removed(untagged=gone.familiar) for gone in plan.references]
            records = _without(self._catalog, image, plan, keep_layers=bool(uses))
            self._catalog.replace(records)
            if plan.image:
                chains = self._discard_garbage(grave)
                removed += [Removed(deleted=image.id)]
                removed += [Removed(deleted=chain) for chain in reversed(image.chain_ids) if chain in chains]
            parent = self._catalog.get(image.parent)
            if plan.image and not noprune and parent and self._is_prunable(parent, in_use):
                removed += self.remove(parent.id, False, in_use)
            return removed

    def _is_prunable(self, image: Image, in_use: InUse) -> bool:
        return not image.references and not in_use(image.id) and not self._has_children(image)

    def _has_children(self, image: Image) -> bool:
        return any(other.parent == image.id for other in self._catalog.images())

    def collect(self, in_use: InUse) -> None:
        """Removes the layers of images that were removed by force, once no container stands on them any more."""
        with self._emptied() as grave, self._lock:
            removed = [record for record in self._catalog.records if record.removed]
            free = [record for record in removed if not in_use(self._catalog.identifier(record))]
            if free:
                self._catalog.replace(record for record in self._catalog.records if record not in free)
                self._discard_garbage(grave)

    def _discard_garbage(self, grave: Path) -> set[str]:
        """Takes away all blobs and snapshots that no record and no reception needs; the chain IDs of these snapshots.

        Nothing, while an image is so damaged that it can't be known what it needs.
        """
        try:
            blobs, chains = self._catalog.retained()
        except (InvalidParameter, NotFound) as error:
            _log.warning("%s: nothing is removed until this is repaired: %s", self._root, error)
            return set()
        with disk_errors(f"removing what nothing needs from {self._root}"):
            for digest in set(self._content.digests()) - blobs:
                if digest not in self._pins:
                    self._content.remove(digest)
            self.compressed.keep_only(blobs)
            unused = {chain for chain in set(self._snapshots.chain_ids()) - chains if chain not in self._pins}
            for chain in unused:
                self._snapshots.discard(chain, grave)
            return unused

    def save(self, references: Sequence[str], platform: Platform | None = None) -> saving.Archive:
        """An archive of images, in pieces: an OCI layout and a docker-archive in one. Raises NotFound at once,
        also for an image that is not for `platform`.

        A name without tag stands for all tags of its repository. Blobs stay, whatever is removed meanwhile.
        """
        with self._lock:
            selection = self._catalog.select(references)
            for image, names in selection.values():
                check_platform(image, names[0].familiar if names else image.id, platform)
            directory = Path(tempfile.mkdtemp(prefix="save-", dir=self._workspace))
            for digest in saving.blob_digests([image for image, _ in selection.values()]):
                os.link(self._content.path(digest), directory / digest.removeprefix("sha256:"))
        return saving.Archive(selection, directory)

    @contextmanager
    def lending(self, image: Image) -> Iterator[Lent]:
        """The blobs of an image, for as long as the block runs, whatever is removed meanwhile."""
        with self._emptied() as directory:
            with self._lock:
                manifest = self._content.read(image.manifest.digest)
                for digest in saving.blob_digests([image]):
                    os.link(self._content.path(digest), directory / digest.removeprefix("sha256:"))
            yield Lent(directory, manifest, decode_manifest(manifest).config)

    def history(self, image: Image) -> Sequence[inspecting.HistoryItem]:
        """How the image was made, newest step first."""
        return inspecting.history(image, self.layer_sizes(image), self._catalog.get)

    def layer_sizes(self, image: Image) -> Sequence[int]:
        """Bytes of each layer, unpacked, lowest first."""
        return self._catalog.layer_sizes(image.config, image.layers)

    def size(self) -> int:
        """Bytes of all layers that are here, unpacked, each once."""
        with self._lock:
            found = [self._snapshots.find(chain) for chain in self._snapshots.chain_ids()]
        return sum(snapshot.size for snapshot in found if snapshot)

    def inspect(self, image: Image) -> inspecting.ImageInspect:
        """Everything about the image, in Docker's form."""
        return inspecting.inspect(image, self._directories(image))

    def _directories(self, image: Image) -> tuple[str, ...]:
        return tuple(str(self._snapshots.files(chain)) for chain in reversed(image.chain_ids))

    def lower_dirs(self, image: Image) -> tuple[str, ...]:
        """Directories for overlayfs's `lowerdir`, topmost first, at least one; missing snapshots are made."""
        with self._lock:
            diff_ids, chains = image.config.rootfs.diff_ids, image.chain_ids
            for layer, diff_id, chain, parent in zip(image.layers, diff_ids, chains, ("", *chains), strict=False):
                if self._snapshots.find(chain) is None:
                    self._restore(
                        StagedBlob(self._content.path(layer.digest), layer.digest, layer.size), diff_id, parent
                    )
            return self._directories(image) or (str(self._snapshots.empty()),)

    def _restore(self, layer: StagedBlob, diff_id: str, parent: str) -> None:
        """Unpacks a layer again whose snapshot is missing: another tool put the image into the layout."""
        with self._emptied() as directory, disk_errors(f"reading layer {layer.digest}"), open(layer.path, "rb") as file:
            tar = decompressed(file_chunks(file.fileno()))
            prepared = self._snapshots.prepare(tar, directory, parent, diff_id, layer.tar_digest())
            sync_filesystem(directory)
            self._snapshots.adopt(prepared)


def _without(catalog: Catalog, image: Image, plan: Removal, keep_layers: bool) -> list[Record]:
    """The records after a removal. An image that lost its last name but stays keeps a record without one."""
    own = catalog.records_of(image)
    others = [record for record in catalog.records if record not in own]
    left = [record for record in own if not plan.image and record.reference not in plan.references]
    if not left and (keep_layers or not plan.image):
        left = [Record(image.manifest, parent=image.parent, removed=plan.image)]
    return others + left
