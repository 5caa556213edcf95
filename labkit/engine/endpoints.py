"""A container's endpoints: what it is connected to, from create to its end (moby `daemon/container_operations.go`).

At create the record says which networks are wanted; at start addresses are leased, and the plan gets the operations
that make the links; at the end the addresses are given back. What a daemon must know after a crash is in the record.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from labkit.engine import legacy_links, naming, ports, sharing
from labkit.engine.models import ContainerRecord, Sandbox
from labkit.engine.networks import DEFAULT, Network
from labkit.engine.stdio import Pipes
from labkit.errors import Conflict, InvalidParameter, LabkitError, NotFound
from labkit.kernel.netlink import Netlink
from labkit.kernel.resolver import TCP, UDP, ServeNames
from labkit.network import planning, publishing
from labkit.network.checking import is_link_local
from labkit.network.directory import Member, Sight
from labkit.network.models import Endpoint, NetworkingConfig, options_of
from labkit.network.planning import Attachment
from labkit.plan import Context, Operation

if TYPE_CHECKING:
    from labkit.engine.container import Container
    from labkit.engine.engine import Engine

log = logging.getLogger("labkit.engine")
_BRIDGE_FILTER = "/proc/sys/net/bridge"  # there while br_netfilter is


@dataclass(slots=True)
class Joined:
    """What a container that is about to start has been given, and the operations of its init that make it so.

    `namespace` is the path of another container's network namespace that it joins, `files` the directory of its
    hosts and resolv.conf then; `environment` the variables of its links. `namespaces` are the paths of others that it
    shares, `shm` the shared memory that comes with one (`labkit.engine.sharing`).
    """

    attachments: list[Attachment] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    namespace: str = ""
    files: str = ""
    environment: list[str] = field(default_factory=list)
    namespaces: dict[str, str] = field(default_factory=dict)
    shm: str = ""

    @property
    def has_names(self) -> bool:
        """Whether the container gets a name server of its own: it is in a user-defined network."""
        return any(attached.network.Name != DEFAULT for attached in self.attachments)


NOTHING_JOINED = Joined()


def shares(record: ContainerRecord) -> str:
    """The ID of the container whose network namespace is joined; empty if there is none."""
    mode = record.HostConfig.NetworkMode
    return mode.removeprefix("container:") if mode.startswith("container:") else ""


def configure(engine: Engine, record: ContainerRecord, wanted: NetworkingConfig | None) -> None:
    """Write into a new container's record which networks it wants. Raises InvalidParameter, NotFound."""
    host = record.HostConfig
    sharing.settle(engine, host)
    mode = DEFAULT if host.NetworkMode in ("", "default") else host.NetworkMode
    if mode.startswith("container:"):
        # Whether there is such a container is asked at the start, as dockerd does: `run` pulls an image at "not found".
        with suppress(NotFound):
            host.NetworkMode = f"container:{engine.find(mode.removeprefix('container:')).id}"
        return
    host.NetworkMode = mode
    given = dict((wanted.EndpointsConfig if wanted else None) or {})
    settings = {_known_name(engine, name): endpoint or Endpoint() for name, endpoint in given.items()}
    chosen = _known_name(engine, mode)
    if chosen in ("host", "none") and set(settings) - {chosen}:
        raise InvalidParameter(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        )
    record.Networks = {chosen: settings.pop(chosen, Endpoint()), **dict(sorted(settings.items()))}
    address = record.Config.MacAddress
    if isinstance(address, str) and address:
        record.Networks[chosen].MacAddress = record.Networks[chosen].MacAddress or address
    for name, endpoint in record.Networks.items():
        check_endpoint(engine, name, endpoint)


def _known_name(engine: Engine, reference: str) -> str:
    """The network's name, if there is such a network: a container may be created before its network."""
    try:
        return engine.networks.find(reference).name
    except NotFound:
        return reference


