"""Applying layers: equal to GNU tar for honest ones, inside the root for hostile ones."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from labkit.errors import Forbidden, InvalidParameter
from labkit.images.layers import LayerPolicy, clean
from tests.images.tars import apply, contents, directory, hardlink, listing, member, symlink, tar

pytestmark = pytest.mark.root


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory that no layer may touch."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "secret").write_text("untouched")
    return victim


def assert_untouched(victim: Path, tmp_path: Path) -> None:
    assert contents(victim) == {"secret": b"untouched"}
    assert {path.name for path in tmp_path.iterdir()} <= {"victim", "root", "source"}


def gnu_tree(source: Path) -> None:
    """A tree with everything that a filesystem has."""
    (source / "a/b/c").mkdir(parents=True)
    (source / "a/file").write_bytes(os.urandom(700_000))
    (source / "a/empty").touch()
    (source / "a/suid").write_bytes(b"x")
    os.chown(source / "a/suid", 123, 456)
    (source / "a/suid").chmod(0o6755)
    os.link(source / "a/file", source / "z-hard")
    (source / "link").symlink_to("a/file")
    (source / "dangling").symlink_to("/nowhere/" + "x" * 150)
    os.link(source / "link", source / "link-hard", follow_symlinks=False)
    os.mkfifo(source / "fifo", 0o640)
    os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(source / "loop", 0o660 | stat.S_IFBLK, os.makedev(7, 300))
    (source / ("long" * 60)).mkdir()
    (source / ("long" * 60) / ("name" * 50)).write_text("long")
    (source / "späth\n name").write_text("odd name")
    (source / "tmp").mkdir()
    (source / "tmp").chmod(0o1777)
    (source / "closed").mkdir()
    (source / "closed/in").write_text("in")
    (source / "closed").chmod(0o500)
    os.chown(source / "dangling", 7, 8, follow_symlinks=False)
    os.setxattr(source / "a/empty", "user.note", b"\0binary\n=")
    os.setxattr(source / "a/suid", "security.capability", bytes.fromhex("0100000200040000" + "00" * 12))
    os.setxattr(source / "a/b", "trusted.mark", b"1")
    for number, path in enumerate(sorted(source.rglob("*"), reverse=True)):
        os.utime(path, ns=(1, 10**18 + number * 1_234_567_891), follow_symlinks=False)


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_the_same_as_gnu_tar(tmp_path: Path, form: str) -> None:
    source, expected, root = tmp_path / "source", tmp_path / "expected", tmp_path / "root"
    source.mkdir()
    expected.mkdir()
    gnu_tree(source)
    xattrs = ["--xattrs", "--xattrs-include=*"] if form == "posix" else []
    pack = ["tar", "-C", str(source), f"--format={form}", *xattrs, "-c", "."]
    archive = subprocess.run(pack, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-C", expected, *xattrs, "-xp"], input=archive, check=True)
    applied = apply(archive, root)
    assert listing(root) == listing(expected)
    assert contents(root) == contents(expected)
    assert attributes(root) == attributes(expected)
    assert (len(attributes(root)) == 3) == (form == "posix")
    assert applied.entries == len(list(source.rglob("*"))) + 1
    assert applied.ignored == ()
    links = len("a/file") + 159
    assert applied.size == 700_000 + 1 + 4 + 8 + 2 + links


def attributes(root: Path) -> dict[str, dict[str, bytes]]:
    found = {
        str(path.relative_to(root)): {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        for path in root.rglob("*")
    }
    return {path: attributes for path, attributes in found.items() if attributes}


def test_directories_that_are_not_listed(tmp_path: Path) -> None:
    apply(tar(member("a/b/c/file", b"x")), tmp_path / "root")
    assert listing(tmp_path / "root")[0].startswith("a d 755 0:0 ")
    assert stat.S_IMODE((tmp_path / "root").stat().st_mode) == 0o755


def test_the_root_itself(tmp_path: Path) -> None:
    apply(tar(directory("./", mode=0o711, uid=5, gid=6, mtime=99), member("./f")), tmp_path / "root")
    found = (tmp_path / "root").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime) == (0o711, 5, 6, 99)
    with pytest.raises(InvalidParameter, match="root is not a directory"):
        apply(tar(symlink(".", "/etc")), tmp_path / "other")


def test_whiteouts(tmp_path: Path) -> None:
    apply(tar(directory("d"), member("d/.wh.gone"), member(".wh.top"), member(".wh..wh.plnk")), tmp_path / "root")
    for path in ("d/gone", "top"):
        found = (tmp_path / "root" / path).stat()
        assert stat.S_ISCHR(found.st_mode)
        assert found.st_rdev == 0
    assert sorted(os.listdir(tmp_path / "root")) == ["d", "top"]


def test_opaque_directories(tmp_path: Path) -> None:
    apply(tar(directory("d"), member("d/.wh..wh..opq"), member("d/new", b"x")), tmp_path / "root")
    assert os.getxattr(tmp_path / "root/d", "trusted.overlay.opaque") == b"y"
    rootless = LayerPolicy(attributes="user.overlay.")
    apply(tar(directory("d"), member("d/.wh..wh..opq")), tmp_path / "rootless", rootless)
    assert os.getxattr(tmp_path / "rootless/d", "user.overlay.opaque") == b"y"


@pytest.mark.parametrize("first", ["whiteout", "entry"])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_whiteout_hides_only_what_lies_below(tmp_path: Path, first: str, kind: str) -> None:
    entries = [member("x", b"new")] if kind == "file" else [directory("x"), member("x/new", b"new")]
    whiteout = member(".wh.x")
    apply(tar(*([whiteout, *entries] if first == "whiteout" else [*entries, whiteout])), tmp_path / "root")
    assert contents(tmp_path / "root") == {"x" if kind == "file" else "x/new": b"new"}
    if kind == "directory":
        assert os.getxattr(tmp_path / "root/x", "trusted.overlay.opaque") == b"y"


def test_overlay_shows_what_the_layers_say(tmp_path: Path) -> None:
    lower = tar(directory("etc"), member("etc/old", b"1"), directory("var"), member("var/a"), member("keep", b"k"))
    upper = tar(member("etc/.wh.old"), directory("var"), member("var/.wh..wh..opq"), member("var/b"))
    apply(lower, tmp_path / "lower")
    apply(upper, tmp_path / "upper")
    (tmp_path / "merged").mkdir()
    options = f"lowerdir={tmp_path}/upper:{tmp_path}/lower"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, tmp_path / "merged"], check=True)
    try:
        assert contents(tmp_path / "merged") == {"keep": b"k", "var/b": b""}
        assert sorted(os.listdir(tmp_path / "merged")) == ["etc", "keep", "var"]
    finally:
        subprocess.run(["umount", tmp_path / "merged"], check=True)


@pytest.mark.parametrize(
    ("name", "path"),
    [("a/./b", b"a/b"), ("/etc/x", b"etc/x"), ("a//b/", b"a/b"), ("a/../b", b"b"), (".", b""), ("./.x", b".x")],
)
def test_clean_names(name: str, path: bytes) -> None:
    assert clean(name.encode()) == path


HOSTILE = {
    "dotdot": [member("../victim/secret", b"pwned")],
    "dotdot inside": [member("a/../../victim/secret", b"pwned")],
    "absolute": [member("VICTIM/secret", b"pwned")],
    "symlink parent, absolute": [symlink("d", "VICTIM"), member("d/secret", b"pwned")],
    "symlink parent, relative": [symlink("d", "../victim"), member("d/secret", b"pwned")],
    "symlink chain": [symlink("a", "b"), symlink("b", "../victim"), member("a/secret", b"pwned")],
    "symlink to /proc": [symlink("d", "/proc/self/root/VICTIM"), member("d/secret", b"pwned")],
    "over a symlink": [symlink("f", "VICTIM/secret"), member("f", b"pwned")],
    "over a hard link to a symlink": [symlink("s", "VICTIM/secret"), hardlink("h", "s"), member("h", b"pwned")],
    "hard link out": [hardlink("h", "../victim/secret"), member("h", b"pwned")],
    "hard link out, absolute": [hardlink("h", "VICTIM/secret")],
    "hard link through a symlink": [symlink("d", "VICTIM"), hardlink("h", "d/secret")],
    "hard link to the root": [hardlink("h", ".")],
    "hard link to itself": [member("h"), hardlink("h", "h")],
    "directory over a symlink": [symlink("d", "VICTIM"), directory("d", mode=0o777), member("d/secret", b"pwned")],
    "mode of a symlinked directory": [symlink("d", "../victim"), directory("d/.", mode=0o777, uid=9)],
    "whiteout of the parent": [member("d/.wh...", b"")],
    "whiteout of itself": [member("d/.wh..", b"")],
    "whiteout of nothing": [member("d/.wh.", b"")],
    "whiteout through a symlink": [symlink("d", "VICTIM"), member("d/.wh.secret")],
    "opaque through a symlink": [symlink("d", "VICTIM"), member("d/.wh..wh..opq")],
    "device over a file": [member("f"), member("f", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "parent replaced": [directory("d"), member("d/x"), symlink("d", "VICTIM"), member("d/secret", b"pwned")],
    "parent is a file": [member("f", b"x"), member("f/secret", b"pwned")],
    "name too long": [member("x" * 300, b"pwned")],
    "path too deep": [member("d/" * 3000 + "secret", b"pwned")],
    "unknown kind": [member("x", kind=b"Z")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_layers_stay_inside(tmp_path: Path, outside: Path, name: str) -> None:
    """Refused with InvalidParameter or resolved within the root; nothing outside is ever touched."""
    entries = HOSTILE[name]
    for info, _ in entries:
        info.name = info.name.replace("VICTIM", str(outside))
        info.linkname = info.linkname.replace("VICTIM", str(outside))
    before = outside.stat(), (outside / "secret").stat()
    try:
        apply(tar(*entries, form=tarfile.GNU_FORMAT), tmp_path / "root")
    except InvalidParameter as error:
        assert "layer" in str(error)  # noqa: PT017  # some are resolved within the root, some are refused: both are safe
    assert (outside.stat(), (outside / "secret").stat()) == before
    assert_untouched(outside, tmp_path)  # reads them, which is seen in their times


@pytest.mark.parametrize(
    "name", ["dotdot", "hard link out", "whiteout of itself", "parent is a file", "hard link to itself", "unknown kind"]
)
def test_what_is_refused(tmp_path: Path, outside: Path, name: str) -> None:
    with pytest.raises(InvalidParameter, match="layer"):
        apply(tar(*HOSTILE[name]), tmp_path / "root")


def test_links_within_the_root_are_followed(tmp_path: Path) -> None:
    """`bin -> usr/bin`, also written absolute: the layer's own tree, seen from its root."""
    for target in ("usr/bin", "/usr/bin", "../../usr/bin"):
        root = tmp_path / target.replace("/", "_")
        apply(tar(directory("usr/bin"), symlink("bin", target), member("bin/sh", b"sh")), root)
        assert contents(root) == {"usr/bin/sh": b"sh"}


