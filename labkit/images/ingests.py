"""Blobs that are being received: files that grow, are read while they grow, and survive what interrupts them.

What containerd calls an ingest. A download that breaks off, or a daemon that is killed, leaves the bytes that came; the
next try goes on where they end. Two pulls of the same layer share one ingest: one downloads, the other waits, and goes
on itself if the first one fails. A blob leaves for the content store only after its size and SHA-256 were verified.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit.errors import InvalidParameter, LabkitError
from labkit.images.faults import disk_errors, is_full
from labkit.images.manifests import Descriptor
from labkit.images.references import check_digest
from labkit.images.streams import CHUNK

KEPT = 24 * 3600
"""Seconds for which the bytes of an unfinished download wait for the next try."""

Source = Callable[[int], Iterator[bytes]]
"""The bytes of a blob from an offset on."""


class Ingest:
    """One growing blob. All methods may be called from any thread; one thread at a time writes."""

    def __init__(self, path: Path, descriptor: Descriptor) -> None:
        self.path = path
        self.descriptor = descriptor
        self.complete = False
        self.users = 0
        self.resumed = 0
        self._written = 0
        self._generation = 0
        self._changed = threading.Condition()
        self._busy = False
        with disk_errors(f"storing {descriptor.digest}"):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(path, flags, 0o600)
        self._hash = hashlib.sha256()

    def close(self) -> None:
        os.close(self._fd)

    def download(self, source: Source, begun: Callable[[int], None], check: Callable[[], None]) -> None:
        """Make the blob complete from a source; `begun` is told the offset at which it starts.

        Waits while another thread does the same, and calls `check` then as `chunks` does. Raises what the source
        raises, and InvalidParameter for bytes that are not the blob's: these are thrown away.
        """
        with self._alone(check), disk_errors(f"storing {self.descriptor.digest}"):
            if self.complete:
                return
            self._take_up()
            if self._written < self.descriptor.size:
                begun(self._written)
                for chunk in source(self._written):
                    self._write(chunk)
            self._verify()

    @contextmanager
    def _alone(self, check: Callable[[], None]) -> Iterator[None]:
        """Be the one that writes."""
        with self._changed:
            while self._busy:
                check()
                self._changed.wait()
            self._busy = True
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _take_up(self) -> None:
        """Hash what is there from an earlier try."""
        size = os.fstat(self._fd).st_size
        if self._written == size:
            return
        if size > self.descriptor.size:
            self._restart()
            return
        while self._written < size and (chunk := os.pread(self._fd, CHUNK, self._written)):
            self._hash.update(chunk)
            self._grow(len(chunk))
        self.resumed = self._written

    def _write(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        view = memoryview(chunk)
        while view:
            count = os.pwrite(self._fd, view, self._written)
            self._grow(count)
            view = view[count:]

    def _grow(self, count: int) -> None:
        with self._changed:
            self._written += count
            self._changed.notify_all()

    def _verify(self) -> None:
        found, wanted = f"sha256:{self._hash.hexdigest()}", self.descriptor
        if self._written != wanted.size or found != wanted.digest:
            size = self._written
            self._restart()
            if size != wanted.size:
                raise InvalidParameter(f"filesystem layer verification failed: {size} bytes instead of {wanted.size}")
            raise InvalidParameter(
                f"filesystem layer verification failed for digest {wanted.digest}: what came has {found}"
            )
        with self._changed:
            self.complete = True
            self._changed.notify_all()

    def _restart(self) -> None:
        """Throw away what came; who reads it learns that."""
        os.ftruncate(self._fd, 0)
        self._hash = hashlib.sha256()
        with self._changed:
            self._written = 0
            self._generation += 1
            self._changed.notify_all()

    def wake(self) -> None:
        """Let readers ask again whether they shall go on."""
        with self._changed:
            self._changed.notify_all()

    def chunks(self, check: Callable[[], None]) -> Iterator[bytes]:
        """The bytes from the beginning, as they come; ends only when the blob is complete and verified.

        `check` is called before each wait, and raises if nothing more is to be expected.
        """
        return self._chunks(self._generation, check)

    def _chunks(self, generation: int, check: Callable[[], None]) -> Iterator[bytes]:
        at = 0
        while True:
            with self._changed:
                while self._written <= at and not self.complete and self._generation == generation:
                    check()
                    self._changed.wait()
                written, complete = self._written, self.complete
            if self._generation != generation:
                check()
                raise InvalidParameter(f"filesystem layer verification failed for digest {self.descriptor.digest}")
            if complete and at >= written:
                return
            with disk_errors(f"reading {self.descriptor.digest}"):
                chunk = os.pread(self._fd, min(CHUNK, written - at), at)
            at += len(chunk)
            yield chunk


class Ingests:
    """The ingests below `directory`, each open as long as somebody uses it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._open: dict[str, Ingest] = {}
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self.discard_old(time.time() - KEPT)

    @contextmanager
    def use(self, descriptor: Descriptor) -> Iterator[Ingest]:
        """The ingest of a blob, shared with whoever else uses it now."""
        key = check_digest(descriptor.digest)
        with self._lock:
            ingest = self._open.get(key)
            if ingest is None:
                ingest = self._open[key] = Ingest(self._directory / key.removeprefix("sha256:"), descriptor)
            if ingest.descriptor.size != descriptor.size:
                raise InvalidParameter(
                    f"two manifests give {key} the sizes {ingest.descriptor.size} and {descriptor.size}"
                )
            ingest.users += 1
        try:
            yield ingest
        except LabkitError as error:
            if is_full(error.__cause__):
                self._give_back(ingest)
            raise
        finally:
            with self._lock:
                ingest.users -= 1
                if not ingest.users:
                    del self._open[key]
                    ingest.close()

    def _give_back(self, ingest: Ingest) -> None:
        """On a full disk the bytes of a try that failed are in the way of everything else."""
        with self._lock:
            if ingest.users == 1:
                ingest.path.unlink(missing_ok=True)

    def discard_old(self, before: float) -> int:
        """Remove unfinished blobs that nobody uses and that were last written before a time; the bytes they had."""
        freed = 0
        with self._lock:
            for path in self._directory.iterdir():
                found = path.stat()
                if f"sha256:{path.name}" not in self._open and found.st_mtime < before:
                    path.unlink()
                    freed += found.st_size
        return freed
