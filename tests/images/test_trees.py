"""Reading a tree as a tar: what is told, in which order, and what a hostile tree can't do."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.images.trees import file_tar, tree_tar
from tests.support.archives import content, names, swapping


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "b/deep").mkdir(parents=True)
    (root / "a").write_text("one")
    (root / "b/deep/x").write_bytes(b"y" * 3000)
    os.link(root / "a", root / "c")
    (root / "b/link").symlink_to("/etc/passwd")
    os.mkfifo(root / "b/fifo")
    os.mkdir(root / "aa")  # after "a", before "b": the order is that of names, not of paths
    (root / "aa/z").write_text("")
    return root


def archived(path: Path, name: str, barred: frozenset[int] = frozenset()) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(taken(path, name, barred))) as found:
        return found.getmembers()


def taken(path: Path, name: str, barred: frozenset[int] = frozenset()) -> bytes:
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        return b"".join(tree_tar(file, os.fsencode(name), barred))
    finally:
        os.close(file)


def test_names_order_and_kinds(tree: Path) -> None:
    found = archived(tree, "t")
    assert [entry.name for entry in found] == [
        "t", "t/a", "t/aa", "t/aa/z", "t/b", "t/b/deep", "t/b/deep/x", "t/b/fifo", "t/b/link", "t/c",
    ]  # fmt: skip
    kinds = {entry.name: entry.type for entry in found}
    assert kinds["t/b/fifo"] == tarfile.FIFOTYPE
    assert (kinds["t/c"], found[-1].linkname) == (tarfile.LNKTYPE, "t/a")
    assert [entry.linkname for entry in found if entry.name == "t/b/link"] == ["/etc/passwd"]
    assert taken(tree, "t").startswith(b"t/\0")


def test_the_root_of_a_container_is_called_slash(tree: Path) -> None:
    assert taken(tree, "").startswith(b"/\0")
    assert [entry.name for entry in archived(tree, "")][1] == "/a"
    assert [entry.name for entry in archived(tree, ".")][:2] == [".", "./a"]


def test_a_single_file_and_a_link(tree: Path) -> None:
    assert [(entry.name, entry.size) for entry in archived(tree / "b/deep/x", "x")] == [("x", 3000)]
    assert [(entry.name, entry.issym()) for entry in archived(tree / "b/link", "link")] == [("link", True)]


def test_modes_times_and_long_names(tree: Path) -> None:
    long = "n" * 250
    (tree / long).write_text("!")
    (tree / long).chmod(0o4751)
    os.utime(tree / long, ns=(0, 1_500_000_000_999_999_999))
    entry = next(entry for entry in archived(tree, "t") if long in entry.name)
    assert (entry.mode, entry.mtime, entry.name) == (0o4751, 1_500_000_000, f"t/{long}")


def test_a_socket_is_left_out(tree: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tree / "s"))
        assert "t/s" not in [entry.name for entry in archived(tree, "t")]


def test_barred_filesystems_are_told_empty(tree: Path) -> None:
    device = os.stat(tree).st_dev
    assert [entry.name for entry in archived(tree, "t", frozenset({device}))] == ["t"]


def test_a_large_file_comes_in_pieces_and_with_its_size(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate((5 << 20) + 7)
    opened = os.open(path, os.O_PATH)
    sizes = [len(piece) for piece in tree_tar(opened, b"big")]
    os.close(opened)
    assert max(sizes) <= 1 << 20
    assert sum(sizes) == 512 + (5 << 20) + 512 + 1024


def test_a_file_that_shrinks_is_padded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * (3 << 20))
    opened = os.open(path, os.O_PATH)
    pieces: Iterator[bytes] = tree_tar(opened, b"log")
    data = next(pieces) + next(pieces)
    path.write_bytes(b"")
    data += b"".join(pieces)
    os.close(opened)
    assert len(content(data, "log")) == 3 << 20
    assert "shrank" in caplog.text


@pytest.mark.parametrize("size", [0, 1, 512, (2 << 20) + 3])
def test_the_length_of_a_file_s_tar_is_known(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"z" * size)
    opened = os.open(path, os.O_PATH)
    before = len(os.listdir("/proc/self/fd"))
    for name in (b"file", b"n" * 200):
        length, pieces = file_tar(opened, name)
        os.truncate(path, size // 2)  # whatever becomes of it
        data = b"".join(pieces)
        assert len(data) == length
        assert len(content(data, name.decode())) == size
        path.write_bytes(b"z" * size)
    length, pieces = file_tar(opened, b"file")
    next(pieces)
    pieces.close()
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(opened)


def test_what_vanishes_is_left_out(tree: Path) -> None:
    opened = os.open(tree, os.O_PATH)
    pieces = tree_tar(opened, b"t")
    (tree / "b/deep/x").unlink()
    (tree / "b/deep").rmdir()
    data = b"".join(pieces)
    os.close(opened)
    assert "t/b/deep" not in names(data)


def test_a_directory_that_turns_into_a_link_leads_nowhere(tmp_path: Path) -> None:
    """A directory and a link to the secret change places all the time: no piece of the secret ever comes out."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("SECRET")
    root = tmp_path / "root"
    (root / "one").mkdir(parents=True)
    (root / "one/key").write_text("plain")
    (root / "two").symlink_to(secret)
    with swapping(root / "one", root / "two"):
        for _ in range(300):
            assert b"SECRET" not in taken(root, "r")


@pytest.mark.root
def test_devices_and_capabilities(tmp_path: Path) -> None:
    os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (tmp_path / "able").write_text("")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(tmp_path / "able", "security.capability", capability)
    able, null = archived(tmp_path, "t")[1:]
    assert able.pax_headers["SCHILY.xattr.security.capability"].encode("utf-8", "surrogateescape") == capability
    assert (null.ischr(), null.devmajor, null.devminor) == (True, 1, 3)
