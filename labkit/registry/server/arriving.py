"""A blob that comes from another registry while clients already read it: one download, however many wait for it.

The file grows, and each client gets what is there by sendfile(2). The last byte is held back until the digest of the
whole was verified: no client gets all of a blob that isn't what it says, and the store never has it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from labkit.errors import LabkitError, Unavailable
from labkit.images.faults import disk_errors
from labkit.images.manifests import Descriptor

log = logging.getLogger("labkit.registry")


class Download:
    """One blob on its way. `store` takes the verified file over; `ended` is called after that, or after a failure."""

    def __init__(
        self,
        blob: Descriptor,
        file: Path,
        source: Callable[[], Iterable[bytes]],
        store: Callable[[Path], None],
        ended: Callable[[], None],
    ) -> None:
        self.blob = blob
        self._file = file
        self._source, self._store, self._ended = source, store, ended
        with disk_errors(f"storing {blob.digest}"):
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._arrived, self._over = 0, False
        self._failure: LabkitError | None = Unavailable(f"blob {blob.digest}: the download broke off")
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="download", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._receive()
        except LabkitError as error:
            log.warning("%s", error)
            self._failure = error
        finally:
            with contextlib.suppress(FileNotFoundError):  # it was taken over
                self._file.unlink()
            self._ended()
            with self._changed:
                os.close(self._descriptor)
                self._over = True
                self._changed.notify_all()

    def _receive(self) -> None:
        digest = hashlib.new(self.blob.digest.partition(":")[0])
        for chunk in self._source():
            digest.update(chunk)
            self._write(chunk)
        found = f"{digest.name}:{digest.hexdigest()}"
        if found != self.blob.digest:
            raise LabkitError(f"verification failed for digest {self.blob.digest}: the content has {found}")
        with disk_errors(f"storing {self.blob.digest}"):
            os.fsync(self._descriptor)
        self._store(self._file)
        self._failure = None

    def _write(self, chunk: bytes) -> None:
        view, at = memoryview(chunk), self._arrived
        with disk_errors(f"storing {self.blob.digest}"):
            while view:
                written = os.pwrite(self._descriptor, view, at)
                view, at = view[written:], at + written
        with self._changed:
            self._arrived = at
            self._changed.notify_all()

    def join(self) -> None:
        """Waits for its end."""
        self._thread.join()

    def reader(self) -> Arriving | None:
        """The blob for one client, as soon as the first bytes are here; None if all is stored by now.

        Raises what the download failed with.
        """
        with self._changed:
            if self._over:
                self._sendable()
                return None
            # An open file of its own (proc(5)), not a duplicate: those share an offset, and sending moves it.
            descriptor = os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._wait(0)
        except LabkitError:
            os.close(descriptor)
            raise
        return Arriving(self, descriptor, 0, self.blob.size)

    def _wait(self, at: int) -> int:
        """Waits for bytes after `at`; returns how many may be sent in all. Raises what the download failed with."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._sendable() > at)
            return self._sendable()

    def _sendable(self) -> int:
        if self._over and self._failure:
            raise self._failure
        return self.blob.size if self._over else min(self._arrived, self.blob.size - 1)

    def wait_beyond(self, at: int) -> int:
        """How many bytes may be sent in all: more than `at`. Raises ConnectionAbortedError if the download failed."""
        try:
            return self._wait(at)
        except LabkitError as error:
            raise ConnectionAbortedError(str(error)) from error  # the answer has begun: all that is left is to end it


@dataclass(frozen=True, slots=True)
class Arriving:
    """An answer's body that may still be on its way."""

    download: Download
    descriptor: int
    start: int
    size: int

    def pieces(self) -> Iterator[tuple[int, int, int]]:
        """Descriptor, offset and length of what can be sent, as it arrives."""
        at, end = self.start, self.start + self.size
        while at < end:
            here = min(self.download.wait_beyond(at), end)
            yield self.descriptor, at, here - at
            at = here

    def narrowed(self, start: int, end: int) -> Arriving:
        return replace(self, start=start, size=end - start)

    def close(self) -> None:
        os.close(self.descriptor)
