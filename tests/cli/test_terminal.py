"""`run -it`, `exec -it`, `attach` on a real pseudo-terminal."""

from __future__ import annotations

import shlex
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pexpect  # type: ignore[import-untyped]  # comes with IPython; there are no types for it in our environment
import pytest

from labkit.client import Client
from tests.cli import recorded

pytestmark = pytest.mark.root


@contextmanager
def terminal(*words: str) -> Iterator[pexpect.spawn]:
    argv = ["-m", "labkit.cli.main", *words]
    child = pexpect.spawn(sys.executable, argv, timeout=30, dimensions=(33, 111), encoding="utf-8")
    try:
        yield child
    finally:
        child.close(force=True)


def status(child: pexpect.spawn) -> int | None:
    child.expect(pexpect.EOF)
    child.close()
    code: int | None = child.exitstatus
    return code


def test_run_it_is_a_terminal_of_our_size_that_follows_ours(engine: str) -> None:
    with terminal("run", "--rm", "-it", "--network", "none", "labbb") as child:
        child.expect("# ")
        child.sendline("stty size; tty")
        child.expect("33 111\r\n/dev/pts/0\r\n")
        child.setwinsize(44, 222)
        child.expect("# ")
        # The shell runs when the new size has arrived, which SIGWINCH tells it.
        child.sendline("until [ \"$(stty size)\" = '44 222' ]; do :; done; echo resiz''ed")
        child.expect("resized\r\n")
        child.sendline("exit 5")
        assert status(child) == 5


def test_interrupt_and_end_of_file_are_typed_not_signalled(engine: str) -> None:
    with terminal("run", "--rm", "-it", "--network", "none", "labbb") as child:
        child.expect("# ")
        child.sendline("sh -c 'echo rea\"\"dy; exec sleep 99'")
        child.expect("ready\r\n")
        child.sendcontrol("c")
        child.expect("# ")
        child.sendcontrol("d")
        assert status(child) == 130


def test_detach_and_attach_again(engine: str) -> None:
    with terminal("run", "-it", "--name", "shell", "--network", "none", "labbb") as child:
        child.expect("# ")
        child.send("\x10\x11")
        assert status(child) == 0
    client = Client(engine)
    assert client.get("/containers/shell/json")["State"]["Running"] is True
    client.close()
    with terminal("attach", "shell") as child:
        child.sendline("echo back''again")
        child.expect("backagain\r\n")
        child.sendline("exit 3")
        assert status(child) == 3


def test_other_detach_keys(engine: str) -> None:
    with terminal("run", "-it", "--detach-keys", "ctrl-a,x", "--network", "none", "labbb") as child:
        child.expect("# ")
        child.send("\x10\x11\x01x")
        assert status(child) == 0


def test_exec_it(engine: str) -> None:
    with terminal("run", "-d", "--name", "box", "--network", "none", "labbb", "sleep", "99") as child:
        assert status(child) == 0
    with terminal("exec", "-it", "box", "sh") as child:
        child.expect("# ")
        child.sendline("stty size")
        child.expect("33 111\r\n")
        child.sendline("exit 7")
        assert status(child) == 7


def test_the_terminal_is_as_before_afterwards(engine: str) -> None:
    """Also if the container can't start: raw mode must not outlive the command."""
    child = pexpect.spawn("/bin/sh", timeout=30, encoding="utf-8")
    before = termios.tcgetattr(child.child_fd)
    for program in ("true", "/nosuch"):
        child.sendline(f"{sys.executable} -m labkit.cli.main run --rm -it --network none labbb {program}; echo end''ed")
        child.expect("ended\r\n")
    assert termios.tcgetattr(child.child_fd) == before
    child.close(force=True)


def test_the_tree_of_images_has_colours(engine: str) -> None:
    """The same as docker's, where it is of the version whose answers we follow; narrow ones have fewer columns."""
    for columns in (30, 80):
        words = ["-m", "labkit.cli.main", "images", "--tree", "-a"]
        ours = pexpect.run(shlex.join([sys.executable, *words]), dimensions=(33, columns), encoding="utf-8")
        assert "\x1b[34m\x1b[1mlabbb:latest\x1b[0m" in ours
        assert ("EXTRA" in ours) is (columns == 80)
        if recorded.is_installed():
            assert ours == pexpect.run("docker images --tree -a", dimensions=(33, columns), encoding="utf-8")
