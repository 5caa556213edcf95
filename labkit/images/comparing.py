"""What differs between two images, and what an image carries that nobody sees: pure functions over lists of files.

The lists come from layers as they lie on disk (`labkit.images.differences`). The efficiency score is dive's
(`dive/filetree/efficiency.go`): the bytes of the smallest copy of each path, over the bytes of all copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class File:
    """A file of an image: `kind` is find(1)'s letter, `layer` the layer it is from (0: the lowest), `source` where its
    bytes are: files with equal sources and paths are the same. `size` is in bytes, 0 of directories.
    """

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    link: str
    layer: int
    source: str


class Change(msgspec.Struct, frozen=True, rename="pascal"):
    """One path that differs. `what` says in which way: kind, content, link, mode, owner.

    `layer` is the number of the second image's layer that made the change, lowest first; -1 if no layer of it did.
    """

    path: str
    change: str
    file_kind: str
    size: int
    size_before: int
    what: list[str]
    layer: int
    mode: str
    mode_before: str
    owner: str
    owner_before: str


def compare(
    before: Iterable[File],
    after: Iterable[File],
    same_content: Callable[[File, File], bool],
    removed_by: Callable[[str], int],
) -> list[Change]:
    """The changes that lead from one list to the other, by path. `same_content` compares two files of one size."""
    old, new = ({file.path: file for file in files} for files in (before, after))
    changes = []
    for path in sorted(old.keys() | new.keys()):
        first, second = old.get(path), new.get(path)
        if second is None:
            assert first is not None
            changes.append(_change("removed", first, None, [], removed_by(path)))
        elif first is None:
            changes.append(_change("added", None, second, [], second.layer))
        elif first.source != second.source and (what := _differences(first, second, same_content)):
            changes.append(_change("changed", first, second, what, second.layer))
    return changes


def _differences(first: File, second: File, same_content: Callable[[File, File], bool]) -> list[str]:
    what = []
    if first.kind != second.kind:
        what.append("kind")
    elif first.kind == "f" and (first.size != second.size or not same_content(first, second)):
        what.append("content")
    elif first.link != second.link:
        what.append("link")
    if first.mode != second.mode and second.kind != "l":
        what.append("mode")
    if (first.uid, first.gid) != (second.uid, second.gid):
        what.append("owner")
    return what


def _change(change: str, first: File | None, second: File | None, what: list[str], layer: int) -> Change:
    shown = second or first
    assert shown is not None
    return Change(
        shown.path,
        change,
        shown.kind,
        second.size if second else 0,
        first.size if first else 0,
        what,
        layer,
        *(f"{file.mode:04o}" if file else "" for file in (second, first)),
        *(f"{file.uid}:{file.gid}" if file else "" for file in (second, first)),
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """What one layer says of a path: a file of some size, a directory, or that it is gone (`whiteout`)."""

    path: str
    size: int = 0
    directory: bool = False
    opaque: bool = False
    whiteout: bool = False


class WastedFile(msgspec.Struct, frozen=True, rename="pascal"):
    """A path that several layers have: in how many, and the bytes of all copies that nobody sees."""

    path: str
    count: int
    wasted: int


class Waste(msgspec.Struct, frozen=True, rename="pascal"):
    """`wasted` are the bytes that later layers overwrite or delete, of `size` in all layers; the files, worst first."""

    efficiency: float
    wasted: int
    size: int
    files: list[WastedFile]


@dataclass(slots=True)
class _Copies:
    """A path in all layers, as dive counts it, and what of it is hidden."""

    count: int = 0
    total: int = 0
    least: int = -1
    hidden: int = 0

    def add(self, size: int) -> None:
        self.count += 1
        self.total += size
        self.least = size if self.least < 0 else min(self.least, size)


@dataclass(slots=True)
class _Tree:
    """What is seen after some layers: directories are dictionaries, files their sizes."""

    root: dict[str, Any] = field(default_factory=dict)

    def place(self, path: str) -> tuple[dict[str, Any], str]:
        """The directory that a path is in, which is made, and its last name."""
        *parents, name = path.split("/")
        here = self.root
        for parent in parents:
            below = here.get(parent)
            if not isinstance(below, dict):
                below = here[parent] = {}
            here = below
        return here, name


def _files(path: str, found: Any) -> Iterator[tuple[str, int]]:
    if isinstance(found, dict):
        for name, below in found.items():
            yield from _files(f"{path}/{name}", below)
    elif found is not None:
        yield path, found


def waste(layers: Sequence[Iterable[Entry]]) -> Waste:
    """What layers (lowest first) hide of each other."""
    tree, copies = _Tree(), dict[str, _Copies]()
    size = 0
    for layer in layers:
        entries = list(layer)
        parents = {entry.path.rpartition("/")[0] for entry in entries}
        for entry in entries:
            size += entry.size
            _stack(entry, entry.path not in parents, tree, copies)
    total = sum(one.total for one in copies.values())
    least = sum(one.least for one in copies.values() if one.least > 0)
    several = [WastedFile(path, one.count, one.hidden) for path, one in copies.items() if one.hidden]
    several.sort(key=lambda file: (-file.wasted, file.path))
    return Waste(least / total if total else 1.0, sum(file.wasted for file in several), size, several)


def _stack(entry: Entry, leaf: bool, tree: _Tree, copies: dict[str, _Copies]) -> None:
    """Puts one entry over what is there. A directory counts only where it is a leaf, a removed one with all in it."""
    directory, name = tree.place(entry.path)
    below = directory.get(name)
    if not entry.directory or entry.opaque or not isinstance(below, dict):
        for path, size in _files(entry.path, below):
            copies.setdefault(path, _Copies()).hidden += size
    if leaf:
        removed = sum(size for _, size in _files(entry.path, below)) if isinstance(below, dict) else 0
        copies.setdefault(entry.path, _Copies()).add(removed if entry.whiteout else entry.size)
    if entry.whiteout:
        directory.pop(name, None)
    elif not entry.directory:
        directory[name] = entry.size
    elif entry.opaque or not isinstance(below, dict):
        directory[name] = {}
