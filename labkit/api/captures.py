"""labkit's own routes for packets: a container's links as a pcap file that is sent while it grows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from labkit.api.http import Answer, Request, Response, Route, Stream
from labkit.engine.capturing import Capture, Wanted
from labkit.engine.engine import Engine
from labkit.errors import Conflict, NotFound
from labkit.kernel.packets import ANY

PCAP = "application/vnd.tcpdump.pcap"


class Captures:
    """The routes, over one engine. `named` are the captures under way that were given a name to end them by."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.named: dict[str, Capture] = {}

    async def capture(self, request: Request) -> Answer:
        """The packets of a container from now on, as a pcap file.

        `link` is one of its links (default: `any`), `port` and `protocol` (arp, icmp, tcp, udp) are what to pick,
        `count` packets and `seconds` when to end, `name` is what to end it by (`DELETE /labkit/captures/NAME`).
        It has begun when the head of the file is there.
        """
        container = self.engine.find(request.params["id"])
        wanted = Wanted(
            request.text("link") or ANY,
            request.number("port", 0) or 0,
            request.text("protocol"),
            request.number("count", 0) or 0,
            request.number("seconds", 0) or 0,
        )
        name = request.text("name")
        if name in self.named:
            raise Conflict(f"a capture with the name {name} is under way: end it, or use another name")
        capture = Capture(container, wanted)
        if name:
            self.named[name] = capture
        return Stream(self._stream(capture, name), PCAP)

    async def _stream(self, capture: Capture, name: str) -> AsyncIterator[bytes]:
        try:
            async with aclosing(capture.stream()) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self.named.pop(name, None)

    async def end(self, request: Request) -> Answer:
        """End a capture, with all the packets that have passed until now in the file."""
        if not (capture := self.named.get(request.params["name"])):
            raise NotFound(f"No such capture: {request.params['name']}")
        capture.end()
        return Response(204)


def routes(engine: Engine) -> list[Route]:
    """All routes about packets."""
    one = Captures(engine)
    return [
        Route("GET", "/labkit/containers/{id}/capture", one.capture),
        Route("DELETE", "/labkit/captures/{name}", one.end),
    ]
