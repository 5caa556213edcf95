"""Differences between lists of files, and what layers hide of each other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.images.comparing import Entry, File, Waste, compare, waste


def file(path: str, **fields: Any) -> File:
    plain: dict[str, Any] = {
        "kind": "f",
        "mode": 0o644,
        "uid": 0,
        "gid": 0,
        "size": 1,
        "link": "",
        "layer": 1,
        "source": "new",
    }
    return File(path, **(plain | fields))


def changes(before: list[File], after: list[File], equal: bool = True) -> list[tuple[Any, ...]]:
    found = compare(before, after, lambda first, second: equal, lambda path: 7)
    return [(one.path, one.change, one.what, one.layer) for one in found]


def test_files_that_come_and_go() -> None:
    before, after = [file("a", source="old"), file("b", source="old")], [file("b", source="old"), file("c", layer=3)]
    assert changes(before, after) == [("a", "removed", [], 7), ("c", "added", [], 3)]


@pytest.mark.parametrize(
    ("fields", "equal", "what"),
    [
        ({}, True, []),
        ({}, False, ["content"]),
        ({"size": 2}, True, ["content"]),
        ({"mode": 0o600}, True, ["mode"]),
        ({"uid": 5, "mode": 0o600}, False, ["content", "mode", "owner"]),
        ({"kind": "l", "link": "x", "mode": 0o777}, True, ["kind"]),
        ({"source": "old"}, False, []),
    ],
)
def test_what_differs(fields: dict[str, Any], equal: bool, what: list[str]) -> None:
    found = changes([file("a", source="old")], [file("a", **fields)], equal)
    assert found == ([("a", "changed", what, 1)] if what else [])


def test_links_and_devices() -> None:
    """Where they lead; the mode of a link means nothing."""
    before = file("a", kind="l", link="x", source="old")
    assert changes([before], [file("a", kind="l", link="y", mode=0o755)]) == [("a", "changed", ["link"], 1)]
    assert changes([before], [file("a", kind="l", link="x", mode=0o755)]) == []
    assert changes([file("a", kind="c", link="1:3", source="old")], [file("a", kind="c", link="1:5")])[0][2] == ["link"]


def numbers(found: Waste) -> tuple[float, int, int, list[tuple[str, int, int]]]:
    return round(found.efficiency, 3), found.wasted, found.size, [(f.path, f.count, f.wasted) for f in found.files]


def test_nothing_is_wasted() -> None:
    assert numbers(waste([])) == (1.0, 0, 0, [])
    layers = [[Entry("a", directory=True), Entry("a/x", 10)], [Entry("a", directory=True), Entry("a/y", 5)]]
    assert numbers(waste(layers)) == (1.0, 0, 15, [])


def test_a_file_that_is_overwritten() -> None:
    """dive: the smallest copy over all copies; hidden is what the lower layers have."""
    assert numbers(waste([[Entry("x", 10)], [Entry("x", 30)]])) == (0.25, 10, 40, [("x", 2, 10)])
    assert numbers(waste([[Entry("x", 10)], [Entry("x", 30)], [Entry("x", 20)]])) == (0.167, 40, 60, [("x", 3, 40)])


def test_a_file_that_is_removed() -> None:
    assert numbers(waste([[Entry("x", 10), Entry("y", 10)], [Entry("x", whiteout=True)]])) == (
        0.5,
        10,
        20,
        [("x", 2, 10)],
    )


def test_a_directory_that_is_removed_or_replaced() -> None:
    below = [Entry("d", directory=True), Entry("d/a", 4), Entry("d/b", 6)]
    gone = [("d/b", 1, 6), ("d/a", 1, 4)]
    for above in ([Entry("d", whiteout=True)], [Entry("d", 0)], [Entry("d", directory=True, opaque=True)]):
        assert numbers(waste([below, above]))[1:] == (10, 10, gone)
    again = [Entry("d", directory=True, opaque=True), Entry("d/a", 1)]
    assert numbers(waste([below, again]))[1:] == (10, 11, [("d/b", 1, 6), ("d/a", 2, 4)])


PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=2).map("/".join)
FILES = st.dictionaries(PATHS, st.tuples(st.booleans(), st.integers(0, 9)), max_size=4)


def layer_of(files: dict[str, tuple[bool, int]]) -> list[Entry]:
    """As a layer lies on disk: with the directories of its files, and nothing below a file."""
    kept = {path: what for path, what in files.items() if path.partition("/")[0] not in files or "/" not in path}
    parents = {path.partition("/")[0] for path in kept if "/" in path}
    entries = [Entry(path, 0 if gone else size, whiteout=gone) for path, (gone, size) in kept.items()]
    return sorted([*entries, *(Entry(path, directory=True) for path in parents)], key=lambda entry: entry.path)


LAYER = FILES.map(layer_of)


@given(st.lists(LAYER, max_size=4))
def test_what_is_not_wasted_is_seen(layers: list[list[Entry]]) -> None:
    seen: dict[str, int] = {}
    for entry in (entry for layer in layers for entry in layer):
        seen.pop(entry.path, None)
        if not entry.directory:
            seen = {path: size for path, size in seen.items() if not path.startswith(f"{entry.path}/")}
        if not entry.directory and not entry.whiteout:
            seen[entry.path] = entry.size
    found = waste(layers)
    assert 0 <= found.efficiency <= 1
    assert found.size == sum(entry.size for layer in layers for entry in layer)
    assert found.wasted == found.size - sum(seen.values())
