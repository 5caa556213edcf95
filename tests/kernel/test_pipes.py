"""Pipes that can be looked at before they are emptied, and the mark that survives who wrote it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.kernel.pipes import CAPACITY, Mark, copy, make_pipe, move, waiting

Pipe = tuple[int, int]


@pytest.fixture
def pipes() -> Iterator[tuple[Pipe, Pipe, Pipe]]:
    made = (make_pipe(), make_pipe(), make_pipe())
    yield made
    for fd in (fd for pipe in made for fd in pipe):
        try:
            os.close(fd)
        except OSError:
            pass  # the test has closed it


def test_no_program_inherits_a_pipe(pipes: tuple[Pipe, Pipe, Pipe]) -> None:
    assert not any(os.get_inheritable(fd) for pipe in pipes for fd in pipe)


def test_what_waits_is_moved_whole_and_copied_without_being_taken(pipes: tuple[Pipe, Pipe, Pipe]) -> None:
    source, stage, scratch = pipes
    os.write(source[1], b"hello world")
    assert waiting(source[0]) == 11
    assert move(source[0], stage[1]) == 11
    assert (waiting(source[0]), waiting(stage[0])) == (0, 11)
    assert copy(stage[0], scratch, 5) == b"hello"
    assert copy(stage[0], scratch, 100) == b"hello world"
    assert copy(stage[0], scratch, 0) == b""
    assert (waiting(stage[0]), waiting(scratch[0])) == (11, 0)
    assert os.read(stage[0], 100) == b"hello world"


def test_nothing_and_no_room_are_told_apart_from_the_end(pipes: tuple[Pipe, Pipe, Pipe]) -> None:
    source, stage, scratch = pipes
    with pytest.raises(BlockingIOError):
        move(source[0], stage[1])
    with pytest.raises(BlockingIOError):
        copy(stage[0], scratch, 1)
    os.set_blocking(stage[1], False)
    while True:
        try:
            os.write(stage[1], bytes(4096))
        except BlockingIOError:
            break
    os.write(source[1], b"x")
    with pytest.raises(BlockingIOError):
        move(source[0], stage[1])
    assert waiting(source[0]) == 1
    os.read(stage[0], CAPACITY)
    assert move(source[0], stage[1]) == 1
    os.close(source[1])
    assert move(source[0], stage[1]) == 0


def test_moved_pieces_stay_in_order(pipes: tuple[Pipe, Pipe, Pipe]) -> None:
    source, stage, scratch = pipes
    for piece in (b"one ", b"two ", b"three"):
        os.write(source[1], piece)
        move(source[0], stage[1])
    assert copy(stage[0], scratch, 13) == b"one two three"


def test_a_terminal_that_nobody_has_open_has_ended(pipes: tuple[Pipe, Pipe, Pipe]) -> None:
    master, slave = os.openpty()
    os.write(slave, b"bye")
    os.close(slave)
    assert move(master, pipes[1][1]) == 3
    assert move(master, pipes[1][1]) == 0
    os.close(master)


def test_a_mark_survives_who_made_it(tmp_path: Path) -> None:
    path = str(tmp_path / "mark")
    child = os.fork()
    if child == 0:
        mark = Mark.open(path)
        mark.set(123, 1 << 40)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    again = Mark.open(path)
    assert again.unfinished() == (123, 1 << 40)
    again.set(5, 6)
    assert again.unfinished() == (5, 6)
    again.clear()
    again.close()
    last = Mark.open(path)
    assert last.unfinished() is None
    last.close()
    assert os.stat(path).st_mode & 0o777 == 0o600
