"""The HTTP border of the daemon: everything an API module needs, and the server that runs its routes.

It stands where moby has `api/server`. The pieces: `messages` (requests, answers), `routing` (the table of
routes, API versions), `streams` (back-pressure, hijacked connections), `connection` (HTTP/1.1 itself, RFC 9112),
`busypoll` (stays awake for a client that asks at once again).
"""

from __future__ import annotations

import asyncio
import socket
import ssl as tls
from collections.abc import Iterable

from labkit.api.busypoll import BusyPoll
from labkit.api.connection import Connection, Observer, immediate_answers
from labkit.api.messages import Answer, Hijack, Request, Response, Stream, error_response, json_response
from labkit.api.routing import API_VERSION, MIN_API_VERSION, Route, Router
from labkit.api.streams import Hijacked
from labkit.api.tls import Secured

__all__ = [
    "API_VERSION",
    "MIN_API_VERSION",
    "Answer",
    "Hijack",
    "Hijacked",
    "Request",
    "Response",
    "Route",
    "Server",
    "Stream",
    "error_response",
    "json_response",
]

BACKLOG = 1024


class Server:
    """Serves one table of routes on any number of listening sockets (unix or TCP).

    `observe(request, status, began, ended)` is called once for each request, in nanoseconds since the epoch: when its
    answer was made, before the end of it is sent; for streams and raw connections when they end.
    """

    def __init__(self, routes: Iterable[Route], observe: Observer | None = None) -> None:
        self._router = Router(routes)
        self._immediate = immediate_answers(self._router)
        self._observe = observe
        self._busypoll = BusyPoll()
        self._connections: set[Connection] = set()
        self._handshakes: set[Secured] = set()
        self._listening: list[asyncio.Server] = []

    async def serve(self, sock: socket.socket, ssl: tls.SSLContext | None = None) -> asyncio.Server:
        """Accept connections on a bound stream socket, in the running event loop."""
        loop = asyncio.get_running_loop()
        create = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
        accept = self._accept if ssl is None else lambda: Secured(ssl, self._accept, self._handshakes)
        server = await create(accept, sock=sock, backlog=BACKLOG)
        self._listening.append(server)
        return server

    def _accept(self) -> Connection:
        return Connection(self._router, self._immediate, self._connections, self._busypoll, self._observe)

    async def close(self) -> None:
        """Stop accepting and end all connections; returns when their routes have ended."""
        for server in self._listening:
            server.close()
        for handshake in tuple(self._handshakes):
            handshake.abort()
        tasks = [connection.stop() for connection in self._connections]
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._listening:
            await server.wait_closed()
        self._listening.clear()
