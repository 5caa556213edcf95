"""The name server as a container meets it: over UDP and TCP, from sockets that it was handed."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from labkit.network import messages, nameserver
from labkit.network.directory import Directory, Member, Sight
from labkit.network.nameserver import NameServer, consider
from tests.network import wire
from tests.network.resolvers import Resolver, bound_pair, resolver, sockets

FRONT, BACK = Sight(("n1",)), Sight(("n2",))


@pytest.fixture
def directory() -> Directory:
    made = Directory()
    made.join("n1", "front", Member("e1", ("Web", "www"), "10.1.0.2", "fd00::2"))
    made.join("n1", "front", Member("e2", ("app", "www"), "10.1.0.3"))
    made.join("n2", "back", Member("e3", ("db",), "10.2.0.2"))
    return made


@pytest.fixture
def upstream() -> Iterator[Resolver]:
    """A resolver that knows 1.2.3.4 by every name."""
    with resolver(lambda query, _: [wire.respond(query, (wire.record("x", wire.A, b"\1\2\3\4"),))]) as running:
        yield running


def answer(directory: Directory, sight: Sight, name: str, kind: int = wire.A, **more: int) -> wire.Answer | None:
    """What is answered at once; None if resolvers are to be asked."""
    found = consider(wire.query(name, kind, **more), directory, sight, stream=False)
    return wire.read(found) if isinstance(found, bytes) else None


def test_addresses_of_containers(directory: Directory) -> None:
    found = answer(directory, FRONT, "WEB.front")
    assert found
    assert (found.flags, found.question) == (0x8180, ("WEB.front", wire.A, 1))
    assert found.answers == [("WEB.front", wire.A, 600, "10.1.0.2")]
    found = answer(directory, FRONT, "web", wire.AAAA)
    assert found
    assert found.answers == [("web", wire.AAAA, 600, "fd00::2")]


@pytest.mark.parametrize(("name", "kind"), [("app", wire.AAAA), ("app", wire.MX), ("web", wire.MX)])
def test_a_name_without_such_an_address_exists_all_the_same(directory: Directory, name: str, kind: int) -> None:
    found = answer(directory, FRONT, name, kind)
    assert found
    assert (found.code, found.answers) == (messages.NOERROR, [])


def test_names_of_addresses(directory: Directory) -> None:
    for pointer in ("2.0.1.10.in-addr.arpa", "2." + "0." * 29 + "d.f.ip6.arpa"):
        found = answer(directory, FRONT, pointer.upper(), wire.PTR)
        assert found
        assert found.answers == [(pointer.upper(), wire.PTR, 600, "Web.front")]


def test_several_addresses_come_in_every_order(directory: Directory) -> None:
    random.seed(5)
    seen = set()
    for _ in range(64):
        found = answer(directory, FRONT, "www")
        assert found
        assert found.contents == {"10.1.0.2", "10.1.0.3"}
        seen.add(found.answers[0][3])
    assert seen == {"10.1.0.2", "10.1.0.3"}


@pytest.mark.parametrize(
    ("name", "kind", "category"),
    [
        ("db", wire.A, 1),
        ("example.org", wire.A, 1),
        ("web", wire.SRV, 1),
        ("web", wire.TXT, 1),
        ("web", wire.A, 3),
        ("web", wire.PTR, 1),
        ("2.0.2.10.in-addr.arpa", wire.PTR, 1),
        ("10.in-addr.arpa", wire.PTR, 1),
    ],
)
def test_all_else_is_for_resolvers_and_a_failure_without_any(
    directory: Directory, name: str, kind: int, category: int
) -> None:
    query = wire.query(name, kind, category=category)
    found = consider(query, directory, Sight(("n1",), resolvers=("10.0.0.1",)), stream=False)
    assert isinstance(found, messages.Query)
    assert found.wire == query
    alone = answer(directory, FRONT, name, kind, category=category)
    assert alone
    assert alone.code == messages.SERVFAIL


def test_with_ndots_names_without_a_dot_stay_here(directory: Directory) -> None:
    sight = Sight(("n1",), resolvers=("10.0.0.1",), ndots=True)
    found = answer(directory, sight, "db")
    assert found
    assert (found.code, found.answers) == (messages.NOERROR, [])
    assert answer(directory, sight, "db.example") is None
    assert answer(directory, sight, "db", wire.TXT) is None


def test_a_name_that_dns_cannot_say_is_not_told() -> None:
    directory = Directory()
    directory.join("n1", "front", Member("e1", ("x" * 64,), "10.1.0.2"))
    found = answer(directory, FRONT, "2.0.1.10.in-addr.arpa", wire.PTR)
    assert found
    assert found.code == messages.SERVFAIL


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_answered_refused_or_passed_over(data: bytes, stream: bool) -> None:
    directory = Directory()
    directory.join("n1", "front", Member("e1", ("web",), "10.1.0.2"))
    for sent in (data, wire.query("web") + data, data[:2] + b"\1\0\0\1\0\0\0\0\0\0" + data[2:]):
        found = consider(sent, directory, Sight(("n1",), resolvers=("10.0.0.1",)), stream)
        if isinstance(found, bytes):
            assert wire.read(found).number == int.from_bytes(sent[:2])


Talk = Callable[[NameServer, tuple[str, int]], Awaitable[None]]
Serving = Callable[[Sight, Talk], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def serving(request: pytest.FixtureRequest, directory: Directory) -> Iterator[Serving]:
    """Serve one container and talk to it. Fails if the server leaves a task behind, or the test a socket."""

    async def talk(sight: Sight, talking: Talk) -> None:
        udp, tcp = bound_pair()
        tcp.listen()
        address = udp.getsockname()
        served = NameServer(directory)
        served.serve("c1", udp.detach(), tcp.detach(), sight)
        try:
            await talking(served, address)
        finally:
            served.close()
        async with asyncio.timeout(2):
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0)

    before = sockets()
    yield lambda sight, talking: (asyncio.run if request.param == "asyncio" else uvloop.run)(talk(sight, talking))
    assert sockets() <= before


async def over_udp(address: tuple[str, int], *queries: bytes) -> list[bytes]:
    """Send all, then take as many answers."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        for query in queries:
            sock.send(query)
        async with asyncio.timeout(10):
            return [await loop.sock_recv(sock, 65535) for _ in queries]