def check_endpoint(engine: Engine, name: str, endpoint: Endpoint) -> None:
    """What an endpoint may ask for. Raises InvalidParameter with all that is wrong, as dockerd 28 does."""
    problems = []
    asked = endpoint.IPAMConfig
    addresses = [text for text in (asked.IPv4Address, asked.IPv6Address) if text] if asked else []
    predefined = name in ("bridge", "host", "none")
    if predefined and addresses:
        problems.append("user specified IP address is supported on user defined networks only")
    if predefined and endpoint.Aliases:
        problems.append("network-scoped aliases are only supported for user-defined networks")
    if not predefined:
        problems += _check_addresses(engine, name, addresses)
    problems += [
        f"invalid link-local IP address: {text}"
        for text in (asked.LinkLocalIPs if asked else None) or ()
        if not is_link_local(text)
    ]
    if endpoint.MacAddress and not naming.is_mac(endpoint.MacAddress):
        problems.append(f"invalid MAC address: {endpoint.MacAddress}")
    if problems:
        raise InvalidParameter(f"invalid config for network {name}: invalid endpoint settings:\n" + "\n".join(problems))


def _check_addresses(engine: Engine, name: str, addresses: list[str]) -> list[str]:
    try:
        network = engine.networks.find(name)
    except NotFound:
        return []
    problems = []
    for text in addresses:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            problems.append(f"invalid IP address: {text}")
            continue
        if not any(address in pool.subnet for pool in network.pools):
            problems.append(f"no configured subnet or ip-range contain the IP address {text}")
    return problems


def attach(engine: Engine, container: Container) -> Joined:
    """Lease what a container needs of its networks, and write it into its record.

    Raises LabkitError; nothing is leased then.
    """
    record = container.record
    record.Sandbox = Sandbox()
    try:
        shared, shm = sharing.namespaces(engine, container.record.HostConfig)
        joined = _join_all(engine, container)
        joined.namespaces, joined.shm = shared, shm
    except LabkitError:
        release(engine, container)
        raise
    for attached in joined.attachments:
        joined.operations += planning.attach_operations(attached)
    if joined.has_names:
        joined.operations.append(ServeNames())
    return joined


def _join_all(engine: Engine, container: Container) -> Joined:
    if target := running_target(engine, container):
        container.record.Config.Hostname = target.record.Config.Hostname
        return Joined(namespace=f"/proc/{target.run.pid}/ns/net", files=target.directory)
    found = []
    for name in list(container.record.Networks):
        network = engine.networks.find(name)
        enter(container, network)
        if network.has_links:
            lease(engine, container, network)
            found.append(network)
    attachments = [attachment(container, network, found) for network in found]
    joined = Joined(attachments, environment=legacy_links.environment(engine, container))
    ports.claim(engine, container, [network.record for network in found])
    return joined


def prelude(engine: Engine, container: Container, joined: Joined) -> tuple[Operation, ...]:
    """What the daemon does before a container's init is forked: the files of names, the host's ports."""
    bindings = container.record.Sandbox.Ports
    own = [] if joined.namespace else naming.file_operations(engine, container, joined.has_names)
    host = engine.networks.host
    return (*own, *publishing.publish_operations(host.table, bindings, host.translates))


@contextmanager
def host_netlink(joined: Joined, made: Pipes) -> Iterator[None]:
    """Lend the init a socket of the host's network namespace, over which it makes its links."""
    if not joined.attachments:
        yield
        return
    with Netlink() as netlink:
        made.child["host-netlink"] = netlink.fileno()
        try:
            yield
        finally:
            del made.child["host-netlink"]


def attachment(container: Container, network: Network, networks: list[Network]) -> Attachment:
    """One endpoint as it is about to be attached, beside those of `networks`."""
    record = container.record
    endpoint = record.Networks[network.name]
    four, six = (_gateway_network(container, networks, version) for version in (4, 6))
    return Attachment(
        network.record,
        endpoint,
        record.Sandbox.Interfaces[network.name],
        default4=four is network,
        default6=six is network,
        hairpin=_reaches_itself(record, network),
        bridge_filter=os.path.isdir(_BRIDGE_FILTER),
    )


def _reaches_itself(record: ContainerRecord, network: Network) -> bool:
    """Whether the container's port has to send frames back to it: it publishes, and the firewall sees what crosses."""
    publishes = record.HostConfig.PortBindings or record.HostConfig.PublishAllPorts
    if not publishes or not os.path.isdir(_BRIDGE_FILTER):
        return False
    with open(f"{_BRIDGE_FILTER}/bridge-nf-call-iptables", encoding="ascii") as file:
        return file.read().strip() == "1" or not options_of(network.record).icc


