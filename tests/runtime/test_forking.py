"""The fork server: its children are the caller's, and what is in the way of one costs nothing."""

from __future__ import annotations

import marshal
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labkit.errors import KernelError
from labkit.runtime import forking
from labkit.runtime.forking import ForkServer
from labkit.runtime.parking import Kind

PLAIN = Kind(0, [], marshal.dumps([]))
IMPOSSIBLE = Kind(0x200 << 32, [], marshal.dumps([]))
"""A flag of clone3(2) that no kernel knows."""


Children = Callable[[], set[int]]


@pytest.fixture
def children() -> Children:
    """What this process's children are, ended ones too, besides those that it has already: daemons of other tests."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    before = set(path.read_text().split())
    return lambda: set(map(int, set(path.read_text().split()) - before))


@pytest.fixture
def server(children: Children) -> Iterator[ForkServer]:
    made = forking.start()
    yield made
    made.end()
    assert children() == set()


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """This process may open so many files more."""
    taken = [os.dup(0) for _ in range(count + 1)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken), limits[1]))
    for fd in taken:
        os.close(fd)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_its_children_are_the_callers(server: ForkServer, children: Children) -> None:
    before = open_files()
    server.ask(PLAIN)
    child = server.answer()
    assert children() == {server.pid, child.pid}
    assert [name for name, *_ in child.calls] == ["clone3"]
    assert child.fits(PLAIN)
    child.discard()
    assert children() == {server.pid}
    assert open_files() == before


def test_a_fork_that_fails_is_told_and_the_next_one_succeeds(server: ForkServer) -> None:
    before = open_files()
    server.ask(IMPOSSIBLE)
    with pytest.raises(KernelError, match="clone3"):
        server.answer()
    assert open_files() == before
    server.ask(PLAIN)
    server.answer().discard()


def test_without_a_descriptor_nothing_is_asked(server: ForkServer) -> None:
    before = open_files()
    with room_for(0), pytest.raises(OSError, match="Too many open files"):
        server.ask(PLAIN)
    assert server.asked is None
    assert open_files() == before


@pytest.mark.parametrize("room", [1, 2])
def test_a_child_without_room_for_its_descriptors_is_buried(server: ForkServer, children: Children, room: int) -> None:
    """One is taken by /proc/self/mountinfo, which is opened when it is asked for."""
    before = open_files()
    with room_for(room):
        server.ask(PLAIN)
        with pytest.raises(OSError, match="Too many open files"):
            server.answer()
    assert children() == {server.pid}
    assert open_files() == before


def test_a_server_that_is_killed_gives_no_answer(server: ForkServer) -> None:
    before = open_files()
    os.kill(server.pid, signal.SIGSTOP)
    server.ask(PLAIN)
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(ConnectionResetError):
        server.answer()
    with pytest.raises(BrokenPipeError):
        server.ask(PLAIN)
    assert open_files() == before


def test_a_parked_child_ends_with_its_spawner() -> None:
    """When the spawner is killed, its ends of both sockets close."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            server = forking.start()
            server.ask(PLAIN)
            os.write(tell, marshal.dumps([server.pid, server.answer().pid]))
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.close(tell)
    with open(told, "rb") as pipe:
        pids = marshal.loads(pipe.read())  # ends when both have: they hold the pipe
    os.waitpid(pid, 0)
    assert len(pids) == 2
