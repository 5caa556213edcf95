"""The userland proxy: bytes, ends and failures of connections, and the flows of UDP clients."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import Callable, Coroutine, Iterator

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from labkit.kernel.ports import bound
from labkit.network import proxy as proxies
from labkit.network.proxy import Held, Proxy, reply_from

PATIENCE = 20

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


@pytest.fixture(autouse=True)
def descriptors_are_returned() -> Iterator[None]:
    run(asyncio.sleep(0))  # uvloop keeps two for itself
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


def run(scenario: Coroutine[None, None, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(PATIENCE):
            await scenario

    uvloop.run(limited())


def hold(protocol: str = "tcp", address: str = "127.0.0.1") -> socket.socket:
    sock = bound(protocol, address, 0)
    if protocol == "tcp":
        sock.listen()
    return sock


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop go on until it has seen what the kernel has told it."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


class Published:
    """A server that stands for the container's, and the proxy in front of it."""

    def __init__(self, handler: Handler, address: str = "127.0.0.1") -> None:
        self.handler, self.address = handler, address

    async def __aenter__(self) -> Published:
        self.server = await asyncio.start_server(self.handler, "127.0.0.1", 0)
        self.sock = hold("tcp", self.address)
        self.port = self.sock.getsockname()[1]
        self.proxy = Proxy([Held(self.sock, "tcp", "127.0.0.1", self.server.sockets[0].getsockname()[1])])
        self.proxy.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.proxy.stop()
        self.server.close()
        await self.server.wait_closed()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.address, self.port)


async def echo_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say what was said, once all of it was."""
    writer.write(await reader.read())
    await writer.drain()
    writer.close()


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_half_closed_connection_is_answered(address: str) -> None:
    sent = os.urandom(5_000_000)

    async def scenario() -> None:
        async with Published(echo_all, address) as published:
            reader, writer = await published.connect()
            writer.write(sent)
            writer.write_eof()
            answer = await reader.read()
            await close(writer)
            assert hashlib.sha256(answer).digest() == hashlib.sha256(sent).digest()
            await until(lambda: published.proxy.carrying == 0)

    run(scenario())


def test_the_container_may_be_the_first_to_end() -> None:
    heard: list[bytes] = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.write_eof()
        heard.append(await reader.read())
        writer.close()

    async def scenario() -> None:
        async with Published(greet) as published:
            reader, writer = await published.connect()
            assert await reader.read() == b"hello"
            assert published.proxy.carrying == 1
            writer.write(b"and good-bye")
            writer.write_eof()
            await until(lambda: published.proxy.carrying == 0)
            await close(writer)
        assert heard == [b"and good-bye"]

    run(scenario())


def test_a_reader_that_does_not_read_slows_the_writer() -> None:
    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await waiting.wait()
        received.append(len(await reader.read()))
        writer.close()

    received: list[int] = []
    waiting = asyncio.Event()

    async def scenario() -> None:
        async with Published(ignore) as published:
            loop = asyncio.get_running_loop()
            client = socket.create_connection(("127.0.0.1", published.port))
            client.setblocking(False)
            taken, quiet = 0, 0
            while quiet < 50:  # until the kernel's buffers and the pipe are full
                try:
                    taken += client.send(bytes(1 << 16))
                    quiet = 0
                except BlockingIOError:
                    quiet += 1
                    await asyncio.sleep(0.002)
            assert taken < 64 << 20
            waiting.set()
            await loop.sock_sendall(client, bytes(1 << 20))
            client.shutdown(socket.SHUT_WR)
            await loop.sock_recv(client, 1)
            client.close()
        assert received == [taken + (1 << 20)]

    run(scenario())


def test_nobody_listens_in_the_container() -> None:
    async def scenario() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            sock = hold()
            proxy = Proxy([Held(sock, "tcp", "127.0.0.1", free.getsockname()[1])])
            proxy.start()
            reader, writer = await asyncio.open_connection("127.0.0.1", sock.getsockname()[1])
            assert await reader.read() == b""
            await close(writer)
            assert proxy.carrying == 0
            proxy.stop()

    run(scenario())


def test_a_reset_is_passed_on() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, proxies._RESET)
        writer.transport.abort()

    async def scenario() -> None:
        async with Published(reset) as published:
            reader, writer = await published.connect()
            writer.write(b"x")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
            await until(lambda: published.proxy.carrying == 0)

    run(scenario())


def test_stop_ends_connections_and_frees_the_port() -> None:
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(b"x")
        assert await reader.read() == b""
        writer.close()

    async def scenario() -> None:
        async with Published(wait) as published:
            reader, writer = await published.connect()
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            published.proxy.stop()
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
            bound("tcp", "127.0.0.1", published.port).close()

    # The server's side is reset too; asyncio reports what its handler didn't catch.
    async def quiet() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        await scenario()

    run(quiet())


def test_many_clients_at_once() -> None:
    async def scenario() -> None:
        async with Published(echo_all) as published:

            async def ask(number: int) -> None:
                reader, writer = await published.connect()
                writer.write(b"%d " % number * 1000)
                writer.write_eof()
                assert await reader.read() == b"%d " % number * 1000
                await close(writer)

            await asyncio.gather(*(ask(number) for number in range(200)))
            await until(lambda: published.proxy.carrying == 0)

    run(scenario())


class Echo(asyncio.DatagramProtocol):
    """Answers each datagram with the port that it came from, and itself."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # as it is for UDP
        self.transport = transport

    def datagram_received(self, payload: bytes, address: tuple[str, int]) -> None:
        self.transport.sendto(b"%d " % address[1] + payload, address)


