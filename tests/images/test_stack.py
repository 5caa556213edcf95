"""A stack of layers, read by labkit and mounted by the kernel: the same tree."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.errors import NotImplementedByLabkit
from labkit.images.stack import LayerStack

pytestmark = pytest.mark.root  # whiteouts are device nodes, marks are trusted attributes

NAMES = st.sampled_from(["a", "b", "d", "e"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
ACTIONS = st.tuples(st.sampled_from(["file", "directory", "whiteout", "opaque", "link", "absolute link"]), PATHS)
LAYERS = st.lists(st.lists(ACTIONS, max_size=8), min_size=2, max_size=4)


def make(root: Path, number: int, actions: list[tuple[str, str]]) -> None:
    """A layer as overlayfs keeps it. What can't be made any more is left out."""
    root.mkdir()
    for kind, name in actions:
        path = root / name
        parents = [root.joinpath(*path.relative_to(root).parts[:depth]) for depth in range(1, name.count("/") + 1)]
        if os.path.lexists(path) or any(os.path.lexists(one) and not is_directory(one) for one in parents):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind in ("directory", "opaque"):
            path.mkdir()
            if kind == "opaque":
                os.setxattr(path, "trusted.overlay.opaque", b"y")
        elif kind == "whiteout":
            os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
        elif kind == "file":
            path.write_text(f"{name} of {number}")
        else:
            path.symlink_to("/a/b" if kind == "absolute link" else "../d")


def is_directory(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def mounted(layers: list[Path], merged: Path, script: str) -> str:
    """What a script says of the merged tree, which is mounted in a namespace of its own."""
    merged.mkdir(exist_ok=True)
    options = f"lowerdir={':'.join(map(str, layers))}"
    command = f"mount -t overlay -o {options} overlay {merged} && cd {merged} && {script}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(stack: LayerStack) -> list[str]:
    """The walk in find(1)'s words: path, kind, and what is in it."""
    found = []
    for node in stack.walk():
        name, kind = os.fsdecode(node.path), stat.S_IFMT(node.status.st_mode)
        if kind == stat.S_IFREG:
            with stack.opened(node.layer, node.path, os.O_RDONLY) as file:
                found.append(f"{name} f {os.read(file, 1000).decode()}")
        elif kind == stat.S_IFLNK:
            found.append(f"{name} l {os.fsdecode(stack.read_link(node))}")
        else:
            found.append(f"{name} d ")
    return found


FILES = r"-type f -printf '%P f ' -exec cat {} \; -printf '\n'"
FIND = rf"find . \( {FILES} \) -o -type l -printf '%P l %l\n' -o -type d -printf '%P d \n'"
# A whiteout over nothing at all is left out: overlayfs lets it show in a directory that it has nothing to merge with.


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LAYERS)
def test_it_is_what_overlayfs_shows(tmp_path: Path, layers: list[list[tuple[str, str]]]) -> None:
    place = tmp_path / "layers"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for number, actions in enumerate(layers):
        make(place / str(number), number, actions)
    directories = [place / str(number) for number in range(len(layers))]
    expected = mounted(directories, tmp_path / "merged", FIND).splitlines()
    with LayerStack([str(path) for path in directories]) as stack:
        assert sorted(listed(stack)) == sorted(expected)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LAYERS, PATHS)
def test_a_file_is_found_where_a_process_finds_it(
    tmp_path: Path, layers: list[list[tuple[str, str]]], wanted: str
) -> None:
    """Through links, from one layer into another; chroot(2) shows what an absolute one means."""
    place = tmp_path / "layers"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for number, actions in enumerate(layers):
        make(place / str(number), number, actions)
    tools = place / "tools"
    (tools / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tools / "bin/busybox")
    directories = [*(place / str(number) for number in range(len(layers))), tools]
    script = f"chroot . /bin/busybox sh -c 'busybox test -f /{wanted} && busybox cat /{wanted}; true'"
    expected = mounted(directories, tmp_path / "merged", script)
    with LayerStack([str(path) for path in directories]) as stack:
        assert stack.read_text(wanted) == expected


def test_what_vanishes_while_it_is_read_is_left_out(tmp_path: Path) -> None:
    make(tmp_path / "0", 0, [("file", "a/b"), ("file", "d/e")])
    with LayerStack([str(tmp_path / "0")]) as stack:
        walk = stack.walk()
        assert next(walk).path == b""
        shutil.rmtree(tmp_path / "0/a")
        (tmp_path / "0/a").symlink_to("/etc")  # and is never followed
        assert [node.path for node in walk] == [b"a", b"d", b"d/e"]


def test_a_directory_that_overlayfs_renamed_is_refused(tmp_path: Path) -> None:
    """Not read as empty: it stands for another one below."""
    make(tmp_path / "0", 0, [("directory", "a")])
    os.setxattr(tmp_path / "0/a", "trusted.overlay.redirect", b"d")
    with LayerStack([str(tmp_path / "0")]) as stack, pytest.raises(NotImplementedByLabkit, match="redirect_dir"):
        list(stack.walk())
