"""`labkit cp` and `labkit diff` beside Docker's own command, on the same engine: what is said, and what is there after.

What docker 28.2 does is kept in a file (`tests.cli.recorded`).
"""

from __future__ import annotations

import io
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.cli.copies import Landing, Resource, land, split_argument, split_entry
from labkit.cli.copy_progress import CopyProgress
from labkit.cli.grammar import StatusError
from labkit.cli.streams import TerminalStreams
from labkit.cli.tars import Chunks, unpack
from tests.cli import recorded
from tests.support.archives import HARD, LINK, Member, archive, names
from tests.support.daemon import PATIENCE, Daemon
from tests.support.fixtures import busybox_archive, daemon, shared_daemon

__all__ = ["busybox_archive", "daemon", "shared_daemon"]

LABKIT = [sys.executable, "-m", "labkit.cli.main"]
INSIDE = (
    "rm -rf /w /s; mkdir -p /w /s/dir/sub; cd /s; echo hi > file; echo x > dir/f; ln dir/f dir/g; ln -s ../file dir/l; "
    "ln -s dir ldir; ln -s file lfile; ln -s nosuch broken; cd /w; mkdir d; echo y > f; ln -s d ld; ln -s f lf; "
    "ln -s new lnew; mknod dev c 1 3"
)
SEEN_INSIDE = "cd /w; find . | sort | while read f; do stat -c '%n %F %a %u %g %N' $f; done; cat f 2> /dev/null"
SEEN_HERE = "find . -printf '%p %y %m %l\\n' | sort; cat file out/* 2> /dev/null"
LINES = """
box:/s/file out
box:/s/file out/
box:/s/file out/y
box:/s/file nosuch/
box:/s/file nosuch/x
box:/s/file newf
box:/s/file file
box:/s/file dir/a
box:/s/dir out
box:/s/dir/ out
box:/s/dir/. out
box:/s/dir newd
box:/s/dir/. newd
box:/s/dir/ newd/
box:/s/dir newd/z
box:/s/dir file
box:/s/. .
box:/s ./
box:/s/ldir out
box:/s/ldir/ out
box:/s/ldir/. out
-L box:/s/ldir out
-L box:/s/ldir newd
-L box:/s/lfile out
-L box:/s/lfile newf
-L box:/s/broken out
-L box:/s/ldir/ out
-L box:/s/ldir/. out
box:/s/lfile out
box:/s/broken out
box:/s/nosuch out
box:/s/file/ out
box:/s/file lout
box:/s/dir lout
box:/s/file lnew
box:/s/file lfile
box:/s/file broken
box:/s/file /dev/null
box: out
box:s/file out
nosuch:/x out
a b
box:/a box:/b
'' box:/x
box:/x ''
file box:/w
file box:/w/
file box:/w/new
file box:/w/f
file box:/w/f/
file box:/w/lf
file box:/w/ld
file box:/w/lnew
file box:/w/dev
file box:/nosuch/x
file box:w
file/ box:/w
dir box:/w
dir/ box:/w
dir/. box:/w
dir box:/w/newd
dir/. box:/w/newd
dir box:/w/newd/x
dir box:/w/ld
ldir box:/w
ldir/ box:/w
ldir/. box:/w
-L ldir box:/w
-L ldir box:/w/newd
-L lfile box:/w
-L lfile box:/w/newf
-L broken box:/w
-L nosuch/y box:/w
broken box:/w
broken/ box:/w
lfile box:/w/newf
nosuch box:/w
nosuch/x box:/w
file/x box:/w
file:c box:/w
./file:c box:/w
file nosuch:/w
-a file box:/w
-a dir box:/w
-q file box:/w
--quiet=false file box:/w
--quiet=false box:/s/file out
--quiet=false box:/s/dir out
- box:/w
- box:/w/f
- box:/w/new
"""


