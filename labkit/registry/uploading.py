"""Putting blobs and manifests into a registry, and taking them out: push, mount, delete.

OCI distribution-spec, "Pushing blobs" (POST then PUT, or PATCH in chunks) and "Content Management". A chunked upload
that breaks goes on where the registry says that it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

import msgspec

from labkit.errors import LabkitError, NotFound
from labkit.images.manifests import OCI_INDEX, Descriptor, Index, decode
from labkit.images.references import Reference, check_digest
from labkit.images.streams import digest_of
from labkit.registry.documents import is_digest
from labkit.registry.faults import registry_error
from labkit.registry.repository import Repository
from labkit.registry.transport import PASSING, Answer, Broken, Unreachable, resolved

Chunks = Callable[[int], Iterator[bytes]]
"""The bytes of a blob from an offset on; asked for anew for each try."""
Progress = Callable[[int], None]
"""Told how many bytes of the blob have been sent."""

CHUNK = 16 << 20  # bytes of one PATCH
_BINARY = "application/octet-stream"
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")


class _Subject(msgspec.Struct, frozen=True, rename="camel"):
    """Of a manifest what a list of referrers repeats (distribution-spec, "Listing Referrers")."""

    media_type: str = ""
    artifact_type: str = ""
    subject: Descriptor | None = None
    config: Descriptor | None = None
    annotations: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class _Opened:
    """An upload that the registry has opened: where it goes on, and the least size of a chunk that it takes."""

    url: str
    least: int = 0


class Uploader:
    """Writes to one repository, which was made with `push=True`. All methods may be called from any thread."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._session = repository.session
        self._path = repository.path
        self._opened: dict[str, _Opened] = {}

    def mount(self, digest: str, source: Reference) -> bool:
        """Takes a blob over from another repository of this registry; False if it has to be uploaded after all."""
        query = urlencode({"mount": check_digest(digest), "from": source.path})
        scopes = (*self._repository.scopes, f"repository:{source.path}:pull")
        purpose = f"take over blob {digest} from {source.path}"
        with self._send("POST", f"{self._path}/blobs/uploads/?{query}", purpose, scopes=scopes) as answer:
            if answer.status == 202:
                self._opened[digest] = _opened(answer)  # the registry has begun an upload instead
            elif answer.status != 201:
                raise registry_error(answer)
            return answer.status == 201

    def upload(
        self, descriptor: Descriptor, chunks: Chunks, chunked: bool = False, progress: Progress = lambda sent: None
    ) -> None:
        """Puts a blob there, in one request or in chunks. What breaks goes on in chunks, which lose little."""
        send = self._in_chunks if chunked else self._at_once
        failures = 0
        opened = self._opened.pop(descriptor.digest, None)
        while True:
            try:
                return send(opened or self._open(descriptor), descriptor, chunks, progress)
            except Broken:
                failures += 1
                pause = self._session.patience.pause_after(failures)
                if pause is None:
                    raise
                opened, send = None, self._in_chunks
                self._session.cancelled.wait(pause)

    def _open(self, descriptor: Descriptor) -> _Opened:
        path = f"{self._path}/blobs/uploads/"
        with self._send("POST", path, f"begin the upload of {descriptor.digest}") as answer:
            if answer.status != 202:
                raise registry_error(answer)
            return _opened(answer)

    def _at_once(self, opened: _Opened, descriptor: Descriptor, chunks: Chunks, progress: Progress) -> None:
        """PUT with the whole blob."""
        self._finish(opened.url, descriptor, _counted(chunks, 0, descriptor.size, progress), descriptor.size)

    def _in_chunks(self, opened: _Opened, descriptor: Descriptor, chunks: Chunks, progress: Progress) -> None:
        """PATCH for each chunk, then an empty PUT."""
        size, at, failures = max(CHUNK, opened.least), 0, 0
        while at < descriptor.size:
            end = min(descriptor.size, at + size)
            try:
                opened, reached = self._chunk(opened, descriptor, _counted(chunks, at, end, progress), at, end)
                failures = 0 if reached > at else failures + 1
            except Broken:
                failures += 1
                opened, reached = self._status(opened, descriptor)
            at = reached
            pause = self._session.patience.pause_after(failures) if failures else 0.0
            if pause is None:
                raise Broken(f"upload of {descriptor.digest}: the registry has no more than {at} bytes of it")
            self._session.cancelled.wait(pause)
        self._finish(opened.url, descriptor, b"", 0)

    def _chunk(
        self, opened: _Opened, descriptor: Descriptor, body: Callable[[], Iterator[bytes]], at: int, end: int
    ) -> tuple[_Opened, int]:
        """One PATCH; where it goes on, and from which byte."""
        headers = {"Content-Type": _BINARY, "Content-Range": f"{at}-{end - 1}", "Content-Length": str(end - at)}
        purpose = f"bytes {at} to {end - 1} of {descriptor.digest}"
        with self._send("PATCH", opened.url, purpose, headers, body, repeatable=False) as answer:
            if answer.status == 416:
                return self._status(opened, descriptor)
            if answer.status not in (201, 202, 204):
                raise _refusal(answer)
            return _opened(answer), _reached(answer, end, descriptor)

    def _status(self, opened: _Opened, descriptor: Descriptor) -> tuple[_Opened, int]:
        """What the registry has of an upload."""
        with self._send("GET", opened.url, f"how far the upload of {descriptor.digest} is") as answer:
            if answer.status != 204:
                raise registry_error(answer)
            return _opened(answer), _reached(answer, 0, descriptor)

    def _finish(self, url: str, descriptor: Descriptor, body: bytes | Callable[[], Iterator[bytes]], size: int) -> None:
        """The PUT that names the digest."""
        joint = "&" if "?" in url else "?"
        headers = {"Content-Type": _BINARY, "Content-Length": str(size)}
        target = f"{url}{joint}{urlencode({'digest': check_digest(descriptor.digest)})}"
        purpose = f"blob {descriptor.digest}" if size else f"end the upload of {descriptor.digest}"
        with self._send("PUT", target, purpose, headers, body, repeatable=False) as answer:
            if answer.status not in (201, 204):
                raise _refusal(answer)
            _check_stored(answer, descriptor.digest)

    def put_manifest(self, tag_or_digest: str, media_type: str, body: bytes) -> str:
        """Stores a manifest or index under a tag or its digest; returns the digest.

        One with a subject is noted under the fallback tag where the registry keeps no list of referrers itself.
        """
        digest = digest_of(body)
        if is_digest(tag_or_digest) and tag_or_digest != digest:
            raise LabkitError(f"manifest verification failed for digest {tag_or_digest}: the content has {digest}")
        headers = {"Content-Type": media_type, "Content-Length": str(len(body))}
        purpose = f"manifest of {self._repository.reference.familiar_name}:{tag_or_digest}"
        with self._send("PUT", f"{self._path}/manifests/{tag_or_digest}", purpose, headers, body) as answer:
            if answer.status not in (200, 201):
                raise registry_error(answer)
            _check_stored(answer, digest)
            noted = answer.headers.get("OCI-Subject", "")
        about = decode(body, _Subject, "manifest")
        if about.subject and not noted:
            self._note_referrer(about, about.subject, Descriptor(media_type, digest, len(body)))
        return digest

    def _note_referrer(self, about: _Subject, subject: Descriptor, manifest: Descriptor) -> None:
        """Adds to the index under the fallback tag (distribution-spec, "Referrers Tag Schema")."""
        tag = check_digest(subject.digest).replace(":", "-")
        artifact_type = about.artifact_type or (about.config.media_type if about.config else "")
        entry = msgspec.structs.replace(manifest, artifact_type=artifact_type, annotations=about.annotations)
        try:
            present = decode(self._repository.manifest(tag).body, Index, "list of referrers").manifests
        except NotFound:
            present = ()
        if all(known.digest != entry.digest for known in present):
            self.put_manifest(tag, OCI_INDEX, msgspec.json.encode(Index((*present, entry))))

    def delete_manifest(self, tag_or_digest: str) -> None:
        """Takes away a tag, or a manifest with all its tags. Raises NotFound, Forbidden where that isn't allowed."""
        is_digest(tag_or_digest)
        self._delete(f"{self._path}/manifests/{tag_or_digest}", f"delete manifest {tag_or_digest}")

    def delete_blob(self, digest: str) -> None:
        """Takes away a blob. Raises NotFound, Forbidden where that isn't allowed."""
        self._delete(f"{self._path}/blobs/{check_digest(digest)}", f"delete blob {digest}")

    def _delete(self, path: str, purpose: str) -> None:
        scopes = (*self._repository.scopes, f"repository:{self._repository.reference.path}:delete")
        with self._send("DELETE", path, purpose, scopes=scopes) as answer:
            if answer.status not in (200, 202, 204):
                raise registry_error(answer)

    def _send(
        self,
        method: str,
        path: str,
        purpose: str,
        headers: dict[str, str] | None = None,
        body: bytes | Callable[[], Iterator[bytes]] | None = None,
        scopes: tuple[str, ...] = (),
        repeatable: bool = True,
    ) -> Answer:
        scopes = scopes or self._repository.scopes
        try:
            return self._session.ask(method, path, purpose, scopes, headers, body, repeatable)
        except Unreachable as error:
            if self._session.place.transport.answered:
                raise Broken(str(error)) from error  # it was there before, and may come back
            raise


