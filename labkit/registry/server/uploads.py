"""Blobs on their way in: one file an upload, whose size is all the state that there is, so it survives a restart.

OCI distribution-spec `spec.md`, Pushing Blobs. Bytes are hashed as they arrive; what another process had begun is
hashed from its file. Only a file with the right digest leaves this directory.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.images.faults import disk_errors
from labkit.registry.server.names import check_digest
from labkit.registry.server.refusals import Refused

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_KEPT = 24 * 3600  # seconds that an upload may rest
_EVERY = 3600  # seconds between looks for those that nobody will end


class _Progress:
    """What this process knows of an upload beyond its file."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.hash = hashlib.sha256()
        self.hashed = 0


class Uploads:
    """The uploads in a directory. Safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, _Progress] = {}
        self._lock = threading.Lock()
        self._looked = 0.0

    def start(self) -> str:
        """A new upload, empty; returns its ID."""
        self.expire()
        upload = str(uuid.uuid4())
        with disk_errors("starting an upload"):
            os.close(os.open(self._directory / upload, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        return upload

    def size(self, upload: str) -> int:
        """The bytes that have arrived. Raises Refused: BLOB_UPLOAD_UNKNOWN."""
        try:
            return self._path(upload).stat().st_size
        except FileNotFoundError as error:
            raise Refused("BLOB_UPLOAD_UNKNOWN", detail={"uuid": upload}) from error

    def _path(self, upload: str) -> Path:
        if not _ID.fullmatch(upload):
            raise Refused("BLOB_UPLOAD_UNKNOWN")
        return self._directory / upload

    @contextmanager
    def _writing(self, upload: str) -> Iterator[_Progress]:
        """One request at a time. Raises Refused: BLOB_UPLOAD_UNKNOWN, BLOB_UPLOAD_INVALID."""
        with self._lock:
            self.size(upload)
            progress = self._known.setdefault(upload, _Progress())
            if not progress.lock.acquire(blocking=False):
                raise Refused("BLOB_UPLOAD_INVALID", "another request is writing to this upload", status=409)
        try:
            yield progress
        finally:
            progress.lock.release()

    def append(self, upload: str, chunks: Iterable[bytes], start: int | None = None) -> int:
        """Takes more bytes, which begin at `start` if that is said; returns the upload's size.

        What arrived before the source failed is kept, as a client may go on from there; a full disk ends the upload.
        Raises Refused: BLOB_UPLOAD_UNKNOWN, BLOB_UPLOAD_INVALID (416 if out of order).
        """
        with self._writing(upload) as progress:
            size = self.size(upload)
            if start is not None and start != size:
                headers = (("Range", range_of(size)),)
                message = f"chunk out of order: it begins at {start}, and {size} bytes are here"
                raise Refused("BLOB_UPLOAD_INVALID", message, status=416, headers=headers)
            with open(self._path(upload), "ab", buffering=0) as file:
                for chunk in chunks:
                    self._write(file, chunk, upload)
                    if progress.hashed == size:
                        progress.hash.update(chunk)
                        progress.hashed += len(chunk)
                    size += len(chunk)
            return size

    def _write(self, file: Any, chunk: bytes, upload: str) -> None:
        view = memoryview(chunk)
        try:
            with disk_errors("storing an upload"):
                while view:
                    view = view[file.write(view) :]
        except LabkitError:
            self.cancel(upload)
            raise

    @contextmanager
    def finished(self, upload: str, digest: str) -> Iterator[Path]:
        """The file of an upload that is complete, verified and on disk, to be moved away; nobody writes to it any more.

        The upload is over after this, whatever comes. Raises Refused: BLOB_UPLOAD_UNKNOWN, DIGEST_INVALID.
        """
        check_digest(digest)
        path = self._path(upload)
        with self._writing(upload) as progress:
            try:
                found = _digest(path, digest.partition(":")[0], progress)
                if found != digest:
                    raise Refused("DIGEST_INVALID", detail={"digest": digest, "uploaded": found})
                yield path
            finally:
                self.cancel(upload)

    def cancel(self, upload: str) -> None:
        """Forgets an upload and its bytes. Raises Refused: BLOB_UPLOAD_UNKNOWN for what can't be one."""
        self._path(upload).unlink(missing_ok=True)
        self._known.pop(upload, None)

    def expire(self, now: float | None = None) -> None:
        """Removes what has rested for a day; looks at most once an hour."""
        now = time.time() if now is None else now
        if now - self._looked < _EVERY:
            return
        self._looked = now
        for entry in os.scandir(self._directory):
            if entry.name != "lock" and now - entry.stat(follow_symlinks=False).st_mtime > _KEPT:
                Path(entry).unlink(missing_ok=True)
                self._known.pop(entry.name, None)


def _digest(path: Path, algorithm: str, progress: _Progress) -> str:
    """The digest of an upload's file, which is on disk after this."""
    with disk_errors("storing an upload"), open(path, "rb") as file:
        os.fsync(file.fileno())
        if algorithm == "sha256" and progress.hashed == os.fstat(file.fileno()).st_size:
            return f"sha256:{progress.hash.hexdigest()}"
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def range_of(size: int) -> str:
    """The `Range` header of what has arrived: from the first byte to the last, inclusive, without a unit."""
    return f"0-{max(size - 1, 0)}"
