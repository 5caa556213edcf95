"""What no manifest needs any more leaves the disk when a registry starts (Distribution's `registry garbage-collect`).

Reachability over each repository's index, as in image-spec `image-layout.md`; what is younger than a day may belong to
a push that goes on, and stays.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from labkit.errors import LabkitError
from labkit.registry.server.names import directory_of, is_digest
from labkit.registry.server.storage import Repository, Storage

log = logging.getLogger("labkit.registry")
_REST = 24 * 3600  # seconds


def sweep(storage: Storage, now: float | None = None) -> int:
    """Removes blobs that nothing leads to, a day old or more; returns the bytes that this freed."""
    now = time.time() if now is None else now
    freed = 0
    for name in storage.names():
        try:
            freed += _sweep_repository(storage, storage.find(name), now)
        except LabkitError as error:
            log.warning("%s: not swept: %s", name, error)  # what can't be read may need all that is there
    return freed + _sweep_pool(storage)


def _sweep_repository(storage: Storage, repository: Repository, now: float) -> int:
    needed, freed = reachable(repository), 0
    blobs = storage.root / directory_of(repository.name) / "blobs"
    for file in blobs.glob("sha*/*"):
        digest, status = f"{file.parent.name}:{file.name}", file.lstat()
        # ctime: a mount across repositories is a link, and gives an old file a new one
        if is_digest(digest) and digest not in needed and now - status.st_ctime > _REST:
            repository.remove_blob(digest)
            log.info("%s: removed %s, which no manifest has", repository.name, digest)
            freed += status.st_size
    return freed


def reachable(repository: Repository) -> set[str]:
    """The digests of all that the index leads to. Raises Refused if a manifest can't be read."""
    found: set[str] = set()
    waiting = list(repository.listing().digests)
    while waiting:
        digest = waiting.pop()
        if digest in found:
            continue
        found.add(digest)
        document = repository.document(digest)
        found.update(target.digest for target in (document.config, *(document.layers or ())) if target)
        waiting += [target.digest for target in document.manifests or () if repository.size(target.digest) is not None]
    return found


def _sweep_pool(storage: Storage) -> int:
    """Pooled blobs that no repository has: their last link was removed by another tool."""
    freed = 0
    for directory, _, files in os.walk(storage.pool):
        for file in (Path(directory, name) for name in files):
            status = file.lstat()
            if status.st_nlink == 1:
                file.unlink()
                freed += status.st_size
    return freed
