"""Where a registry keeps repositories: each an OCI image layout of its own below one root.

The layout is that of image-spec `image-layout.md`. A blob belongs to a repository if its layout has the file. The same
blob in several repositories is one inode, found again in a pool of hard links: a mount across repositories is link(2).
What has a name is whole, verified and on disk. Paths come from requests, so the kernel resolves them beneath the root
and through no symbolic link (openat2(2)).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec

from labkit.errors import LabkitError, NotFound
from labkit.images.content import sync_directory, write_durably
from labkit.images.faults import disk_errors
from labkit.images.layout import LAYOUT_FILE
from labkit.images.locking import lock_store
from labkit.images.manifests import DOCUMENT_LIMIT, Descriptor
from labkit.kernel.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from labkit.registry.server.documents import Document, decode, digest_of, read_document
from labkit.registry.server.entries import (
    LayoutIndex,
    Listing,
    listing_of,
    with_manifest,
    without_manifest,
    without_tag,
)
from labkit.registry.server.names import blob_path, check_name, directory_of, is_digest, name_of
from labkit.registry.server.refusals import Refused

_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_NOT_LINKED = frozenset((errno.EMLINK, errno.EXDEV, errno.EPERM))  # filesystems have limits: copies serve as well
_FACTS = 8192  # manifests whose subject is remembered


@dataclass(frozen=True, slots=True)
class Blob:
    """An open file of the store and its length in bytes. Whoever gets it closes the descriptor."""

    descriptor: int
    size: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A manifest as it was pushed."""

    digest: str
    media_type: str
    data: bytes


