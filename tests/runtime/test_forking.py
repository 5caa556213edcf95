"""The fork server: its children are the caller's, and what is in the way of one costs nothing."""

from __future__ import annotations

import marshal
import os
import resource
import select
import selectors
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import wraps
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import KernelError
from labkit.runtime import forking
from labkit.runtime.forking import ForkServer
from labkit.runtime.parking import Kind
from labkit.runtime.prefork import Prefork
from labkit.runtime.spare import Spare
from tests.support.daemon import PATIENCE

PLAIN = Kind(0, [], marshal.dumps([]))
IMPOSSIBLE = Kind(0x200 << 32, [], marshal.dumps([]))
"""A flag of clone3(2) that no kernel knows."""


def alone(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a fresh process. Others leave threads in this one, and a raw clone3(2) takes none of them along:
    the child would wait for what they hold.
    """

    @wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(_called, test.__name__, arguments, named).result()

    return run


def _called(name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    globals()[name].__wrapped__(*arguments, **named)


@contextmanager
def served() -> Iterator[ForkServer]:
    made = forking.start()
    try:
        yield made
    finally:
        made.end()
    assert children() == set()


def children() -> set[int]:
    """This process's children, ended ones too, but for multiprocessing's own."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


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


@alone
def test_its_children_are_the_callers() -> None:
    with served() as server:
        before = open_files()
        server.ask(PLAIN)
        child = server.answer()
        assert children() == {server.pid, child.pid}
        assert [name for name, *_ in child.calls] == ["clone3"]
        assert child.fits(PLAIN)
        child.discard()
        assert children() == {server.pid}
        assert open_files() == before


@alone
def test_a_fork_that_fails_is_told_and_the_next_one_succeeds() -> None:
    with served() as server:
        before = open_files()
        server.ask(IMPOSSIBLE)
        with pytest.raises(KernelError, match="clone3"):
            server.answer()
        assert open_files() == before
        server.ask(PLAIN)
        server.answer().discard()


@alone
def test_without_a_descriptor_nothing_is_asked() -> None:
    with served() as server:
        before = open_files()
        with room_for(0), pytest.raises(OSError, match="Too many open files"):
            server.ask(PLAIN)
        assert server.asked is None
        assert open_files() == before


@pytest.mark.parametrize("room", [1, 2])
@alone
def test_a_child_without_room_for_its_descriptors_is_buried(room: int) -> None:
    """One is taken by /proc/self/mountinfo, which is opened when it is asked for."""
    with served() as server:
        before = open_files()
        with room_for(room):
            server.ask(PLAIN)
            with pytest.raises(OSError, match="Too many open files"):
                server.answer()
        assert children() == {server.pid}
        assert open_files() == before


@alone
def test_a_server_that_is_killed_gives_no_answer() -> None:
    with served() as server:
        before = open_files()
        os.kill(server.pid, signal.SIGSTOP)
        server.ask(PLAIN)
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            server.answer()
        with pytest.raises(BrokenPipeError):
            server.ask(PLAIN)
        assert open_files() == before


@alone
def test_an_answer_that_was_taken_already_is_no_end() -> None:
    """A start takes the child in the same turn of the spawner in which it would be told of the answer."""
    said: list[str] = []
    with selectors.EpollSelector() as selector:
        prefork = Prefork(selector, Spare(), said.append)
        try:
            assert prefork.take(PLAIN) is None
            prefork.park()
            server = min(prefork.pids())
            ((key, _),) = selector.select(PATIENCE)
            child = prefork.take(PLAIN)
            assert child
            child.discard()
            key.data()
            assert prefork.pids() == {server}
            os.kill(server, signal.SIGKILL)
            while server in prefork.pids():
                for key, _ in selector.select(PATIENCE):
                    key.data()
        finally:
            prefork.end()
    assert said == ["the fork server is gone: somebody has ended it"]


@alone
def test_a_parked_child_ends_with_its_spawner() -> None:
    """When the spawner is killed, its ends of both sockets close."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        server = forking.start()
        server.ask(PLAIN)
        os.write(tell, marshal.dumps([server.pid, server.answer().pid]))
        signal.pause()
    both = [os.pidfd_open(one) for one in marshal.loads(os.read(told, 1 << 10))]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for pidfd in both:
        assert select.select([pidfd], [], [], PATIENCE)[0]
