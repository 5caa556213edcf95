"""What a container has changed of its image's files: `docker diff` (moby `pkg/archive/changes.go`, `OverlayChanges`).

Read from the container's own layer, whether it runs or not. What the runtime makes there to mount on isn't told;
dockerd keeps that in a layer below.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from labkit.engine.commit import MOUNT_POINTS
from labkit.engine.container import Container
from labkit.images.faults import disk_errors
from labkit.images.stack import LayerStack, Node

MODIFIED, ADDED, DELETED = 0, 1, 2
_TOUCHED = frozenset(path.rpartition(b"/")[0] for path in MOUNT_POINTS)
"""Directories in which the runtime makes mount points."""


class Change(msgspec.Struct, frozen=True, rename="pascal"):
    """One path and what became of it (Engine API `FilesystemChange`)."""

    path: str
    kind: int


class Kept(NamedTuple):
    """What tells whether a file of the image is as it was: mode and owner (stat(2)), time of change (ns)."""

    mode: int
    uid: int
    gid: int
    mtime: int


def changes(container: Container) -> list[Change]:
    """All changes, a directory before what is in it, in the order of names. Blocks. Raises LabkitError."""
    with (
        LayerStack((container.upper, *container.lower)) as own,
        LayerStack(container.lower) as image,
        disk_errors("reading a container's changes"),
    ):
        nodes = [node for node in own.changes() if node.path]
        return tell(nodes, {node.path: _kept(image, os.fsdecode(node.path)) for node in nodes})


def _kept(image: LayerStack, path: str) -> Kept | None:
    """What the image has at a path, itself and not what a link leads to; None if there is nothing."""
    if image.is_plain(path):
        node = image.find(path)
        return _as_it_is(node.status) if node else None
    parent = os.path.dirname(path)
    return Kept(stat.S_IFLNK | 0o777, 0, 0, 0) if not parent or image.is_plain(parent) else None


def _as_it_is(status: os.stat_result) -> Kept:
    return Kept(status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)


def tell(nodes: Iterable[Node], image: Mapping[bytes, Kept | None]) -> list[Change]:
    """The changes that a layer's nodes make of what the `image` has at their paths.

    A directory that holds changes was changed too; one that was copied up and is as before was not.
    """
    told: dict[bytes, int] = {}
    for node in nodes:
        kept = image[node.path]
        if node.is_whiteout:
            kind = DELETED
        elif kept is None:
            kind = ADDED
        else:
            kind = MODIFIED
        if _is_runtimes(node, kept) or (kept and _is_copy(node, kept)):
            continue  # a directory is told all the same when something in it is
        told[node.path] = kind
        for parent in _parents(node.path):
            told.setdefault(parent, MODIFIED)
    ordered = sorted(told, key=lambda path: path.split(b"/"))
    return [Change("/" + os.fsdecode(path), told[path]) for path in ordered]


def _is_runtimes(node: Node, kept: Kept | None) -> bool:
    """Whether a path is what the runtime has made to mount on; what was there before it leaves as it is."""
    mode = node.status.st_mode
    empty = stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and not node.status.st_size)
    return node.path in MOUNT_POINTS and empty and (kept is None or not stat.S_ISDIR(mode))


def _is_copy(node: Node, kept: Kept) -> bool:
    """Whether a directory is as the image has it. Mount points that the runtime made in it don't count."""
    own = _as_it_is(node.status)
    if not stat.S_ISDIR(own.mode) or node.opaque:
        return False
    return own[:3] == kept[:3] and (own.mtime == kept.mtime or node.path in _TOUCHED)


def _parents(path: bytes) -> Iterator[bytes]:
    while path := path.rpartition(b"/")[0]:
        yield path
