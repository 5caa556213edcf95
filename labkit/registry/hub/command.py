"""`labkit hub serve`, `ls`, `export`, `import`: what works on the hub's store without a daemon.

`hub build` is the daemon's, which has the privilege, and loads what was built.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from labkit.errors import NotFound
from labkit.registry.hub import carrying
from labkit.registry.hub.images import find
from labkit.registry.hub.mirrors import ADDRESS_FILE
from labkit.registry.server import main
from labkit.registry.server.storage import Storage

DEFAULT_ROOT = "/var/lib/labkit/hub"
DEFAULT_ADDRESS = "127.0.0.1:5151"


@dataclass(frozen=True, slots=True)
class Row:
    """An image, as `labkit hub ls` lists it: sizes in bytes, of compressed layers, and of those that are its own."""

    name: str
    tags: tuple[str, ...]
    digest: str
    size: int
    created: str


def serve(addr: str = DEFAULT_ADDRESS, root: str = DEFAULT_ROOT, address_file: str = "") -> int:
    """Serves the store until SIGTERM or SIGINT; returns the exit status. Daemons of this machine find it by the
    file, which root has in `/run/labkit` if nothing else is said.

    Raises NotFound if there is no store.
    """
    if not Path(root).is_dir():
        raise NotFound(f"there is no hub at {root}: `labkit hub build` or `labkit hub import` makes one")
    address_file = address_file or (ADDRESS_FILE if os.geteuid() == 0 else "")
    return main.serve(main.Options(addr=addr, root=root, readonly=True, address_file=address_file))


def ls(root: str = DEFAULT_ROOT) -> list[Row]:
    """The images of the store, by name; none if there is no store."""
    if not Path(root).is_dir():
        return []
    with closing(Storage(Path(root), readonly=True)) as storage:
        rows = [row for name in storage.names() for row in _rows(storage, name)]
    return sorted(rows, key=lambda row: row.name)


def _rows(storage: Storage, name: str) -> list[Row]:
    """A row for each manifest; tags in the recipe's order, `latest` first."""
    tags: dict[str, list[str]] = {}
    for tag, descriptor in sorted(storage.find(name).listing().tags.items(), key=lambda item: item[0] != "latest"):
        tags.setdefault(descriptor.digest, []).append(tag)
    rows = []
    for digest, own in tags.items():
        image = find(storage, name, own[0])
        if image:
            size = sum(layer.size for layer in image.manifest.layers)
            rows.append(Row(_familiar(name), tuple(own), digest, size, image.config.created or ""))
    return rows


def _familiar(path: str) -> str:
    return path.removeprefix("library/")


def export(file: str, root: str = DEFAULT_ROOT) -> tuple[int, int]:
    """Writes all images into one file; returns how many names it has, and its size in bytes."""
    with closing(Storage(Path(root), readonly=True)) as storage:
        wanted = carrying.images(storage)
        return len(wanted), carrying.export(storage, wanted, Path(file))


def import_(file: str, root: str = DEFAULT_ROOT) -> list[str]:
    """Brings the images of a file into the store; returns their names."""
    with closing(Storage(Path(root))) as storage:
        return [image.reference.familiar for image in carrying.import_(storage, Path(file))]
