"""Images on their way into the store: layers unpacked while they come in, all visible at once at the end.

A `Reception` keeps what it found or made from being collected as garbage until it ends. What was received whole stays
as an ingest when the pull fails, so that the next one needn't download it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from labkit.images.archives import Incoming
from labkit.images.content import ContentStore
from labkit.images.ingests import Ingest, Ingests
from labkit.images.manifests import Descriptor
from labkit.images.snapshots import Prepared, SnapshotStore


class Pins:
    """Digests of blobs and chain IDs of snapshots that nothing may remove now. Guarded by the store's lock."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()

    def hold(self, name: str) -> None:
        self._count[name] += 1

    def release(self, name: str) -> None:
        self._count[name] -= 1
        if not self._count[name]:
            del self._count[name]

    def __contains__(self, name: object) -> bool:
        return name in self._count


@dataclass(frozen=True)
class Stores:
    """The parts of an image store that a reception works on. `admit` makes images visible."""

    lock: AbstractContextManager[bool]
    content: ContentStore
    snapshots: SnapshotStore
    ingests: Ingests
    pins: Pins
    admit: Callable[[Sequence[Incoming], Sequence[Prepared]], Sequence[str]]


class Reception:
    """Images coming in. Used by one thread, as a context manager. `workspace` is emptied when it ends."""

    def __init__(self, stores: Stores, workspace: Path) -> None:
        self.workspace = workspace
        self._stores = stores
        self._held: list[str] = []
        self._using = ExitStack()
        self._prepared: dict[str, Prepared] = {}

    def __enter__(self) -> Reception:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._stores.lock:
            for name in self._held:
                self._stores.pins.release(name)
        self._using.__exit__(kind, error, traceback)

    def _hold(self, name: str) -> None:
        self._stores.pins.hold(name)
        self._held.append(name)

    def has_snapshot(self, chain: str) -> bool:
        """Whether a layer is unpacked, here or for these images; it stays from now on."""
        with self._stores.lock:
            self._hold(chain)
            return chain in self._prepared or self._stores.snapshots.find(chain) is not None

    def blob(self, digest: str) -> Path | None:
        """Where a blob is, if it is here; it stays from now on."""
        with self._stores.lock:
            self._hold(digest)
            return self._stores.content.path(digest) if self._stores.content.has(digest) else None

    def ingest(self, descriptor: Descriptor) -> Ingest:
        """The ingest of a blob that is not here; it is open until the reception ends."""
        return self._using.enter_context(self._stores.ingests.use(descriptor))

    def unpack(self, tar: Iterator[bytes], chain: str, parent: str, diff_id: str, digest: str = "") -> None:
        """Unpack a layer; it becomes visible with the image. Raises InvalidParameter if it isn't `diff_id`.

        `digest` is that of the tar where it is known.
        """
        self._prepared[chain] = self._stores.snapshots.prepare(tar, self.workspace, parent, diff_id, digest)

    def admit(self, images: Sequence[Incoming]) -> Sequence[str]:
        """Make the images visible, all or none; returns their names, or the ID of one without."""
        return self._stores.admit(images, list(self._prepared.values()))
