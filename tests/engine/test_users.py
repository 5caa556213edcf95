"""Who a container runs as, by the container's own files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from labkit.engine.users import Identity, read_layered, resolve
from labkit.errors import InvalidParameter

PASSWD = """root:x:0:0:root:/root:/bin/sh
www:x:33:34::/var/www:/bin/false
# a comment
bad:x:NaN:1::/:
nohome:x:40:41:::/bin/sh
0:x:77:78::/zero:/bin/sh
"""
GROUP = "root:x:0:\nwww:x:34:\nstaff:x:50:root,www\naudio:x:29:www\nbroken:x:no:www\n"


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("", Identity(77, 78, (78,), "/zero")),
        ("root", Identity(0, 0, (0, 50), "/root")),
        ("www", Identity(33, 34, (34, 50, 29), "/var/www")),
        ("33", Identity(33, 34, (34, 50, 29), "/var/www")),
        ("www:staff", Identity(33, 50, (50,), "/var/www")),
        ("www:1234", Identity(33, 1234, (1234,), "/var/www")),
        ("999", Identity(999, 0, (0,), "/")),
        ("999:staff", Identity(999, 50, (50,), "/")),
        ("nohome", Identity(40, 41, (41,), "/")),
        ("+5:+7", Identity(5, 7, (7,), "/")),
    ],
)
def test_resolve(user: str, found: Identity) -> None:
    assert resolve(user, PASSWD, GROUP) == found


def test_without_files_root_is_root() -> None:
    assert resolve("", "", "") == Identity(0, 0, (0,), "/")


def test_added_groups_come_last_and_once() -> None:
    assert resolve("www", PASSWD, GROUP, ["root", "29", "77"]).groups == (34, 50, 29, 0, 77)


@pytest.mark.parametrize("user", ["nobody", "bad", "5 ", "²", str(1 << 63), "1" * 5000])
def test_a_user_that_is_not_there(user: str) -> None:
    with pytest.raises(InvalidParameter, match=r"unable to find user .*: no matching entries in passwd file"):
        resolve(user, PASSWD, GROUP)


@pytest.mark.parametrize(("user", "added"), [("www:nobody", []), ("www", ["nobody"]), ("www:broken", [])])
def test_a_group_that_is_not_there(user: str, added: list[str]) -> None:
    with pytest.raises(InvalidParameter, match=r"unable to find group .*: no matching entries in group file"):
        resolve(user, PASSWD, GROUP, added)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "victim").write_text("of the host")
    for name in ("up", "one", "two"):
        (tmp_path / name / "etc").mkdir(parents=True)
    (tmp_path / "two/etc/passwd").write_text("two")
    (tmp_path / "two/etc/group").write_text("two")
    (tmp_path / "one/etc/passwd").write_text("one")
    return tmp_path


def read(tree: Path, path: str = "etc/passwd") -> str:
    return read_layered(f"{tree}/up", (f"{tree}/one", f"{tree}/two"), path)


def test_the_topmost_layer_that_has_the_file_tells(tree: Path) -> None:
    assert (read(tree), read(tree, "etc/group"), read(tree, "etc/shadow")) == ("one", "two", "")
    (tree / "up/etc/passwd").write_text("up")
    assert read(tree) == "up"


@pytest.mark.root
@pytest.mark.parametrize("place", ["up", "one"])
@pytest.mark.parametrize("removed", ["etc/passwd", "etc"])
def test_a_whiteout_ends_the_search(tree: Path, place: str, removed: str) -> None:
    """Of the file, or of the directory that it was in."""
    shutil.rmtree(tree / place / "etc")
    (tree / place / removed).parent.mkdir(exist_ok=True)
    os.mknod(tree / place / removed, 0o020000, os.makedev(0, 0))
    assert read(tree) == ""


@pytest.mark.parametrize("link", ["etc", "etc/passwd"])
def test_what_a_container_writes_behind_a_link_of_its_image_counts(tree: Path, link: str) -> None:
    """Its own layer has nothing at the path then, and still it is what changed the file."""
    shutil.rmtree(tree / "up/etc")
    shutil.rmtree(tree / "one/etc")
    (tree / "one" / link).parent.mkdir(exist_ok=True)
    (tree / "one" / link).symlink_to("/other/etc" if link == "etc" else "/other/etc/passwd")
    assert read(tree) == ""
    (tree / "up/other/etc").mkdir(parents=True)
    (tree / "up/other/etc/passwd").write_text("behind")
    assert read(tree) == "behind"


def test_a_container_that_writes_besides_keeps_what_its_image_says(tree: Path) -> None:
    shutil.rmtree(tree / "up/etc")
    (tree / "up/etc").mkdir()
    (tree / "up/etc/hosts").write_text("hosts")
    assert (read(tree), read(tree, "etc/group")) == ("one", "two")


@pytest.mark.parametrize("target", ["/victim", "../../victim", "{tree}/victim"])
def test_a_link_leads_to_no_file_of_the_host(tree: Path, target: str) -> None:
    (tree / "up/etc/passwd").symlink_to(target.format(tree=tree))
    assert "host" not in read(tree)


def test_a_link_within_the_layer_is_followed(tree: Path) -> None:
    (tree / "up/real").write_text("real")
    (tree / "up/etc/passwd").symlink_to("/real")
    assert read(tree) == "real"


@pytest.mark.root
def test_an_opaque_directory_hides_those_below(tree: Path) -> None:
    os.setxattr(tree / "one/etc", "trusted.overlay.opaque", b"y")
    assert (read(tree), read(tree, "etc/group")) == ("one", "")


def test_a_link_leads_from_one_layer_into_another(tree: Path) -> None:
    (tree / "up/etc/passwd").symlink_to("group")
    assert read(tree) == "two"
    (tree / "one/etc/group").symlink_to("../real")
    (tree / "two/real").write_text("real")
    assert read(tree) == "real"


def test_what_is_no_file_is_read_as_empty(tree: Path) -> None:
    (tree / "up/etc/passwd").mkdir()
    assert read(tree) == ""
    os.mkfifo(tree / "up/etc/group")  # and never waited for
    assert read(tree, "etc/group") == ""
    (tree / "up/etc/shadow").symlink_to("shadow")
    assert read(tree, "etc/shadow") == ""


@pytest.mark.parametrize(
    ("user", "added"), [(str(1 << 31), []), ("-1", []), ("www:-1", []), ("www:4294967295", []), ("www", ["-5"])]
)
def test_a_number_that_no_user_may_have(user: str, added: list[str]) -> None:
    with pytest.raises(InvalidParameter, match="uids and gids must be in range 0-2147483647"):
        resolve(user, PASSWD, GROUP, added)
