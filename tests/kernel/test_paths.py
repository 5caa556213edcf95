"""openat2(2): paths that stay inside, whatever links say."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.kernel.paths import RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, openat2, syncfs


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "victim").write_text("outside")
    inside = tmp_path / "root"
    (inside / "sub").mkdir(parents=True)
    (inside / "file").write_text("inside")
    (inside / "absolute").symlink_to("/file")
    (inside / "up").symlink_to("../../victim")
    (inside / "sub/link").symlink_to("../file")
    descriptor = os.open(inside, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def read(root: int, path: str, resolve: int) -> str:
    with open(openat2(root, path, os.O_RDONLY, 0, resolve)) as file:
        return file.read()


@pytest.mark.parametrize("path", ["file", "absolute", "sub/link", "/file", "../../../file"])
def test_in_root_links_mean_the_root(root: int, path: str) -> None:
    assert read(root, path, RESOLVE_IN_ROOT) == "inside"


@pytest.mark.parametrize(
    ("path", "resolve", "number"),
    [
        ("up", RESOLVE_IN_ROOT, errno.ENOENT),
        ("up", RESOLVE_BENEATH, errno.EXDEV),
        ("absolute", RESOLVE_BENEATH, errno.EXDEV),
        ("../victim", RESOLVE_BENEATH, errno.EXDEV),
        ("sub/link", RESOLVE_NO_SYMLINKS, errno.ELOOP),
    ],
)
def test_refusals(root: int, path: str, resolve: int, number: int) -> None:
    with pytest.raises(OSError, match=path) as caught:
        read(root, path, resolve)
    assert caught.value.errno == number


def test_the_directory_itself_close_on_exec(root: int) -> None:
    descriptor = openat2(root, b"", os.O_RDONLY, 0, RESOLVE_IN_ROOT)
    assert os.path.samestat(os.fstat(descriptor), os.fstat(root))
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def test_syncfs(root: int) -> None:
    syncfs(root)
    with pytest.raises(OSError, match="Bad file descriptor"):
        syncfs(-1)
