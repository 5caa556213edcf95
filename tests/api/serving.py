"""A server of the HTTP border for tests, and the few lines of a client that raw sockets need."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from labkit.api.http import Hijack, Hijacked, Request, Response, Route, Server

WAIT = 10.0


class Served:
    """A server in a thread of its own, with an event loop that tests can reach into."""

    def __init__(self, routes: list[Route], path: Path, tls: ssl.SSLContext | None = None) -> None:
        self.path = path
        self.seen: list[tuple[str, int, int]] = []
        self._ready = threading.Event()
        self._routes = routes
        self._tls = tls
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        assert self._ready.wait(WAIT)

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.server = Server(self._routes, self._observe)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        await self.server.serve(listener, self._tls)
        self._ready.set()
        await self._stop.wait()
        await self.server.close()

    def _observe(self, request: Request, status: int, began: int, ended: int) -> None:
        self.seen.append((request.path, status, ended - began))

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(WAIT)
        client.connect(str(self.path))
        return client

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT)
        assert not self._thread.is_alive()


Serve = Callable[..., Served]


async def ping(request: Request) -> Response:
    return Response(200, b"OK", "text/plain; charset=utf-8")


async def echo(request: Request) -> Response:
    return Response(200, await request.body(), "application/octet-stream")


PING = Route("GET", "/_ping", ping)
ECHO = Route("POST", "/echo", echo)


async def cat(raw: Hijacked) -> None:
    while data := await raw.read():
        raw.write(data)
        await raw.drain()
    raw.write(b"<end>")


async def attach(request: Request) -> Hijack:
    await request.body()
    return Hijack(cat)


ATTACH = Route("POST", "/containers/{id}/attach", attach)
UPGRADE = "Connection: Upgrade\r\nUpgrade: tcp\r\n"


def ask(client: socket.socket, head: str, body: bytes = b"") -> http.client.HTTPResponse:
    """Send a request given as its lines and read one answer."""
    lines = head.strip().splitlines()
    client.sendall("\r\n".join([lines[0], "Host: docker", *lines[1:], "", ""]).encode() + body)
    return answer(client, lines[0].split()[0])


def answer(client: socket.socket, method: str = "GET") -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(client, method=method)
    response.begin()
    return response


def read_until(client: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        piece = client.recv(65536)
        assert piece, f"the connection ended after {data[-200:]!r}"
        data += piece
    return data


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))
