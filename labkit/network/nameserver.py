"""The name server that containers of user-defined networks find at 127.0.0.11 (moby `libnetwork/resolver.go`).

It runs in the daemon, for all containers: of each it holds two sockets that were opened in the container's network
namespace, and by the socket it knows who asks and what that container may see. It answers for containers, and has the
rest forwarded. It is not authoritative: nor is moby's.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Coroutine
from typing import Any

from labkit.network import forwarder, messages
from labkit.network.directory import Directory, Sight
from labkit.network.forwarder import Forwarder
from labkit.network.messages import Malformed, Query

log = logging.getLogger("labkit.names")
MOST_FORWARDED = 1024
"""How many questions of one container may wait for resolvers, as in moby. Those beyond are refused."""
MOST_STREAMS = 64
"""How many connections over TCP one container may have. Those beyond wait in the socket's queue."""
IDLE = 8.0
"""Seconds in which a client must say something over TCP, as in moby."""
PAUSE = 1.0
"""Seconds until connections are taken again after descriptors ran out."""
_BURST = 32  # datagrams to take before the daemon looks at what else there is to do
_LONGEST_QUERY = 4096


def consider(data: bytes, directory: Directory, sight: Sight, stream: bool) -> bytes | Query | None:
    """What to do about the bytes that a container sent.

    The answer; or a query that resolvers are to be asked, of which there is one at least; or None: say nothing.
    """
    try:
        query = messages.read_query(data)
    except Malformed as error:
        return None if error.code is None else messages.refusal(data, error.code)
    answers = known(query, directory, sight)
    if answers is not None:
        return messages.reply(query, answers, stream=stream)
    if sight.ndots and query.kind in (messages.A, messages.AAAA) and "." not in query.name:
        return messages.reply(query)
    if not sight.resolvers:
        return messages.reply(query, code=messages.SERVFAIL)
    return query


def known(query: Query, directory: Directory, sight: Sight) -> list[bytes] | None:
    """The records that answer a query about a container in sight; None if it isn't about one.

    A container without an address of the family that is asked for has none, and so has a mail exchanger: clients
    then take the name itself (RFC 5321, 5.1). Several addresses come in a random order: that spreads the clients.
    """
    if query.category != messages.IN:
        return None
    if query.kind == messages.PTR:
        name = messages.write_name(directory.name_of(sight, query.name))
        return [messages.record(messages.PTR, name)] if name else None
    if query.kind not in (messages.A, messages.AAAA, messages.MX):
        return None
    if (found := directory.find(sight, query.name)) is None:
        return None
    if query.kind == messages.MX:
        return []
    addresses = found.ipv4 if query.kind == messages.A else found.ipv6
    answers = [messages.record(query.kind, address) for address in addresses]
    if len(answers) > 1:
        random.shuffle(answers)
    return answers


class Service:
    """The sockets of one container, and what is under way for it."""

    def __init__(self, directory: Directory, resolving: Forwarder, udp: int, tcp: int, sight: Sight) -> None:
        self.directory, self.resolving, self.sight = directory, resolving, sight
        self.loop = asyncio.get_running_loop()
        self.udp, self.tcp = socket.socket(fileno=udp), socket.socket(fileno=tcp)
        self.forwarding: set[asyncio.Task[None]] = set()
        self.conversing: set[asyncio.Task[None]] = set()
        self.udp.setblocking(False)
        self.tcp.setblocking(False)
        self.loop.add_reader(self.udp.fileno(), self._datagrams)
        self._listen()

    def _listen(self) -> None:
        """Take connections (again), unless it has been stopped."""
        if self.tcp.fileno() >= 0:
            self.loop.add_reader(self.tcp.fileno(), self._connections)

    def stop(self) -> None:
        """Close the sockets, and give up what is under way."""
        for sock in (self.udp, self.tcp):
            self.loop.remove_reader(sock.fileno())
            sock.close()
        for task in self.forwarding | self.conversing:
            task.cancel()

    def _begin(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _datagrams(self) -> None:
        for _ in range(_BURST):
            try:
                data, client = self.udp.recvfrom(_LONGEST_QUERY)
            except BlockingIOError:
                return
            found = consider(data, self.directory, self.sight, stream=False)
            if isinstance(found, bytes):
                self._send(found, client)
            elif found and len(self.forwarding) < MOST_FORWARDED:
                self._begin(self.forwarding, self._forward(found, client))
            elif found:
                self._send(messages.reply(found, code=messages.REFUSED), client)

    def _send(self, answer: bytes, client: Any) -> None:
        try:
            self.udp.sendto(answer, client)
        except OSError as error:
            # As if it had been lost on the way, which datagrams may be: a full queue, a rule of the container's own.
            log.debug("an answer to %s is lost: %s", client, error)

    async def _forward(self, query: Query, client: Any) -> None:
        self._send(await self.resolving.forward(query, self.sight.resolvers, stream=False), client)

    def _connections(self) -> None:
        try:
            sock, _ = self.tcp.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # No descriptor or memory is left: the connection waits, and asking for it at once again would be a spin.
            log.warning("the name server can't take a connection: %s", error)
            self.loop.remove_reader(self.tcp.fileno())
            self.loop.call_later(PAUSE, self._listen)
            return
        sock.setblocking(False)
        self._begin(self.conversing, self._converse(sock))
        if len(self.conversing) >= MOST_STREAMS:
            self.loop.remove_reader(self.tcp.fileno())

    async def _converse(self, sock: socket.socket) -> None:
        """Answer one connection's queries, one after the other (RFC 7766), until it ends or falls silent."""
        try:
            with sock:
                while data := await self._next(sock):
                    found = consider(data, self.directory, self.sight, stream=True)
                    if isinstance(found, Query):
                        found = await self.resolving.forward(found, self.sight.resolvers, stream=True)
                    if found is None:
                        return
                    async with asyncio.timeout(IDLE):
                        await self.loop.sock_sendall(sock, len(found).to_bytes(2) + found)
        except OSError as error:
            # The client has gone, or is too slow (TimeoutError is one too): that is the end of its connection.
            log.debug("a connection to the name server ends: %s", error or "silence")
        finally:
            if len(self.conversing) >= MOST_STREAMS:
                self._listen()

    async def _next(self, sock: socket.socket) -> bytes:
        async with asyncio.timeout(IDLE):
            return await forwarder.receive(sock)


class NameServer:
    """The name servers of all containers, by a key of the caller's. To be used from the event loop."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.services: dict[str, Service] = {}
        self.resolving: Forwarder | None = None

    def serve(self, key: str, udp: int, tcp: int, sight: Sight) -> None:
        """Serve a container on two sockets, one that takes datagrams and one that listens. Takes both over.

        What was served under the key before is stopped.
        """
        self.stop(key)
        self.resolving = self.resolving or Forwarder()
        self.services[key] = Service(self.directory, self.resolving, udp, tcp, sight)

    def change(self, key: str, sight: Sight) -> None:
        """A container sees something else from now on. One that isn't served sees nothing."""
        if service := self.services.get(key):
            service.sight = sight

    def stop(self, key: str) -> None:
        """Serve a container no longer. Closes its sockets: they keep its network namespace alive."""
        if service := self.services.pop(key, None):
            service.stop()

    def close(self) -> None:
        """Serve nobody any more."""
        for key in list(self.services):
            self.stop(key)
