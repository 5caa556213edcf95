"""Snapshots: one directory a layer, named by the layer's chain ID and shared by all images that have it.

A snapshot holds what its layer adds; overlayfs stacks them (`lowerdir=`). What containerd calls a committed snapshot,
Docker's overlay2 driver a "diff" directory. Made in a workspace and renamed when whole.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from labkit.errors import InvalidParameter
from labkit.images.content import read_document
from labkit.images.faults import disk_errors
from labkit.images.layers import Applied, LayerPolicy, apply_layer
from labkit.images.manifests import chain_id, decode
from labkit.images.references import check_digest
from labkit.images.streams import Digest

_RECORD = "snapshot.json"


class Snapshot(msgspec.Struct, frozen=True):
    """What `snapshot.json` beside the files tells: identity, size as Docker counts it, and what could not be kept."""

    chain_id: str
    diff_id: str
    parent: str
    size: int
    entries: int
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A snapshot that is whole, in the workspace, not yet to be found by its name."""

    directory: Path
    snapshot: Snapshot


class SnapshotStore:
    """Snapshots below `root`/snapshots."""

    def __init__(self, root: Path, policy: LayerPolicy) -> None:
        self._directory = root / "snapshots"
        self._policy = policy
        self._known: dict[str, Snapshot] = {}
        self._directory.mkdir(exist_ok=True)

    def _path(self, chain_id: str) -> Path:
        return self._directory / check_digest(chain_id).removeprefix("sha256:")

    def files(self, chain_id: str) -> Path:
        """The directory with the layer's files."""
        return self._path(chain_id) / "fs"

    def find(self, chain_id: str) -> Snapshot | None:
        """The record of a snapshot that is here."""
        if chain_id not in self._known:
            file = self._path(chain_id) / _RECORD
            if not file.exists():
                return None
            self._known[chain_id] = decode(read_document(file), Snapshot, str(file))
        return self._known[chain_id]

    def prepare(
        self, chunks: Iterator[bytes], workspace: Path, parent: str, diff_id: str = "", digest: str = ""
    ) -> Prepared:
        """Unpacks a layer that lies on `parent` (a chain ID, or "") into the caller's workspace.

        `digest` is that of the uncompressed tar where it is known, else it is computed. Raises InvalidParameter if it
        is not the expected `diff_id`.
        """
        with disk_errors("unpacking a layer"):
            directory = Path(tempfile.mkdtemp(prefix="snapshot-", dir=workspace))
            (directory / "fs").mkdir()
            applied, found = self._unpack(directory / "fs", chunks, digest)
            if diff_id and found != diff_id:
                raise InvalidParameter(f"invalid diffID for layer: expected {diff_id!r}, got {found!r}")
            snapshot = Snapshot(chain_id(parent, found), found, parent, applied.size, applied.entries, applied.ignored)
            (directory / _RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(snapshot), indent=1) + b"\n")
            return Prepared(directory, snapshot)

    def _unpack(self, files: Path, chunks: Iterator[bytes], digest: str) -> tuple[Applied, str]:
        root = os.open(files, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if digest:
                return apply_layer(chunks, root, self._policy), digest
            with Digest() as hashing:
                return apply_layer(hashing.through(chunks), root, self._policy), hashing.digest()
        finally:
            os.close(root)

    def adopt(self, prepared: Prepared) -> None:
        """Gives a prepared snapshot its name; the caller has synced it, and removes what was there already."""
        target = self._path(prepared.snapshot.chain_id)
        if not target.exists():
            with disk_errors(f"storing snapshot {target.name}"):
                prepared.directory.rename(target)

    def chain_ids(self) -> list[str]:
        """All snapshots that are here."""
        return [f"sha256:{name}" for name in os.listdir(self._directory) if len(name) == 64]

    def empty(self) -> Path:
        """An empty directory: overlayfs wants at least one layer, also for an image that has none."""
        directory = self._directory / "empty"
        directory.mkdir(exist_ok=True, mode=0o755)
        return directory

    def discard(self, chain_id: str, grave: Path) -> None:
        """Takes a snapshot away at once, into a directory that the caller removes in its own time."""
        self._known.pop(chain_id, None)
        path = self._path(chain_id)
        path.rename(grave / path.name)
