"""The lender: its children are the caller's, they run programs, and what is in the way of one costs nothing."""

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
from labkit.kernel import constants as c
from labkit.kernel.process import Execute, NewSession
from labkit.kernel.stdio import ConnectStdio
from labkit.plan import encode
from labkit.runtime import lender
from labkit.runtime import prefork as prefork_module
from labkit.runtime.init import ERROR, RECORDS
from labkit.runtime.lender import Lender
from labkit.runtime.parking import Kind, Parked
from labkit.runtime.prefork import Prefork
from labkit.runtime.spare import Spare
from tests.support.daemon import PATIENCE

PLAIN = Kind(0, [])
IMPOSSIBLE = Kind(0x10000, [])
"""CLONE_THREAD without CLONE_SIGHAND: no kernel takes that."""


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
def served() -> Iterator[Lender]:
    before = children()
    made = lender.start()
    try:
        yield made
    finally:
        made.end()
    assert children() == before


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


def reports(child: Parked) -> dict[bytes, bytes]:
    """What a child says until it has executed its program or has ended, by kind."""
    found = {}
    while packet := child.control.recv(1 << 16):
        found[packet[:1]] = packet[1:]
    return found


def work(child: Parked, *argv: str, output: int) -> None:
    """Have it become a program, whose output goes to a descriptor."""
    done = ConnectStdio(("stdout",)), Execute(argv, ("A=b",))
    operations = [[place, *encode(operation)] for place, operation in enumerate(done)]
    child.work(marshal.dumps(operations), {"stdout": output})
    child.go()


def end_of(child: Parked) -> int:
    """The exit status of a child that had work."""
    found = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    assert found
    os.close(child.pidfd)
    child.control.close()
    child.left()
    return found.si_status


@alone
def test_its_children_are_the_callers() -> None:
    with served() as server:
        before = open_files()
        server.ask(PLAIN)
        child = server.answer()
        assert children() == {server.pid, child.pid}
        assert [name for name, *_ in child.calls] == ["clone"]
        assert child.fits(PLAIN)
        assert not server.is_free()
        child.discard()
        assert server.is_free()
        assert children() == {server.pid}
        assert open_files() == before


@alone
def test_a_child_runs_its_program_and_the_next_one_another() -> None:
    with served() as server:
        before = open_files()
        for place in range(3):
            reading, writing = os.pipe()
            server.ask(PLAIN)
            child = server.answer()
            work(child, "/bin/sh", "-c", f"echo $A {place}; exit {place}", output=writing)
            os.close(writing)
            told = reports(child)
            with open(reading, encoding="ascii") as file:
                assert file.read() == f"b {place}\n"
            assert set(told) == {RECORDS}
            assert [record[0] for record in marshal.loads(told[RECORDS])] == [0, 1]
            assert end_of(child) == place
            assert server.is_free()
        assert open_files() == before


@alone
def test_a_child_that_is_known_to_have_left_late_is_not_taken_for_the_next() -> None:
    """Of the two that tell that the memory is free, the lender may be the first to be heard."""
    with served() as server:
        server.ask(PLAIN)
        first = server.answer()
        work(first, "/bin/true", output=0)
        poll = select.poll()
        poll.register(server, select.POLLIN)
        assert poll.poll(PATIENCE * 1000)
        server.hear()
        assert server.is_free()
        server.ask(PLAIN)
        second = server.answer()
        assert end_of(first) == 0
        assert not server.is_free()
        second.discard()
        assert server.is_free()


@alone
def test_a_program_that_cannot_run_is_told_in_the_usual_way() -> None:
    with served() as server:
        for argv, error in ((("/none",), "execve"), (("/bin/echo", "a\0b"), "ValueError: embedded null byte")):
            server.ask(PLAIN)
            child = server.answer()
            work(child, *argv, output=0)
            told = marshal.loads(reports(child)[ERROR])
            assert told[0].startswith(error)
            assert end_of(child) == 127
            assert server.is_free()


