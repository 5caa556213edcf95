"""Putting an archive into a directory that is there: dockerd's rules, and archives that want to leave it."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import InvalidParameter, LabkitError
from labkit.images.extracting import Rules, extract
from tests.support.archives import DIRECTORY, HARD, LINK, Member, archive, swapping

pytestmark = pytest.mark.root
OWN = Rules()
KEEP = Rules(keep_kinds=True)


class Place:
    """A container's root, with a directory `/t` to extract to and a world outside."""

    def __init__(self, path: Path) -> None:
        self.root = path / "root"
        (self.root / "t").mkdir(parents=True)
        (self.root / "etc").mkdir()
        (self.root / "etc/passwd").write_text("inner")
        (path / "outside").write_text("outer")

    def put(self, *members: Member, rules: Rules = OWN, place: str = "/t", size: int = 1 << 20) -> None:
        self.put_bytes(archive(*members), rules, place, size)

    def put_bytes(self, data: bytes, rules: Rules = OWN, place: str = "/t", size: int = 1 << 20) -> None:
        root = os.open(self.root, os.O_PATH)
        before = os.listdir("/proc/self/fd")
        try:
            extract((data[at : at + size] for at in range(0, len(data), size)), root, place, rules)
        finally:
            assert os.listdir("/proc/self/fd") == before
            os.close(root)

    def refused(self, *members: Member, **more: Any) -> str:
        with pytest.raises(InvalidParameter) as caught:
            self.put(*members, **more)
        return str(caught.value)

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    assert (tmp_path / "outside").read_text() == "outer"
    assert sorted(os.listdir(tmp_path)) == ["outside", "root"]


def test_files_get_what_the_archive_says(place: Place) -> None:
    place.put(
        Member("d", DIRECTORY, mode=0o2751, uid=5, gid=6),
        Member("d/f", data=b"hello", mode=0o4755, uid=7, gid=8),
        Member("d/l", LINK, link="f", uid=9, gid=10),
        Member("d/h", HARD, link="d/f"),
    )
    found = {name: os.lstat(place.root / "t/d" / name) for name in ("", "f", "l", "h")}
    assert [(one.st_uid, one.st_gid) for one in found.values()] == [(5, 6), (7, 8), (9, 10), (7, 8)]
    assert [stat.S_IMODE(found[name].st_mode) for name in ("", "f")] == [0o2751, 0o4755]
    assert found["f"].st_ino == found["h"].st_ino
    assert {int(found[name].st_mtime) for name in ("", "f", "l")} == {1_000_000_000}


def test_as_a_user(place: Place) -> None:
    place.put(Member("d", DIRECTORY, uid=1), Member("d/f", uid=1), rules=Rules(owner=(33, 44)))
    assert {(os.lstat(one).st_uid, os.lstat(one).st_gid) for one in (place.root / "t").rglob("*")} == {(33, 44)}


def test_a_file_is_replaced_and_not_written_through(place: Place) -> None:
    (place.root / "t/f").symlink_to("../etc/passwd")
    place.put(Member("f", data=b"new"))
    assert (place.root / "etc/passwd").read_text() == "inner"
    assert not (place.root / "t/f").is_symlink()


def test_directories_are_merged(place: Place) -> None:
    (place.root / "t/d").mkdir()
    (place.root / "t/d/old").write_text("")
    place.put(Member("d", DIRECTORY, mode=0o711), Member("d/new"))
    assert sorted(os.listdir(place.root / "t/d")) == ["new", "old"]
    assert stat.S_IMODE(os.stat(place.root / "t/d").st_mode) == 0o711


def test_an_entry_for_the_place_leaves_it_as_it_is(place: Place) -> None:
    place.put(Member(".", DIRECTORY, mode=0o700), Member("./x"))
    assert stat.S_IMODE(os.stat(place.root / "t").st_mode) == 0o755
    assert "cannot overwrite directory" in place.refused(Member("."))


def test_kinds_that_replace_each_other(place: Place) -> None:
    (place.root / "t/d/deep").mkdir(parents=True)
    (place.root / "t/f").write_text("")
    message = 'cannot overwrite directory "/t/d" with non-directory "/t"'
    assert place.refused(Member("d"), rules=KEEP) == message
    message = 'cannot overwrite non-directory "/t/f" with directory "/t"'
    assert place.refused(Member("f", DIRECTORY), rules=KEEP) == message
    place.put(Member("d"), Member("f", DIRECTORY), Member("f/x"))
    assert place.names() == ["etc", "etc/passwd", "t", "t/d", "t/f", "t/f/x"]


def test_implied_directories_belong_to_root(place: Place) -> None:
    place.put(Member("a/b/c", uid=5), rules=Rules(owner=(5, 5)))
    assert [os.stat(place.root / "t" / name).st_uid for name in ("a", "a/b", "a/b/c")] == [0, 0, 5]


def test_whiteouts_are_plain_names(place: Place) -> None:
    (place.root / "t/x").write_text("")
    place.put(Member(".wh.x"), Member(".wh..wh..opq"))
    assert place.names() == ["etc", "etc/passwd", "t", "t/.wh..wh..opq", "t/.wh.x", "t/x"]


@pytest.mark.parametrize("name", ["../x", "x/../../x", "..", "d/../../../outside", "../../outside"])
def test_names_that_leave_the_place(place: Place, name: str) -> None:
    assert place.refused(Member(name)) == f'"{name}" is outside of "/t"'
    assert place.names() == ["etc", "etc/passwd", "t"]


