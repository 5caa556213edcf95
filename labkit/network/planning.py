"""Networks and endpoints as operations: what has to be done to the machine for each (moby `libnetwork/drivers/bridge`).

Pure: records in, operations out. `table` is the name of the daemon's nf_tables table.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256

from labkit.kernel.legacy_firewall import AdmitBridgeLegacy, DismissBridgeLegacy
from labkit.kernel.links import ConfigureLink, CreateBridge, CreateMacvlan, CreateVeth, CutOff, DeleteLink
from labkit.kernel.nftables import AdmitBridge, DismissBridge
from labkit.kernel.process import WriteSysctl
from labkit.network.addresses import pools_of
from labkit.network.models import Endpoint, NetworkRecord, options_of
from labkit.plan import Operation, Plan, Step

PREFIX = "labkit"
"""How the names of all of labkit's bridges begin, so that a rule of another firewall can name them together."""


DEFAULT_ROOT = "/var/lib/labkit"


def table_name(data_root: str) -> str:
    """The daemon's nf_tables table: `labkit`, or one of its own for each other daemon on the machine."""
    return PREFIX if data_root == DEFAULT_ROOT else f"{PREFIX}_{sha256(data_root.encode()).hexdigest()[:8]}"


def bridge_name(identity: str) -> str:
    """The bridge of a network, at most 15 bytes (IFNAMSIZ)."""
    return f"{PREFIX}-{identity[:8]}"


def default_bridge(table: str, identity: str) -> str:
    """The bridge of the default network: `labkit0`; daemons beside the first one have another, whenever they start."""
    return f"{PREFIX}0" if table == PREFIX else bridge_name(identity)


def mark(table: str, identity: str) -> str:
    """The alias of a bridge: which daemon's it is, and which network's."""
    return f"{table} {identity}"


def random_mac() -> str:
    """A locally administered unicast address, in dockerd's range."""
    return "02:42:" + ":".join(f"{byte:02x}" for byte in os.urandom(4))


def mac_of(address: str) -> str:
    """dockerd's MAC address for an IPv4 address."""
    return "02:42:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def create_plan(record: NetworkRecord, table: str, mac: str, admission: tuple[Operation, ...] = ()) -> Plan:
    """The plan that makes a bridge network's bridge. `admission` is what admits it to the firewall."""
    options = options_of(record)
    addresses = tuple(f"{pool.gateway}/{pool.subnet.prefixlen}" for pool in pools_of(record))
    bridge = record.Bridge
    operations: list[Operation] = [
        CreateBridge(bridge, mark(table, record.Id), mac, addresses, options.mtu, filtered=not options.icc),
        # Lets the host's 127.0.0.1 reach published ports; packets that come from elsewhere with it are dropped.
        WriteSysctl(f"net/ipv4/conf/{bridge}/route_localnet", "1"),
        # Nobody else has the bridge's address: asking first would keep it from being used for a second.
        *([WriteSysctl(f"net/ipv6/conf/{bridge}/accept_dad", "0")] if record.EnableIPv6 else []),
        *admission,
    ]
    return Plan("create network", tuple(Step("daemon", operation) for operation in operations))


def admit(record: NetworkRecord, table: str) -> AdmitBridge:
    options = options_of(record)
    masquerade = options.masquerade and not record.Internal
    return AdmitBridge(
        table,
        record.Bridge,
        record.Internal,
        options.icc,
        masquerade and record.EnableIPv4,
        masquerade and record.EnableIPv6,
    )


def admit_legacy(record: NetworkRecord) -> AdmitBridgeLegacy:
    """The same for a kernel without nf_tables."""
    options = options_of(record)
    subnets = tuple(str(pool.subnet) for pool in pools_of(record))
    masqueraded = subnets if options.masquerade and not record.Internal else ()
    return AdmitBridgeLegacy(record.Bridge, subnets, record.Internal, options.icc, masqueraded)


def dismiss(record: NetworkRecord, table: str) -> DismissBridge:
    one = admit(record, table)
    return DismissBridge(one.table, one.name, one.internal, one.icc, one.masquerade4, one.masquerade6)


def dismiss_legacy(record: NetworkRecord) -> DismissBridgeLegacy:
    one = admit_legacy(record)
    return DismissBridgeLegacy(one.name, one.subnets, one.internal, one.icc, one.masqueraded)


def remove_plan(record: NetworkRecord, dismissal: Operation) -> Plan:
    """The plan that takes a bridge network away. `dismissal` takes it out of the firewall."""
    operations = (DeleteLink(record.Bridge), dismissal)
    return Plan("remove network", tuple(Step("daemon", operation) for operation in operations))


@dataclass(frozen=True, slots=True)
class Attachment:
    """One endpoint that is being attached: its network, its settings, and what its link is called inside.

    `bridge_filter` says that what crosses bridges passes the firewall on this machine (br_netfilter).
    """

    network: NetworkRecord
    endpoint: Endpoint
    interface: str
    default4: bool = False
    default6: bool = False
    hairpin: bool = False
    bridge_filter: bool = True


def veth_name(endpoint: Endpoint) -> str:
    """The host's end of an endpoint's cable."""
    return f"veth{endpoint.EndpointID[:7]}"


def attach_operations(attached: Attachment, netns: str = "") -> list[Operation]:
    """What gives a container its link to a network: from its init (`netns` empty), or from outside while it runs."""
    endpoint, network, name = attached.endpoint, attached.network, attached.interface
    options = options_of(network)
    link: Operation
    if network.Driver == "macvlan":
        mode = network.Options.get("macvlan_mode", "bridge")
        link = CreateMacvlan(parent_of(network), name, endpoint.MacAddress, mode, options.mtu, netns)
    else:
        # Where the firewall doesn't see what crosses a bridge, ports that don't see each other do its work.
        isolated = not options.icc and not attached.bridge_filter
        outer, mac = veth_name(endpoint), endpoint.MacAddress
        link = CreateVeth(outer, network.Bridge, name, mac, options.mtu, netns, attached.hairpin, isolated)
    addresses = (*endpoint.addresses(), *endpoint.link_local())
    silent = not netns and not any(":" in address for address in addresses)
    quiet = [WriteSysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")] if silent else []
    return [link, *quiet, ConfigureLink(name, addresses, gateways(attached), netns)]


def gateways(attached: Attachment) -> tuple[str, ...]:
    """The default routes through this endpoint, if it is the one that they go through."""
    wanted = ((attached.default4, attached.endpoint.Gateway), (attached.default6, attached.endpoint.IPv6Gateway))
    return tuple(gateway for chosen, gateway in wanted if chosen and gateway)


def parent_of(network: NetworkRecord) -> str:
    """The host's link that a macvlan network is on."""
    return network.Options.get("parent", "")


def detach_operations(network: NetworkRecord, endpoint: Endpoint) -> list[Operation]:
    """What ends an endpoint's traffic when its container has ended. The link itself goes with the namespace."""
    return [CutOff(veth_name(endpoint))] if network.Bridge else []


def disconnect_operations(network: NetworkRecord, endpoint: Endpoint, interface: str, netns: str) -> list[Operation]:
    """What takes a running container off a network."""
    return [DeleteLink(veth_name(endpoint))] if network.Bridge else [DeleteLink(interface, netns)]
