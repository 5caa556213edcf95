"""An image as the engine sees it: identity, names, configuration. A record, computed from the store's documents.

The ID of an image is the digest of its configuration, as in Docker's classic store; several names, and several
manifests (compressed or not), can stand for one image.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec

from labkit.images.manifests import Descriptor, ImageConfig, chain_ids, decode
from labkit.images.references import Reference


class Image(msgspec.Struct, frozen=True, dict=True):
    """One image. `document` is the configuration byte by byte; `size` is in bytes, unpacked, as Docker counts it.

    `tagged` is when it last got a name here (RFC 3339, or empty); `parent` the ID of the image that it was made from.
    """

    id: str
    manifest: Descriptor
    layers: tuple[Descriptor, ...]
    config: ImageConfig
    document: bytes
    references: tuple[Reference, ...]
    size: int
    tagged: str = ""
    parent: str = ""

    @cached_property
    def repo_tags(self) -> list[str]:
        """`NAME:TAG` of each name with a tag, in the familiar form."""
        return [reference.familiar for reference in self.references if not reference.digest]

    @cached_property
    def repo_digests(self) -> list[str]:
        """`NAME@DIGEST` of each name by digest: where it was pulled from."""
        names = [(reference.familiar_name, reference.digest) for reference in self.references if reference.digest]
        return [f"{name}@{digest}" for name, digest in names]

    @cached_property
    def chain_ids(self) -> tuple[str, ...]:
        """The snapshots that it is stacked from, lowest first."""
        return chain_ids(self.config.rootfs.diff_ids)

    @cached_property
    def raw_config(self) -> dict[str, Any]:
        """The configuration with the fields that labkit has no name for."""
        return decode(self.document, dict[str, Any], "image configuration")

    @property
    def labels(self) -> dict[str, str]:
        """The labels that containers of this image get."""
        return self.config.defaults.labels or {}


def short_id(identifier: str) -> str:
    """The twelve digits that people see."""
    return identifier.removeprefix("sha256:")[:12]
