"""A cache of another registry (Distribution's `proxy.remoteurl`): what isn't here is fetched there, once, and kept.

A tag is looked up there at each pull (HEAD); if the other registry can't be reached, what is here serves. A blob is
fetched if a manifest that is here names it, which also says how big it is.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from labkit.errors import Forbidden, InvalidParameter, NotFound, Unauthorized, Unavailable
from labkit.images.manifests import Descriptor
from labkit.images.references import Reference
from labkit.registry.cancelling import Cancelled
from labkit.registry.credentials import ANONYMOUS, Credentials
from labkit.registry.endpoints import HUB, Settings
from labkit.registry.repository import Repository as Upstream
from labkit.registry.server.arriving import Download
from labkit.registry.server.documents import read_document
from labkit.registry.server.names import is_digest, is_tag
from labkit.registry.server.refusals import Refused
from labkit.registry.server.serving import Content, FilePart
from labkit.registry.server.storage import Repository, Storage, Stored
from labkit.registry.transport import Patience

log = logging.getLogger("labkit.registry")

_HUB_HOSTS = frozenset(("registry-1.docker.io", "index.docker.io", HUB))
_HASTE = Patience(connect=5, read=30, attempts=3, pause=0.2, longest=5)  # clients wait, and have patience of their own
_T = TypeVar("_T")


class Proxy:
    """The registry at `url`, kept in a storage. Safe to use from several threads; close it.

    Raises InvalidParameter for what is no registry's URL.
    """

    def __init__(self, storage: Storage, url: str, credentials: Credentials = ANONYMOUS) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.username:
            raise InvalidParameter(f"invalid proxy {url!r}: http(s)://HOST[:PORT] is needed")
        self._domain = HUB if parts.netloc in _HUB_HOSTS else parts.netloc
        self._settings = Settings(insecure=(parts.netloc,) if parts.scheme == "http" else ())
        self._storage, self._credentials = storage, credentials
        self._cancelled = Cancelled()
        self._lock = threading.Lock()
        self._upstreams: dict[str, Upstream] = {}
        self._downloads: dict[tuple[str, str], Download] = {}
        self._checking: dict[tuple[str, str], threading.Lock] = {}
        self._checked: dict[tuple[str, str], float] = {}

    def close(self) -> None:
        """Ends all downloads, and the connections."""
        self._cancelled.cancel()
        with self._lock:
            downloads, upstreams = list(self._downloads.values()), list(self._upstreams.values())
        for download in downloads:
            download.join()
        for upstream in upstreams:
            upstream.close()

    @contextmanager
    def _upstream(self, name: str, code: str) -> Iterator[Upstream]:
        """The repository there. Raises Refused: `code` if it isn't there, DENIED if it isn't for us."""
        with self._lock:
            upstream = self._upstreams.get(name) or self._connect(name)
            self._upstreams[name] = upstream
        try:
            yield upstream
        except NotFound as error:
            raise Refused(code, str(error)) from error
        except (Unauthorized, Forbidden) as error:
            raise Refused("DENIED", str(error)) from error
        finally:
            if not self._has(name):  # nothing came of it: strangers' names must not fill the memory
                with self._lock:
                    self._upstreams.pop(name, None)
                upstream.close()

    def _connect(self, name: str) -> Upstream:
        official = self._domain == HUB and "/" not in name
        reference = Reference(self._domain, f"library/{name}" if official else name)
        return Upstream(reference, self._settings, self._credentials, cancelled=self._cancelled, patience=_HASTE)

    def _has(self, name: str) -> bool:
        return self._stored(lambda: self._storage.find(name)) is not None

    def _stored(self, find: Callable[[], _T]) -> _T | None:
        try:
            return find()
        except Refused:
            return None

    def manifest(self, name: str, reference: str) -> Stored:
        """Raises Refused: MANIFEST_UNKNOWN, DENIED; Unavailable if it is neither here nor to be had."""
        if not is_tag(reference) and not is_digest(reference):
            raise Refused("MANIFEST_UNKNOWN", f"manifest unknown: {reference}")
        asked = time.monotonic()
        with self._one_at_a_time(name, reference):
            here = self._stored(lambda: self._storage.find(name).manifest(reference))
            if here and (is_digest(reference) or self._checked.get((name, reference), 0.0) >= asked):
                return here
            try:
                self._fetch_manifest(name, reference, here)
            except Unavailable as error:
                if here is None:
                    raise
                log.warning("%s:%s: served from the cache: %s", name, reference, error)
                return here
            self._checked[name, reference] = time.monotonic()
        return self._storage.find(name).manifest(reference)

    @contextmanager
    def _one_at_a_time(self, name: str, reference: str) -> Iterator[None]:
        """A class that pulls a tag in the same second asks for it once."""
        with self._lock:
            lock = self._checking.setdefault((name, reference), threading.Lock())
        try:
            with lock:
                yield
        finally:
            with self._lock:
                if not lock.locked():
                    self._checking.pop((name, reference), None)

    def _fetch_manifest(self, name: str, reference: str, here: Stored | None) -> None:
        with self._upstream(name, "MANIFEST_UNKNOWN") as upstream:
            if here and not is_digest(reference):
                there = upstream.describe(reference)
                if there is None:
                    raise Refused("MANIFEST_UNKNOWN", f"manifest unknown: {reference}")
                if there.digest == here.digest:
                    return
            found = upstream.manifest(reference)
            document = read_document(found.body, found.descriptor.media_type)
            self._storage.make(name).record(reference, document, found.body, found.descriptor.digest)

    def blob(self, name: str, digest: str, wanted: bool) -> Content:
        """Raises Refused: BLOB_UNKNOWN, DENIED; Unavailable if it is neither here nor to be had."""
        repository = self._stored(lambda: self._storage.find(name))
        if repository is None:
            raise Refused("BLOB_UNKNOWN", detail={"digest": digest})
        while True:
            with self._lock:
                download = self._downloads.get((name, digest))
                if download is None and (blob := self._stored(lambda: repository.open_blob(digest))):
                    return FilePart(blob.descriptor, 0, blob.size)
                if not wanted:
                    return _Promised(_named(repository, digest).size)
                download = download or self._begin(name, repository, digest)
            if reader := download.reader():
                return reader

    def _begin(self, name: str, repository: Repository, digest: str) -> Download:
        """Starts a download; the caller has the lock."""
        blob = _named(repository, digest)

        def source() -> Iterator[bytes]:
            with self._upstream(name, "BLOB_UNKNOWN") as upstream:
                yield from upstream.blob(blob)

        def ended() -> None:
            with self._lock:
                del self._downloads[name, digest]

        def store(file: Path) -> None:
            repository.adopt(file, digest)

        download = Download(blob, self._storage.workspace / str(uuid.uuid4()), source, store, ended)
        self._downloads[name, digest] = download
        return download

    def tags(self, name: str) -> list[str]:
        """All tags there; those here if it can't be reached. Raises Refused: NAME_UNKNOWN, DENIED."""
        try:
            with self._upstream(name, "NAME_UNKNOWN") as upstream:
                return upstream.tags()
        except Unavailable:
            return list(self._storage.find(name).listing().tags)

    def referrers(self, name: str, digest: str) -> list[Descriptor]:
        """Those there; those here if it can't be reached. Raises Refused: DENIED."""
        try:
            with self._upstream(name, "NAME_UNKNOWN") as upstream:
                return list(upstream.referrers(digest))
        except Unavailable:
            repository = self._stored(lambda: self._storage.find(name))
            return repository.referrers(digest) if repository else []


class _Promised:
    """A blob that is there and not here, for who only asks whether it is."""

    def __init__(self, size: int) -> None:
        self.size = size

    def pieces(self) -> Iterator[tuple[int, int, int]]:
        return iter(())

    def narrowed(self, start: int, end: int) -> Content:
        return _Promised(end - start)

    def close(self) -> None:
        """It has nothing to give back."""


def _named(repository: Repository, digest: str) -> Descriptor:
    """A blob as a manifest that is here describes it. Raises Refused (BLOB_UNKNOWN)."""
    for entry in repository.listing().digests:
        document = repository.facts(entry)
        for target in document.targets if document else ():
            if target.digest == digest:
                return Descriptor(target.media_type, target.digest, target.size)
    raise Refused("BLOB_UNKNOWN", f"no manifest that is here has the blob {digest}")
