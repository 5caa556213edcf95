"""The networks of a daemon: made, found, removed, and made again after a crash (moby `daemon/network.go`).

The records on disk say what there should be. At boot the kernel is brought to that: missing bridges are made, bridges
of ours that no record knows go, and the firewall's table is replaced whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from labkit.engine import clock, disk
from labkit.engine.execution import carry_out_journalled
from labkit.engine.host_network import HostNetwork
from labkit.errors import Conflict, Forbidden, InvalidParameter, NotFound
from labkit.kernel.links import read_links, read_networks
from labkit.kernel.netlink import Netlink
from labkit.network import planning
from labkit.network.addresses import Network as Subnet
from labkit.network.addresses import Pool, parse_network, pools_of, settle_subnets
from labkit.network.checking import check_options, check_subnets
from labkit.network.models import IPAM, IPAMConfig, NetworkCreateBody, NetworkRecord, options_of
from labkit.network.proxy import Proxy
from labkit.network.publishing import Binding, Ports
from labkit.trace import TraceContext

if TYPE_CHECKING:
    from labkit.engine.container import Container
    from labkit.engine.engine import Engine

DEFAULT = "bridge"
PREDEFINED = (DEFAULT, "host", "none")
DRIVERS = ("bridge", "macvlan", "host", "null")
_DEFAULT_OPTIONS = {
    "com.docker.network.bridge.default_bridge": "true",
    "com.docker.network.bridge.enable_icc": "true",
    "com.docker.network.bridge.enable_ip_masquerade": "true",
    "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
    "com.docker.network.driver.mtu": "1500",
}


class Network:
    """One network: its record, its addresses, and the containers that have an endpoint in it while they run."""

    def __init__(self, record: NetworkRecord) -> None:
        self.record = record
        self.pools: tuple[Pool, ...] = pools_of(record)
        self.attached: dict[str, Container] = {}

    @property
    def id(self) -> str:
        return self.record.Id

    @property
    def name(self) -> str:
        return self.record.Name

    @property
    def predefined(self) -> bool:
        return self.name in PREDEFINED

    @property
    def has_names(self) -> bool:
        """Whether its containers find each other by name: those of user-defined networks do."""
        return not self.predefined

    @property
    def has_links(self) -> bool:
        """Whether an endpoint in it is a link with addresses: not where containers have the host's network, or none."""
        return self.record.Driver not in ("host", "null")

    def pool(self, version: int) -> Pool | None:
        """The subnet of a family of which addresses are leased."""
        return next((pool for pool in self.pools if pool.subnet.version == version), None)


