"""The way of one packet: from a client over the host's port, nf_tables and the bridge to the process in the container.

Each step names the place, what happens to the packet there, and the command that shows it. It is told from the network
as it is (`GET /labkit/topology`): a step that would fail says so.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import labkit.explain.drawing as draw
from labkit.errors import InvalidParameter, NotFound

Data = dict[str, Any]
_LOOPBACK = ipaddress.ip_network("127.0.0.0/8")


@dataclass(frozen=True, slots=True)
class Step:
    """One place on the way. `packet` is what source and destination are after it; `look` shows it by hand."""

    place: str
    what: str
    packet: str = ""
    look: str = ""
    fails: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """What `%explain --way PORT` shows."""

    steps: tuple[Step, ...]

    def text(self) -> str:
        lines = []
        for number, step in enumerate(self.steps, 1):
            lines.append(f"{number}. {step.place}: {step.what}{'  ✗' if step.fails else ''}")
            lines += [f"     {step.packet}"] if step.packet else []
            lines += [f"     $ {step.look}"] if step.look else []
        return "\n".join(lines)

    def svg(self) -> str:
        made = draw.Picture("The way of a packet", self.text())
        y = 12.0
        shown = [(_label(number, step), step) for number, step in enumerate(self.steps, 1)]
        width = max(draw.width_of(lines) for lines, _ in shown)
        for lines, step in shown:
            height = draw.height_of(lines)
            fill = "#fbe3e4" if step.fails else "#eef2f6"
            made.boxes.append(draw.Box(12, y, width, height, lines, fill, dashed=step.fails))
            if y > 12:
                made.wires.append(draw.Wire(((40, y - 22), (40, y - 2)), arrow=True))
            y += height + 24
        return made.svg()

    def __repr__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return draw.mimebundle(self.svg(), self.text())


def _label(number: int, step: Step) -> tuple[str, ...]:
    failing = " ✗" if step.fails else ""
    return (f"{number}. {step.place}{failing}", step.what, *([step.packet] if step.packet else []))


def way(data: Data, wanted: str) -> Way:
    """The way to `PORT`, `ADDRESS:PORT` of the host, each with `/udp` for UDP.

    Raises NotFound if no container's port is published there, InvalidParameter for words that are no port.
    """
    address, port, protocol = _parse(wanted)
    container, binding = _binding(data, address, port, protocol)
    client = "127.0.0.1:40000" if address in _LOOPBACK else "[::1]:40000" if address.version == 6 else "CLIENT:40000"
    first = f"{client} → {_at(str(address), port)}"
    endpoint = next((one for one in container["endpoints"] if _has(one, binding["ip"])), None)
    if endpoint is None:
        raise NotFound(f"container {container['name']} has no endpoint with {binding['ip']} any more")
    network = next(one for one in data["networks"] if one["name"] == endpoint["network"])
    start = Step("client", f"connects to {_at(str(address), port)}/{protocol}", first)
    local = address in _LOOPBACK
    if binding["translated"] and address.version == ipaddress.ip_address(binding["ip"]).version:
        led = _translated(data, binding, client, local, network)
    else:
        led = _proxied(binding, network)
    return Way((start, *led, *_inside(container, endpoint, network, binding)))


def _parse(wanted: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int, str]:
    text, _, protocol = wanted.partition("/")
    address, colon, port = text.rpartition(":")
    try:
        return ipaddress.ip_address(address.strip("[]") if colon else "127.0.0.1"), int(port), protocol or "tcp"
    except ValueError as error:
        raise InvalidParameter(f"{wanted!r} is no port of this host: give 8080, 127.0.0.1:8080 or 53/udp") from error


def _binding(
    data: Data, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, protocol: str
) -> tuple[Data, Data]:
    """The container and the binding that answer at an address: one for this very address before one for all."""
    found = [
        (container, binding)
        for container in data["containers"]
        for binding in container["ports"]
        if (binding["host_port"], binding["protocol"]) == (port, protocol)
        and binding["host_ip"] in (str(address), "0.0.0.0" if address.version == 4 else "::")
    ]
    if not found:
        raise NotFound(f"no running container has published {_at(str(address), port)}/{protocol}: see `docker ps`")
    return max(found, key=lambda pair: pair[1]["host_ip"] == str(address))


def _has(endpoint: Data, address: str) -> bool:
    return any(one.split("/")[0] == address for one in endpoint["addresses"])


def _at(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _translated(data: Data, binding: Data, client: str, local: bool, network: Data) -> Sequence[Step]:
    target = _at(binding["ip"], binding["port"])
    six = "6" if ":" in binding["ip"] else ""
    anywhere = binding["host_ip"] in ("0.0.0.0", "::")
    name, key = (f"published{six}", "") if anywhere else (f"published{six}_on", f"{binding['host_ip']} . ")
    element = f"{key}{binding['protocol']} . {binding['host_port']} : {binding['ip']} . {binding['port']}"
    hook = "output" if local else "prerouting"
    gateway = next((one for one in network["gateways"] if (":" in one) == bool(six)), "")
    masked = gateway if local else client.rsplit(":", 1)[0]
    steps = [
        Step(
            f"host, nf_tables, hook {hook}",
            f"map {name} has {{ {element} }}: the destination changes",
            f"{client} → {target}",
            f"nft list map inet {data['table']} {name}",
        ),
        Step(
            "host, routing",
            f"{_subnet(network, bool(six))} is reached through {network['bridge']}",
            look=f"ip route get {binding['ip']}",
            fails=not network["present"],
        ),
    ]
    if local:
        steps.append(
            Step(
                "host, nf_tables, hook postrouting",
                "a loopback address can't leave the host: the source becomes the bridge's",
                f"{_at(masked, 40000)} → {target}",
                f"nft list chain inet {data['table']} postrouting",
            )
        )
    else:
        steps.append(
            Step(
                "host, nf_tables, hook forward",
                "what has been translated may pass to the bridge",
                look=f"nft list chain inet {data['table']} forward",
            )
        )
    return steps


def _subnet(network: Data, six: bool) -> str:
    return next((subnet for subnet in network["subnets"] if (":" in subnet) == six), "the address")


def _proxied(binding: Data, network: Data) -> Sequence[Step]:
    target = _at(binding["ip"], binding["port"])
    source = next((one for one in network["gateways"] if (":" in one) == (":" in binding["ip"])), "HOST")
    return [
        Step(
            "host, labkit's proxy",
            "nf_tables can't translate this: the daemon takes the connection and makes one of its own",
            f"{_at(source, 40001)} → {target}",
            f"ss -ltnp 'sport = :{binding['host_port']}'",
        ),
        Step("host, routing", f"{target} is reached through {network['bridge']}", look=f"ip route get {binding['ip']}"),
    ]


def _inside(container: Data, endpoint: Data, network: Data, binding: Data) -> Sequence[Step]:
    inside = f"nsenter --net=/proc/{container['pid']}/ns/net"
    tcp = binding["protocol"] == "tcp"
    answered = not tcp or binding["port"] in container["listening"]
    listens = f"listens at port {binding['port']}" if answered else f"nothing listens at port {binding['port']}"
    return [
        Step(
            f"bridge {network['bridge']}",
            f"has {endpoint['mac']} behind its port {endpoint['link'] or '(missing)'}",
            look=f"bridge fdb show br {network['bridge']}",
            fails=not endpoint["link"] or endpoint["bridge"] != network["bridge"],
        ),
        Step(
            f"veth pair {endpoint['link']} ═ {endpoint['interface']}",
            "out of the host's network namespace, into the container's",
            look=f"ip -d link show {endpoint['link']}",
        ),
        Step(
            f"container {container['name']}, {endpoint['interface']}",
            f"{', '.join(endpoint['addresses'])} is here",
            look=f"{inside} ip address show {endpoint['interface']}",
        ),
        Step(
            f"container {container['name']}, process",
            listens if tcp else f"receives at port {binding['port']}",
            look=f"{inside} ss -{'ltn' if tcp else 'lun'}p",
            fails=not answered,
        ),
    ]
