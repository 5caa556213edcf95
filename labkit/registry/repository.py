"""One repository of a registry, as a client sees it: manifests, blobs, tags, referrers.

OCI distribution-spec 1.1. What comes back from here as a document was verified against its digest; blobs are streams
of exactly the size that was asked for, which whoever stores them hashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlencode

import msgspec

from labkit.errors import LabkitError, NotFound
from labkit.images.manifests import DOCUMENT_LIMIT, OCI_INDEX, Descriptor, Index, decode
from labkit.images.references import Reference, check_digest
from labkit.images.streams import digest_of
from labkit.registry.cancelling import Cancelled
from labkit.registry.credentials import ANONYMOUS, Credentials
from labkit.registry.documents import ACCEPT, Document, is_digest, media_type_of, verified
from labkit.registry.endpoints import DEFAULT, Settings
from labkit.registry.exchange import Observe, unobserved
from labkit.registry.faults import registry_error
from labkit.registry.listing import pages
from labkit.registry.session import RateLimit, Session
from labkit.registry.transport import PATIENT, Answer, Broken, Patience
from labkit.trace import TraceContext

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class Repository:
    """A repository, over connections of its own. All methods may be called from any thread. Close it.

    Raises, everywhere: Unavailable (unreachable, broken, cancelled), Unauthorized, NotFound, LabkitError for a registry
    that contradicts itself.
    """

    def __init__(
        self,
        reference: Reference,
        settings: Settings = DEFAULT,
        credentials: Credentials = ANONYMOUS,
        observe: Observe = unobserved,
        cancelled: Cancelled | None = None,
        context: TraceContext | None = None,
        push: bool = False,
        patience: Patience = PATIENT,
    ) -> None:
        self.reference = replace(reference, tag="", digest="")
        self.cancelled = cancelled or Cancelled()
        self.session = Session(
            reference.domain, settings, credentials, observe, self.cancelled, context, push, patience
        )
        self.path = f"/v2/{reference.path}"
        self.scopes = (f"repository:{reference.path}:{'pull,push' if push else 'pull'}",)

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends idle connections."""
        self.session.close()

    @property
    def endpoint(self) -> str:
        """The URL of the endpoint that answers."""
        return self.session.place.endpoint.url

    @property
    def rate_limit(self) -> RateLimit | None:
        """What the registry said last about how much more may be pulled."""
        return self.session.rate_limit

    def _named(self, tag_or_digest: str) -> Reference:
        """The reference, as errors tell it."""
        if is_digest(tag_or_digest):
            return replace(self.reference, digest=tag_or_digest)
        return replace(self.reference, tag=tag_or_digest)

    def manifest(self, tag_or_digest: str) -> Document:
        """The manifest or index, verified. Raises NotFound, InvalidParameter for what isn't an image's document."""
        named = self._named(tag_or_digest)
        headers = {"Accept": ACCEPT}
        with self._get(f"manifests/{tag_or_digest}", f"manifest of {named.familiar}", headers) as answer:
            if answer.status != 200:
                raise registry_error(answer, named)
            body = answer.read(DOCUMENT_LIMIT, f"the manifest of {named.familiar}")
            stated = answer.headers.get("Docker-Content-Digest", "")
            return verified(body, answer.headers.get("Content-Type", ""), stated, named.digest, named.familiar)

    def describe(self, tag_or_digest: str) -> Descriptor | None:
        """What a tag or digest stands for, without its content; None if there is none."""
        named = self._named(tag_or_digest)
        purpose = f"what {named.familiar} is"
        with self._ask("HEAD", f"manifests/{tag_or_digest}", purpose, {"Accept": ACCEPT}) as answer:
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise registry_error(answer, named)
            digest = answer.headers.get("Docker-Content-Digest", "")
            size = answer.headers.get("Content-Length", "")
            media_type = media_type_of(answer.headers.get("Content-Type", ""))
        if not digest.startswith("sha256:") or not size.isdecimal() or not media_type:
            return self.manifest(tag_or_digest).descriptor  # the headers are optional
        if named.digest and digest != named.digest:
            raise LabkitError(f"manifest verification failed for digest {named.digest}: the registry says {digest}")
        return Descriptor(media_type, check_digest(digest), int(size))

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """The bytes of a blob from `offset`, in pieces of up to 256 KiB: all of them, or an error.

        A connection that breaks is resumed where it ended. Whoever stores the bytes must hash them.
        """
        at, failures, fruit = offset, 0, offset
        while at < descriptor.size:
            place = self.session.place
            try:
                for piece in self._blob_pieces(descriptor, at):
                    at += len(piece)
                    yield piece
            except Broken:
                failures = failures + 1 if at - fruit < DOCUMENT_LIMIT else 1
                fruit = at
                pause = self.session.patience.pause_after(failures)
                if pause is None:
                    if not self.session.give_up(place):
                        raise
                    failures, pause = 0, 0.0
                self.cancelled.wait(pause)

    def _blob_pieces(self, descriptor: Descriptor, at: int) -> Iterator[bytes]:
        """One request for the rest of a blob. Raises Broken where less comes, LabkitError where more does."""
        headers = {"Range": f"bytes={at}-{descriptor.size - 1}"} if at else {}
        with self._get(f"blobs/{check_digest(descriptor.digest)}", f"blob {descriptor.digest}", headers) as answer:
            if answer.status not in (200, 206):
                raise registry_error(answer, self.reference)
            begin = _begin(answer, descriptor, at)
            for piece in answer.pieces():
                end = begin + len(piece)
                if end > descriptor.size:
                    raise _wrong_size(descriptor, f"more than {descriptor.size}")
                if end > at:
                    yield piece[max(0, at - begin) :]
                    at = end
                begin = end
            if at < descriptor.size:
                raise Broken(f"blob {descriptor.digest}: unexpected EOF after {at} of {descriptor.size} bytes")

    def document(self, descriptor: Descriptor) -> bytes:
        """A small blob (a configuration), verified."""
        if descriptor.size > DOCUMENT_LIMIT:
            raise LabkitError(f"blob {descriptor.digest} is larger than the {DOCUMENT_LIMIT} bytes that are allowed")
        body = b"".join(self.blob(descriptor))
        if digest_of(body) != descriptor.digest:
            raise LabkitError(f"verification failed for digest {descriptor.digest}: the content has {digest_of(body)}")
        return body

    def has(self, digest: str) -> bool:
        """Whether the repository holds a blob."""
        with self._ask("HEAD", f"blobs/{check_digest(digest)}", f"whether blob {digest} is there") as answer:
            if answer.status not in (200, 404):
                raise registry_error(answer)
            return answer.status == 200

    def tags(self) -> list[str]:
        """All tags. Raises NotFound for a repository that isn't there."""
        found: list[str] = []
        for page in pages(self.session, f"{self.path}/tags/list?n=1000", "tags", self.scopes, self.reference):
            found += page
        return found

    def referrers(self, digest: str, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """The manifests that refer to one as their subject (signatures, bills of materials), of one type if given.

        From a registry older than the specification's 1.1, what its clients noted under the fallback tag.
        """
        query = "?" + urlencode({"artifactType": artifact_type}) if artifact_type else ""
        headers = {"Accept": OCI_INDEX}
        with self._get(f"referrers/{check_digest(digest)}{query}", f"referrers of {digest}", headers) as answer:
            is_index = media_type_of(answer.headers.get("Content-Type", "")) == OCI_INDEX
            if answer.status not in (200, 404):
                raise registry_error(answer, self.reference)
            body = answer.read(DOCUMENT_LIMIT, "the list of referrers")
        if answer.status == 404 or not is_index:
            body = self._fallback_referrers(digest)
        found = decode(body, Index, "list of referrers").manifests
        return tuple(entry for entry in found if artifact_type in ("", entry.artifact_type))

    def _fallback_referrers(self, digest: str) -> bytes:
        """The index under the tag that stands for referrers (distribution-spec, "Referrers Tag Schema")."""
        try:
            return self.manifest(digest.replace(":", "-")).body
        except NotFound:
            return msgspec.json.encode(Index())

    def _get(self, path: str, purpose: str, headers: dict[str, str]) -> Answer:
        return self._ask("GET", path, purpose, headers)

    def _ask(self, method: str, path: str, purpose: str, headers: dict[str, str] | None = None) -> Answer:
        return self.session.ask(method, f"{self.path}/{path}", purpose, self.scopes, headers)


def _begin(answer: Answer, descriptor: Descriptor, at: int) -> int:
    """Where in the blob an answer's body begins; 0 for a server that ignores Range. Raises LabkitError."""
    if answer.status == 200:
        length = answer.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) != descriptor.size:
            raise _wrong_size(descriptor, length)
        return 0
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if not match or int(match[1]) > at:
        raise LabkitError(f"blob {descriptor.digest}: the registry answers with another range than bytes {at} and on")
    if match[3] not in ("*", str(descriptor.size)):
        raise _wrong_size(descriptor, match[3])
    return int(match[1])


def _wrong_size(descriptor: Descriptor, size: str) -> LabkitError:
    return LabkitError(
        f"blob {descriptor.digest}: the registry has {size} bytes, and its manifest says {descriptor.size}"
    )
