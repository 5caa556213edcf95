"""Questions passed on to resolvers: in turn, to the right one, and believing nobody else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from labkit.errors import InvalidParameter
from labkit.network import forwarder, messages
from labkit.network.forwarder import Forwarder
from tests.network import wire
from tests.network.resolvers import Answering, bound_pair, nobody, resolver, sockets

ADDRESS = wire.record("web.example", wire.A, b"\1\2\3\4")
Run = Callable[[Coroutine[Any, Any, bytes]], wire.Answer]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run a coroutine on one of the event loops. Fails if the test leaves a socket behind."""
    before = sockets()
    yield lambda work: wire.read((asyncio.run if request.param == "asyncio" else uvloop.run)(work))
    assert sockets() <= before


async def ask(*resolvers: str, size: int = 0, stream: bool = False, name: str = "web.example") -> bytes:
    asking = Forwarder()
    query = messages.read_query(wire.query(name, size=size))
    answer = await asking.forward(query, resolvers, stream)
    assert asking.ports == {}
    return answer


def answers(*records: bytes, code: int = 0) -> Answering:
    return lambda query, _: [wire.respond(query, records, code=code)]


def silence(query: bytes, stream: bool) -> list[bytes]:
    return []


def test_the_answer_comes_back_under_the_clients_number(run: Run) -> None:
    with resolver(answers(ADDRESS)) as upstream:
        found = run(ask(upstream.address))
    assert (found.number, found.code, found.contents) == (0x1234, 0, {"1.2.3.4"})


def test_numbers_and_ports_are_not_to_be_guessed(run: Run) -> None:
    async def often(address: str) -> bytes:
        for _ in range(20):
            answer = await ask(address)
        return answer

    with resolver(answers(ADDRESS)) as upstream:
        run(often(upstream.address))
        assert len({query[:2] for query, _ in upstream.asked}) > 15
        assert len({port for _, port in upstream.asked}) > 15


def test_over_ipv6(run: Run) -> None:
    with resolver(answers(ADDRESS), host="::1") as upstream:
        assert run(ask(upstream.address)).contents == {"1.2.3.4"}


@pytest.mark.parametrize("code", [messages.SERVFAIL, messages.REFUSED])
def test_after_a_failure_the_next_is_asked(run: Run, code: int) -> None:
    with resolver(answers(code=code)) as first, resolver(answers(ADDRESS)) as second:
        assert run(ask(first.address, second.address)).contents == {"1.2.3.4"}
        assert len(first.asked) == 1


def test_after_silence_and_refused_connections_the_next_is_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder, "PATIENCE", 0.05)
    with resolver(silence) as first, resolver(answers(ADDRESS)) as last:
        for stream in (False, True):
            found = run(ask(first.address, nobody(), last.address, stream=stream))
            assert found.contents == {"1.2.3.4"}


def test_that_there_is_no_such_name_is_an_answer(run: Run) -> None:
    with resolver(answers(code=messages.NXDOMAIN)) as first, resolver(answers(ADDRESS)) as second:
        assert run(ask(first.address, second.address)).code == messages.NXDOMAIN
        assert not second.asked


def test_a_failure_if_none_answers_and_no_more_than_three_are_asked(run: Run) -> None:
    with resolver(answers(ADDRESS)) as fourth:
        found = run(ask(nobody(), "not an address", nobody(), fourth.address))
        assert (found.number, found.code, found.answers) == (0x1234, messages.SERVFAIL, [])
        assert found.question == ("web.example", 1, 1)


def test_what_answers_something_else_is_not_believed(run: Run) -> None:
    other = wire.record("web.example", wire.A, b"\6\6\6\6")

    def lie_then_answer(query: bytes, stream: bool) -> list[bytes]:
        false = wire.respond(query, (other,))
        asked = wire.query("other.example", number=int.from_bytes(query[:2]))
        wrong_number = messages.numbered(false, int.from_bytes(query[:2]) ^ 1)
        return [b"", b"x", wrong_number, wire.respond(asked, (other,)), false[:-1], wire.respond(query, (ADDRESS,))]

    with resolver(lie_then_answer) as upstream:
        assert run(ask(upstream.address)).contents == {"1.2.3.4"}


def test_nobody_else_can_answer(run: Run) -> None:
    """An answer with all the right bytes from another address is not taken."""
    elsewhere = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    forged = wire.record("web.example", wire.A, b"\6\6\6\6")

    def after_a_forger(query: bytes, stream: bool) -> list[bytes]:
        elsewhere.sendto(wire.respond(query, (forged,)), ("127.0.0.1", upstream.asked[-1][1]))
        return [wire.respond(query, (ADDRESS,))]

    with elsewhere, resolver(after_a_forger) as upstream:
        assert run(ask(upstream.address)).contents == {"1.2.3.4"}