@alone
def test_what_a_child_did_to_itself_is_not_done_to_the_lender() -> None:
    with served() as server:
        session = os.getsid(server.pid)
        server.ask(Kind(c.CLONE_NEWNET | c.CLONE_NEWUTS, [encode(NewSession())]))
        child = server.answer()
        child.work(marshal.dumps([[0, *encode(NewSession())], [1, *encode(Execute(("/bin/true",), ()))]]), {})
        select.select([child.control], [], [], 0)
        assert os.getsid(server.pid) == session
        for name in ("net", "uts", "pid"):
            assert os.readlink(f"/proc/{server.pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")
        child.discard()


@pytest.mark.root
@alone
def test_a_child_enters_a_pid_namespace_and_the_lender_stays_outside() -> None:
    with served() as server:
        server.ask(Kind(c.CLONE_NEWPID, []))
        init = server.answer()
        with served() as other:
            for _ in range(2):
                other.ask(PLAIN, (init.pidfd, "init"))
                child = other.answer()
                assert [name for name, *_ in child.calls] == ["setns", "clone"]
                inside = os.readlink(f"/proc/{init.pid}/ns/pid")
                assert os.readlink(f"/proc/{child.pid}/ns/pid") == inside
                child.discard()
                assert other.is_free()
                assert os.readlink(f"/proc/{other.pid}/ns/pid_for_children") == os.readlink("/proc/self/ns/pid")
        init.discard()


@alone
def test_a_child_that_fails_is_told_and_the_next_one_succeeds() -> None:
    with served() as server:
        before = open_files()
        server.ask(IMPOSSIBLE)
        with pytest.raises(KernelError, match="clone"):
            server.answer()
        assert open_files() == before
        server.ask(PLAIN)
        server.answer().discard()


@pytest.mark.parametrize("room", [0, 1, 2])
@alone
def test_without_descriptors_nothing_is_asked(room: int) -> None:
    with served() as server:
        before = open_files()
        with room_for(room), pytest.raises(OSError, match="Too many open files"):
            server.ask(PLAIN)
        assert server.asked is None
        assert open_files() == before


@alone
def test_a_lender_that_is_killed_gives_no_answer() -> None:
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
def test_a_lender_that_is_killed_is_missed_although_its_child_lives() -> None:
    with served() as server:
        server.ask(PLAIN)
        child = server.answer()
        os.kill(server.pid, signal.SIGKILL)
        child.left()
        with pytest.raises(ConnectionResetError):
            server.is_free()
        child.discard()


@alone
def test_without_a_descriptor_for_the_answer_the_child_is_buried() -> None:
    with served() as server:
        server.ask(PLAIN)
        with room_for(0), pytest.raises(OSError, match="Too many open files"):
            server.answer()
        assert children() == {server.pid}


@alone
def test_a_lender_whose_child_was_killed_at_its_work_ends() -> None:
    """What the child was changing is as it left it."""
    with served() as server:
        server.ask(PLAIN)
        child = server.answer()
        os.kill(child.pid, signal.SIGKILL)
        assert end_of(child) == signal.SIGKILL
        os.close(child.mounts)
        with pytest.raises(ConnectionResetError):
            server.is_free()


@alone
def test_a_child_that_somebody_has_stopped_is_ended_all_the_same() -> None:
    with served() as server:
        server.ask(PLAIN)
        child = server.answer()
        os.kill(child.pid, signal.SIGSTOP)
        child.discard()
        assert children() == {server.pid}


@contextmanager
def preforking(said: list[str]) -> Iterator[tuple[Prefork, Callable[[], None]]]:
    """A Prefork, and what has it hear what there is to hear."""
    with selectors.EpollSelector() as selector:
        prefork = Prefork(selector, Spare(), said.append)

        def hear() -> None:
            for key, _ in selector.select(PATIENCE):
                key.data()

        try:
            yield prefork, hear
        finally:
            prefork.end()
    assert children() == set()


def want(prefork: Prefork, kind: Kind) -> None:
    """Ask for two children, which there are none of yet."""
    assert [prefork.take(kind) for _ in range(2)] == [None, None]


def taken(prefork: Prefork, kind: Kind) -> Parked:
    child = prefork.take(kind)
    assert child
    return child


