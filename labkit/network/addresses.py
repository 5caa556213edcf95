"""Address management: which subnet a network gets, which address an endpoint (moby `libnetwork/ipams/defaultipam`).

What is leased is known from the containers' records, so that nothing here needs to be written down: a daemon that
comes back leases again what the containers that run have.
"""

from __future__ import annotations

import heapq
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from labkit.errors import Forbidden, InvalidParameter, LabkitError
from labkit.network.models import IPAMConfig, NetworkRecord

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

POOLS_V4 = (*((f"172.{second}.0.0/16", 16) for second in range(17, 32)), ("192.168.0.0/16", 20))
"""Where subnets come from that nobody chose, each with the length to cut: dockerd's own defaults."""


_NOT_GIVEN = {4: 2, 6: 1}
"""How many addresses of a subnet are nobody's: its name, and in IPv4 everybody."""


def parse_network(text: str, what: str = "subnet") -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidParameter(
            f"invalid {what} {text}: it needs an address and a length, such as 10.1.0.0/24"
        ) from error


def parse_address(text: str, what: str) -> Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidParameter(f"invalid {what} {text}: not an IP address") from error


def overlaps(one: Network, others: Iterable[Network]) -> bool:
    return any(one.version == other.version and one.overlaps(other) for other in others)


def choose_subnet(version: int, identity: str, taken: Iterable[Network]) -> Network:
    """A subnet that nothing else has. IPv6 ones are unique local addresses, out of the network's ID (RFC 4193).

    Raises LabkitError in dockerd's words when all are taken.
    """
    used = list(taken)
    for candidate in _candidates(version, identity):
        if not overlaps(candidate, used):
            return candidate
    raise LabkitError(
        "all predefined address pools have been fully subnetted: remove a network, or give a subnet "
        "(docker network create --subnet; labkit daemon --bip for the default bridge)"
    )


def _candidates(version: int, identity: str) -> Iterator[Network]:
    if version == 4:
        for pool, length in POOLS_V4:
            yield from ipaddress.ip_network(pool).subnets(new_prefix=length)
        return
    for offset in range(0, 20, 2):
        yield ipaddress.IPv6Network((bytes([0xFD]) + bytes.fromhex(identity[offset : offset + 14]) + bytes(8), 64))


@dataclass(slots=True)
class Pool:
    """One subnet of a network and which of its addresses are leased: the lowest free one is given first."""

    subnet: Network
    gateway: Address
    range: Network
    reserved: frozenset[Address]
    leased: set[int] = field(default_factory=set)
    _next: int = 0
    _freed: list[int] = field(default_factory=list)

    def lease(self, name: str = "") -> Address:
        """The lowest free address. Raises LabkitError when there is none."""
        first, last = int(self.range.network_address), int(self.range.broadcast_address)
        while self._freed:
            if (number := heapq.heappop(self._freed)) not in self.leased:
                return self._take(number)
        number = max(self._next, first)
        while number <= last:
            if self._is_free(number):
                self._next = number + 1
                return self._take(number)
            number += 1
        self._next = number
        raise LabkitError(
            f"no available IPv{self.subnet.version} addresses on this network's address pools: {name or self.subnet}"
        )

    def take(self, address: Address) -> Address:
        """Lease this very address. Raises LabkitError if it isn't free."""
        if address not in self.subnet:
            raise InvalidParameter(f"no configured subnet contains IP address {address}")
        if not self._is_free(int(address)):
            raise Forbidden("Address already in use")
        return self._take(int(address))

    def release(self, address: Address) -> None:
        number = int(address)
        if number in self.leased:
            self.leased.discard(number)
            if address in self.range and number < self._next:
                heapq.heappush(self._freed, number)

    def _take(self, number: int) -> Address:
        self.leased.add(number)
        return type(self.subnet.network_address)(number)

    def _is_free(self, number: int) -> bool:
        """The first address of a subnet is its name; the last of an IPv4 one is everybody (RFC 919)."""
        ends = {int(self.subnet.network_address)}
        if self.subnet.version == 4:
            ends.add(int(self.subnet.broadcast_address))
        return number not in self.leased and number not in ends and number not in {int(one) for one in self.reserved}


def pools_of(record: NetworkRecord) -> tuple[Pool, ...]:
    """The pools of a network, as its record has them."""
    return tuple(_pool(config) for config in record.IPAM.Config or ())


