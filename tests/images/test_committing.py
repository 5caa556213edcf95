"""Images made of a container's changes: layers, configuration, history, parent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.errors import InvalidParameter, NotFound
from labkit.images.committing import EMPTY_LAYER, Commit
from labkit.images.references import parse
from labkit.images.store import ImageStore
from tests.images.stores import assert_whole, load, unused
from tests.images.tars import config_of, contents, digest, directory, docker_archive, member, pieces, tar

pytestmark = pytest.mark.root

BASE = tar(directory("etc"), member("etc/name", b"base"))
CHANGE = tar(member("etc/.wh.name"), member("new", b"12345"))
COMMIT = Commit("c" * 64, {"Cmd": ["top"], "Env": ["B=2"]}, {"Cmd": ["sh", "-c", "x"]}, ["sh", "-c", "x"], "me", "why")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = ImageStore(tmp_path / "store")
    config = config_of([BASE], variant="v8", **{"os.version": "7", "author": "somebody else"})
    load(opened, docker_archive([BASE], ["base"], config))
    yield opened
    opened.close()
    assert_whole(tmp_path / "store")


def test_a_layer_more(store: ImageStore) -> None:
    base = store.resolve("base")
    identifier = store.commit(base, pieces(CHANGE), COMMIT, parse("new:1"))
    image = store.resolve("new:1")
    assert (image.id, image.parent, image.size) == (identifier, base.id, len("base") + 5)
    assert image.config.rootfs.diff_ids == (digest(BASE), digest(CHANGE))
    assert [contents(Path(directory)) for directory in store.lower_dirs(image)] == [
        {"new": b"12345"},
        {"etc/name": b"base"},
    ]
    found = image.raw_config
    assert {key: found[key] for key in ("author", "architecture", "variant", "os.version", "container", "config")} == {
        "author": "me",
        "architecture": "amd64",
        "variant": "v8",
        "os.version": "7",
        "container": "c" * 64,
        "config": COMMIT.config,
    }
    assert found["history"] == [
        {"created": "2024-01-02T03:04:05Z", "created_by": "layer 0"},
        {"created": found["created"], "author": "me", "created_by": "sh -c x", "comment": "why"},
    ]
    assert [(step.id, step.size) for step in store.history(image)] == [(identifier, 5), (base.id, 4)]
    assert store.inspect(image).comment == "why"


def test_nothing_changed(store: ImageStore) -> None:
    """No layer, but a step."""
    store.commit(store.resolve("base"), iter([bytes(1024)]), COMMIT, parse("same:latest"))
    image = store.resolve("same")
    assert digest(bytes(1024)) == EMPTY_LAYER
    assert image.config.rootfs.diff_ids == (digest(BASE),)
    assert image.layers == store.resolve("base").layers
    assert image.raw_config["history"][-1]["empty_layer"] is True
    assert [step.size for step in store.history(image)] == [0, 4]


def test_a_child_keeps_its_parent(store: ImageStore) -> None:
    """After a restart too; with the child the nameless parent goes."""
    store.commit(store.resolve("base"), pieces(CHANGE), COMMIT, parse("base:latest"))
    removed = [item.deleted for item in store.remove("base", False, unused) if item.deleted]
    assert len([identifier for identifier in removed if identifier == digest(BASE)]) == 1
    assert store.list() == []


def test_a_save_has_the_new_layer(store: ImageStore, tmp_path: Path) -> None:
    store.commit(store.resolve("base"), pieces(CHANGE), COMMIT, parse("new:latest"))
    other = ImageStore(tmp_path / "other")
    load(other, b"".join(store.save(["new"])))
    assert other.resolve("new").id == store.resolve("new").id
    other.close()


def test_what_goes_wrong_leaves_nothing(store: ImageStore) -> None:
    base = store.resolve("base")
    with pytest.raises(InvalidParameter, match="unexpected EOF"):
        store.commit(base, pieces(CHANGE[:700]), COMMIT, None)
    assert store.list() == [base]
    store.remove("base", False, unused)
    with pytest.raises(NotFound, match="No such image"):
        store.commit(base, pieces(CHANGE), COMMIT, None)
    assert store.list() == []


def test_layers_have_an_end(store: ImageStore) -> None:
    layers = [tar(member(f"n{number}", b"")) for number in range(127)]
    load(store, docker_archive(layers, ["deep"]))
    with pytest.raises(InvalidParameter, match="max depth exceeded"):
        store.commit(store.resolve("deep"), pieces(CHANGE), COMMIT, None)
