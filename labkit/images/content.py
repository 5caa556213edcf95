"""The content store: blobs named by their SHA-256, in an OCI image layout (image-spec `image-layout.md`).

Immutable and shared: a layer is on disk once, however many images use it. Blobs come in whole, by rename(2), so that
what has a name is complete.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from labkit.errors import InvalidParameter, NotFound
from labkit.images.faults import disk_errors
from labkit.images.manifests import DOCUMENT_LIMIT, Descriptor
from labkit.images.references import check_digest
from labkit.images.streams import digest_of
from labkit.kernel.paths import syncfs


class ContentStore:
    """Blobs below `root`/blobs/sha256. `workspace` is a directory of the same filesystem for what isn't whole yet."""

    def __init__(self, root: Path, workspace: Path) -> None:
        self._directory = root / "blobs" / "sha256"
        self._workspace = workspace
        self._directory.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be. Raises InvalidParameter for what is no SHA-256 digest."""
        return self._directory / check_digest(digest).removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def read(self, digest: str) -> bytes:
        """A document, verified. Raises NotFound, and InvalidParameter if it is not what its name says."""
        try:
            document = read_document(self.path(digest))
        except FileNotFoundError as error:
            raise NotFound(f"content {digest}: not found") from error
        if digest_of(document) != digest:
            raise InvalidParameter(f"content {digest} is damaged: its digest is {digest_of(document)}")
        return document

    def write(self, document: bytes, media_type: str) -> Descriptor:
        """Stores a document, durably, and describes it. A damaged one of that digest is repaired."""
        digest = digest_of(document)
        path = self.path(digest)
        if not path.is_file() or path.read_bytes() != document:
            write_durably(path, document, self._workspace)
        return Descriptor(media_type, digest, len(document))

    def adopt(self, file: Path, digest: str) -> None:
        """Takes over a complete, verified file of the same filesystem under its digest; the caller has synced it."""
        with disk_errors(f"storing {digest}"):
            if not self.has(digest):
                file.rename(self.path(digest))

    def digests(self) -> Iterator[str]:
        """All blobs that are here."""
        for name in os.listdir(self._directory):
            yield f"sha256:{name}"

    def remove(self, digest: str) -> None:
        """Removes a blob, if it is here."""
        self.path(digest).unlink(missing_ok=True)


def read_document(file: Path) -> bytes:
    """A small file, whole. Raises InvalidParameter if it is too big to be an image's document."""
    if file.stat().st_size > DOCUMENT_LIMIT:
        raise InvalidParameter(f"{file.name}: a document of more than {DOCUMENT_LIMIT} bytes")
    return file.read_bytes()


def write_durably(path: Path, data: bytes, workspace: Path) -> None:
    """Writes a file so that after a crash there is the old or the new one, whole: temporary name, fsync, rename."""
    with disk_errors(f"writing {path}"):
        descriptor, temporary = tempfile.mkstemp(dir=workspace)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Makes the renames in a directory durable (fsync(2) on it)."""
    with disk_errors(f"writing to {directory}"):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_filesystem(directory: Path) -> None:
    """Makes all that was written below a directory durable, in one call instead of one a file (syncfs(2))."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with disk_errors(f"writing to {directory}"):
            syncfs(descriptor)
    finally:
        os.close(descriptor)
