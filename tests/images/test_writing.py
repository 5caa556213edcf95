"""Layers written and applied again, and read by others: tarfile, tar(1)."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.errors import KernelError
from labkit.images.stack import LayerStack
from labkit.images.tar import Entry
from labkit.images.writing import header, layer_tar, root_tar
from tests.images.tars import apply, contents

pytestmark = pytest.mark.root

NAME = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=70).filter(
    lambda name: name not in (".", "..") and not name.startswith(".wh.") and len(name.encode()) < 250
)
FILES = st.dictionaries(
    st.lists(NAME, min_size=1, max_size=3).map("/".join),
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["file", "directory", "link", "hard link", "fifo", "device", "whiteout", "opaque"]),
            "data": st.binary(max_size=1500),
            "mode": st.integers(0, 0o7777),
            "owner": st.tuples(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 2)),
            "mtime": st.integers(-(2**31), 2**34),
            "attribute": st.one_of(st.none(), st.binary(max_size=40)),
        }
    ),
    max_size=10,
)


def make(root: Path, files: dict[str, dict[str, object]]) -> None:
    """A layer as overlayfs keeps it; what has no place any more is left out."""
    root.mkdir()
    earlier: list[Path] = []
    for name, what in files.items():
        path, kind, data = root / name, what["kind"], what["data"]
        assert isinstance(data, bytes)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            pass
        except (NotADirectoryError, FileExistsError):
            continue
        else:
            continue
        if kind in ("directory", "opaque"):
            path.mkdir()
            if kind == "opaque":
                os.setxattr(path, "trusted.overlay.opaque", b"y")
        elif kind == "link":
            path.symlink_to(os.fsdecode(data.replace(b"\0", b"/")[:300] or b"x"))
        elif kind == "hard link" and earlier:
            os.link(earlier[0], path)
            continue
        elif kind in ("fifo", "device", "whiteout"):
            device = os.makedev(0, 0) if kind == "whiteout" else os.makedev(7, 300)
            os.mknod(path, stat.S_IFIFO if kind == "fifo" else stat.S_IFCHR, device)
        else:
            path.write_bytes(data)
            earlier.append(path)
        if kind != "whiteout":
            finish(path, what)
    for path in root.rglob("*"):  # what was made in a directory has changed its time
        os.utime(path, (path.lstat().st_mtime // 1,) * 2, follow_symlinks=False)


def finish(path: Path, what: dict[str, object]) -> None:
    owner, mode, mtime, attribute = what["owner"], what["mode"], what["mtime"], what["attribute"]
    assert isinstance(owner, tuple)
    assert isinstance(mode, int)
    assert isinstance(mtime, int)
    os.chown(path, *owner, follow_symlinks=False)
    if not path.is_symlink():
        path.chmod(mode | (0o700 if path.is_dir() else 0))
    if isinstance(attribute, bytes) and not path.is_symlink() and (path.is_file() or path.is_dir()):
        os.setxattr(path, "user.test", attribute)
    os.utime(path, (mtime, mtime), follow_symlinks=False)


def facts(root: Path) -> dict[str, tuple[object, ...]]:
    """What there is to know of all files but whiteouts, which have neither owner nor time."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        status, name = path.lstat(), str(path.relative_to(root))
        target = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        times = status.st_mtime_ns if not is_whiteout(path) else 0
        owner = (oct(status.st_mode), status.st_uid, status.st_gid) if not is_whiteout(path) else ()
        linked = first.setdefault(status.st_ino, name)
        found[name] = (*owner, times, status.st_rdev, linked, target, attributes_of(path))
    return found


def attributes_of(path: Path) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and not status.st_rdev


def written(root: Path) -> bytes:
    with LayerStack([str(root)]) as stack:
        return b"".join(layer_tar(stack))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILES)
