"""The network as it is now: links, bridges, containers, ports, read from the kernel beside what the records say.

`GET /labkit/topology` gives it as data; `labkit.explain.topology` draws it, and tells the way of a packet through it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.kernel.links import Link, read_addresses, read_links
from labkit.kernel.netlink import Netlink
from labkit.kernel.resolver import ADDRESS
from labkit.network.planning import PREFIX, veth_name

if TYPE_CHECKING:
    from labkit.engine.container import Container
    from labkit.engine.engine import Engine
    from labkit.engine.networks import Network
    from labkit.network.publishing import Binding

Json = dict[str, Any]
_NAMES = socket.inet_aton(ADDRESS)[::-1].hex().upper()  # the name server's own socket is the daemon's
_LISTENING = "0A"  # TCP_LISTEN of the kernel's tcp_states.h, as proc_net_tcp has it


def topology(engine: Engine) -> Json:
    """Host links, networks and running containers. What a record tells and the kernel lacks has `present: false`."""
    with Netlink() as netlink:
        links = {link.name: link for link in read_links(netlink)}
        addresses = read_addresses(netlink)
    masters = {link.index: link.name for link in links.values()}
    outside = [link for link in links.values() if _is_outside(link, addresses.get(link.index, ()))]
    running = [container for container in engine.containers.values() if container.run.running]
    return {
        "host": os.uname().nodename,
        "table": engine.networks.table,
        "links": [{"name": link.name, "addresses": addresses.get(link.index, [])} for link in outside],
        "networks": [_network(network, links) for network in engine.networks.found.values()],
        "containers": [_container(engine, container, links, masters) for container in running],
    }


def _is_outside(link: Link, addresses: Sequence[str]) -> bool:
    """Whether the host has it to be reached by: it has addresses, and is no bridge of labkit's."""
    routable = [address for address in addresses if not address.startswith("fe80:")]
    return link.up and bool(routable) and not link.alias.startswith(PREFIX)


def _network(network: Network, links: dict[str, Link]) -> Json:
    record = network.record
    return {
        "id": record.Id,
        "name": record.Name,
        "driver": record.Driver,
        "internal": record.Internal,
        "bridge": record.Bridge,
        "present": not record.Bridge or record.Bridge in links,
        "subnets": [str(pool.subnet) for pool in network.pools],
        "gateways": [str(pool.gateway) for pool in network.pools],
    }


def _container(engine: Engine, container: Container, links: dict[str, Link], masters: dict[int, str]) -> Json:
    record = container.record
    endpoints = []
    for name, endpoint in record.Networks.items():
        if name not in record.Sandbox.Interfaces:  # nowhere yet, or where there are no links: host and none
            continue
        link = links.get(veth_name(endpoint))
        endpoints.append(
            {
                "network": name,
                "interface": record.Sandbox.Interfaces[name],
                "mac": endpoint.MacAddress,
                "addresses": list(endpoint.addresses()),
                "link": veth_name(endpoint) if link else "",
                "bridge": masters.get(link.master, "") if link else "",
                "names": endpoint.DNSNames or [],
            }
        )
    return {
        "id": record.Id,
        "name": container.name,
        "pid": container.run.pid,
        "mode": record.HostConfig.NetworkMode,
        "endpoints": endpoints,
        "ports": [_port(binding) for binding in record.Sandbox.Ports],
        "listening": listening(container.run.pid),
        "nameserver": container.id in engine.nameserver.services,
    }


def _port(binding: Binding) -> Json:
    return {
        "host_ip": binding.host_ip,
        "host_port": binding.host_port,
        "protocol": binding.protocol,
        "ip": binding.ip,
        "port": binding.port,
        "translated": binding.translatable,
    }


def listening(pid: int) -> list[int]:
    """The TCP ports at which something listens in the network namespace of a process (proc_pid_net(5))."""
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{name}", encoding="ascii") as file:
                rows = [line.split() for line in file.readlines()[1:]]
        except OSError:
            continue  # it ends at this moment, or has no IPv6
        places = [row[1].rsplit(":", 1) for row in rows if row[3] == _LISTENING]
        found |= {int(port, 16) for address, port in places if address != _NAMES}
    return sorted(found)
