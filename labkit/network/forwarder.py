"""What no container answers to is asked of the host's resolvers, or those of `--dns` (moby `resolver.go`, `exchange`).

From the daemon's own network namespace, so that a resolver on the host's loopback works. A question goes out under a
random number from a random port, and what comes back must come from the resolver that was asked, to that port, with
that number and that question (RFC 5452): nobody else can answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from contextlib import suppress
from typing import Any

from labkit.errors import InvalidParameter, Unavailable
from labkit.network import messages
from labkit.network.messages import Query

log = logging.getLogger("labkit.names")
PATIENCE = 4.0
"""Seconds for one resolver, as in moby."""
PATIENCE_AFTER_TRUNCATION = 1.0
"""Seconds for the whole of an answer that was truncated: some resolvers are not reached over TCP."""
MOST_RESOLVERS = 3
"""How many resolvers are asked about one question, as in moby and resolv.conf(5)."""
MOST_PORTS = 64
"""Over how many ports the questions to one resolver spread: each costs a descriptor."""
MOST_STREAMS = 64
"""How many connections over TCP there are at a time, to all resolvers."""
_RANDOM = random.SystemRandom()


def socket_address(resolver: str) -> tuple[int, tuple[Any, ...]]:
    """Family and address of a resolver: `10.0.0.1`, `fe80::1%eth0`, or either with `#port`. Raises InvalidParameter."""
    host, _, port = resolver.partition("#")
    try:
        if (number := int(port or 53)) not in range(1, 65536):
            raise ValueError("a port is between 1 and 65535")
        found = socket.getaddrinfo(host, number, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    except (OSError, ValueError) as error:
        raise InvalidParameter(f"{resolver!r} is no address of a name server: {error}") from error
    return found[0][0], found[0][4]


class Port:
    """A UDP socket connected to one resolver, and the questions that wait for answers on it, by number."""

    def __init__(self, resolver: str) -> None:
        family, address = socket_address(resolver)
        self.loop = asyncio.get_running_loop()
        self.waiting: dict[int, tuple[bytes, bytes, asyncio.Future[bytes]]] = {}
        self.sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            self.sock.connect(address)
        except OSError:
            self.sock.close()
            raise
        self.loop.add_reader(self.sock.fileno(), self._take)

    async def ask(self, query: Query) -> bytes:
        """Send a question; returns the answer. Raises OSError."""
        number = _RANDOM.getrandbits(16)
        while number in self.waiting:
            number = _RANDOM.getrandbits(16)
        wire = messages.numbered(query.wire, number)
        answer: asyncio.Future[bytes] = self.loop.create_future()
        self.waiting[number] = wire, query.asked, answer
        try:
            self.sock.send(wire)
            return await answer
        finally:
            del self.waiting[number]

    def _take(self) -> None:
        """Look at what came. What answers nothing that was asked is dropped: the true answer may still come."""
        try:
            message = self.sock.recv(messages.STREAM)
        except BlockingIOError:
            return
        except OSError as error:
            # Nobody listens there (ECONNREFUSED): all that was asked fails.
            for *_, answer in list(self.waiting.values()):
                if not answer.done():
                    answer.set_exception(error)
            return
        waiting = self.waiting.get(int.from_bytes(message[:2]))
        if waiting and not waiting[2].done() and messages.answers_to(message, waiting[0], waiting[1]):
            waiting[2].set_result(message)

    def close(self) -> None:
        self.loop.remove_reader(self.sock.fileno())
        self.sock.close()


class Forwarder:
    """Asks resolvers. One for all containers."""

    def __init__(self) -> None:
        self.ports: dict[str, list[Port]] = {}
        self.streams = asyncio.Semaphore(MOST_STREAMS)

    async def forward(self, query: Query, resolvers: tuple[str, ...], stream: bool) -> bytes:
        """The answer to a client's query, from the first resolver that has one, cut to what the client takes.

        SERVFAIL if none has. `stream` says that the client asked over TCP.
        """
        for resolver in resolvers[:MOST_RESOLVERS]:
            try:
                answer = await self._ask(query, resolver, stream)
            except (TimeoutError, OSError, InvalidParameter, Unavailable) as error:
                log.debug("%s was asked for %s: %s", resolver, query.name, error or "no answer")
                continue
            if messages.code_of(answer) not in (messages.SERVFAIL, messages.REFUSED):
                limit = messages.STREAM if stream else query.size
                return messages.fit(messages.numbered(answer, query.number), limit)
        return messages.reply(query, code=messages.SERVFAIL)

    async def _ask(self, query: Query, resolver: str, stream: bool) -> bytes:
        async with asyncio.timeout(PATIENCE):
            answer = await (self._over_tcp if stream else self._over_udp)(query, resolver)
        if messages.is_truncated(answer) and not stream:
            # A client that can't come back over TCP gets as much as it can take; the truncated answer will do if not.
            with suppress(OSError, Unavailable):
                async with asyncio.timeout(PATIENCE_AFTER_TRUNCATION):
                    return await self._over_tcp(query, resolver)
        return answer

    async def _over_udp(self, query: Query, resolver: str) -> bytes:
        ports = self.ports.setdefault(resolver, [])
        try:
            if len(ports) < MOST_PORTS:
                ports.append(port := Port(resolver))
            else:
                port = _RANDOM.choice(ports)
            try:
                return await port.ask(query)
            finally:
                if not port.waiting:
                    ports.remove(port)
                    port.close()
        finally:
            if not ports:
                self.ports.pop(resolver, None)

    async def _over_tcp(self, query: Query, resolver: str) -> bytes:
        family, address = socket_address(resolver)
        loop, wire = asyncio.get_running_loop(), messages.numbered(query.wire, _RANDOM.getrandbits(16))
        async with self.streams:
            kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            with socket.socket(family, kind) as sock:
                await loop.sock_connect(sock, address)
                await loop.sock_sendall(sock, len(wire).to_bytes(2) + wire)
                answer = await receive(sock)
        if not messages.answers_to(answer, wire, query.asked):
            raise Unavailable(f"{resolver} answered something else than it was asked")
        return answer


async def receive(sock: socket.socket) -> bytes:
    """The next message of a stream (RFC 1035, 4.2.2); empty at its end. Raises OSError."""
    length = await _exactly(sock, 2)
    return await _exactly(sock, int.from_bytes(length)) if length else b""


async def _exactly(sock: socket.socket, length: int) -> bytes:
    """So many bytes; none if the stream ends before."""
    loop, found = asyncio.get_running_loop(), bytearray()
    while len(found) < length:
        if not (piece := await loop.sock_recv(sock, length - len(found))):
            return b""
        found += piece
    return bytes(found)
