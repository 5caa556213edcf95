"""The network routes of the Engine API (moby `api/server/router/network`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from labkit.api.http import Answer, Request, Response, Route, json_response
from labkit.engine import connecting
from labkit.engine.clock import parse_rfc3339, parse_timestamp
from labkit.engine.engine import Engine
from labkit.engine.networks import Network
from labkit.errors import Forbidden, InvalidParameter, NotFound
from labkit.network.models import ConnectBody, NetworkCreateBody

_KNOWN = ("dangling", "driver", "id", "label", "name", "scope", "type")
_PRUNE = ("label", "label!", "until")
_HIDDEN = ("Bridge",)


class Networks:
    """The routes, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def listed(self, request: Request) -> Answer:
        """`NetworkList`."""
        filters = request.filters()
        passes = _passes(filters)
        found = [network for network in self.engine.networks.found.values() if passes(network)]
        return json_response([_view(network, with_containers=request.version < (1, 28)) for network in found])

    async def inspect(self, request: Request) -> Answer:
        """`NetworkInspect`."""
        scope = request.text("scope")
        if scope not in ("", "local"):
            raise InvalidParameter(f"labkit has no swarm: networks of scope {scope} don't exist")
        return json_response(_view(self._find(request), with_containers=True))

    async def create(self, request: Request) -> Answer:
        """`NetworkCreate`."""
        body = await request.json(NetworkCreateBody)
        network = self.engine.networks.create(body, request.context)
        return json_response({"Id": network.id, "Warning": ""}, 201)

    async def remove(self, request: Request) -> Answer:
        """`NetworkDelete`."""
        self.engine.networks.remove(self._find(request), request.context)
        return Response(204)

    async def connect(self, request: Request) -> Answer:
        """`NetworkConnect`."""
        body = await request.json(ConnectBody)
        container = self.engine.find(body.Container)
        await connecting.connect(self.engine, self._find(request), container, body.EndpointConfig, request.context)
        return Response(200)

    async def disconnect(self, request: Request) -> Answer:
        """`NetworkDisconnect`."""
        body = await request.json(ConnectBody)
        try:
            container = self.engine.find(body.Container)
        except NotFound as error:
            if body.Force:  # dockerd then looks for an endpoint of that name, which outlived its container
                raise NotFound(f"endpoint {body.Container} not found") from error
            raise
        await connecting.disconnect(self.engine, self._find(request), container, request.context)
        return Response(200)

    async def prune(self, request: Request) -> Answer:
        """`NetworkPrune`: the networks that no container is connected to, nor will be."""
        filters = request.filters()
        if unknown := set(filters) - set(_PRUNE):
            raise InvalidParameter(f"invalid filter '{sorted(unknown)[0]}'")
        passes = _prunable(filters)
        gone = []
        for network in list(self.engine.networks.found.values()):
            if network.predefined or connecting.users(self.engine, network) or not passes(network):
                continue
            try:
                self.engine.networks.remove(network, request.context)
                gone.append(network.name)
            except Forbidden:
                continue  # a container was connected meanwhile
        self.engine.events.publish("network", "prune", "", {"reclaimed": "0"})
        return json_response({"NetworksDeleted": gone or None})

    def _find(self, request: Request) -> Network:
        return self.engine.networks.find(request.params["id"])


def _view(network: Network, with_containers: bool) -> dict[str, Any]:
    """A network as inspect shows it; the list leaves the containers out."""
    found: dict[str, Any] = msgspec.to_builtins(network.record)
    for name in _HIDDEN:
        found.pop(name)
    attached = network.attached.values() if with_containers else ()
    containers = {}
    for container in attached:
        endpoint = container.record.Networks[network.name]
        addresses = endpoint.addresses()
        containers[container.id] = {
            "Name": container.name,
            "EndpointID": endpoint.EndpointID,
            "MacAddress": endpoint.MacAddress,
            "IPv4Address": next((one for one in addresses if ":" not in one), ""),
            "IPv6Address": next((one for one in addresses if ":" in one), ""),
        }
    return found | {"Containers": containers}


def _passes(filters: dict[str, list[str]]) -> Callable[[Network], bool]:
    """The `filters` of the list: any value of one, all of them; labels all. Raises InvalidParameter."""
    if unknown := set(filters) - set(_KNOWN):
        raise InvalidParameter(f"invalid filter '{sorted(unknown)[0]}'")
    for value in filters.get("type", ()):
        if value not in ("builtin", "custom"):
            raise InvalidParameter(f"invalid filter: 'type'='{value}'")
    for value in filters.get("dangling", ()):
        if value not in ("true", "false", "1", "0"):
            raise InvalidParameter(f"invalid filter 'dangling=[{value}]'")
    tests: dict[str, Callable[[Network, str], bool]] = {
        "driver": lambda network, value: network.record.Driver == value,
        "id": lambda network, value: value in network.id,
        "name": lambda network, value: value in network.name,
        "scope": lambda network, value: network.record.Scope == value,
        "type": lambda network, value: network.predefined == (value == "builtin"),
        "dangling": lambda network, value: (
            (not network.predefined and not network.attached) == (value in ("true", "1"))
        ),
    }

    def passes(network: Network) -> bool:
        given = {name: values for name, values in filters.items() if values and name != "label"}
        labelled = all(_has_label(network, value) for value in filters.get("label", ()))
        return labelled and all(any(tests[name](network, value) for value in values) for name, values in given.items())

    return passes


def _has_label(network: Network, text: str) -> bool:
    key, sign, value = text.partition("=")
    return key in network.record.Labels and (not sign or network.record.Labels[key] == value)


def _prunable(filters: dict[str, list[str]]) -> Callable[[Network], bool]:
    until = filters.get("until", [])
    if len(until) > 1:
        raise InvalidParameter("more than one until filter specified")
    limit = parse_timestamp(until[0]) if until else 0

    def passes(network: Network) -> bool:
        if limit and parse_rfc3339(network.record.Created) > limit:
            return False
        if any(_has_label(network, text) for text in filters.get("label!", ())):
            return False
        return all(_has_label(network, text) for text in filters.get("label", ()))

    return passes


def routes(engine: Engine) -> list[Route]:
    """All routes about networks."""
    one = Networks(engine)
    return [
        Route("GET", "/networks", one.listed),
        Route("GET", "/networks/{id}", one.inspect),
        Route("POST", "/networks/create", one.create),
        Route("POST", "/networks/prune", one.prune),
        Route("POST", "/networks/{id}/connect", one.connect),
        Route("POST", "/networks/{id}/disconnect", one.disconnect),
        Route("DELETE", "/networks/{id}", one.remove),
    ]
