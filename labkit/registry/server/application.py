"""What all endpoints of the registry share: its storage, its uploads, and what clients may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from labkit.images.manifests import Descriptor
from labkit.registry.server.refusals import Refused
from labkit.registry.server.serving import Content
from labkit.registry.server.storage import Storage, Stored
from labkit.registry.server.uploads import Uploads


class Origin(Protocol):
    """Another registry that this one is a cache of."""

    def manifest(self, name: str, reference: str) -> Stored:
        """Raises Refused (MANIFEST_UNKNOWN), and LabkitErrors as the other registry gives cause."""

    def blob(self, name: str, digest: str, wanted: bool) -> Content:
        """The blob, which may still be arriving; nothing of it if it isn't `wanted`. Raises Refused (BLOB_UNKNOWN)."""

    def tags(self, name: str) -> list[str]:
        """All tags. Raises Refused (NAME_UNKNOWN)."""

    def referrers(self, name: str, digest: str) -> list[Descriptor]:
        """The manifests with this subject."""


@dataclass(frozen=True, slots=True)
class Registry:
    """One registry. `readonly` refuses all that changes it, `deletable` false what removes from it."""

    storage: Storage
    uploads: Uploads
    readonly: bool = False
    deletable: bool = True
    origin: Origin | None = None

    def check_allowed(self, method: str, removes: bool) -> None:
        """Raises Refused (405) for what this registry doesn't do."""
        if method in ("GET", "HEAD"):
            return
        if self.origin:
            raise Refused("UNSUPPORTED", "this registry is a cache of another one: push there")
        if self.readonly:
            raise Refused("UNSUPPORTED", "this registry is read-only")
        if removes and not self.deletable:
            raise Refused("UNSUPPORTED", "nothing is removed from this registry")
