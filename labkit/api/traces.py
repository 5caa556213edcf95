"""labkit's own routes: what an action did, how the network is now, as data (`labkit.explain` tells it)."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from labkit.api.http import Answer, Request, Response, Route
from labkit.engine.engine import Engine
from labkit.engine.topology import topology as read_topology
from labkit.engine.traces import UNKEPT, RequestSpan, Trace, to_json
from labkit.errors import NotFound


def observer(engine: Engine) -> Any:
    """What the API server calls for each request that was answered."""

    def observe(request: Request, status: int, began: int, ended: int) -> None:
        if not request.path.startswith(UNKEPT):
            engine.traces.request(RequestSpan(request.context, request.method, request.path, status, began, ended))

    return observe


def _plain(value: Any) -> Any:
    """Bytes in a call's arguments as JSON can hold them."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise NotImplementedError(f"no JSON for {type(value).__name__}")


def routes(engine: Engine) -> list[Route]:
    """All routes about traces."""

    async def listed(request: Request) -> Answer:
        """The traces that are kept, newest first, without their operations; `container` picks those about one."""
        reference = request.text("container")
        found = engine.traces.about(engine.find(reference).id) if reference else list(engine.traces.all())
        lines = [
            {
                "trace_id": trace.trace_id,
                "requests": [f"{span.method} {span.path}" for span in trace.requests],
                "transfers": [f"{span.transfer.verb} {span.transfer.reference}" for span in trace.transfers],
                "plans": [span.plan.name for span in trace.plans],
                "subjects": sorted({span.subject for span in trace.plans}),
            }
            for trace in reversed(found)
        ]
        return _json(lines)

    async def one(request: Request) -> Answer:
        """One trace, whole: by its ID, or `last`."""
        return _json(to_json(_find(engine, request.params["id"])))

    async def ending(request: Request) -> Answer:
        """Why a container ended the last time; null if it hasn't. One that was removed is known for a while."""
        return _json(engine.find_ending(request.params["id"]))

    async def topology(request: Request) -> Answer:
        """The network as it is now (`labkit.engine.topology`)."""
        return _json(read_topology(engine))

    return [
        Route("GET", "/labkit/traces", listed),
        Route("GET", "/labkit/traces/{id}", one),
        Route("GET", "/labkit/endings/{id}", ending),
        Route("GET", "/labkit/topology", topology),
    ]


def _find(engine: Engine, identity: str) -> Trace:
    found = engine.traces.last() if identity == "last" else engine.traces.get(identity)
    if found is None:
        raise NotFound(f"No such trace: {identity}: the engine keeps the most recent ones only")
    return found


def _json(value: Any) -> Response:
    return Response(200, msgspec.json.encode(value, enc_hook=_plain))