class Networks:
    """All networks of one daemon, by ID."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.found: dict[str, Network] = {}
        self.table = planning.table_name(engine.settings.data_root)
        self.host = HostNetwork(self.table, engine.settings.journals)
        self.ports = Ports()
        self.proxies: dict[str, Proxy] = {}

    def load(self) -> None:
        """Read the records, make those of the predefined networks if this is the first time."""
        folder = self.engine.settings.networks
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for name in sorted(os.listdir(folder)):
            if name.endswith(".json"):
                network = Network(disk.read_json(os.path.join(folder, name), NetworkRecord))
                self.found[network.id] = network
        for name in PREDEFINED:
            if not any(network.name == name for network in self.found.values()):
                self._predefine(name)

    def _predefine(self, name: str) -> None:
        driver = {"none": "null"}.get(name, name)
        record = NetworkRecord(Name=name, Id=os.urandom(32).hex(), Created=clock.now(), Driver=driver)
        if name == DEFAULT:
            self._settle_default(record)
        else:
            record.IPAM = IPAM(Config=None)
        self._keep(Network(record))

    def _settle_default(self, record: NetworkRecord) -> None:
        if bip := self.engine.settings.bip:
            subnet, gateway = str(parse_network(bip, "--bip")), bip.split("/")[0]
            record.IPAM.Config = [IPAMConfig(Subnet=subnet, Gateway=gateway)]
        with Netlink() as netlink:
            host = [parse_network(text) for text in read_networks(netlink)]
        record.Bridge = planning.default_bridge(self.table, record.Id)
        record.Options = {**_DEFAULT_OPTIONS, "com.docker.network.bridge.name": record.Bridge}
        record.IPAM.Config = settle_subnets(record, (), host)

    def _keep(self, network: Network) -> None:
        disk.write_json(self._path(network.id), network.record)
        self.found[network.id] = network

    def _path(self, identity: str) -> str:
        return os.path.join(self.engine.settings.networks, f"{identity}.json")

    def establish(self, bindings: Iterable[Binding]) -> None:
        """Bring the kernel to what the records say. `bindings` are the published ports of containers that run."""
        self.host.establish(self._bridged(), bindings)

    def dismantle(self) -> None:
        """Take all that was made for networks off the machine; the records stay."""
        self.host.dismantle(self._bridged())

    def _bridged(self) -> list[NetworkRecord]:
        return [network.record for network in self.found.values() if network.record.Bridge]

    def find(self, reference: str) -> Network:
        """A network by name, ID, or the beginning of an ID that no other has. Raises NotFound, InvalidParameter."""
        named = {"default": DEFAULT}.get(reference, reference)
        if found := self.found.get(named) or next((one for one in self.found.values() if one.name == named), None):
            return found
        matches = [network for identity, network in self.found.items() if identity.startswith(named)]
        if len(matches) > 1:
            raise InvalidParameter(
                f"network {reference} is ambiguous ({len(matches)} matches found based on ID prefix)"
            )
        if not matches or not named:
            raise NotFound(f"network {reference} not found")
        return matches[0]

    def create(self, body: NetworkCreateBody, trace: TraceContext) -> Network:
        """Make a network. Raises Conflict, InvalidParameter, Forbidden in dockerd's words; nothing is left then."""
        self._check(body)
        record = NetworkRecord(
            Name=body.Name,
            Id=os.urandom(32).hex(),
            Created=clock.now(),
            Driver=body.Driver or DEFAULT,
            EnableIPv4=body.EnableIPv4 is not False,
            EnableIPv6=bool(body.EnableIPv6),
            IPAM=body.IPAM or IPAM(),
            Internal=body.Internal,
            Attachable=body.Attachable,
            Options=body.Options or {},
            Labels=body.Labels or {},
        )
        self._settle(record)
        network = Network(record)
        if record.Bridge:
            plan = planning.create_plan(record, self.table, planning.random_mac(), self.host.admission(record))
            carry_out_journalled(self.engine, plan, record.Id, trace)
            if record.EnableIPv6:
                self.host.forward(ipv6=True)
        self._keep(network)
        self._publish(network, "create")
        return network

    def _settle(self, record: NetworkRecord) -> None:
        """Fill in what was left to the engine: subnets and the bridge's name."""
        with Netlink() as netlink:
            host = [parse_network(text) for text in read_networks(netlink)]
            links = {link.name: link for link in read_links(netlink)}
        record.IPAM.Driver = record.IPAM.Driver or "default"
        record.IPAM.Config = settle_subnets(record, self._subnets(), host)
        if record.Driver == "bridge":
            record.Bridge = options_of(record).name or planning.bridge_name(record.Id)
            if other := next((one for one in self.found.values() if one.record.Bridge == record.Bridge), None):
                raise Forbidden(
                    f"cannot create network {record.Id} ({record.Bridge}): conflicts with network {other.id} "
                    f"({record.Bridge}): networks have same bridge name"
                )
            if record.Bridge in links:
                raise Forbidden(f"can't use {record.Bridge} as the bridge: there is a link of that name")
        elif not planning.parent_of(record):
            raise InvalidParameter("a macvlan network needs a link of the host: give one with -o parent=eth0")
        elif planning.parent_of(record) not in links:
            raise InvalidParameter(
                f"invalid subinterface vlan name {planning.parent_of(record)}: no such link on this host"
            )

    def _subnets(self) -> list[Subnet]:
        return [pool.subnet for network in self.found.values() for pool in network.pools]

    def _check(self, body: NetworkCreateBody) -> None:
        name = body.Name
        if not name.strip():
            raise InvalidParameter("invalid network name: name is empty")
        if name in PREDEFINED or name == "default":
            raise Forbidden(f"operation is not permitted on predefined {name} network")
        if any(network.name == name for network in self.found.values()):
            raise Conflict(f"network with name {name} already exists")
        driver = body.Driver or DEFAULT
        if driver in ("host", "null"):
            raise Forbidden(f'only one instance of "{driver}" network is allowed')
        if driver not in DRIVERS:
            raise NotFound(f"could not find plugin {driver} in v1 plugin registry: plugin not found")
        if body.ConfigOnly or (body.ConfigFrom and body.ConfigFrom.Network) or body.Ingress:
            raise InvalidParameter(
                "labkit has no swarm, and no networks made of another's configuration: leave these out"
            )
        if body.Scope not in ("", "local"):
            raise InvalidParameter(f"labkit's networks are local to this machine: scope {body.Scope} is not possible")
        if body.IPAM and body.IPAM.Driver not in ("", "default"):
            raise NotFound(f"could not find plugin {body.IPAM.Driver} in v1 plugin registry: plugin not found")
        if body.EnableIPv4 is False and not body.EnableIPv6:
            raise InvalidParameter("IPv4 or IPv6 must be enabled")
        check_options(driver, body.Options or {})
        check_subnets(driver, body.IPAM.Config if body.IPAM else None)

    def remove(self, network: Network, trace: TraceContext) -> None:
        """Remove a network. Raises Forbidden if it is predefined, or containers use it."""
        if network.predefined:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        if network.attached:
            held = ", ".join(f'name:"{one.name}" id:"{one.id[:12]}"' for one in network.attached.values())
            raise Forbidden(f"error while removing network: network {network.name} has active endpoints ({held})")
        if network.record.Bridge:
            plan = planning.remove_plan(network.record, self.host.dismissal(network.record))
            carry_out_journalled(self.engine, plan, network.id, trace)
        os.unlink(self._path(network.id))
        disk.sync_directory(self.engine.settings.networks)
        del self.found[network.id]
        self._publish(network, "destroy")

    def _publish(self, network: Network, action: str, **more: str) -> None:
        attributes = {"name": network.name, "type": network.record.Driver, **more}
        self.engine.events.publish("network", action, network.id, attributes)

    def tell(self, network: Network, action: str, container: Container) -> None:
        """Publish that a container was connected or disconnected."""
        self._publish(network, action, container=container.id)
