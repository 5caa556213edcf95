"""Messages between daemon and spawner: small and large ones, with descriptors that no program inherits."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from labkit.runtime.channel import MOST_DESCRIPTORS, PACKET, Message, receive, send

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield ends
    for end in ends:
        end.close()


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("size", [0, 1, PACKET - 100, PACKET, PACKET + 1, 5 << 20])
def test_a_message_of_any_size(pair: Pair, size: int) -> None:
    message: Message = {"kind": "start", "data": b"\xff" * size, "nested": [("a", None, True, -1, 2**70)], "ü": "\0"}
    before = open_descriptors()
    send(pair[0], message)
    assert receive(pair[1]) == (message, [])
    assert open_descriptors() == before


@pytest.mark.parametrize("size", [0, 2 * PACKET])
def test_descriptors_arrive_in_order_and_close_on_exec(pair: Pair, size: int) -> None:
    pipes = [os.pipe() for _ in range(3)]
    sent = [fd for ends in pipes for fd in ends]
    for fd in sent:
        os.set_inheritable(fd, True)
    send(pair[0], {"data": bytes(size)}, sent)
    answer = receive(pair[1])
    assert answer is not None
    message, arrived = answer
    assert message == {"data": bytes(size)}
    assert [os.fstat(fd).st_ino for fd in arrived] == [os.fstat(fd).st_ino for fd in sent]
    assert not any(os.get_inheritable(fd) for fd in arrived)
    for fd in (*sent, *arrived):  # what was sent is still the sender's to close
        os.close(fd)


def test_as_many_descriptors_as_fit(pair: Pair) -> None:
    sent = [os.open("/dev/null", os.O_RDONLY) for _ in range(MOST_DESCRIPTORS)]
    send(pair[0], {}, sent)
    answer = receive(pair[1])
    assert answer is not None
    assert len(answer[1]) == MOST_DESCRIPTORS
    for fd in (*sent, *answer[1]):
        os.close(fd)


def test_messages_stay_apart_and_in_order(pair: Pair) -> None:
    for number in range(5):
        send(pair[0], {"number": number, "data": bytes(2 * PACKET if number % 2 else 3)})
    answers = [receive(pair[1]) for _ in range(5)]
    assert [answer[0]["number"] for answer in answers if answer] == [0, 1, 2, 3, 4]


def test_the_other_end_is_gone(pair: Pair) -> None:
    pair[0].close()
    assert receive(pair[1]) is None
    with pytest.raises(BrokenPipeError):
        send(pair[1], {})