async def over_tcp(address: tuple[str, int], *queries: bytes) -> list[bytes]:
    """Send all on one connection, then take as many answers."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(b"".join(len(query).to_bytes(2) + query for query in queries))
        async with asyncio.timeout(10):
            return [await reader.readexactly(int.from_bytes(await reader.readexactly(2))) for _ in queries]
    finally:
        writer.close()
        await writer.wait_closed()


def test_both_ways_in(serving: Serving) -> None:
    async def talk(served: NameServer, address: tuple[str, int]) -> None:
        for ask in (over_udp, over_tcp):
            first, second = map(wire.read, await ask(address, wire.query("web", number=1), wire.query("app", number=2)))
            assert (first.number, first.contents) == (1, {"10.1.0.2"})
            assert (second.number, second.contents) == (2, {"10.1.0.3"})

    serving(FRONT, talk)


def test_what_it_does_not_know_is_forwarded(serving: Serving, upstream: Resolver) -> None:
    async def talk(served: NameServer, address: tuple[str, int]) -> None:
        for ask in (over_udp, over_tcp):
            found = [wire.read(one) for one in await ask(address, wire.query("db"), wire.query("web"))]
            assert sorted(one.contents.pop() for one in found) == ["1.2.3.4", "10.1.0.2"]
        assert [port == 0 for _, port in upstream.asked] == [False, True]

    serving(Sight(("n1",), resolvers=(upstream.address,)), talk)


def test_a_change_shows_at_once(serving: Serving, directory: Directory) -> None:
    async def code(address: tuple[str, int], name: str) -> int:
        return wire.read((await over_udp(address, wire.query(name)))[0]).code

    async def talk(served: NameServer, address: tuple[str, int]) -> None:
        assert (await code(address, "web"), await code(address, "db")) == (0, 2)
        served.change("c1", BACK)
        served.change("unknown", FRONT)
        assert (await code(address, "web"), await code(address, "db")) == (2, 0)
        directory.leave("n2", "e3")
        assert await code(address, "db") == 2

    serving(FRONT, talk)


def test_each_container_sees_its_own(serving: Serving) -> None:
    async def talk(served: NameServer, address: tuple[str, int]) -> None:
        udp, tcp = bound_pair()
        tcp.listen()
        other = udp.getsockname()
        served.serve("c2", udp.detach(), tcp.detach(), BACK)
        for ask in (over_udp, over_tcp):
            for place, name, expected in ((address, "web", 0), (address, "db", 2), (other, "web", 2), (other, "db", 0)):
                assert wire.read((await ask(place, wire.query(name)))[0]).code == expected

    serving(FRONT, talk)


def test_large_answers_are_truncated_over_udp_and_whole_over_tcp(serving: Serving, directory: Directory) -> None:
    for i in range(100):
        directory.join("n1", "front", Member(f"many{i}", ("many",), f"10.3.0.{i}"))

    async def talk(served: NameServer, address: tuple[str, int]) -> None:
        small, larger = map(wire.read, await over_udp(address, wire.query("many"), wire.query("many", size=1232)))
        assert (small.truncated, len(small.answers)) == (True, 30)
        assert (larger.truncated, len(larger.answers)) == (True, 74)
        whole = wire.read((await over_tcp(address, wire.query("many")))[0])
        assert (whole.truncated, len(whole.contents)) == (False, 100)

    serving(FRONT, talk)


def test_after_nonsense_it_still_answers(serving: Serving) -> None:
    async def talk(served: NameServer, address: tuple[str, int]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for size in (0, 1, 11, 12, 5000):
                sock.sendto(random.randbytes(size), address)
            # Refused queries are answered too, to a client that has gone by then.
            sock.sendto(wire.query("web", flags=0x2800), address)
        for nonsense in (b"", b"\0", b"\0\0", b"\0\5short", b"\xff\xff" + b"x" * 100, b"\0\x0c" + bytes(12)):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(nonsense)
            writer.write_eof()
            async with asyncio.timeout(10):
                refused = await reader.read()
            assert refused == (b"\0\x0c\0\0\x80\x81" + bytes(8) if len(nonsense) == 14 else b"")
            writer.close()
            await writer.wait_closed()
        assert wire.read((await over_udp(address, wire.query("web")))[0]).contents == {"10.1.0.2"}

    serving(FRONT, talk)


def test_more_connections_than_it_takes_wait_their_turn(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameserver, "MOST_STREAMS", 2)

    async def talk(served: NameServer, address: tuple[str, int]) -> None:
        idle = [await asyncio.open_connection(*address) for _ in range(2)]
        while len(served.services["c1"].conversing) < 2:
            await asyncio.sleep(0)
        waiting = asyncio.create_task(over_tcp(address, wire.query("web")))
        assert (await over_udp(address, wire.query("app")))[0]
        assert len(served.services["c1"].conversing) == 2
        assert not waiting.done()
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
        assert wire.read((await waiting)[0]).contents == {"10.1.0.2"}

    serving(FRONT, talk)


def test_without_descriptors_it_waits_for_some(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameserver, "PAUSE", 0.05)

    async def talk(served: NameServer, address: tuple[str, int]) -> None:
        listening = served.services["c1"].tcp
        served.services["c1"].tcp = Exhausted(listening, 2)  # type: ignore[assignment]  # what of a socket is used here
        assert wire.read((await over_tcp(address, wire.query("web")))[0]).code == 0

    serving(FRONT, talk)


class Exhausted:
    """A listening socket whose first calls of accept(2) find no descriptor free."""

    def __init__(self, sock: socket.socket, times: int) -> None:
        self.sock, self.times = sock, times
        self.fileno, self.close = sock.fileno, sock.close

    def accept(self) -> tuple[socket.socket, object]:
        if self.times:
            self.times -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self.sock.accept()


def test_a_silent_connection_is_ended(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameserver, "IDLE", 0.05)

    async def talk(served: NameServer, address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"\0")
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    serving(FRONT, talk)


def test_too_many_questions_for_resolvers_are_refused(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameserver, "MOST_FORWARDED", 3)

    async def talk(served: NameServer, address: tuple[str, int]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(address)
            sock.setblocking(False)
            for number in range(5):
                sock.send(wire.query("db", number=number))
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(10):
                found = [wire.read(await loop.sock_recv(sock, 512)) for _ in range(2)]
            assert [(one.number, one.code) for one in found] == [(3, messages.REFUSED), (4, messages.REFUSED)]
        assert wire.read((await over_udp(address, wire.query("web")))[0]).code == 0

    with resolver(lambda query, stream: []) as silent:
        serving(Sight(("n1",), resolvers=(silent.address,)), talk)


def test_stopping_frees_the_sockets_at_once(serving: Serving) -> None:
    async def talk(served: NameServer, address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(wire.query("db"), address)
            while not (served.services["c1"].conversing and served.services["c1"].forwarding):
                await asyncio.sleep(0)
            served.stop("c1")
            served.stop("c1")
        udp, tcp = bound_pair(port=address[1])
        udp.close()
        tcp.close()
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    with resolver(lambda query, stream: []) as silent:
        serving(Sight(("n1",), resolvers=(silent.address,)), talk)


def test_a_key_that_is_served_again_has_the_new_sockets(serving: Serving) -> None:
    async def talk(served: NameServer, address: tuple[str, int]) -> None:
        udp, tcp = bound_pair()
        tcp.listen()
        other = udp.getsockname()
        served.serve("c1", udp.detach(), tcp.detach(), BACK)
        assert wire.read((await over_udp(other, wire.query("db")))[0]).code == 0
        with pytest.raises(ConnectionRefusedError):
            await over_tcp(address, wire.query("web"))

    serving(FRONT, talk)