@alone
def test_after_a_moment_of_rest_a_child_waits_for_the_next_start() -> None:
    said: list[str] = []
    with preforking(said) as (prefork, hear):
        assert prefork.take(PLAIN) is None
        prefork.park()
        assert children() == set()  # one alone isn't worth it
        assert prefork.take(PLAIN) is None
        prefork.park()
        (server,) = children() & prefork.pids()
        hear()
        (waiting,) = children() - {server}
        first = taken(prefork, PLAIN)
        assert first.pid == waiting
        first.discard()
        second = taken(prefork, PLAIN)  # none waits: it is made at once
        second.discard()
        prefork.park()
        hear()
        prefork.end()
        assert children() == set()
        prefork.park()  # nothing has been asked for since
        assert children() == set()
    assert said == []


@alone
def test_a_parked_child_of_another_kind_makes_room() -> None:
    said: list[str] = []
    with preforking(said) as (prefork, hear):
        want(prefork, PLAIN)
        prefork.park()
        (server,) = prefork.pids()
        hear()
        other = Kind(c.CLONE_NEWUTS, [])
        second = taken(prefork, other)
        assert second.kind == other
        assert children() == {server, second.pid}
        second.discard()
    assert said == []


@pytest.mark.root
@alone
def test_execs_have_a_lender_of_their_own() -> None:
    with preforking([]) as (prefork, hear):
        want(prefork, PLAIN)
        itself = os.pidfd_open(os.getpid())
        assert [prefork.enter(PLAIN, itself, "itself") for _ in range(2)] == [None, None]
        prefork.park()
        hear()
        waiting = taken(prefork, PLAIN)
        entering = prefork.enter(PLAIN, itself, "itself")
        assert entering
        assert entering.lender is not waiting.lender
        waiting.discard()
        entering.discard()


@pytest.mark.parametrize(("dumpable", "made"), [("0", True), ("2", True), ("1", False), (None, False)])
@alone
def test_no_memory_is_lent_where_a_change_of_the_user_makes_dumpable(
    tmp_path: Path, dumpable: str | None, made: bool
) -> None:
    prefork_module._SUID_DUMPABLE = str(tmp_path / "suid_dumpable")
    if dumpable:
        (tmp_path / "suid_dumpable").write_text(f"{dumpable}\n")
    with preforking([]) as (prefork, hear):
        want(prefork, PLAIN)
        prefork.park()
        if made:
            hear()
        child = prefork.take(PLAIN)
        assert (child is not None) == made
        if child:
            child.discard()


@alone
def test_while_its_memory_is_lent_a_lender_makes_no_other_child() -> None:
    with preforking([]) as (prefork, hear):
        want(prefork, PLAIN)
        prefork.park()
        hear()
        first = taken(prefork, PLAIN)
        assert prefork.take(PLAIN) is None
        first.discard()
        taken(prefork, PLAIN).discard()


@alone
def test_a_killed_lender_is_told_of_and_replaced() -> None:
    said: list[str] = []
    with preforking(said) as (prefork, hear):
        want(prefork, PLAIN)
        prefork.park()
        hear()
        taken(prefork, PLAIN).discard()
        (server,) = prefork.pids()
        os.kill(server, signal.SIGKILL)
        while server in prefork.pids():
            hear()
        assert prefork.take(PLAIN) is None
        prefork.park()
        hear()
        taken(prefork, PLAIN).discard()
    assert said == ["a lender is gone: it has ended"]


@alone
def test_an_answer_that_was_taken_already_is_no_end() -> None:
    """A start takes the child in the same turn of the spawner in which it would be told of the answer."""
    said: list[str] = []
    with selectors.EpollSelector() as selector:
        prefork = Prefork(selector, Spare(), said.append)
        try:
            want(prefork, PLAIN)
            prefork.park()
            ((key, _),) = selector.select(PATIENCE)
            child = taken(prefork, PLAIN)
            key.data()
            child.discard()
            another = taken(prefork, PLAIN)
            key.data()
            another.discard()
        finally:
            prefork.end()
    assert said == []


@alone
def test_a_parked_child_ends_with_its_spawner() -> None:
    """When the spawner is killed, its ends of both sockets close."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        server = lender.start()
        server.ask(PLAIN)
        os.write(tell, marshal.dumps([server.pid, server.answer().pid]))
        signal.pause()
    both = [os.pidfd_open(one) for one in marshal.loads(os.read(told, 1 << 10))]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for pidfd in both:
        assert select.select([pidfd], [], [], PATIENCE)[0]
