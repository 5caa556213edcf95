"""Which names the containers of user-defined networks have (moby `libnetwork/network.go`, `svcRecords`).

One zone a network. It is kept in memory and made again from the records when a daemon comes back. Who asks sees the
zones of the networks that it is in, in its order, and the links that are its own (moby `sandbox.go`, `ResolveName`).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from labkit.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class Member:
    """One container in one network.

    `names` are all that it answers to: its own, aliases, short ID. `primary` is what reverse look-ups tell; if it is
    empty, the first of the names.
    """

    endpoint: str
    names: tuple[str, ...]
    ipv4: str = ""
    ipv6: str = ""
    primary: str = ""


@dataclass(frozen=True, slots=True)
class Sight:
    """What one container may see.

    `networks` are IDs, the most important first. `links` are pairs of an alias and the container's name that it
    stands for. `resolvers` are asked about everything else, in turn: addresses, with `#port` where it isn't 53;
    without any, what no container answers to is a failure. With `ndots`, set by the user in resolv.conf, names
    without a dot are not asked of resolvers: the client will come again with a search domain.
    """

    networks: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()
    resolvers: tuple[str, ...] = ()
    ndots: bool = False


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of a name, packed: 4 and 16 bytes each."""

    ipv4: tuple[bytes, ...]
    ipv6: tuple[bytes, ...]


@dataclass(slots=True)
class Zone:
    """The names of one network: members by name, and by the name under which a reverse look-up asks for an address.

    `found` is what of the names has been asked for since it last changed.
    """

    name: str
    members: dict[str, Member] = field(default_factory=dict)
    named: dict[str, dict[str, Member]] = field(default_factory=dict)
    reverse: dict[str, dict[str, Member]] = field(default_factory=dict)
    found: dict[str, Addresses] = field(default_factory=dict)

    def add(self, member: Member) -> None:
        self.members[member.endpoint] = member
        for index, key in self._entries(member):
            index.setdefault(key, {})[member.endpoint] = member

    def remove(self, endpoint: str) -> None:
        member = self.members.pop(endpoint, None)
        for index, key in self._entries(member) if member else ():
            del index[key][endpoint]
            if not index[key]:
                del index[key]

    def _entries(self, member: Member) -> list[tuple[dict[str, dict[str, Member]], str]]:
        """Where a member is entered; what was found there is forgotten."""
        names = {name.lower() for name in member.names}
        for name in names:
            self.found.pop(name, None)
        addresses = [address for address in (member.ipv4, member.ipv6) if address]
        pointers = [ipaddress.ip_address(address).reverse_pointer for address in addresses]
        return [(self.named, name) for name in names if addresses] + [(self.reverse, one) for one in pointers]

    def addresses(self, name: str) -> Addresses | None:
        """The addresses of a name in lower case; None if no member has it."""
        if found := self.found.get(name):
            return found
        if not (members := self.named.get(name)):
            return None
        found = self.found[name] = _gathered(members.values())
        return found

    def name_at(self, pointer: str) -> str:
        """`container.network` of an address; empty if no member has it."""
        for member in self.reverse.get(pointer, {}).values():
            if name := member.primary or next(iter(member.names), ""):
                return f"{name}.{self.name}"
        return ""


class Directory:
    """All user-defined networks of this daemon."""

    def __init__(self) -> None:
        self.zones: dict[str, Zone] = {}

    def join(self, network: str, network_name: str, member: Member) -> None:
        """A container is in a network from now on; what the same endpoint was before is forgotten.

        Raises InvalidParameter for something that isn't an address.
        """
        _packed(member)
        zone = self.zones.setdefault(network, Zone(network_name))
        zone.name = network_name
        zone.remove(member.endpoint)
        zone.add(member)

    def leave(self, network: str, endpoint: str) -> None:
        """A container is no longer in a network. One that wasn't is none the worse."""
        if zone := self.zones.get(network):
            zone.remove(endpoint)
            if not zone.members:
                del self.zones[network]

    def find(self, sight: Sight, name: str) -> Addresses | None:
        """The addresses of a name (lower case, no dot at its end); None if no container in sight has it.

        Names and networks may have dots: `a.b.c` is looked for in all networks, then `a.b` in `c`, then `a` in `b.c`.
        """
        for wanted, network in _splits(name):
            wanted = next((target.lower() for alias, target in sight.links if alias.lower() == wanted), wanted)
            for zone in self._seen(sight):
                if network in (None, zone.name.lower()) and (found := zone.addresses(wanted)):
                    return found
        return None

    def name_of(self, sight: Sight, pointer: str) -> str:
        """`container.network` for the name of a reverse look-up (`4.3.2.1.in-addr.arpa`); empty if unknown."""
        return next((found for zone in self._seen(sight) if (found := zone.name_at(pointer))), "")

    def _seen(self, sight: Sight) -> Iterator[Zone]:
        return (self.zones[network] for network in sight.networks if network in self.zones)


def _splits(name: str) -> Iterator[tuple[str, str | None]]:
    """The ways to read a name as a container's in a network; in any network first."""
    yield name, None
    place = name.rfind(".")
    while place > 0:
        yield name[:place], name[place + 1 :]
        place = name.rfind(".", 0, place)


def _packed(member: Member) -> tuple[bytes, bytes]:
    """Both addresses of a member on the wire; empty where it has none."""
    found = []
    for family, address in ((socket.AF_INET, member.ipv4), (socket.AF_INET6, member.ipv6)):
        try:
            found.append(socket.inet_pton(family, address) if address else b"")
        except OSError as error:
            raise InvalidParameter(f"{address!r} of endpoint {member.endpoint} is no address") from error
    return found[0], found[1]


def _gathered(members: Iterable[Member]) -> Addresses:
    """The addresses of several members, each once."""
    packed = [_packed(member) for member in members]
    return Addresses(
        tuple(dict.fromkeys(ipv4 for ipv4, _ in packed if ipv4)),
        tuple(dict.fromkeys(ipv6 for _, ipv6 in packed if ipv6)),
    )
