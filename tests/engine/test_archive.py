"""Paths of `docker cp` in the engine: what they mean, what they lead to, and modes as Go has them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.engine import archive, mountpoints
from labkit.engine.archive import absolute, base, evaluate, go_mode
from labkit.errors import InvalidParameter, KernelError, LabkitError
from labkit.kernel.roots import Bind, MountRoot, TakeRoot
from labkit.plan import Operation
from labkit.trace import new_trace


@pytest.mark.parametrize(
    ("path", "cleaned", "name"),
    [
        ("/", "/", "/"),
        ("/.", "/.", "."),
        ("a", "/a", "a"),
        ("/a/", "/a/", "a"),
        ("/a/.", "/a/.", "."),
        ("a/../..", "/", "/"),
        ("//a//b", "/a/b", "b"),
        ("/a/b/../", "/a/", "a"),
        (".", "/.", "."),
        ("/a/..", "/", "/"),
        ("/..a/.b", "/..a/.b", ".b"),
    ],
)
def test_absolute(path: str, cleaned: str, name: str) -> None:
    assert (absolute(path), base(absolute(path))) == (cleaned, name)


def test_no_path() -> None:
    with pytest.raises(InvalidParameter, match="path cannot be empty"):
        absolute("")
    with pytest.raises(InvalidParameter, match="NUL"):
        absolute("/a\0b")


@given(st.text(st.sampled_from("ab./"), min_size=1, max_size=12))
def test_cleaned_paths_stay_the_same(path: str) -> None:
    once = absolute(path)
    assert absolute(once) == once
    assert ".." not in once.split("/")
    assert once.startswith("/")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (stat.S_IFREG | 0o644, 0o644),
        (stat.S_IFDIR | 0o1777, 1 << 31 | 1 << 20 | 0o777),
        (stat.S_IFLNK | 0o777, 1 << 27 | 0o777),
        (stat.S_IFREG | 0o6755, 1 << 23 | 1 << 22 | 0o755),
        (stat.S_IFCHR | 0o666, 1 << 26 | 1 << 21 | 0o666),
        (stat.S_IFBLK | 0o660, 1 << 26 | 0o660),
        (stat.S_IFIFO, 1 << 25),
        (stat.S_IFSOCK, 1 << 24),
    ],
)
def test_go_mode(mode: int, expected: int) -> None:
    assert go_mode(mode) == expected


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "d/e").mkdir(parents=True)
    for name, target in {
        "abs": "/d", "rel": "d/e", "d/up": "../d/./e", "out": "../../../d", "broken": "d/none/x", "loop": "loop",
        "chain": "abs/e", "one": "two", "two": "one",
    }.items():  # fmt: skip
        (tmp_path / name).symlink_to(target)
    opened = os.open(tmp_path, os.O_PATH)
    yield opened
    os.close(opened)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/abs", "/d"),
        ("/abs/", "/d"),
        ("/rel/.", "/d/e"),
        ("/d/up", "/d/e"),
        ("/out/e", "/d/e"),
        ("/broken", "/d/none/x"),
        ("/broken/y", "/d/none/x/y"),
        ("/chain", "/d/e"),
        ("/rel/..", "/d"),
        ("/none/..", "/"),
        ("/", "/"),
    ],
)
def test_evaluate(root: int, path: str, target: str) -> None:
    assert evaluate(root, path) == target


@pytest.mark.parametrize("path", ["/loop", "/one", "/two/x"])
def test_links_in_a_circle(root: int, path: str) -> None:
    with pytest.raises(LabkitError, match=f"too many links in {path}"):
        evaluate(root, path)


@pytest.mark.parametrize("writable", [False, True])
def test_a_container_that_ends_at_this_moment(monkeypatch: pytest.MonkeyPatch, writable: bool) -> None:
    """Its process is gone, which nobody has settled yet: its layers are mounted as those of one that has ended."""
    tried: list[str] = []

    def carry_out(engine: Any, container: Any, operation: Operation, trace: Any) -> int:
        tried.append(type(operation).__name__)
        if isinstance(operation, TakeRoot):
            raise KernelError("setns", errno.ESRCH)
        return 123

    def mount_root(container: Any, binds: tuple[Bind, ...], writable: bool) -> MountRoot:
        return MountRoot("/", (), "", "", "", "", binds, writable)

    monkeypatch.setattr(archive, "_carry_out", carry_out)
    monkeypatch.setattr(archive, "_mount_root", mount_root)
    monkeypatch.setattr(mountpoints, "seen_from_outside", lambda *_: nullcontext(()))
    container: Any = SimpleNamespace(id="one", run=SimpleNamespace(running=True, pid=1, pidfd=-1))
    engine: Any = SimpleNamespace(containers={"one": container})
    assert archive._open_root(engine, container, writable, new_trace()) == (123, -1)
    assert tried == ["TakeRoot", "MountRoot"]