def _refusal(answer: Answer) -> LabkitError:
    """The error for a part of an upload; Broken for what a later try may mend."""
    error = registry_error(answer)
    return Broken(str(error)) if answer.status in PASSING else error


def _opened(answer: Answer) -> _Opened:
    """Where an upload goes on. Raises LabkitError if the registry doesn't say."""
    location = answer.headers.get("Location", "")
    if not location:
        raise LabkitError("the registry doesn't say where the upload goes on: no Location header")
    least = answer.headers.get("OCI-Chunk-Min-Length", "")
    return _Opened(resolved(answer.request.url, location), int(least) if least.isdecimal() else 0)


def _reached(answer: Answer, otherwise: int, descriptor: Descriptor) -> int:
    """How many bytes the registry has, as its Range header says: `0-99` are a hundred."""
    match = _RANGE.fullmatch(answer.headers.get("Range", "").strip())
    if not match:
        return otherwise
    if match[1] == "0":  # says "none" as well as "one"
        return min(otherwise, 1)
    reached = int(match[1]) + 1
    if reached > descriptor.size:
        raise LabkitError(f"upload of {descriptor.digest}: the registry says that it has {reached} bytes of it")
    return reached


def _check_stored(answer: Answer, digest: str) -> None:
    """Raises LabkitError if the registry stored something else."""
    stored = answer.headers.get("Docker-Content-Digest", "")
    if stored.startswith("sha256:") and stored != digest:
        raise LabkitError(f"the registry stored {stored} instead of {digest}")


def _counted(chunks: Chunks, at: int, end: int, progress: Progress) -> Callable[[], Iterator[bytes]]:
    """The bytes from `at` to `end`, anew for each try; progress is told as they go."""

    def body() -> Iterator[bytes]:
        sent = at
        for chunk in chunks(at):
            piece = chunk[: end - sent]
            sent += len(piece)
            yield piece
            progress(sent)
            if sent == end:
                return
        if sent < end:
            raise LabkitError(f"the blob to upload ends after {sent} of {end} bytes")

    return body
