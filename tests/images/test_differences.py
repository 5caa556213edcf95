"""Images compared: which files differ, which layer did it, and how the texts differ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.errors import InvalidParameter
from labkit.images.differences import Difference, Tree, difference, wasted
from labkit.images.store import ImageStore
from tests.images.stores import load
from tests.images.tars import directory, docker_archive, hardlink, member, symlink, tar

pytestmark = pytest.mark.root

BASE = tar(
    directory("etc"),
    member("etc/motd", b"one\ntwo\n"),
    member("etc/same", b"same"),
    member("bin", b"\0\1"),
    directory("old"),
    member("old/x", b"12345"),
    symlink("link", "etc"),
)
EDIT = tar(member("etc/motd", b"one\n2\nthree"), member("bin", b"\0\2"), member("etc/same", b"same"))
MORE = tar(
    member("etc/new", b"new\n", uid=5), directory("etc", mode=0o700), member(".wh.old"), hardlink("too", "etc/new")
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = ImageStore(tmp_path / "store")
    load(opened, docker_archive([BASE], ["app:1"]))
    load(opened, docker_archive([BASE, EDIT, MORE], ["app:2"]))
    load(opened, docker_archive([tar(member("etc/motd", b"one\ntwo\n"))], ["other"]))
    yield opened
    opened.close()


def diff(store: ImageStore, first: str, second: str, *named: str, unified: bool = False) -> Difference:
    images = store.resolve(first), store.resolve(second)
    before, after = (Tree(image, store.lower_dirs(image)) for image in images)
    return difference(before, after, named, unified)


def test_which_layer_did_what(store: ImageStore) -> None:
    found = diff(store, "app:1", "app:2")
    assert [(one.path, one.change, one.what, one.layer, one.size_before, one.size) for one in found.changes] == [
        ("bin", "changed", ["content"], 1, 2, 2),
        ("etc", "changed", ["mode"], 2, 0, 0),
        ("etc/motd", "changed", ["content"], 1, 8, 11),
        ("etc/new", "added", [], 2, 0, 4),
        ("old", "removed", [], 2, 0, 0),
        ("old/x", "removed", [], 2, 5, 0),
        ("too", "added", [], 2, 0, 4),
    ]
    assert (found.changes[1].mode_before, found.changes[1].mode) == ("0755", "0700")
    assert (found.common_layers, found.after.steps) == (1, ["layer 0", "layer 1", "layer 2"])
    assert found.texts == {}


def test_there_and_back(store: ImageStore) -> None:
    back = {one.path: (one.change, one.layer) for one in diff(store, "app:2", "app:1").changes}
    assert back["old/x"] == ("added", 0)
    assert back["etc/new"] == ("removed", -1)  # no layer took it away: it never was there
    assert diff(store, "app:2", "app:2").changes == []


def test_images_that_share_no_layer_can_share_files(store: ImageStore) -> None:
    found = diff(store, "app:1", "other")
    assert found.common_layers == 0
    assert "etc/motd" not in {one.path for one in found.changes}


def test_texts(store: ImageStore) -> None:
    texts = diff(store, "app:1", "app:2", unified=True).texts
    assert texts["etc/motd"] == (
        "--- a/etc/motd\n+++ b/etc/motd\n@@ -1,2 +1,3 @@\n one\n-two\n+2\n+three\n\\ No newline at end of file\n"
    )
    assert set(texts) == {"etc/motd", "etc/new", "old/x", "too"}
    assert set(diff(store, "app:1", "app:2", "/etc/new").texts) == {"etc/new"}
    for name, message in {"bin": "no text", "etc/same": "no file of that name differs", "etc": "no file"}.items():
        with pytest.raises(InvalidParameter, match=message):
            diff(store, "app:1", "app:2", name)


def test_waste(store: ImageStore) -> None:
    image = store.resolve("app:2")
    found = wasted(Tree(image, store.lower_dirs(image)))
    assert {one.path: one.wasted for one in found.files} == {"etc/motd": 8, "old/x": 5, "etc/same": 4, "bin": 2}
    assert (found.wasted, found.size) == (19, 8 + 4 + 2 + 5 + 11 + 2 + 4 + 4)
    assert 0.5 < found.efficiency < 0.8
