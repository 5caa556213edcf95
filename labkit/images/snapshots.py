"""Snapshots: one directory a layer, named by the layer's chain ID and shared by all images that have it.

The name has the chain ID's first digits only: the page of options that mount(2) takes then holds the 127 layers that
Docker allows (overlay2 keeps symbolic links with short names for this). The record in the directory has the whole ID.

A snapshot holds what its layer adds; overlayfs stacks them (`lowerdir=`). What containerd calls a committed snapshot,
Docker's overlay2 driver a "diff" directory. Made in a workspace and renamed when whole.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
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
_SHORT = 12  # digits of a name, as of an ID that people see


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
        self._known: dict[Path, Snapshot] = {}
        self._places: dict[str, tuple[Path, Snapshot]] = {}  # by chain ID, what was found
        self._directory.mkdir(exist_ok=True)

    def _place(self, chain_id: str) -> tuple[Path, Snapshot | None]:
        """Where a snapshot is, with its record; or where it would be. IDs that begin alike can be made on purpose: the
        second one's directory has the whole ID as its name.
        """
        if chain_id in self._places:
            return self._places[chain_id]
        digits = check_digest(chain_id).removeprefix("sha256:")
        free = None
        for path in (self._directory / digits[:_SHORT], self._directory / digits):
            if path not in self._known and (path / _RECORD).exists():
                self._known[path] = decode(read_document(path / _RECORD), Snapshot, str(path / _RECORD))
            found = self._known.get(path)
            if found and found.chain_id == chain_id:
                self._places[chain_id] = path, found
                return path, found
            free = path if found is None and free is None else free
        return free or path, None

    def files(self, chain_id: str) -> Path:
        """The directory with the layer's files."""
        return self._place(chain_id)[0] / "fs"

    def find(self, chain_id: str) -> Snapshot | None:
        """The record of a snapshot that is here."""
        return self._place(chain_id)[1]

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
        target, present = self._place(prepared.snapshot.chain_id)
        if present is None:
            with disk_errors(f"storing snapshot {target.name}"):
                prepared.directory.rename(target)
            self._known[target] = prepared.snapshot

    def chain_ids(self) -> list[str]:
        """All snapshots that are here."""
        records = (self._directory / name / _RECORD for name in os.listdir(self._directory))
        return [decode(read_document(file), Snapshot, str(file)).chain_id for file in records if file.exists()]

    def empty(self) -> Path:
        """An empty directory: overlayfs wants at least one layer, also for an image that has none."""
        directory = self._directory / "empty"
        directory.mkdir(exist_ok=True, mode=0o755)
        return directory

    def discard(self, chain_id: str, grave: Path) -> None:
        """Takes a snapshot away at once, into a directory that the caller removes in its own time."""
        path, _ = self._place(chain_id)
        self._known.pop(path, None)
        self._places.pop(chain_id, None)
        path.rename(grave / path.name)


@lru_cache(maxsize=1024)
def size_of_layer(files: str) -> int:
    """Bytes of the layer whose files are in this directory, as its record has them; 0 for the empty one."""
    record = Path(files).parent / _RECORD
    return decode(read_document(record), Snapshot, str(record)).size if record.exists() else 0
