"""What a registry gives as a manifest is checked before anything believes it: digest, media type, shape.

OCI distribution-spec, "Pulling manifests"; image-spec `manifest.md` and `image-index.md`; errors as dockerd words them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from labkit.errors import InvalidParameter, LabkitError
from labkit.images.manifests import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEXES,
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
)
from labkit.images.references import check_digest
from labkit.images.streams import digest_of

ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST))
_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+"
_VAGUE = frozenset(("", "application/json", "application/octet-stream", "text/plain", "text/json"))


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index as it came, and the descriptor that it has."""

    descriptor: Descriptor
    body: bytes


class _Shape(msgspec.Struct, frozen=True, rename="camel"):
    """What tells the kinds of manifests from each other."""

    schema_version: int = 0
    media_type: str = ""
    manifests: Any = None
    config: Any = None
    layers: Any = None
    artifact_type: str = ""


def verified(body: bytes, content_type: str, stated: str, wanted: str, name: str) -> Document:
    """The document, if it is what it says. `stated` is the digest that the registry tells, `wanted` the reference's.

    Raises LabkitError where digests differ, InvalidParameter for a document of the wrong kind; `name` is the image's.
    """
    digest = digest_of(body)
    for expected in (wanted, stated if stated.startswith("sha256:") else ""):
        if expected and expected != digest:
            raise LabkitError(f"manifest verification failed for digest {expected}: the content has {digest}")
    media_type, artifact_type = _kind(body, media_type_of(content_type), name)
    return Document(Descriptor(media_type, digest, len(body), artifact_type=artifact_type), body)


def media_type_of(content_type: str) -> str:
    """The media type of a Content-Type header, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def _kind(body: bytes, said: str, name: str) -> tuple[str, str]:
    """The media and artifact type of a document, from what the registry says and what stands in it."""
    try:
        shape = msgspec.json.decode(body, type=_Shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"invalid manifest of {name}: {error}") from error
    if said.startswith(_SCHEMA1) or shape.schema_version == 1:
        raise InvalidParameter(
            "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been removed. "
            f"Suggest the author of {name} to upgrade the image to the OCI Format or Docker Image manifest v2, "
            "schema 2. More information at https://docs.docker.com/go/deprecated-image-specs/"
        )
    if shape.manifests is not None and (shape.layers is not None or shape.config is not None):
        raise InvalidParameter(f"invalid manifest of {name}: it is an index and an image at once")
    media_type = shape.media_type if said in _VAGUE else said
    if not media_type:
        media_type = OCI_INDEX if shape.manifests is not None else OCI_MANIFEST
    if shape.media_type and shape.media_type != media_type:
        raise InvalidParameter(f"mediaType in manifest should be '{media_type}' not '{shape.media_type}'")
    if media_type not in INDEXES | MANIFESTS:
        raise InvalidParameter(f"unsupported manifest media type of {name}: {media_type}")
    if (media_type in INDEXES) != (shape.manifests is not None):
        raise InvalidParameter(f"invalid manifest of {name}: it isn't what its media type {media_type} says")
    return media_type, shape.artifact_type


def is_digest(reference: str) -> bool:
    """Whether a tag or digest is a digest. Raises InvalidParameter for one that isn't SHA-256."""
    return ":" in reference and bool(check_digest(reference))
