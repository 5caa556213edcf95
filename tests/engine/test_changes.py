"""What a layer's files say of the image's: added, modified, deleted, and what the runtime has made."""

from __future__ import annotations

import os
import stat

from hypothesis import given
from hypothesis import strategies as st

from labkit.engine.changes import Change, Kept, tell
from labkit.images.stack import Node

DIRECTORY = stat.S_IFDIR | 0o755
FILE = stat.S_IFREG | 0o644
NOTHING = stat.S_IFCHR


def node(path: str, mode: int, mtime: int = 1, size: int = 3, opaque: bool = False) -> Node:
    status = os.stat_result((mode, 1, 1, 1, 0, 0, size, mtime, mtime, mtime), {"st_mtime_ns": mtime, "st_rdev": 0})
    return Node(path.encode(), 0, status, opaque)


def kept(mode: int, mtime: int = 1) -> Kept:
    return Kept(mode, 0, 0, mtime)


def told(*nodes: Node, **image: Kept) -> list[str]:
    known = {one.path: image.get(one.path.decode().replace("/", "_")) for one in nodes}
    return [f"{'CAD'[change.kind]} {change.path}" for change in tell(nodes, known)]


def test_kinds() -> None:
    nodes = node("new", FILE), node("old", FILE), node("gone", NOTHING)
    assert told(*nodes, old=kept(FILE), gone=kept(FILE)) == ["D /gone", "A /new", "C /old"]


def test_a_directory_changes_with_what_is_in_it() -> None:
    nodes = node("a", DIRECTORY), node("a/b", DIRECTORY), node("a/b/f", FILE)
    below = {"a": kept(DIRECTORY), "a_b": kept(DIRECTORY), "a_b_f": kept(FILE)}
    assert told(*nodes, **below) == ["C /a", "C /a/b", "C /a/b/f"]
    assert told(*nodes[:2], **below) == []


def test_a_directory_that_is_another_one() -> None:
    assert told(node("a", DIRECTORY, mtime=2), a=kept(DIRECTORY)) == ["C /a"]
    assert told(node("a", stat.S_IFDIR | 0o700), a=kept(DIRECTORY)) == ["C /a"]
    assert told(node("a", DIRECTORY, opaque=True), a=kept(DIRECTORY)) == ["C /a"]
    assert told(node("a", DIRECTORY), a=kept(FILE)) == ["C /a"]
    assert told(node("a", DIRECTORY)) == ["A /a"]


def test_order_is_that_of_names() -> None:
    nodes = node("a", DIRECTORY), node("a/x", FILE), node("a-b", FILE), node("a.c", FILE)
    assert told(*nodes) == ["A /a", "A /a/x", "A /a-b", "A /a.c"]


def test_what_the_runtime_makes_is_not_told() -> None:
    nodes = node("proc", DIRECTORY), node("etc", DIRECTORY, mtime=9), node("etc/hosts", FILE, size=0)
    assert told(*nodes, etc=kept(DIRECTORY)) == []
    assert told(*nodes[1:], etc=kept(DIRECTORY), etc_hosts=kept(FILE)) == []
    assert told(node("etc/hosts", FILE, size=5), etc_hosts=kept(FILE)) == ["C /etc", "C /etc/hosts"]
    assert told(node("etc/hosts", NOTHING, size=0), etc_hosts=kept(FILE)) == ["C /etc", "D /etc/hosts"]
    assert told(*nodes[:1], node("proc/x", FILE)) == ["C /proc", "A /proc/x"]


_names = st.lists(st.sampled_from(["a", "b", "c-d", "e"]), min_size=1, max_size=4).map("/".join)


@given(st.dictionaries(_names, st.sampled_from([FILE, DIRECTORY, NOTHING]), max_size=8), st.sets(_names))
def test_every_change_has_its_directories_before_it(modes: dict[str, int], image: set[str]) -> None:
    nodes = [node(path, modes[path]) for path in sorted(modes)]
    found = tell(nodes, {one.path: kept(FILE) if one.path.decode() in image else None for one in nodes})
    paths = [change.path for change in found]
    assert len(set(paths)) == len(paths)
    for number, path in enumerate(paths):
        parent = os.path.dirname(path)
        assert parent == "/" or parent in paths[:number]
    assert all(isinstance(change, Change) and change.kind in (0, 1, 2) for change in found)