def _pool(config: IPAMConfig) -> Pool:
    subnet = parse_network(config.Subnet)
    gateway = parse_address(config.Gateway.split("/")[0], "gateway")
    reserved = {
        gateway,
        *(parse_address(text, "auxiliary address") for text in (config.AuxiliaryAddresses or {}).values()),
    }
    wanted = parse_network(config.IPRange, "ip-range") if config.IPRange else subnet
    return Pool(subnet, gateway, wanted, frozenset(reserved))


def settle_subnets(record: NetworkRecord, taken: Iterable[Network], host: Iterable[Network]) -> list[IPAMConfig]:
    """The subnets of a new network: those asked for, checked, and one of each family that needs one, chosen.

    `taken` are those of other networks, which none may overlap; `host` those that the host reaches otherwise, which
    a chosen one avoids too. Raises InvalidParameter, Forbidden in dockerd's words.
    """
    others, reached = list(taken), list(host)
    settled: list[IPAMConfig] = []
    for config in record.IPAM.Config or ():
        settled.append(_check(config, record, others, reached))
        others.append(parse_network(settled[-1].Subnet))
    versions = {parse_network(config.Subnet).version for config in settled}
    for version, wanted in ((4, record.EnableIPv4), (6, record.EnableIPv6)):
        if wanted and version not in versions:
            subnet = choose_subnet(version, record.Id, [*others, *reached])
            settled.append(IPAMConfig(Subnet=str(subnet), Gateway=str(subnet.network_address + 1)))
    return settled


def _check(config: IPAMConfig, record: NetworkRecord, others: list[Network], host: Iterable[Network]) -> IPAMConfig:
    if not config.Subnet:
        if config.IPRange or config.Gateway or config.AuxiliaryAddresses:
            raise InvalidParameter("invalid network config:\ninvalid subnet : a gateway or ip-range needs a --subnet")
        version = 6 if record.EnableIPv6 and not record.EnableIPv4 else 4
        subnet = choose_subnet(version, record.Id, [*others, *host])
        return IPAMConfig(Subnet=str(subnet), Gateway=str(subnet.network_address + 1))
    subnet = parse_network(config.Subnet)
    _check_strict(config.Subnet, subnet)
    if overlaps(subnet, others):
        raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
    gateway = _gateway(config, subnet)
    inside = {"gateway address": gateway}
    if config.IPRange:
        span = parse_network(config.IPRange, "ip-range")
        if span.version != subnet.version or span.prefixlen < subnet.prefixlen or span.network_address not in subnet:
            raise InvalidParameter(
                f"invalid network config:\ninvalid ip-range {config.IPRange}: parent subnet is {config.Subnet}"
            )
    for name, text in (config.AuxiliaryAddresses or {}).items():
        inside[f"auxiliary address {name}"] = parse_address(text, "auxiliary address")
    for what, address in inside.items():
        if address not in subnet:
            raise InvalidParameter(
                f"invalid network config:\ninvalid {what} {address}: parent subnet is {config.Subnet}"
            )
    _check_free(subnet, gateway, config.AuxiliaryAddresses or {})
    return IPAMConfig(
        Subnet=str(subnet), IPRange=config.IPRange, Gateway=str(gateway), AuxiliaryAddresses=config.AuxiliaryAddresses
    )


def _gateway(config: IPAMConfig, subnet: Network) -> Address:
    """The address of the bridge: the one asked for, else the first of the subnet, if it has any to give."""
    if config.Gateway:
        return parse_address(config.Gateway, "gateway")
    if subnet.num_addresses <= _NOT_GIVEN[subnet.version]:
        raise LabkitError("failed to allocate gateway (): No available addresses on this pool")
    return subnet.network_address + 1


def _check_free(subnet: Network, gateway: Address, others: Mapping[str, str]) -> None:
    """Nothing has two uses: the subnet's own addresses, the gateway, each of the auxiliary ones."""
    used = {subnet.network_address, *([subnet.broadcast_address] if subnet.version == 4 else [])}
    if gateway in used:
        raise Forbidden(f"failed to allocate gateway ({gateway}): Address already in use")
    used.add(gateway)
    for name, text in others.items():
        if (address := parse_address(text, "auxiliary address")) in used:
            raise Forbidden(f"failed to allocate secondary ip address ({name}:{text}): Address already in use")
        used.add(address)


def _check_strict(text: str, subnet: Network) -> None:
    if text != str(subnet) and "/" in text and parse_address(text.split("/")[0], "subnet") != subnet.network_address:
        raise InvalidParameter(f"invalid network config:\ninvalid subnet {text}: it should be {subnet}")