def test_a_layer_that_is_written_and_applied_is_the_same(tmp_path: Path, files: dict[str, dict[str, object]]) -> None:
    for name in ("one", "two"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    make(tmp_path / "one", files)
    archive = written(tmp_path / "one")
    apply(archive, tmp_path / "two")
    assert facts(tmp_path / "two") == facts(tmp_path / "one")


def test_other_readers_agree(tmp_path: Path) -> None:
    root = tmp_path / "one"
    names = ["short", "l" * 99, "l" * 100, "l" * 101, "ünï", f"{'d' * 120}/{'e' * 120}/file"]
    make(root, {name: plain(data=name.encode()) for name in names} | {"zero": plain(data=b"")})
    os.setxattr(root / "short", "user.a", b"with\nnewline\0and nul")
    os.setxattr(root / "short", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.link(root / "short", root / "zzz")
    archive = written(root)
    with tarfile.open(fileobj=BytesIO(archive)) as found:
        members = {member.name: member for member in found}
        files = {name for name, member in members.items() if member.isfile()}
        assert files == {*names, "zero"}
        assert {name: found.extractfile(name).read() for name in names} == {name: name.encode() for name in names}  # type: ignore[union-attr]  # all are files
        assert members["zzz"].linkname == "short"
        assert members["short"].pax_headers["SCHILY.xattr.user.a"] == "with\nnewline\0and nul"
    (tmp_path / "two").mkdir()
    command = ["tar", "-C", str(tmp_path / "two"), "--xattrs", "--xattrs-include=*", "-xpf", "-"]
    done = subprocess.run(command, input=archive, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert facts(tmp_path / "two") == facts(root)


def plain(**fields: object) -> dict[str, object]:
    return {"kind": "file", "data": b"", "mode": 0o644, "owner": (0, 0), "mtime": 1, "attribute": None} | fields


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    """Whatever order it was made in."""
    names = ["b/x", "a", "c/d/e", "b.txt", "b/y"]
    make(tmp_path / "one", {name: plain() for name in names})
    make(tmp_path / "two", {name: plain() for name in reversed(names)})
    for root in (tmp_path / "one", tmp_path / "two"):
        for path in root.rglob("*"):
            os.utime(path, (5, 5))
    assert written(tmp_path / "one") == written(tmp_path / "two")


def test_numbers_that_are_too_large_for_ustar() -> None:
    entry = Entry(b"x", b"0", 0o644, 2**31, 2**32 - 2, 2**40, (2**35) * 10**9)
    with tarfile.open(fileobj=BytesIO(header(entry))) as archive:
        member = archive.next()
    assert member is not None
    assert (member.uid, member.gid, member.size, member.mtime) == (2**31, 2**32 - 2, 2**40, 2**35)


def test_mount_points_of_the_runtime_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "one"
    make(root, {name: plain() for name in ("etc/hosts", "etc/mine", "dev/console", "proc/kept")})
    (root / "sys").mkdir()
    hidden = frozenset((b"etc/hosts", b"dev", b"dev/console", b"proc", b"sys"))
    with LayerStack([str(root)]) as stack:
        archive = b"".join(layer_tar(stack, hidden))
    with tarfile.open(fileobj=BytesIO(archive)) as found:
        assert found.getnames() == ["etc", "etc/mine", "proc", "proc/kept"]


@pytest.mark.parametrize(("mode", "left"), [(0o755, []), (0o700, ["etc"])])
def test_a_directory_that_was_copied_for_a_mount_point(tmp_path: Path, mode: int, left: list[str]) -> None:
    """It is a change only if somebody changed it."""
    make(tmp_path / "top", {"etc": plain(kind="directory", mode=mode), "etc/hosts": plain()})
    make(tmp_path / "base", {"etc": plain(kind="directory", mode=0o755)})
    with LayerStack([str(tmp_path / "top"), str(tmp_path / "base")]) as stack:
        archive = b"".join(layer_tar(stack, frozenset((b"etc/hosts",))))
    with tarfile.open(fileobj=BytesIO(archive)) as found:
        assert found.getnames() == left


def test_the_root_has_an_entry_if_it_is_unusual(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir(mode=0o700)
    os.chown(tmp_path / "one", 5, 6)
    apply(written(tmp_path / "one"), tmp_path / "two")
    status = (tmp_path / "two").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o700, 5, 6)


def test_sockets_are_left_out_and_sparse_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "one/socket"))
        with open(tmp_path / "one/sparse", "wb") as file:
            file.truncate(3_000_001)
            os.pwrite(file.fileno(), b"end", 2_999_998)
        apply(written(tmp_path / "one"), tmp_path / "two")
    assert contents(tmp_path / "two") == {"sparse": bytes(2_999_998) + b"end"}


def test_the_whole_of_a_stack(tmp_path: Path) -> None:
    make(tmp_path / "top", {"a/new": plain(data=b"1"), "gone": plain(kind="whiteout"), "a/old": plain(kind="whiteout")})
    make(tmp_path / "base", {"a/old": plain(), "a/kept": plain(data=b"2"), "gone/x": plain()})
    with LayerStack([str(tmp_path / "top"), str(tmp_path / "base")]) as stack:
        apply(b"".join(root_tar(stack)), tmp_path / "two")
    assert contents(tmp_path / "two") == {"a/new": b"1", "a/kept": b"2"}
    assert not (tmp_path / "two/gone").exists()


def test_a_tree_that_is_deeper_than_a_path_is_long(tmp_path: Path) -> None:
    """Told as what it is; a process in a container can make one."""
    (tmp_path / "one").mkdir()
    here = os.open(tmp_path / "one", os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(KernelError, match="ENAMETOOLONG"):
        written(tmp_path / "one")
    with LayerStack([str(tmp_path / "one")]) as stack, pytest.raises(KernelError, match="ENAMETOOLONG"):
        list(root_tar(stack))
    shutil.rmtree(tmp_path / "one")