def _gateway_network(container: Container, networks: list[Network], version: int) -> Network | None:
    """The network of the default route: by priority, then by name (moby `sandbox.go`, `getGatewayEndpoint`)."""
    usable = [
        network
        for network in networks
        if not network.record.Internal and network.pool(version) and _address_of(container, network, version)
    ]
    return min(
        usable, key=lambda network: (-container.record.Networks[network.name].GwPriority, network.name), default=None
    )


def _address_of(container: Container, network: Network, version: int) -> str:
    endpoint = container.record.Networks[network.name]
    return endpoint.IPAddress if version == 4 else endpoint.GlobalIPv6Address


def enter(container: Container, network: Network) -> None:
    """A container is about to have an endpoint in a network."""
    endpoint = container.record.Networks[network.name]
    endpoint.EndpointID, endpoint.NetworkID = os.urandom(32).hex(), network.id
    network.attached[container.id] = container


def lease(engine: Engine, container: Container, network: Network) -> None:
    """Lease addresses for one endpoint of a container and fill it in."""
    record = container.record
    endpoint = record.Networks[network.name]
    asked = endpoint.IPAMConfig
    for version, wanted in ((4, asked.IPv4Address if asked else ""), (6, asked.IPv6Address if asked else "")):
        pool = network.pool(version)
        if pool is None:
            continue
        address = pool.take(ipaddress.ip_address(wanted)) if wanted else pool.lease(f"{network.name} ({network.id})")
        gateway = "" if network.record.Internal else str(pool.gateway)
        if version == 4:
            endpoint.IPAddress, endpoint.IPPrefixLen, endpoint.Gateway = str(address), pool.subnet.prefixlen, gateway
        else:
            endpoint.GlobalIPv6Address, endpoint.GlobalIPv6PrefixLen = str(address), pool.subnet.prefixlen
            endpoint.IPv6Gateway = gateway
    address4 = endpoint.IPAddress
    if not endpoint.MacAddress:
        endpoint.MacAddress = planning.mac_of(address4) if address4 else planning.random_mac()
        record.Sandbox.OwnMac.append(network.name)
    record.Sandbox.Interfaces[network.name] = _interface_name(record, network)
    endpoint.DNSNames = names_of(container, endpoint) if network.has_names else None


def _interface_name(record: ContainerRecord, network: Network) -> str:
    prefix = options_of(network.record).prefix
    taken = set(record.Sandbox.Interfaces.values())
    return next(name for name in (f"{prefix}{number}" for number in range(len(taken) + 1)) if name not in taken)


def names_of(container: Container, endpoint: Endpoint) -> list[str]:
    """What a container answers to in a user-defined network: name, short ID, aliases, hostname, each once."""
    hostname = container.record.Config.Hostname
    return list(dict.fromkeys([container.name, *(endpoint.Aliases or ()), container.id[:12], hostname]))


def release(engine: Engine, container: Container) -> None:
    """Give back what `attach` leased, and forget it in the record."""
    for name, endpoint in container.record.Networks.items():
        if network := engine.networks.found.get(endpoint.NetworkID):
            let_go(engine, container, network, endpoint)
        else:
            _clear(container.record, name, endpoint)
    engine.networks.ports.release(container.record.Sandbox.Ports)
    container.record.Sandbox = Sandbox()


def let_go(engine: Engine, container: Container, network: Network, endpoint: Endpoint) -> None:
    """Give back one endpoint's addresses and names."""
    engine.directory.leave(network.id, endpoint.EndpointID)
    network.attached.pop(container.id, None)
    for text in (endpoint.IPAddress, endpoint.GlobalIPv6Address):
        if text:
            address = ipaddress.ip_address(text)
            if pool := network.pool(address.version):
                pool.release(address)
    _clear(container.record, network.name, endpoint)


def _clear(record: ContainerRecord, name: str, endpoint: Endpoint) -> None:
    endpoint.EndpointID = endpoint.Gateway = endpoint.IPAddress = ""
    endpoint.IPv6Gateway = endpoint.GlobalIPv6Address = ""
    endpoint.IPPrefixLen = endpoint.GlobalIPv6PrefixLen = 0
    if name in record.Sandbox.OwnMac:
        endpoint.MacAddress = ""
        record.Sandbox.OwnMac.remove(name)
    record.Sandbox.Interfaces.pop(name, None)