def test_duplicates_the_last_one_counts(tmp_path: Path) -> None:
    layer = tar(
        member("f", b"first"),
        member("f", b"last one"),
        directory("d", mode=0o700),
        member("d/x", b"kept"),
        directory("d", mode=0o711),
        directory("t"),
        member("t/x", b"gone"),
        member("t", b"file now"),
        symlink("l", "f"),
        symlink("l", "d"),
        hardlink("h", "f"),
        hardlink("h", "f"),
    )
    applied = apply(layer, tmp_path / "root")
    assert contents(tmp_path / "root") == {"f": b"last one", "d/x": b"kept", "t": b"file now", "h": b"last one"}
    assert stat.S_IMODE((tmp_path / "root/d").stat().st_mode) == 0o711
    assert os.readlink(tmp_path / "root/l") == "d"
    assert applied.size == len("last one" + "kept" + "file now" + "d")


def test_a_hard_link_in_place_of_a_directory(tmp_path: Path) -> None:
    layer = tar(member("t/target", b"x"), member("d/below/x"), hardlink("d", "t/target"), hardlink("t/again", "d"))
    apply(layer, tmp_path / "root")
    assert contents(tmp_path / "root") == {"t/target": b"x", "d": b"x", "t/again": b"x"}


def test_many_directories_at_once(tmp_path: Path) -> None:
    """More parents than descriptors are kept open, visited in turn; no descriptor is left over."""
    before = len(os.listdir("/proc/self/fd"))
    entries = [member(f"d{n}/e/f{turn}", b"%d" % turn) for turn in range(3) for n in range(300)]
    apply(tar(*entries), tmp_path / "root")
    assert len(contents(tmp_path / "root")) == 900
    assert len(os.listdir("/proc/self/fd")) == before


def test_devices_where_they_are_not_permitted(tmp_path: Path) -> None:
    layer = tar(member("dev/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3))
    with pytest.raises(Forbidden, match='device node "dev/null", and device nodes are not permitted here'):
        apply(layer, tmp_path / "root", LayerPolicy(devices=False))
    with pytest.raises(InvalidParameter, match="device number"):
        apply(tar(member("dev/null", kind=tarfile.CHRTYPE, devmajor=5000)), tmp_path / "other")


def test_attributes_of_overlayfs_can_not_be_forged(tmp_path: Path) -> None:
    info, data = directory("d")
    info.pax_headers = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.fine": "1"}
    applied = apply(tar((info, data)), tmp_path / "root")
    assert os.listxattr(tmp_path / "root/d") == ["user.fine"]
    assert applied.ignored == ("d/: trusted.overlay.redirect: private to overlayfs",)


def test_a_cut_layer(tmp_path: Path) -> None:
    layer = tar(member("a", b"1" * 100_000))
    with pytest.raises(InvalidParameter, match="unexpected EOF"):
        apply(layer[:50_000], tmp_path / "root")