class Here:
    """A directory of this machine with files of all kinds, made anew for each line."""

    def __init__(self, path: Path, daemon: Daemon) -> None:
        self.path = path
        self.daemon = daemon

    def answer(self, program: list[str], line: str) -> list[int | str]:
        """The status of a copy, what it said, and what there is after it, here and in the container."""
        self.make()
        into = "box:" in line.split()[-1]
        if into:
            self.daemon.docker("exec", "box", "sh", "-c", INSIDE)
        given = archive(Member("of/stdin", data=b"1", uid=7))
        env = {**self.daemon.environment(), "PYTHONPATH": os.getcwd()}
        command = [*program, "cp", *shlex.split(line)]
        done = subprocess.run(command, cwd=self.path, env=env, input=given, capture_output=True, timeout=PATIENCE)
        said = re.sub(r"^time=.*\n", "", done.stderr.decode().replace(str(self.path), "HERE"), flags=re.M)  # a log
        here = subprocess.run(SEEN_HERE, shell=True, cwd=self.path, capture_output=True, text=True, timeout=PATIENCE)
        inside = self.daemon.out("exec", "box", "sh", "-c", SEEN_INSIDE) if into else ""
        return [done.returncode, said, done.stdout.decode(), here.stdout, inside]

    def make(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        (self.path / "dir/sub").mkdir(parents=True)
        (self.path / "out").mkdir()
        for name, text in {"file": "hello", "file:c": "c", "dir/a": "a", "out/x": "x"}.items():
            (self.path / name).write_text(text)
        for name, target in {
            "dir/l": "../file", "ldir": "dir", "lfile": "file", "broken": "nosuch", "lout": "out", "lnew": "out/new",
        }.items():  # fmt: skip
            (self.path / name).symlink_to(target)
        os.link(self.path / "dir/a", self.path / "dir/b")
        os.mkfifo(self.path / "dir/ff")
        (self.path / "dir/a").chmod(0o4755)


@pytest.mark.root
def test_the_same_words_copy_the_same(daemon: Daemon, tmp_path: Path) -> None:
    daemon.docker("run", "-d", "--network", "none", "--name", "box", "busybox", "sleep", "1000")
    daemon.docker("exec", "box", "sh", "-c", INSIDE)
    here = Here(tmp_path / "here", daemon)
    found = []
    for line in LINES.strip().splitlines():
        if recorded.is_installed():
            recorded.check("copies", line, here.answer(["docker"], line))
        ours, theirs = here.answer(LABKIT, line), recorded.answers("copies")[line]
        if ours != theirs:
            found.append(f"\n{line}\n   labkit: {ours}\n   docker: {theirs}")
    assert "".join(found) == ""


def test_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker's, and some examples."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/x.sock")  # no engine is asked

    def told(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout

    if recorded.is_installed():
        recorded.check("copies", "--help", told("docker", "cp", "--help"))
    ours = re.sub(r"Examples:\n(  .*\n)+\n", "", told(*LABKIT, "cp", "--help"))
    assert ours.replace("labkit", "docker") == recorded.answers("copies")["--help"]


@pytest.mark.root
def test_archives_and_changes(daemon: Daemon) -> None:
    daemon.docker("run", "--network", "none", "--name", "box", "busybox", "sh", "-c", "echo x >/tmp/x; rm /bin/awk")
    env = {**daemon.environment(), "PYTHONPATH": os.getcwd()}

    def labkit(*words: str) -> tuple[int, bytes, bytes]:
        done = subprocess.run([*LABKIT, *words], env=env, capture_output=True, timeout=PATIENCE)
        return done.returncode, done.stdout, done.stderr

    status, out, err = labkit("cp", "box:/tmp", "-")
    assert (status, names(out), err) == (0, ["tmp", "tmp/x"], b"")
    for words in (("diff", "box"), ("container", "diff", "nosuch"), ("diff",)):
        ours, theirs = labkit(*words), daemon.docker(*words, check=False)
        said = ours[2].replace(b"labkit", b"docker")
        assert (ours[0], ours[1]) == (theirs.returncode, theirs.stdout)
        assert said == theirs.stderr or words == ("diff",)  # the wording of that one has changed in docker 28
    assert labkit("diff", "box")[1] == b"C /bin\nD /bin/awk\nC /tmp\nA /tmp/x\n"


@pytest.mark.parametrize(
    ("argument", "split"),
    [
        ("web:/x", ("web", "/x")),
        ("/a:b", ("", "/a:b")),
        ("./a:b", ("", "./a:b")),
        ("a", ("", "a")),
        ("web:", ("web", "")),
        ("web:a:b", ("web", "a:b")),
    ],
)
def test_split_argument(argument: str, split: tuple[str, str]) -> None:
    assert split_argument(argument) == split


@pytest.mark.parametrize(
    ("path", "split"),
    [("/a/b", ("/a", "b")), ("/a/b/", ("/a", "b")), ("/a/.", ("/a", ".")), ("/", ("/", "/")), ("a", (".", "a"))],
)
def test_split_entry(path: str, split: tuple[str, str]) -> None:
    assert split_entry(path) == split


def test_where_an_archive_lands() -> None:
    file, folder = Resource("/s/f", True), Resource("/s/d", True, True)
    assert land(file, Resource("/t", True, True)) == Landing("/t")
    assert land(file, Resource("/t/g", True)) == Landing("/t", "f", "g")
    assert land(folder, Resource("/t/e")).rename("d/x/d") == "e/x/d"
    assert land(Resource("/", True, True), Resource("/t/e")).rename("/x") == "e/x"
    assert land(Resource("/s/d/.", True, True), Resource("/t/e")).rename("./x") == "e/x"
    with pytest.raises(StatusError, match="cannot copy directory"):
        land(folder, Resource("/t/g", True))
    with pytest.raises(StatusError, match="no such directory"):
        land(file, Resource("/t/none/"))


@pytest.mark.parametrize(
    "members",
    [
        [Member("../x")],
        [Member("link", LINK, link="/etc"), Member("link/x")],
        [Member("a", LINK, link="/"), Member("b", HARD, link="a"), Member("b/x")],
        [Member("h", HARD, link="../secret")],
        [Member("l", LINK, link="../secret")],
        [Member("link", LINK, link="/etc"), Member("h", HARD, link="link/passwd")],
    ],
)
def test_a_container_s_archive_stays_where_it_is_put(tmp_path: Path, members: list[Member]) -> None:
    (tmp_path / "secret").write_text("SECRET")
    (tmp_path / "out").mkdir()
    with pytest.raises(StatusError, match=r"outside|invalid"):
        unpack(Chunks(iter([archive(*members)])), Landing(str(tmp_path / "out")))
    assert sorted(os.listdir(tmp_path)) == ["out", "secret"]
    assert not Path("/etc/x").exists()


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(StatusError, match="archive/tar"):
        unpack(Chunks(iter([b"x" * 600])), Landing(str(tmp_path)))
    with pytest.raises(StatusError, match="archive/tar"):
        unpack(Chunks(iter([archive(Member("f", data=b"x" * 5000))[:2000]])), Landing(str(tmp_path)))


def test_links_that_were_there_are_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/d").symlink_to("../elsewhere")
    unpack(Chunks(iter([archive(Member("d/x", data=b"1"))])), Landing(str(tmp_path / "out")))
    assert (tmp_path / "elsewhere/x").read_text() == "1"


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    said = io.BytesIO()

    def read() -> Iterator[bytes]:
        while piece := os.read(ours, 1000):
            yield piece
            if b"web:/x" in piece:
                return

    reader = threading.Thread(target=lambda: said.writelines(read()))
    reader.start()
    streams = TerminalStreams()
    monkeypatch.setattr(streams, "stderr_is_terminal", True)
    monkeypatch.setattr(streams, "write", lambda stream, data: os.write(theirs, data))
    with CopyProgress(streams, "Copying to container - ", False) as progress:
        assert list(progress.count([b"x" * 2048])) == [b"x" * 2048]
    progress.tell("web:/x")
    reader.join(PATIENCE)
    for fd in (ours, theirs):
        os.close(fd)
    text = said.getvalue().decode()
    assert "Copying to container - 0B" in text
    assert "\x1b[24G\x1b[0K2.05kB" in text
    assert text.endswith("\x1b[?25h\x1b[u\x1b[2KSuccessfully copied 2.05kB to web:/x\r\n")


def test_quiet_progress_says_nothing() -> None:
    streams = TerminalStreams()
    with CopyProgress(streams, "Copying - ", True) as progress:
        assert sum(map(len, progress.count([b"abc"]))) == 3
    progress.tell("x")
    assert progress.total == 3


def test_an_archive_s_own_sizes(tmp_path: Path) -> None:
    made = archive(Member("big", data=bytes(3 << 20)))
    unpack(Chunks(made[at : at + 1000] for at in range(0, len(made), 1000)), Landing(str(tmp_path)))
    assert (tmp_path / "big").stat().st_size == 3 << 20
    assert tarfile.is_tarfile(io.BytesIO(made))
