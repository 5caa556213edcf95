"""The userland proxy: what reaches a held port of the host without being translated is carried to the container.

As moby's `cmd/docker-proxy`, which is a process for each port; here all ports share the daemon's event loop. It serves
::1 and IPv6 clients of containers without IPv6, and everything where the kernel has no nf_tables. TCP bytes stay within
the kernel (splice(2)); UDP has a flow for each client, as a NAT has (RFC 4787).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from labkit.errors import KernelError
from labkit.kernel.netlink import open_in
from labkit.kernel.pipes import make_pipe
from labkit.kernel.ports import descriptor_name
from labkit.network.publishing import Binding

_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 18
_ACCEPTS = 64  # connections, or datagrams, that are taken in one go before others have their turn
_RETRY = 1.0  # seconds until a process without free descriptors accepts again
_NONBLOCK = 2  # SPLICE_F_NONBLOCK
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close(2) resets the connection
_DATAGRAM = 65535
FLOW_SECONDS = 90.0
"""How long a UDP flow is kept after its last datagram; moby's UDPConnTrackTimeout."""
FLOWS = 1024
"""How many UDP clients a port can have at a time; the one that was silent longest gives way."""

_IP_PKTINFO = 8
_PKTINFO4, _PKTINFO6 = struct.Struct("=i4s4s"), struct.Struct("=16sI")
_LINK_LOCAL = b"\xfe\x80"


@dataclass(frozen=True, slots=True)
class Held:
    """A held socket of the host, and the container's address and port that it stands for."""

    sock: socket.socket
    protocol: str
    ip: str
    port: int


def held(bindings: Iterable[Binding], descriptors: dict[str, int]) -> tuple[Held, ...]:
    """Take the sockets of these bindings out of a context's descriptors (HoldPort put them there)."""
    found = []
    for binding in bindings:
        fd = descriptors.pop(descriptor_name(binding.protocol, binding.host_ip, binding.host_port), -1)
        if fd >= 0:
            found.append(Held(socket.socket(fileno=fd), binding.protocol, binding.ip, binding.port))
    return tuple(found)


class Proxy:
    """Serves the held ports of one container on the running event loop, from `start` to `stop`.

    The sockets are the proxy's: `stop` closes them, so that the ports are free again. `netns` is the path of the
    network namespace that containers are reached from; empty for this process's own. SCTP ports are held only.
    """

    def __init__(self, ports: Iterable[Held], netns: str = "") -> None:
        self._ports = tuple(ports)
        self._netns = netns
        self._servers: list[_Listener | _Flows] = []

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        for port in self._ports:
            if port.protocol == "tcp":
                self._servers.append(_Listener(loop, port, self._netns))
            elif port.protocol == "udp":
                self._servers.append(_Flows(loop, port, self._netns))

    def stop(self) -> None:
        """End all connections and flows, and give the ports up."""
        for server in self._servers:
            server.stop()
        self._servers.clear()
        for port in self._ports:
            port.sock.close()

    @property
    def carrying(self) -> int:
        """How many connections and flows there are."""
        return sum(server.carrying for server in self._servers)


