"""A small image in a registry, for tests that pull it."""

from __future__ import annotations

import msgspec

from labkit.images.manifests import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, Manifest
from labkit.images.references import Reference
from labkit.images.streams import digest_of
from labkit.registry.credentials import ANONYMOUS, Credentials
from labkit.registry.repository import Repository
from labkit.registry.uploading import Uploader


def described(body: bytes, media_type: str = OCI_LAYER) -> Descriptor:
    return Descriptor(media_type, digest_of(body), len(body))


def manifest_of(config: bytes, *layers: bytes) -> bytes:
    return msgspec.json.encode(Manifest(described(config, OCI_CONFIG), tuple(map(described, layers))))


def put_blob(uploader: Uploader, body: bytes, chunked: bool = False) -> Descriptor:
    uploader.upload(described(body), lambda offset: iter([body[offset:]]), chunked)
    return described(body)


def push_small(reference: Reference, credentials: Credentials = ANONYMOUS, name: bytes = b"layer") -> bytes:
    """Puts an image of one layer there; returns its manifest."""
    config = b'{"rootfs": {"type": "layers", "diff_ids": []}}'
    with Repository(reference, credentials=credentials, push=True) as repository:
        uploader = Uploader(repository)
        for body in (config, name):
            put_blob(uploader, body)
        manifest = manifest_of(config, name)
        uploader.put_manifest(reference.tag, OCI_MANIFEST, manifest)
    return manifest