def test_names_that_seem_to_leave_it(place: Place) -> None:
    place.put(Member("/abs"), Member("/../up"), Member("a/../b"))
    assert place.names() == ["etc", "etc/passwd", "t", "t/abs", "t/b", "t/up"]


def test_links_that_leave_the_place(place: Place) -> None:
    assert place.refused(Member("l", LINK, link="../../x")) == 'invalid symlink "/t/l" -> "../../x"'
    assert place.refused(Member("h", HARD, link="../etc/passwd")) == 'invalid hardlink "/etc/passwd" -> "../etc/passwd"'
    assert place.refused(Member("h", HARD, link="none")) == "link /t/h: no such file or directory"
    place.put(Member("abs", LINK, link="/etc"))


def test_links_on_the_way_are_followed_within_the_root(place: Place, tmp_path: Path) -> None:
    """An absolute link means the container's own path: a file lands in its /etc, and not in ours."""
    place.put(Member("conf", LINK, link="/etc"), Member("conf/new", data=b"1"))
    assert (place.root / "etc/new").read_text() == "1"
    (place.root / "t/up").symlink_to("../../../../../..")
    place.put(Member("up/etc/far", data=b"2"))
    assert (place.root / "etc/far").read_text() == "2"
    (place.root / "t/host").symlink_to(tmp_path)
    assert "no such file" in place.refused(Member("host/outside", data=b"3"))


def test_a_hard_link_through_a_link_stays_inside(place: Place, tmp_path: Path) -> None:
    (place.root / "t/host").symlink_to(tmp_path)
    assert "no such file" in place.refused(Member("h", HARD, link="host/outside"))


def test_what_an_archive_can_not_be(place: Place) -> None:
    assert place.refused(Member("z", b"Z")) == "unhandled tar header type 90"
    (place.root / "t/f").write_text("")
    assert place.refused(Member("f/sub")) == "open /t/f/sub: not a directory"
    assert place.refused(Member("n" * 300)).endswith("file name too long")


@pytest.mark.parametrize("keep", [700, 512 + 4000, 512 + 8999])
def test_a_truncated_archive_leaves_no_half_a_file(place: Place, keep: int) -> None:
    with pytest.raises(InvalidParameter, match="unexpected EOF"):
        place.put_bytes(archive(Member("f", data=b"x" * 9000))[:keep])
    assert place.names() == ["etc", "etc/passwd", "t"]


def test_what_was_whole_before_the_end_stays(place: Place) -> None:
    whole = archive(Member("a", data=b"1"), Member("b", data=b"x" * 5000))
    with pytest.raises(InvalidParameter, match="unexpected EOF"):
        place.put_bytes(whole[:3000])
    assert place.names() == ["etc", "etc/passwd", "t", "t/a"]


def test_an_empty_archive(place: Place) -> None:
    place.put_bytes(b"")
    place.put()
    assert place.names() == ["etc", "etc/passwd", "t"]


def test_devices_and_attributes(place: Place) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000").decode("utf-8", "surrogateescape")
    pax = {"SCHILY.xattr.security.capability": capability}
    place.put(Member("null", tarfile.CHRTYPE, device=(1, 3), mode=0o666), Member("able", uid=5, pax=pax))
    null = os.stat(place.root / "t/null")
    assert (stat.S_ISCHR(null.st_mode), null.st_rdev, stat.S_IMODE(null.st_mode)) == (True, os.makedev(1, 3), 0o666)
    assert len(os.getxattr(place.root / "t/able", "security.capability")) == 20


def test_sparse_files_keep_their_holes(place: Place, tmp_path: Path) -> None:
    with (place.root / "holes").open("wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"data")
    made = place.root / "sparse.tar"
    assert os.system(f"tar -C {place.root} --sparse -cf {made} holes") == 0
    place.put_bytes(made.read_bytes())
    found = (place.root / "t/holes").stat()
    assert (found.st_size, found.st_blocks * 512 < 1 << 20) == (8 << 20, True)
    assert (place.root / "t/holes").read_bytes() == (place.root / "holes").read_bytes()


def test_a_directory_that_turns_into_a_link_leads_nowhere(place: Place, tmp_path: Path) -> None:
    """A directory and a link out of the root change places all the time: nothing ever lands outside."""
    (place.root / "t/one").mkdir()
    (place.root / "t/two").symlink_to(tmp_path)
    refused = 0
    with swapping(place.root / "t/one", place.root / "t/two"):
        for number in range(300):
            try:
                place.put(Member(f"one/f{number}", data=b"x"), Member("one/outside", data=b"x"))
            except LabkitError:
                refused += 1
    assert refused < 300
    assert sorted(os.listdir(tmp_path)) == ["outside", "root"]


_parts = st.sampled_from([b"a", b"b", b"..", b".", b"", b"c"])


@given(st.lists(_parts, min_size=1, max_size=8), st.sampled_from([b"", b"/"]))
def test_no_name_leaves_the_root(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], lead: bytes) -> None:
    folder = tmp_path_factory.mktemp("place")
    made = Place(folder)
    try:
        made.put(Member(os.fsdecode(lead + b"/".join(parts)), data=b"x"))
    except InvalidParameter:
        pass  # refused: as good as kept inside
    assert sorted(os.listdir(folder)) == ["outside", "root"]
    assert sorted(os.listdir(made.root)) == ["etc", "t"]