def _dial(kind: int, ip: str, netns: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    sock = open_in(netns, family, kind | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    return sock


class _Listener:
    """One TCP port."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: Held, netns: str) -> None:
        self._loop, self._port, self._netns = loop, port, netns
        self._dialing: set[asyncio.Task[None]] = set()
        self._connections: set[_Connection] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._listen()

    @property
    def carrying(self) -> int:
        return len(self._connections) + len(self._dialing)

    def _listen(self) -> None:
        self._retry = None
        self._loop.add_reader(self._port.sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                client, _ = self._port.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                _LOG.warning("port %s: can't accept: %s", self._port.sock.getsockname()[1], error.strerror)
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    # The connection waits in the backlog; trying again at once would only burn time.
                    self._loop.remove_reader(self._port.sock.fileno())
                    self._retry = self._loop.call_later(_RETRY, self._listen)
                return
            task = self._loop.create_task(self._serve(client))
            self._dialing.add(task)
            task.add_done_callback(self._dialing.discard)

    async def _serve(self, client: socket.socket) -> None:
        """Connect to the container and join the two; if it can't be reached, end the client's connection."""
        client.setblocking(False)
        try:
            with contextlib.ExitStack() as unless_joined:
                unless_joined.enter_context(client)
                upstream = unless_joined.enter_context(_dial(socket.SOCK_STREAM, self._port.ip, self._netns))
                await self._loop.sock_connect(upstream, (self._port.ip, self._port.port))
                connection = _Connection(self._loop, client, upstream, self._connections.discard)
                unless_joined.pop_all()
        except (OSError, KernelError) as error:
            _LOG.debug("no connection to %s port %s: %s", self._port.ip, self._port.port, error)
            return
        self._connections.add(connection)
        connection.start()

    def stop(self) -> None:
        if self._retry:
            self._retry.cancel()
        self._loop.remove_reader(self._port.sock.fileno())
        for task in self._dialing:
            task.cancel()
        for connection in tuple(self._connections):
            connection.abort()


class _Connection:
    """A client's connection and the one to the container, joined in both directions."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        client: socket.socket,
        upstream: socket.socket,
        ended: Callable[[_Connection], None],
    ) -> None:
        self.client, self._upstream, self._ended = client, upstream, ended
        for sock in (client, upstream):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._directions: list[_Direction] = []
        try:
            for source, target in ((client, upstream), (upstream, client)):
                self._directions.append(_Direction(loop, source, target, self._direction_ended))
        except OSError:  # no more descriptors, for the second pipe
            for direction in self._directions:
                direction.close()
            raise

    def start(self) -> None:
        for direction in self._directions:
            direction.start()

    def _direction_ended(self, failed: bool) -> None:
        if failed:
            self.abort()
        elif all(direction.ended for direction in self._directions):
            self._close()

    def abort(self) -> None:
        """End both at once: who sends on is told by a reset."""
        for sock in (self.client, self._upstream):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._close()

    def _close(self) -> None:
        for direction in self._directions:
            direction.close()
        self.client.close()
        self._upstream.close()
        self._ended(self)


class _Direction:
    """Bytes from one socket to another, through a pipe. It reads when all is written: a slow reader slows a writer."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        source: socket.socket,
        target: socket.socket,
        when_ended: Callable[[bool], None],
    ) -> None:
        self._loop, self._target = loop, target
        self._from, self._to = source.fileno(), target.fileno()
        self._when_ended = when_ended
        self._out, self._in = make_pipe(_CHUNK)
        self._waiting = 0
        self._blocked = False
        self.ended = False

    def start(self) -> None:
        self._loop.add_reader(self._from, self._read)

    def _read(self) -> None:
        try:
            moved = os.splice(self._from, self._in, _CHUNK, flags=_NONBLOCK)
            if moved:
                self._waiting = moved
                self._write()
            else:
                self._end()
        except BlockingIOError:
            return
        except OSError:  # reset by the one, or the other is gone
            self._when_ended(True)

    def _write(self) -> None:
        while self._waiting:
            try:
                self._waiting -= os.splice(self._out, self._to, self._waiting, flags=_NONBLOCK)
            except BlockingIOError:
                self._block()
                return
        if self._blocked:
            self._blocked = False
            self._loop.remove_writer(self._to)
            self._loop.add_reader(self._from, self._read)

    def _block(self) -> None:
        if not self._blocked:
            self._blocked = True
            self._loop.remove_reader(self._from)
            self._loop.add_writer(self._to, self._resume)

    def _resume(self) -> None:
        try:
            self._write()
        except OSError:
            self._when_ended(True)

    def _end(self) -> None:
        """The source has said its last: so has the target's peer to hear."""
        self._loop.remove_reader(self._from)
        self.ended = True
        self._target.shutdown(socket.SHUT_WR)
        self._when_ended(False)

    def close(self) -> None:
        self._loop.remove_reader(self._from)
        self._loop.remove_writer(self._to)
        if self._in >= 0:
            os.close(self._in)
            os.close(self._out)
            self._in = self._out = -1


@dataclass(slots=True)
class _Flow:
    """One client of a UDP port: the socket that stands for it towards the container, and how it is answered."""

    sock: socket.socket
    client: tuple[str, int]
    ancillary: list[tuple[int, int, bytes]]
    latest: float


class _Flows:
    """One UDP port, with the flows of its clients, the one that was used last at the end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: Held, netns: str) -> None:
        self._loop, self._port, self._netns = loop, port, netns
        self._flows: OrderedDict[tuple[object, bytes], _Flow] = OrderedDict()
        self._sweeping: asyncio.TimerHandle | None = None
        if port.sock.family == socket.AF_INET6:
            port.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            port.sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        loop.add_reader(port.sock.fileno(), self._receive)

    @property
    def carrying(self) -> int:
        return len(self._flows)

    def _receive(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                payload, ancillary, _, client = self._port.sock.recvmsg(_DATAGRAM, 64)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error about an earlier answer
                _LOG.debug("port %s/udp: %s", self._port.port, error)
                continue
            flow = self._flow(client, reply_from(ancillary))
            if flow is not None:
                _send(flow.sock.send, payload)

    def _flow(self, client: tuple[str, int], ancillary: list[tuple[int, int, bytes]]) -> _Flow | None:
        """The flow of a client and the address that it has written to; a new one if need be."""
        key = (client, ancillary[0][2] if ancillary else b"")
        flow = self._flows.get(key)
        if flow is None:
            if len(self._flows) >= FLOWS:
                self._drop(next(iter(self._flows)))
            try:
                sock = _dial(socket.SOCK_DGRAM, self._port.ip, self._netns)
                sock.connect((self._port.ip, self._port.port))
            except (OSError, KernelError) as error:
                _LOG.debug("no flow to %s port %s/udp: %s", self._port.ip, self._port.port, error)
                return None
            flow = self._flows[key] = _Flow(sock, client, ancillary, 0.0)
            self._loop.add_reader(sock.fileno(), self._answer, flow, key)
        self._use(flow, key)
        return flow

    def _use(self, flow: _Flow, key: tuple[object, bytes]) -> None:
        flow.latest = self._loop.time()
        self._flows.move_to_end(key)
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(FLOW_SECONDS, self._sweep)

    def _answer(self, flow: _Flow, key: tuple[object, bytes]) -> None:
        for _ in range(_ACCEPTS):
            try:
                payload = flow.sock.recv(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:  # nobody listens there at present; the next datagram may find someone
                _LOG.debug("flow to %s port %s/udp: %s", self._port.ip, self._port.port, error)
                # libuv has stopped watching a descriptor with an error (uv_poll_start), though it is none for good.
                self._loop.remove_reader(flow.sock.fileno())
                self._loop.add_reader(flow.sock.fileno(), self._answer, flow, key)
                return
            self._use(flow, key)
            _send(self._port.sock.sendmsg, [payload], flow.ancillary, 0, flow.client)

    def _sweep(self) -> None:
        """Drop the flows that were silent for long; come again when the next will have been."""
        self._sweeping = None
        oldest = self._loop.time() - FLOW_SECONDS
        while self._flows:
            key, flow = next(iter(self._flows.items()))
            if flow.latest > oldest:
                self._sweeping = self._loop.call_later(flow.latest - oldest, self._sweep)
                return
            self._drop(key)

    def _drop(self, key: tuple[object, bytes]) -> None:
        flow = self._flows.pop(key)
        self._loop.remove_reader(flow.sock.fileno())
        flow.sock.close()

    def stop(self) -> None:
        if self._sweeping:
            self._sweeping.cancel()
        self._loop.remove_reader(self._port.sock.fileno())
        for key in tuple(self._flows):
            self._drop(key)


def _send(call: Callable[..., int], *arguments: object) -> None:
    """Send a datagram. A full buffer or an unreachable peer loses it, as on any network."""
    try:
        call(*arguments)
    except OSError as error:
        _LOG.debug("datagram lost: %s", error)


def reply_from(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """What makes an answer come from the address that the datagram was sent to (ip(7), ipv6(7), *_PKTINFO)."""
    for level, kind, packed in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            _, local, _ = _PKTINFO4.unpack(packed)
            return [(level, kind, _PKTINFO4.pack(0, local, bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            local, link = _PKTINFO6.unpack(packed)
            return [(level, kind, _PKTINFO6.pack(local, link if local.startswith(_LINK_LOCAL) else 0))]
    return []
