"""Volumes on disk: they come, stay and go whole, whatever a killed daemon leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labkit.errors import InvalidParameter, LabkitError, NotFound
from labkit.volumes.store import VolumeStore


@pytest.fixture
def store(tmp_path: Path) -> VolumeStore:
    made = VolumeStore(f"{tmp_path}/volumes")
    made.load()
    return made


def again(store: VolumeStore) -> VolumeStore:
    """What the next daemon finds."""
    found = VolumeStore(store.root)
    found.load()
    return found


def test_a_volume_is_there_for_the_next_daemon(store: VolumeStore) -> None:
    volume, made = store.create("site", "local", {"type": "tmpfs", "device": "tmpfs"}, {"a": "b"})
    assert made
    assert store.mountpoint("site") == f"{store.root}/site/_data"
    assert os.listdir(store.mountpoint("site")) == []
    assert again(store).get("site") == volume
    assert [one.Name for one in again(store)] == ["site"]


def test_one_that_is_there_stays_as_it_is(store: VolumeStore) -> None:
    first, _ = store.create("site", "", None, {"a": "b"})
    Path(store.mountpoint("site"), "file").write_text("kept")
    assert store.create("site", "local", {"type": "tmpfs", "device": "x"}, {"c": "d"}) == (first, False)
    assert Path(store.mountpoint("site"), "file").read_text() == "kept"


def test_what_can_not_be_made_says_so_and_leaves_nothing(store: VolumeStore) -> None:
    for name, driver, options in (("a", "", {}), ("../x", "", {}), ("ok", "", {"bad": "1"}), ("ok", "nfs", {})):
        with pytest.raises((InvalidParameter, NotFound), match=f"^create {name}: "):
            store.create(name, driver, options, None)
    assert os.listdir(store.root) == []


def test_removed_is_gone_at_once(store: VolumeStore) -> None:
    store.create("site", "", None, None)
    Path(store.mountpoint("site"), "file").write_text("x")
    doomed = store.take_away("site")
    assert os.listdir(store.root) == [os.path.basename(doomed)]
    store.create("site", "", None, None)
    assert os.listdir(store.mountpoint("site")) == []
    assert [one.Name for one in again(store)] == ["site"]
    assert os.listdir(store.root) == ["site"]
    store.remove("site")
    assert os.listdir(store.root) == []
    for act in (store.get, store.remove):
        with pytest.raises(NotFound, match="get site: no such volume"):
            act("site")


def test_what_a_killed_daemon_left_unfinished_goes(store: VolumeStore) -> None:
    store.create("site", "", None, None)
    for name in (".half.new", ".old.removed"):
        Path(store.root, name, "_data").mkdir(parents=True)
    store.create("half", "", None, None)
    assert sorted(os.listdir(again(store).root)) == ["half", "site"]


def test_a_damaged_record_stops_the_daemon_and_names_the_file(store: VolumeStore) -> None:
    store.create("site", "", None, None)
    record = Path(store.root, "site/volume.json")
    for text in ("", "{", '{"Name": 1}'):
        record.write_text(text)
        with pytest.raises(LabkitError, match=f"{record} is damaged"):
            again(store)


def test_a_full_disk_leaves_no_half_made_volume(store: VolumeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LabkitError, match="create site: No space left on device"):
        store.create("site", "", None, None)
    assert os.listdir(store.root) == []
    assert store.find("site") is None