async def udp_echo(port: int = 0) -> asyncio.DatagramTransport:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", port))
    return transport


async def ask(client: socket.socket, payload: bytes, to: tuple[str, int]) -> tuple[bytes, tuple[str, int]]:
    client.sendto(payload, to)
    await readable(client)
    answer, address = client.recvfrom(65535)
    return answer, address[:2]


async def readable(sock: socket.socket) -> None:
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock.fileno(), event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(sock.fileno())


def udp_client(family: int = socket.AF_INET) -> socket.socket:
    client = socket.socket(family, socket.SOCK_DGRAM)
    client.setblocking(False)
    return client


@pytest.mark.parametrize(("wildcard", "address"), [("0.0.0.0", "127.0.0.5"), ("::", "::1")])
def test_datagrams_are_answered_from_the_address_that_was_asked(wildcard: str, address: str) -> None:
    async def scenario() -> None:
        server = await udp_echo()
        sock = hold("udp", wildcard)
        proxy = Proxy([Held(sock, "udp", "127.0.0.1", server.get_extra_info("sockname")[1])])
        proxy.start()
        to = (address, sock.getsockname()[1])
        with udp_client(socket.AF_INET6 if ":" in address else socket.AF_INET) as client, udp_client() as other:
            first, sender = await ask(client, b"question", to)
            assert sender == to
            assert first.endswith(b" question")
            assert (await ask(client, b"question", to))[0] == first  # one client, one flow
            if wildcard == "0.0.0.0":
                assert (await ask(other, b"question", to))[0] != first
        assert proxy.carrying == (2 if wildcard == "0.0.0.0" else 1)
        proxy.stop()
        server.close()

    run(scenario())


async def ask_once(client: socket.socket, to: tuple[str, int]) -> bytes:
    try:
        async with asyncio.timeout(0.5):
            return (await ask(client, b"again", to))[0]
    except TimeoutError:
        return b""


def test_datagrams_are_lost_while_nobody_listens_and_found_again() -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        sock = hold("udp")
        proxy = Proxy([Held(sock, "udp", "127.0.0.1", port)])
        proxy.start()
        to = sock.getsockname()
        with udp_client() as client:
            client.sendto(b"lost", to)
            await until(lambda: proxy.carrying == 1)
            server = await udp_echo(port)
            # The first may meet the error of the one before.
            answers = [await ask_once(client, to) for _ in range(2)]
            assert answers[1].endswith(b" again")
        proxy.stop()
        server.close()

    run(scenario())


def test_silent_flows_expire_and_the_oldest_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "FLOWS", 3)
    monkeypatch.setattr(proxies, "FLOW_SECONDS", 0.2)

    async def scenario() -> None:
        server = await udp_echo()
        sock = hold("udp")
        proxy = Proxy([Held(sock, "udp", "127.0.0.1", server.get_extra_info("sockname")[1])])
        proxy.start()
        clients = [udp_client() for _ in range(5)]
        for client in clients:
            await ask(client, b"x", sock.getsockname())
            client.close()
        assert proxy.carrying == 3
        await until(lambda: proxy.carrying == 0)
        proxy.stop()
        server.close()

    run(scenario())


def test_without_descriptors_a_connection_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "_RETRY", 0.05)
    real = socket.socket.accept
    failures = [OSError(24, "Too many open files")]

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise failures.pop()
        return real(self)

    async def scenario() -> None:
        async with Published(echo_all) as published:
            monkeypatch.setattr(published.sock.__class__, "accept", accept)
            reader, writer = await published.connect()
            writer.write(b"patience")
            writer.write_eof()
            assert await reader.read() == b"patience"
            await close(writer)
        assert not failures

    run(scenario())


@given(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4), st.integers(0, 2**31 - 1))
def test_the_answer_names_the_local_address_alone(local: bytes, header: bytes, link: int) -> None:
    received = (socket.IPPROTO_IP, 8, link.to_bytes(4, "little") + local + header)
    assert reply_from([received]) == [(socket.IPPROTO_IP, 8, bytes(4) + local + bytes(4))]


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**32 - 1))
def test_only_a_link_local_address_needs_its_link(local: bytes, link: int) -> None:
    received = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, local + link.to_bytes(4, "little"))
    kept = link if local[:2] == b"\xfe\x80" else 0
    assert reply_from([received]) == [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, local + kept.to_bytes(4, "little"))]
