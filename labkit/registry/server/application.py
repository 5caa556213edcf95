"""What all endpoints of the registry share: its storage, its uploads, and what clients may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from labkit.registry.server.refusals import Refused
from labkit.registry.server.serving import FilePart
from labkit.registry.server.storage import Storage, Stored
from labkit.registry.server.uploads import Uploads


class Origin(Protocol):
    """Another registry that this one is a cache of."""

    def manifest(self, name: str, reference: str) -> Stored:
        """Raises Refused: MANIFEST_UNKNOWN."""

    def blob(self, name: str, digest: str) -> FilePart:
        """The blob, which may still be arriving. Raises Refused: BLOB_UNKNOWN."""


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
