"""Output that is sent away as it comes, a message an entry (moby `daemon/logger/copier.go`, `ring.go`).

What the other side doesn't take stays where it is, in the kernel, and the container waits: Docker's `blocking` mode.
With `non-blocking` up to `max-buffer-size` bytes wait here, and what comes then is lost. What can't be sent because the
other side is gone is lost in both, as with dockerd; it is looked for again once a second. After a daemon's crash
messages may be sent twice, none is left out.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import time as clock
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from labkit.engine import logs
from labkit.engine.stdio import writable
from labkit.errors import LabkitError

log = logging.getLogger("labkit.engine.logging")
PATIENCE = 10.0
"""Seconds after which a container that has ended waits for nobody any more (moby, `loggerCloseTimeout`)."""
RETRY = 1.0
_CONNECT = 30.0


class Transport(ABC):
    """A way to somewhere. `write` says whether it took a message; one that could not be sent counts as taken."""

    name = ""

    def __init__(self) -> None:
        self.lost_at = 0.0
        self.lost = 0
        self.connecting: asyncio.Task[None] | None = None

    @abstractmethod
    async def connect(self) -> None:
        """Raises LabkitError in the words of Go's net package."""

    @abstractmethod
    def write(self, message: bytes) -> bool: ...

    @abstractmethod
    async def ready(self) -> None:
        """Wait until `write` may take more."""

    @abstractmethod
    def close(self) -> None: ...

    def lose(self, error: object) -> bool:
        """A message is lost; told once until something is sent again. Always True."""
        if not self.lost:
            log.warning("output for %s is lost: %s", self.name, error)
        self.lost += 1
        self.lost_at = clock.monotonic()
        return True

    @property
    def resting(self) -> bool:
        """Whether it was in vain a moment ago."""
        return bool(self.lost) and clock.monotonic() - self.lost_at < RETRY

    def revive(self) -> bool:
        """Connect (again), in the background; whether that is under way, or a message is lost meanwhile (False)."""
        if self.connecting is None and not self.resting:
            self.connecting = asyncio.get_running_loop().create_task(self._reconnect())
        return self.connecting is not None

    async def _reconnect(self) -> None:
        try:
            await self.connect()
        except LabkitError as error:
            self.lose(error)
        finally:
            self.connecting = None

    def failed(self, error: OSError) -> LabkitError:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        return LabkitError(f"dial {self.name}: connect: {reason}")


class Datagrams(Transport):
    """A datagram a message: UDP, or a unix socket such as journald's."""

    def __init__(self, name: str, family: int, address: str | tuple[str, int]) -> None:
        super().__init__()
        self.name, self.family, self.address = name, family, address
        self.found: Any = address
        self.sock: socket.socket | None = None

    async def connect(self) -> None:
        try:
            if isinstance(self.address, tuple):
                found = await asyncio.get_running_loop().getaddrinfo(*self.address, type=socket.SOCK_DGRAM)
                self.family, self.found = found[0][0], found[0][4]
            self._open()
        except OSError as error:
            raise self.failed(error) from error

    def _open(self) -> None:
        sock = socket.socket(self.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self.found)
        except OSError:
            sock.close()
            raise
        if self.sock:
            self.sock.close()
        self.sock = sock

    def write(self, message: bytes) -> bool:
        if self.sock is None:
            return not self.revive() and self.lose("it could not be reached")
        if self.resting:
            return self.lose("it was gone a moment ago")
        try:
            self._send(self.sock, message)
        except OSError as error:
            return error.errno != errno.EAGAIN and self.lose(error)
        self.lost = 0
        return True

    def _send(self, sock: socket.socket, message: bytes) -> None:
        """Send; to a socket that was made anew under the same name, if the old one is gone."""
        try:
            sock.send(message)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EMSGSIZE):
                raise
            self._open()
            if self.sock:
                self.sock.send(message)

    async def ready(self) -> None:
        if self.connecting:
            await asyncio.wait({self.connecting})
        if self.sock:
            await writable(self.sock.fileno())

    def close(self) -> None:
        if self.connecting:
            self.connecting.cancel()
        if self.sock:
            self.sock.close()
            self.sock = None