def opened(engine: Engine, container: Container, descriptors: dict[str, int], held: Context) -> None:
    """The container runs: let others find it by name, answer its own questions, serve its ports (`held` has them)."""
    for endpoint in container.record.Networks.values():
        if (network := engine.networks.found.get(endpoint.NetworkID)) and endpoint.EndpointID:
            announce(engine, container, network)
            engine.networks.tell(network, "connect", container)
    serve_names(engine, container, descriptors)
    ports.serve(engine, container, held)
    for other in legacy_links.linked(engine, container):  # perhaps at another address now
        for operation in naming.file_operations(engine, other, False)[:1]:
            operation.run(Context())


def serve_names(engine: Engine, container: Container, descriptors: dict[str, int]) -> None:
    """Answer at the sockets that a container's init opened for names, if it did."""
    if UDP in descriptors:
        engine.nameserver.serve(container.id, descriptors.pop(UDP), descriptors.pop(TCP), sight(engine, container))


def announce(engine: Engine, container: Container, network: Network) -> None:
    """Enter a container into the names of one network."""
    endpoint = container.record.Networks[network.name]
    if network.has_names:
        known = tuple(names_of(container, endpoint))
        addresses = endpoint.IPAddress, endpoint.GlobalIPv6Address
        engine.directory.join(network.id, network.name, Member(endpoint.EndpointID, known, *addresses, container.name))


def announce_again(engine: Engine, container: Container) -> None:
    """A container has another name: if it runs, it is found by that from now on, and no more by the old one."""
    for endpoint in container.record.Networks.values():
        network = engine.networks.found.get(endpoint.NetworkID)
        if endpoint.EndpointID and network and network.has_names:
            endpoint.DNSNames = names_of(container, endpoint)
            announce(engine, container, network)


def sight(engine: Engine, container: Container) -> Sight:
    """What a container's name server may tell it."""
    attached = [endpoint.NetworkID for endpoint in container.record.Networks.values() if endpoint.EndpointID]
    networks = [engine.networks.found[identity] for identity in attached if identity in engine.networks.found]
    links = tuple(
        (alias, target)
        for endpoint in container.record.Networks.values()
        for target, _, alias in (link.partition(":") for link in endpoint.Links or ())
    )
    outside = any(not network.record.Internal for network in networks)
    resolver = naming.resolver_of(container.record.HostConfig)
    ndots = any(option.startswith("ndots:") for option in container.record.HostConfig.DnsOptions or ())
    return Sight(
        tuple(network.id for network in networks if network.has_names),
        links,
        resolver.servers if outside else (),
        ndots,
    )


def adopt(engine: Engine, container: Container, descriptors: dict[str, int]) -> None:
    """Take over the endpoints of a container that went on running without a daemon."""
    for endpoint in container.record.Networks.values():
        network = engine.networks.found.get(endpoint.NetworkID)
        if network is None or not endpoint.EndpointID:
            continue
        network.attached[container.id] = container
        for text in (endpoint.IPAddress, endpoint.GlobalIPv6Address):
            address = ipaddress.ip_address(text) if text else None
            pool = network.pool(address.version) if address else None
            if address and pool and int(address) not in pool.leased:
                pool.take(address)
        announce(engine, container, network)
    engine.networks.ports.reclaim(container.record.Sandbox.Ports)
    serve_names(engine, container, descriptors)
    ports.serve(engine, container, ports.hold_again(container))


def end(engine: Engine, container: Container) -> list[Operation]:
    """The container has ended: nobody finds it any more. Returns what ends its traffic; `release` comes after that."""
    engine.nameserver.stop(container.id)
    ports.stop(engine, container)
    host = engine.networks.host
    operations = publishing.withdraw_operations(host.table, container.record.Sandbox.Ports, host.translates)
    for endpoint in container.record.Networks.values():
        network = engine.networks.found.get(endpoint.NetworkID)
        if network and endpoint.EndpointID:
            operations += planning.detach_operations(network.record, endpoint)
            engine.networks.tell(network, "disconnect", container)
    return operations


def running_target(engine: Engine, container: Container) -> Container | None:
    """The container whose network is shared, which must run. Raises Conflict."""
    identity = shares(container.record)
    if not identity:
        return None
    target = engine.find(identity)
    if target is container:
        raise InvalidParameter("can not join own network")
    if not target.run.running:
        raise Conflict(f"cannot join network of a non running container: {identity}")
    return target