class Storage:
    """All repositories below a root, of which this process is the only keeper. Raises Conflict if it isn't.

    With `readonly` it only looks, and others may write meanwhile: what has a name is whole. Raises NotFound then if
    there is nothing.
    """

    def __init__(self, root: Path, readonly: bool = False) -> None:
        self.root = root
        self.workspace = root / ".uploads"
        self.pool = root / ".blobs"
        if readonly and not root.is_dir():
            raise NotFound(f"{root}: no images are kept there")
        with disk_errors(f"opening {root}" if readonly else f"making {root}"), ExitStack() as opened:
            if not readonly:
                self._make_root()
                opened.callback(os.close, lock_store(self.workspace))
            self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, self._root)
            self._opened = opened.pop_all()
        self._repositories: dict[str, Repository] = {}
        self._lock = threading.Lock()

    def _make_root(self) -> None:
        for directory in (self.workspace, self.pool / "sha256", self.pool / "sha512"):
            directory.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        self._opened.close()

    def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        """A descriptor of a path below the root. Raises OSError, also for a symbolic link on the way."""
        waiting = 0 if flags & os.O_PATH else os.O_NONBLOCK  # a FIFO would wait for a writer
        return openat2(self._root, path, flags | waiting, resolve=_BENEATH)

    def find(self, name: str) -> Repository:
        """A repository. Raises Refused: NAME_INVALID, NAME_UNKNOWN."""
        directory = directory_of(check_name(name))
        try:
            os.close(self.open(f"{directory}/index.json", os.O_PATH))
        except OSError as error:
            raise Refused("NAME_UNKNOWN", detail={"name": name}) from error
        with self._lock:
            return self._repositories.setdefault(name, Repository(self, name))

    def make(self, name: str) -> Repository:
        """A repository, new if there is none yet: it comes into being with the first push."""
        with contextlib.suppress(Refused):
            return self.find(name)
        directory = directory_of(check_name(name))
        with self._lock, disk_errors(f"making the repository {name}"):
            self.make_directory(directory)
            path = self.root / directory
            if not (path / "index.json").exists():
                self.make_directory(f"{directory}/blobs/sha256")
                write_durably(path / "oci-layout", LAYOUT_FILE, self.workspace)
                write_durably(path / "index.json", _encode(LayoutIndex()), self.workspace)
        return self.find(name)

    def make_directory(self, path: str) -> None:
        """Makes a directory below the root, and those above it. Raises OSError, also where a symbolic link is."""
        done = "."
        for part in path.split("/"):
            parent = self.open(done, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.mkdir(part, dir_fd=parent)
                os.fsync(parent)
            except FileExistsError:
                pass  # also if it is no directory: the next step says so
            finally:
                os.close(parent)
            done = f"{done}/{part}"
        os.close(self.open(done, os.O_PATH | os.O_DIRECTORY))

    def pooled(self, digest: str) -> Path:
        """Where a blob that some repository has would be found again."""
        return self.pool / blob_path(digest).removeprefix("blobs/")

    def names(self) -> list[str]:
        """All repositories, sorted."""
        found = []
        for directory, below, files in os.walk(self.root):
            path = os.path.relpath(directory, self.root)
            below[:] = [name for name in below if name != "blobs" and not name.startswith(".")]
            if "index.json" in files and (name := name_of(path)):
                found.append(name)
        return sorted(found)


class Repository:
    """One layout. Safe to use from several threads."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.name = name
        self._storage = storage
        self._directory = directory_of(name)
        self._lock = threading.RLock()
        self._seen: tuple[tuple[int, int, int], Listing] | None = None

    def _path(self, digest: str) -> Path:
        return self._storage.root / self._directory / blob_path(digest)

    def _place(self, digest: str) -> Path:
        """Where a blob will be; no symbolic link leads there."""
        self._storage.make_directory(f"{self._directory}/{blob_path(digest).rpartition('/')[0]}")
        return self._path(digest)

    def open_blob(self, digest: str) -> Blob:
        """Raises Refused: DIGEST_INVALID, BLOB_UNKNOWN."""
        try:
            descriptor = self._storage.open(f"{self._directory}/{blob_path(digest)}")
        except OSError as error:
            raise Refused("BLOB_UNKNOWN", detail={"digest": digest}) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise Refused("BLOB_UNKNOWN", detail={"digest": digest})
        return Blob(descriptor, status.st_size)

    def size(self, digest: str) -> int | None:
        """The length of a blob in bytes; None if it isn't here."""
        try:
            blob = self.open_blob(digest)
        except Refused:
            return None
        os.close(blob.descriptor)
        return blob.size

    def adopt(self, file: Path, digest: str) -> None:
        """Takes over a verified, synced file of the root's filesystem as a blob."""
        with disk_errors(f"storing {digest}"):
            target, pooled = self._place(digest), self._storage.pooled(digest)
            try:
                os.link(file, pooled)
            except FileExistsError:
                if self._link(pooled, target):
                    file.unlink()
                    return
            except OSError as error:
                if error.errno not in _NOT_LINKED:
                    raise
            file.rename(target)
            sync_directory(target.parent)

    def mount(self, digest: str, source: Repository | None) -> bool:
        """Takes a blob over from another repository, or from whichever has it; False if that one hasn't it."""
        if source and source.size(digest) is None:
            return False
        with disk_errors(f"mounting {digest}"):
            origin = source._path(digest) if source else self._storage.pooled(digest)
            return self._link(origin, self._place(digest))

    def _link(self, origin: Path, target: Path) -> bool:
        try:
            os.link(origin, target, follow_symlinks=False)
        except FileExistsError:
            return True
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in _NOT_LINKED:
                return False
            raise
        sync_directory(target.parent)
        return True

    def remove_blob(self, digest: str) -> None:
        """Raises Refused: BLOB_UNKNOWN."""
        if self.size(digest) is None:
            raise Refused("BLOB_UNKNOWN", detail={"digest": digest})
        with disk_errors(f"removing {digest}"):
            self._path(digest).unlink(missing_ok=True)
            pooled = self._storage.pooled(digest)
            with contextlib.suppress(FileNotFoundError):  # it came in by another tool, or another request was first
                if pooled.stat().st_nlink == 1:
                    pooled.unlink()

    def listing(self) -> Listing:
        """The index as it is on disk now: other tools may write to the same layout."""
        try:
            descriptor = self._storage.open(f"{self._directory}/index.json")
        except OSError as error:
            raise Refused("NAME_UNKNOWN", detail={"name": self.name}) from error
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            seen = self._seen
            if seen and seen[0] == version:
                return seen[1]
            try:
                found = listing_of(decode(file.read(), LayoutIndex))
            except Refused as error:
                raise LabkitError(f"{self.name}: index.json is damaged: {error}") from error
        self._seen = (version, found)
        return found

    def _change(self, index: LayoutIndex) -> None:
        path = self._storage.root / self._directory / "index.json"
        write_durably(path, _encode(index), self._storage.workspace)

    def manifest(self, reference: str) -> Stored:
        """A manifest by tag or digest. Raises Refused: MANIFEST_UNKNOWN."""
        entry = self.listing().find(reference)
        if entry is None and not is_digest(reference):
            raise Refused("MANIFEST_UNKNOWN", f"manifest unknown: {reference}", {"name": self.name, "tag": reference})
        digest = entry.digest if entry else reference
        data = self._document(digest)
        # What an index leads to has no entry of its own in a layout that other tools wrote.
        return Stored(digest, entry.media_type if entry else _media_type(data, digest), data)

    def _document(self, digest: str) -> bytes:
        try:
            blob = self.open_blob(digest)
        except Refused as error:
            raise Refused("MANIFEST_UNKNOWN", f"manifest unknown: {digest}", {"digest": digest}) from error
        with open(blob.descriptor, "rb") as file:
            if blob.size > DOCUMENT_LIMIT:
                raise Refused("MANIFEST_UNKNOWN", f"manifest unknown: {digest} is a layer", {"digest": digest})
            data = file.read()
        if digest_of(data, digest.partition(":")[0]) != digest:
            raise LabkitError(f"content {digest} is damaged: push it again")
        return data

    def put_manifest(self, reference: str, document: Document, data: bytes) -> str:
        """Stores a manifest under a tag or its digest, which it returns; what it names must be here.

        Raises Refused: MANIFEST_BLOB_UNKNOWN, DIGEST_INVALID, SIZE_INVALID.
        """
        digest = digest_of(data, reference.partition(":")[0] if is_digest(reference) else "sha256")
        if is_digest(reference) and digest != reference:
            raise Refused("DIGEST_INVALID", detail={"digest": digest})
        self._check_targets(document)
        return self.record(reference, document, data, digest)

    def _check_targets(self, document: Document) -> None:
        for target in document.targets:
            size = self.size(target.digest)
            if size is None:
                raise Refused("MANIFEST_BLOB_UNKNOWN", detail={"digest": target.digest})
            if size != target.size:
                message = f"{target.digest} has {size} bytes, and the manifest says {target.size}"
                raise Refused("SIZE_INVALID", message)

    def record(self, reference: str, document: Document, data: bytes, digest: str) -> str:
        """Stores a manifest whose digest was verified, without a look at what it names."""
        tag = "" if is_digest(reference) else reference
        descriptor = Descriptor(document.media_type, digest, len(data), artifact_type=document.artifact_type)
        with self._lock:
            write_durably(self._place(digest), data, self._storage.workspace)
            self._change(with_manifest(self.listing().index, descriptor, tag))
        return digest

    def remove_tag(self, tag: str) -> None:
        """The manifest stays. Raises Refused: MANIFEST_UNKNOWN."""
        with self._lock:
            if tag not in self.listing().tags:
                raise Refused("MANIFEST_UNKNOWN", f"manifest unknown: {tag}", {"name": self.name, "tag": tag})
            self._change(without_tag(self.listing().index, tag))

    def remove_manifest(self, digest: str) -> None:
        """With all its tags. Raises Refused: MANIFEST_UNKNOWN."""
        with self._lock:
            if digest in self.listing().digests:
                self._change(without_manifest(self.listing().index, digest))
            else:
                self.manifest(digest)
            with contextlib.suppress(Refused):  # its entry was all that was left of it
                self.remove_blob(digest)

    def facts(self, digest: str) -> Document | None:
        """What a manifest says, read once; None if it isn't here, or is damaged, or is none."""
        try:
            return _facts(self, digest)
        except LabkitError:
            return None

    def referrers(self, subject: str) -> list[Descriptor]:
        """The manifests that have another one as their subject, described as the specification says."""
        found = []
        for digest, entry in self.listing().digests.items():
            document = self.facts(digest)
            if document and document.subject and document.subject.digest == subject:
                annotations, artifact = document.annotations or None, document.artifact
                found.append(
                    Descriptor(entry.media_type, digest, entry.size, annotations=annotations, artifact_type=artifact)
                )
        return found

    def document(self, digest: str) -> Document:
        """Raises Refused: MANIFEST_UNKNOWN, MANIFEST_INVALID."""
        return read_document(self._document(digest))


@lru_cache(_FACTS)
def _facts(repository: Repository, digest: str) -> Document:
    return repository.document(digest)


def _media_type(data: bytes, digest: str) -> str:
    try:
        return read_document(data).media_type
    except Refused as error:
        raise Refused("MANIFEST_UNKNOWN", f"manifest unknown: {digest}", {"digest": digest}) from error


def _encode(index: LayoutIndex) -> bytes:
    return msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n"
