"""Exec, beside Debian's dockerd: what it can be asked for, what it shows of itself, what it refuses."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.side_by_side import differences, masked
from tests.support.daemon import Daemon
from tests.support.dockerd import dockerd, isolated

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Daemon]]:
    with isolated(tmp_path_factory.mktemp("labkit")) as ours, dockerd(tmp_path_factory.mktemp("dockerd")) as theirs:
        for engine in (ours, theirs):
            flags = ("--name", "one", "-w", "/etc", "-e", "A=image", "-h", "box")
            engine.docker("run", "-d", *flags, "busybox", "sleep", "1000")
        yield ours, theirs


SAME = """
one pwd
one cat
-e A=mine -e X=1 one sh -c 'echo $A $X $HOME $HOSTNAME'
-u bob -w /tmp one sh -c 'id; pwd; echo $HOME; grep CapEff /proc/self/status'
-u 1234:99 one id
-u nouser one true
-t one sh -c 'tty; echo $TERM'
-w /nonesuch one pwd
-w relative one pwd
one sh -c 'exit 42'
one sh -c 'kill -9 $$'
-d one true
--detach-keys foo one true
-e =x one env
nonesuch true
"""


@pytest.mark.parametrize("line", SAME.strip().splitlines())
def test_both_make_the_same_of_an_exec(engines: tuple[Daemon, Daemon], line: str) -> None:
    found = []
    for engine in engines:
        done = engine.docker("exec", *shlex.split(line), check=False)
        found.append((done.returncode, masked(done.stdout.decode()), masked(done.stderr.decode())))
    assert found[0] == found[1]


BODIES: list[dict[str, Any]] = [
    {"Cmd": ["sh", "-c", "exit 3"], "User": "bob", "Tty": True, "AttachStdout": True, "DetachKeys": "ctrl-a"},
    {"Cmd": ["sleep", "0.1"], "AttachStdin": True},
]


@pytest.mark.parametrize("body", BODIES)
def test_an_exec_is_shown_as_dockerd_shows_it(engines: tuple[Daemon, Daemon], body: dict[str, Any]) -> None:
    before, after = ([shown(engine, body, ended) for engine in engines] for ended in (False, True))
    assert list(differences(before[0], before[1])) == []
    assert list(differences(after[0], after[1])) == []


def shown(engine: Daemon, body: dict[str, Any], ended: bool) -> Any:
    identity = engine.request("POST", "/containers/one/exec", body)[1]["Id"]
    if ended:
        engine.request("POST", f"/exec/{identity}/start", {"Detach": True})
        engine.docker("exec", "one", "sleep", "0.5")  # longer than the other one
    found = engine.request("GET", f"/exec/{identity}/json")[1]
    for field in ("ID", "ContainerID", "Pid"):
        assert field in found
        found.pop(field)
    return found


def test_an_exec_needs_no_null_device_in_the_container(engines: tuple[Daemon, Daemon]) -> None:
    """Its standard input, if it is given none, is the host's, which doesn't become the user's (runc 1.1's does)."""
    ours, _ = engines
    ours.docker("run", "-d", "--name", "bare", "busybox", "sleep", "1000")
    ours.docker("exec", "bare", "rm", "/dev/null")
    assert ours.docker("exec", "-u", "bob", "bare", "cat").stdout == b""
    ours.docker("exec", "bare", "mknod", "/dev/null", "c", "1", "5")
    assert ours.out("exec", "-u", "bob", "bare", "readlink", "/proc/self/fd/0") == "/dev/null"
    assert os.stat("/dev/null").st_uid == 0
    ours.docker("rm", "-f", "bare")


def test_a_resize_of_what_never_ran_keeps_nobody_waiting(engines: tuple[Daemon, Daemon]) -> None:
    ours, _ = engines
    identity = ours.request("POST", "/containers/one/exec", {"Cmd": ["nonesuch"]})[1]["Id"]
    assert ours.request("POST", f"/exec/{identity}/start", {"Detach": True})[0] == 400
    status, answer = ours.request("POST", f"/exec/{identity}/resize?h=3&w=4")
    assert (status, answer["message"]) == (400, "exec process is not started")
