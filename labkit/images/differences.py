"""Two images, or the layers of one, read from their snapshots and compared: `labkit image diff` and `image waste`.

The comparison itself is `labkit.images.comparing`; here are the files, read as overlayfs would show them.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator, Sequence
from itertools import takewhile

import msgspec

from labkit.errors import InvalidParameter
from labkit.images.comparing import Change, Entry, File, Waste, compare, waste
from labkit.images.faults import disk_errors
from labkit.images.image import Image
from labkit.images.stack import LayerStack, Node
from labkit.images.streams import CHUNK

_KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
}
_TEXT_LIMIT = 64 << 10  # bytes of a file that is told line by line without having been named
_NAMED_LIMIT = 4 << 20  # of one that was named


class Side(msgspec.Struct, frozen=True, rename="pascal"):
    """One of the two images. `steps` say how each layer was made, lowest first."""

    id: str
    name: str
    size: int
    layers: list[str]
    steps: list[str]


class Difference(msgspec.Struct, frozen=True, rename="pascal"):
    """What `GET /labkit/images/diff` answers. `texts` are unified differences by path."""

    before: Side
    after: Side
    common_layers: int
    changes: list[Change]
    texts: dict[str, str]


class Tree:
    """An image's layers, topmost first, open for reading."""

    def __init__(self, image: Image, directories: Sequence[str]) -> None:
        self.image = image
        self.directories = directories
        self.stack = LayerStack(directories)

    def files(self) -> Iterator[File]:
        """All that a container of the image sees."""
        return (self._file(node) for node in self.stack.walk() if node.path)

    def _file(self, node: Node) -> File:
        status = node.status
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "s")
        return File(
            os.fsdecode(node.path),
            kind,
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_size if kind == "f" else 0,
            os.fsdecode(self.stack.read_link(node)) if kind == "l" else _device(status),
            len(self.directories) - 1 - node.layer,
            self.directories[node.layer],
        )

    def read(self, file: File, limit: int) -> Iterator[bytes]:
        """The bytes of a regular file, at most `limit`."""
        layer = len(self.directories) - 1 - file.layer
        with self.stack.opened(layer, os.fsencode(file.path), os.O_RDONLY) as descriptor:
            while limit > 0 and (piece := os.read(descriptor, min(limit, CHUNK))):
                limit -= len(piece)
                yield piece

    def removals(self) -> dict[str, int]:
        """The paths that layers say are gone, or begin anew, with the layer that says it last."""
        found: dict[str, int] = {}
        for number, entries in enumerate(self.layers()):
            found |= {entry.path: number for entry in entries if entry.whiteout or entry.opaque}
        return found

    def layers(self) -> Iterator[list[Entry]]:
        """What each layer says, lowest first. Of a file with several names the first one has its size."""
        for directory in reversed(self.directories):
            with LayerStack([directory]) as layer:
                seen: set[int] = set()
                yield [_entry(node, seen) for node in layer.changes() if node.path]


def _device(status: os.stat_result) -> str:
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" if status.st_rdev else ""


def _entry(node: Node, seen: set[int]) -> Entry:
    status = node.status
    counts = stat.S_ISREG(status.st_mode) and status.st_ino not in seen
    seen.add(status.st_ino)
    size = status.st_size if counts else 0
    return Entry(os.fsdecode(node.path), size, stat.S_ISDIR(status.st_mode), node.opaque, node.is_whiteout)


def difference(before: Tree, after: Tree, named: Sequence[str] = (), unified: bool = False) -> Difference:
    """What differs. `named` files are told line by line, with `unified` all small ones that are text.

    Raises InvalidParameter for a named file that doesn't differ, or is no text.
    """
    with disk_errors("reading layers"):
        removals = after.removals()

    def same(first: File, second: File) -> bool:
        pairs = zip(before.read(first, first.size), after.read(second, second.size), strict=False)
        return all(one == other for one, other in pairs)

    with disk_errors("comparing images"), before.stack, after.stack:
        old, new = list(before.files()), list(after.files())
        changes = compare(old, new, same, lambda path: _remover(path, removals))
        texts = _texts(changes, (before, old), (after, new), named, unified)
    common = sum(1 for _ in takewhile(_equal, zip(before.image.chain_ids, after.image.chain_ids, strict=False)))
    return Difference(_side(before), _side(after), common, changes, texts)


def _equal(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]


def _remover(path: str, removals: dict[str, int]) -> int:
    """The layer that took a path away, or a directory that it was in."""
    while path:
        if path in removals:
            return removals[path]
        path = path.rpartition("/")[0]
    return -1


def _side(tree: Tree) -> Side:
    image = tree.image
    steps = [step.created_by or step.comment for step in image.config.history or () if not step.empty_layer]
    diff_ids = list(image.config.rootfs.diff_ids)
    steps += [""] * (len(diff_ids) - len(steps))
    return Side(image.id, next(iter(image.repo_tags), ""), image.size, diff_ids, steps[: len(diff_ids)])


def _texts(
    changes: Sequence[Change],
    before: tuple[Tree, list[File]],
    after: tuple[Tree, list[File]],
    named: Sequence[str],
    unified: bool,
) -> dict[str, str]:
    wanted = {path.strip("/") for path in named}
    changed = {change.path: change for change in changes if "f" in change.file_kind}
    for path in sorted(wanted - changed.keys()):
        raise InvalidParameter(f"{path}: no file of that name differs")
    sides = [(tree, {file.path: file for file in files if file.path in changed}) for tree, files in (before, after)]
    found = {}
    for path in changed:
        if path in wanted or unified:
            limit = _NAMED_LIMIT if path in wanted else _TEXT_LIMIT
            lines = [_lines(tree, files.get(path), limit) for tree, files in sides]
            if lines[0] is not None and lines[1] is not None:
                found[path] = _unified(path, lines[0], lines[1])
            elif path in wanted:
                raise InvalidParameter(f"{path}: no text, or more than {limit} bytes of it")
    return {path: text for path, text in found.items() if text}


def _lines(tree: Tree, file: File | None, limit: int) -> list[str] | None:
    """A file's lines; none of a file that isn't there, None for one that is no text or is too large."""
    if file is None or file.kind != "f":
        return []
    data = b"".join(tree.read(file, limit + 1))
    if len(data) > limit or b"\0" in data:
        return None
    try:
        return data.decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        return None


def _unified(path: str, before: list[str], after: list[str]) -> str:
    lines = difflib.unified_diff(before, after, f"a/{path}", f"b/{path}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def wasted(tree: Tree) -> Waste:
    """What the image's layers hide of each other."""
    with disk_errors("reading layers"):
        return waste(list(tree.layers()))