class Stream(Transport, asyncio.Protocol):
    """A connection: TCP, with TLS or without, or a unix socket."""

    def __init__(self, name: str, address: str | tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.name, self.address, self.tls = name, address, tls
        self.transport: asyncio.WriteTransport | None = None
        self.can_write = asyncio.Event()

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT):
                if isinstance(self.address, str):
                    await loop.create_unix_connection(lambda: self, self.address)
                else:
                    host = self.address[0] if self.tls else None
                    await loop.create_connection(lambda: self, *self.address, ssl=self.tls, server_hostname=host)
        except ssl.SSLError as error:
            raise LabkitError(f"tls: failed to verify certificate: {error}") from error
        except OSError as error:  # TimeoutError too
            raise self.failed(error) from error

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)
        self.can_write.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.can_write.set()

    def pause_writing(self) -> None:
        self.can_write.clear()

    def resume_writing(self) -> None:
        self.can_write.set()

    def write(self, message: bytes) -> bool:
        if self.transport is None or self.transport.is_closing():
            return not self.revive() and self.lose("the connection is gone")
        if not self.can_write.is_set():
            return False
        self.lost = 0
        self.transport.write(message)
        return True

    async def ready(self) -> None:
        if self.connecting:
            await asyncio.wait({self.connecting})
        else:
            await self.can_write.wait()

    def close(self) -> None:
        """What was taken is sent as long as the other side takes it, `PATIENCE` seconds at most."""
        if self.connecting:
            self.connecting.cancel()
        if self.transport:
            self.transport.close()
            asyncio.get_running_loop().call_later(PATIENCE, self.transport.abort)


Encode = Callable[[bytes, str, int], bytes]
"""A message (a line with its end, or a piece of one), its stream and time (ns), as it is sent."""


class Sender:
    """Sends a container's output over a transport (`labkit.engine.logging.logger.Remote`).

    `buffer` is how many bytes may wait here; 0: none, the container waits instead.
    """

    def __init__(self, transport: Transport, encode: Encode, buffer: int = 0) -> None:
        self.transport, self.encode, self.buffer = transport, encode, buffer
        self.waiting: deque[bytes] = deque()
        self.size = 0
        self.given_up = False
        self.task: asyncio.Task[None] | None = None
        self.deadline: asyncio.TimerHandle | None = None
        self.changed = asyncio.Event()

    async def connect(self) -> None:
        await self.transport.connect()

    def send(self, data: bytes, stream: str, time: int, final: bool) -> int:
        """How many bytes of raw output were taken, whole messages only."""
        taken = 0
        for message in logs.messages(data[: logs.complete(data, final)]):
            encoded = self.encode(message, stream, time)
            if self.buffer:
                self._keep(encoded)
            elif not (self.given_up or self.transport.write(encoded)):
                break
            taken += len(message)
        return taken

    def _keep(self, message: bytes) -> None:
        if self.waiting and self.size + len(message) > self.buffer:
            return  # lost, as in moby's ring
        self.waiting.append(message)
        self.size += len(message)
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        while self.waiting and not self.given_up:
            if self.transport.write(self.waiting[0]):
                self.size -= len(self.waiting.popleft())
            else:
                await self.ready()
        self.task = None

    async def ready(self) -> None:
        waits = [asyncio.create_task(self.transport.ready()), asyncio.create_task(self.changed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    def hurry(self) -> None:
        if self.deadline is None:
            self.deadline = asyncio.get_running_loop().call_later(PATIENCE, self._give_up)

    def _give_up(self) -> None:
        self.given_up = True
        self.changed.set()

    async def settled(self) -> None:
        """Wait until what is kept here is sent, or given up."""
        if self.task:
            await asyncio.wait({self.task})

    def close(self) -> None:
        if self.deadline:
            self.deadline.cancel()
        if self.task:
            self.task.cancel()
        self.transport.close()