def many_over_tcp(query: bytes, stream: bool) -> list[bytes]:
    records = tuple(wire.record("web.example", wire.A, bytes([10, 0, 0, i])) for i in range(100))
    return [wire.respond(query, records) if stream else wire.respond(query, records[:5], flags=0x8380)]


@pytest.mark.parametrize("size", [0, 1232, 4096])
def test_a_truncated_answer_is_fetched_whole_and_cut_to_what_the_client_takes(run: Run, size: int) -> None:
    with resolver(many_over_tcp) as upstream:
        found = run(ask(upstream.address, size=size))
    assert found.truncated == (size < 4096)
    assert len(found.answers) == {0: 17, 1232: 44, 4096: 100}[size]


def test_a_truncated_answer_will_do_where_tcp_is_refused(run: Run) -> None:
    with resolver(many_over_tcp, streams=False) as upstream:
        found = run(ask(upstream.address, size=4096))
    assert found.truncated
    assert len(found.answers) == 5


def test_who_asks_over_tcp_gets_all_from_tcp(run: Run) -> None:
    with resolver(many_over_tcp) as upstream:
        found = run(ask(upstream.address, stream=True))
        assert [port for _, port in upstream.asked] == [0]
    assert (found.truncated, len(found.answers)) == (False, 100)


def test_a_stream_that_answers_something_else_or_ends_is_a_failure(run: Run) -> None:
    def wrong(query: bytes, stream: bool) -> list[bytes]:
        return [wire.respond(wire.query("other.example"), (ADDRESS,))]

    with resolver(wrong) as lying, resolver(silence) as ending:
        assert run(ask(lying.address, ending.address, stream=True)).code == messages.SERVFAIL


def test_many_questions_share_a_few_ports(run: Run) -> None:
    """However many wait, the daemon's descriptors don't run out."""

    async def flood(address: str) -> bytes:
        asking = Forwarder()
        query = messages.read_query(wire.query("web.example"))
        tasks = [asyncio.create_task(asking.forward(query, (address,), False)) for _ in range(150)]
        found = await asyncio.gather(*tasks)
        assert asking.ports == {}
        assert {wire.read(answer).code for answer in found} == {0}
        return found[0]

    with resolver(answers(ADDRESS)) as upstream:
        run(flood(upstream.address))
        assert len({port for _, port in upstream.asked}) <= forwarder.MOST_PORTS
        assert len({query[:2] for query, _ in upstream.asked}) > 130


def test_giving_up_leaves_nothing(run: Run) -> None:
    async def give_up(udp: socket.socket, tcp: socket.socket) -> bytes:
        asking, loop = Forwarder(), asyncio.get_running_loop()
        query = messages.read_query(wire.query("web.example"))
        for stream in (False, True):
            address = f"127.0.0.1#{udp.getsockname()[1]}"
            task = asyncio.create_task(asking.forward(query, (address,), stream))
            if stream:
                (await loop.sock_accept(tcp))[0].close()
            else:
                await loop.sock_recv(udp, 512)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert asking.ports == {}
        return messages.reply(query)

    udp, tcp = bound_pair()
    tcp.listen()
    for sock in (udp, tcp):
        sock.setblocking(False)
    with udp, tcp:
        run(give_up(udp, tcp))


@pytest.mark.parametrize(
    ("text", "family", "address"),
    [
        ("10.0.0.1", socket.AF_INET, ("10.0.0.1", 53)),
        ("10.0.0.1#5353", socket.AF_INET, ("10.0.0.1", 5353)),
        ("fd00::1", socket.AF_INET6, ("fd00::1", 53, 0, 0)),
        ("fe80::1%lo#54", socket.AF_INET6, ("fe80::1", 54, 0, 1)),
    ],
)
def test_addresses_of_resolvers(text: str, family: int, address: tuple[object, ...]) -> None:
    assert forwarder.socket_address(text) == (family, address)


@pytest.mark.parametrize("text", ["", "resolver.example", "10.0.0.1:53", "10.0.0.1#x", "10.0.0.1#70000", "10.0.0.1#-1"])
def test_what_is_no_address_of_a_resolver(text: str) -> None:
    with pytest.raises(InvalidParameter, match="is no address of a name server"):
        forwarder.socket_address(text)
