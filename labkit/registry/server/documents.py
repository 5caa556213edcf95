"""What a registry reads of manifests and indexes, and the checks before it takes one (image-spec `manifest.md`).

The bytes are stored as they came, unknown fields too: a digest is of bytes. Docker's schema 2 has the same shape.
"""

from __future__ import annotations

import hashlib
from typing import TypeVar

import msgspec

from labkit.images.manifests import DOCUMENT_LIMIT, INDEXES, MANIFESTS, OCI_INDEX, OCI_MANIFEST
from labkit.registry.server.names import is_digest
from labkit.registry.server.refusals import Refused

_FOREIGN = (".nondistributable.", ".foreign.")  # layers that are fetched from elsewhere, and needn't be here

_T = TypeVar("_T")


class Target(msgspec.Struct, frozen=True, rename="camel"):
    """A descriptor inside a manifest: what must be here before the manifest is."""

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()

    @property
    def foreign(self) -> bool:
        return bool(self.urls) or any(word in self.media_type for word in _FOREIGN)


class Document(msgspec.Struct, frozen=True, rename="camel"):
    """A manifest (`config`, `layers`) or an index (`manifests`) of images or of artifacts."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    config: Target | None = None
    layers: tuple[Target, ...] | None = None  # encoders in Go write null for an empty list
    manifests: tuple[Target, ...] | None = None
    subject: Target | None = None
    annotations: dict[str, str] | None = None

    @property
    def kind(self) -> str:
        """The media type, also where the document leaves it out, as OCI's may."""
        shape = OCI_MANIFEST if self.config else OCI_INDEX if self.manifests is not None else ""
        return self.media_type or shape

    @property
    def artifact(self) -> str:
        """The type that `referrers` lists and filters by: of an image manifest without one, its configuration's."""
        return self.artifact_type or (self.config.media_type if self.config else "")

    @property
    def targets(self) -> tuple[Target, ...]:
        """What it can't do without."""
        config = (self.config,) if self.config else ()
        return (*config, *(layer for layer in self.layers or () if not layer.foreign), *(self.manifests or ()))

    @property
    def pointers(self) -> tuple[Target, ...]:
        """All that it names."""
        subject = (self.subject,) if self.subject else ()
        return (*subject, *self.targets, *(self.layers or ()))


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """The digest of a document."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def decode(data: bytes, kind: type[_T]) -> _T:
    """The document as a struct. Raises Refused (MANIFEST_INVALID)."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("MANIFEST_INVALID", f"manifest invalid: {error}") from error


def read_document(data: bytes, content_type: str = "") -> Document:
    """A manifest or index that hangs together; `content_type` is what the request calls it, if it does.

    Raises Refused (MANIFEST_INVALID): not JSON, of no known or of another type, with bad descriptors.
    """
    if len(data) > DOCUMENT_LIMIT:
        raise Refused("MANIFEST_INVALID", f"manifest invalid: more than {DOCUMENT_LIMIT} bytes", status=413)
    document = decode(data, Document)
    named = content_type.partition(";")[0].strip().lower()
    if document.media_type and named and document.media_type != named:
        raise Refused(
            "MANIFEST_INVALID",
            f"manifest invalid: its mediaType is {document.media_type!r}, its Content-Type {named!r}",
        )
    kind = named or document.kind
    if kind not in MANIFESTS | INDEXES:
        raise Refused("MANIFEST_INVALID", f"manifest invalid: unknown media type {kind!r}")
    if document.schema_version != 2:
        raise Refused("MANIFEST_INVALID", f"manifest invalid: schema version {document.schema_version} is not 2")
    if (kind in MANIFESTS) != (document.config is not None) or (document.manifests and document.config):
        raise Refused("MANIFEST_INVALID", f"manifest invalid: it hasn't the fields of {kind}")
    for target in document.pointers:
        if not is_digest(target.digest) or target.size < 0:
            raise Refused("MANIFEST_INVALID", f"manifest invalid: bad descriptor {target.digest!r}")
    return msgspec.structs.replace(document, media_type=kind)
