"""The network as it is, drawn and told: the host, its bridges, the cables to its containers, the published ports.

Made of `GET /labkit/topology`. Text and picture say the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import labkit.explain.drawing as draw
from labkit.errors import NotFound

Data = dict[str, Any]
_GAP, _COLUMN = 18, 130


@dataclass(frozen=True, slots=True)
class Topology:
    """What `%explain --topology` shows."""

    data: Data

    def text(self) -> str:
        return "\n".join(_lines(self.data))

    def svg(self) -> str:
        return picture(self.data, self.text()).svg()

    def __repr__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return draw.mimebundle(self.svg(), self.text())


def narrowed(data: Data, wanted: str) -> Data:
    """The topology about one network or one container. Raises NotFound."""
    if not wanted:
        return data
    networks = [one for one in data["networks"] if wanted == one["name"] or one["id"].startswith(wanted)]
    names = {one["name"] for one in networks}
    containers = [
        one
        for one in data["containers"]
        if wanted == one["name"]
        or one["id"].startswith(wanted)
        or any(endpoint["network"] in names for endpoint in one["endpoints"])
    ]
    if not networks and not containers:
        raise NotFound(f"No such network, or running container: {wanted}")
    seen = names or {endpoint["network"] for one in containers for endpoint in one["endpoints"]}
    kept = [one | {"endpoints": [e for e in one["endpoints"] if e["network"] in seen]} for one in containers]
    return data | {"networks": [one for one in data["networks"] if one["name"] in seen], "containers": kept}


def _lines(data: Data) -> Iterator[str]:
    yield f"host {data['host']}"
    for link in data["links"]:
        yield f"├─ link {link['name']}  {', '.join(link['addresses'])}"
    for line in ports(data):
        yield f"├─ port {line}"
    for network in _drawn(data):
        yield f"├─ {title(network)}"
        for detail in details(network):
            yield f"│    {detail}"
        for container, endpoint in members(data, network):
            cable = f"{endpoint['link']} ═ {endpoint['interface']}" if endpoint["link"] else endpoint["interface"]
            yield f"│  ├─ {cable}  {', '.join(endpoint['addresses'])}  {endpoint['mac']}  container {container['name']}"
    for container in _without(data):
        yield f"└─ container {container['name']}  network {container['mode']}"


def _drawn(data: Data) -> list[Data]:
    """The networks that somebody is in, or that have a bridge."""
    return [one for one in data["networks"] if one["bridge"] or any(members(data, one))]


def _without(data: Data) -> list[Data]:
    return [container for container in data["containers"] if not container["endpoints"]]


def title(network: Data) -> str:
    link = network["bridge"] or network["driver"]
    missing = "" if network["present"] else " (missing on this host)"
    return f"network {network['name']}: {link}{missing}"


def details(network: Data) -> list[str]:
    found = [f"{subnet} via {gateway}" for subnet, gateway in zip(network["subnets"], network["gateways"], strict=True)]
    return [*found, "internal: no way out"] if network["internal"] else found


def members(data: Data, network: Data) -> list[tuple[Data, Data]]:
    """The containers in a network, each with its endpoint there."""
    pairs = [(container, endpoint) for container in data["containers"] for endpoint in container["endpoints"]]
    return [(container, endpoint) for container, endpoint in pairs if endpoint["network"] == network["name"]]


def ports(data: Data) -> list[str]:
    """The published ports, as `0.0.0.0:8080/tcp → web 172.17.0.2:80`, with how they are led there."""
    return [
        f"{_address(port['host_ip'])}:{port['host_port']}/{port['protocol']} → {container['name']} "
        f"{_address(port['ip'])}:{port['port']} by {'nf_tables' if port['translated'] else 'the proxy'}"
        for container in data["containers"]
        for port in container["ports"]
    ]


def _address(text: str) -> str:
    return f"[{text}]" if ":" in text else text


def picture(data: Data, description: str) -> draw.Picture:
    """Host on the left, bridges in the middle, containers on the right, each cable a line with its ends' names."""
    made = draw.Picture(f"Networks of {data['host']}", description)
    host = [f"host {data['host']}", *(line for link in data["links"] for line in _link_lines(link))]
    host += ["", "published ports", *ports(data)] if ports(data) else []
    width = draw.width_of(host)
    middle = 12 + width + _GAP * 3
    bridges = max((draw.width_of([title(one), *details(one)]) for one in _drawn(data)), default=0)
    right = middle + bridges + _COLUMN + 70
    y = 12.0
    for network in _drawn(data):
        y = _network(made, data, network, (middle, right, y), bridges)
    for container in _without(data):
        lines = (f"container {container['name']}", f"network {container['mode']}")
        made.boxes.append(draw.Box(right, y, draw.width_of(lines), draw.height_of(lines), lines, dashed=True))
        y += draw.height_of(lines) + _GAP
    made.boxes.insert(0, draw.Box(12, 12, width, max(draw.height_of(host), y - 12 - _GAP), tuple(host), "#eef2f6"))
    made.wires += [
        draw.Wire(((12 + width, box.y + 20), (middle, box.y + 20))) for box in made.boxes[1:] if box.x == middle
    ]
    return made


def _link_lines(link: Data) -> list[str]:
    return [f"link {link['name']}", *(f"  {address}" for address in link["addresses"])]


def _network(made: draw.Picture, data: Data, network: Data, place: tuple[float, float, float], width: float) -> float:
    """One bridge and its containers, from `place` (the columns' x, and y) down; returns where the next may begin."""
    middle, right, top = place
    lines = (title(network), *details(network))
    y = top
    for container, endpoint in members(data, network):
        inside = (
            f"container {container['name']}",
            f"{endpoint['interface']}  {endpoint['mac']}",
            *endpoint["addresses"],
            *([f"listens at {', '.join(map(str, container['listening']))}"] if container["listening"] else []),
        )
        made.boxes.append(draw.Box(right, y, draw.width_of(inside), draw.height_of(inside), inside, "#e3f6ec"))
        label = f"{endpoint['link']} ═ {endpoint['interface']}" if endpoint["link"] else endpoint["interface"]
        made.wires.append(draw.Wire(((middle + width, y + 20), (right, y + 20)), label))
        y += draw.height_of(inside) + _GAP
    height = max(draw.height_of(lines), y - top - _GAP)
    made.boxes.append(draw.Box(middle, top, width, height, lines, "#fdf3dc", dashed=not network["present"]))
    return max(y, top + height + _GAP)
