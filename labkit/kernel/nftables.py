"""The firewall of labkit's networks: one nf_tables table with maps for ports and sets for bridges (nft(8)).

Docker writes several iptables rules for each network and port, which packets pass one after the other (libnetwork).
Here the rules are fixed; a network or a port is an element of a set or map, so that it costs the same with one or a
thousand. Made with raw netlink, since starting `nft` takes longer than all else of a start. Operations use the socket
`host-nftables` of the context if there is one (`nft_messages.connect` says why).
"""

from __future__ import annotations

import errno
import shlex
from dataclasses import dataclass
from typing import ClassVar

from labkit.errors import KernelError
from labkit.kernel import nft_messages as nft
from labkit.kernel import nft_rules as rule
from labkit.kernel.netlink import Message
from labkit.kernel.nft_messages import (
    INET_PROTOCOL,
    INET_SERVICE,
    IPV4_ADDRESS,
    IPV6_ADDRESS,
    LINK_NAME,
    Chain,
    Element,
    NamedSet,
)
from labkit.kernel.nft_rules import (
    DESTINATION,
    INET,
    INPUT_LINK,
    IPV4,
    IPV6,
    OUTPUT_LINK,
    PORT,
    PROTOCOL,
    SOURCE,
    Piece,
)
from labkit.plan import Context, Operation, Result

Bridge = tuple[str, bool, bool, bool, bool]
"""name, internal, icc, masquerade4, masquerade6: the fields of AdmitBridge."""

PublishedPort = tuple[str, str, int, str, int]
"""protocol, host_ip, host_port, ip, port: the fields of PublishPort."""

_V4, _V6 = (IPV4_ADDRESS, INET_SERVICE), (IPV6_ADDRESS, INET_SERVICE)
PUBLISHED = NamedSet("published", (INET_PROTOCOL, INET_SERVICE), _V4)
PUBLISHED_ON = NamedSet("published_on", (IPV4_ADDRESS, INET_PROTOCOL, INET_SERVICE), _V4)
PUBLISHED6 = NamedSet("published6", (INET_PROTOCOL, INET_SERVICE), _V6)
PUBLISHED6_ON = NamedSet("published6_on", (IPV6_ADDRESS, INET_PROTOCOL, INET_SERVICE), _V6)
BRIDGES = NamedSet("bridges", (LINK_NAME,))
INTERNAL = NamedSet("internal", (LINK_NAME,))
CONNECTED = NamedSet("connected", (LINK_NAME, LINK_NAME))
MASQUERADE4 = NamedSet("masquerade4", (LINK_NAME,))
MASQUERADE6 = NamedSet("masquerade6", (LINK_NAME,))
SETS = (PUBLISHED, PUBLISHED_ON, PUBLISHED6, PUBLISHED6_ON, BRIDGES, INTERNAL, CONNECTED, MASQUERADE4, MASQUERADE6)

_FROM_BRIDGE, _TO_BRIDGE = rule.within("bridges", INPUT_LINK), rule.within("bridges", OUTPUT_LINK)
_OUT = rule.within("bridges", OUTPUT_LINK, inverted=True)
_LOOPBACK = "127.0.0.0/8"

Rules = tuple[tuple[Chain, tuple[tuple[Piece, ...], ...]], ...]

RULES: Rules = (
    (
        Chain("publish"),
        (
            # The kernel never lets ::1 leave nor forwards link-local addresses: the proxies serve those.
            (rule.inside(DESTINATION[IPV6], "::1/128"), rule.RETURN),
            (rule.inside(SOURCE[IPV6], "fe80::/10"), rule.RETURN),
            (rule.translate_by("published_on", IPV4, DESTINATION[IPV4], PROTOCOL, PORT),),
            (rule.translate_by("published", IPV4, PROTOCOL, PORT),),
            (rule.translate_by("published6_on", IPV6, DESTINATION[IPV6], PROTOCOL, PORT),),
            (rule.translate_by("published6", IPV6, PROTOCOL, PORT),),
        ),
    ),
    (
        # Bridges have route_localnet, for the host's 127.0.0.1: containers must not use it.
        Chain("raw", "filter", "prerouting", -300),
        ((_FROM_BRIDGE, rule.inside(DESTINATION[IPV4], _LOOPBACK), rule.DROP),),
    ),
    (
        Chain("prerouting", "nat", "prerouting", -100),
        (
            # From outside; translated here, before routing, it would pass for good.
            (rule.inside(DESTINATION[IPV4], _LOOPBACK), rule.RETURN),
            (rule.TO_THIS_HOST, rule.jump("publish")),
        ),
    ),
    (Chain("output", "nat", "output", -100), ((rule.TO_THIS_HOST, rule.jump("publish")),)),
    (
        Chain("postrouting", "nat", "postrouting", 100),
        (
            (rule.TRANSLATED, rule.inside(SOURCE[IPV4], _LOOPBACK), _TO_BRIDGE, rule.MASQUERADE),
            # The answer must come back this way, though the two may share a network.
            (rule.TRANSLATED, _FROM_BRIDGE, _TO_BRIDGE, rule.MASQUERADE),
            (rule.TRANSLATED, rule.FROM_NO_LINK, rule.NOT_FROM_THIS_HOST, _TO_BRIDGE, rule.MASQUERADE),
            (rule.of_family(IPV4), rule.within("masquerade4", INPUT_LINK), _OUT, rule.MASQUERADE),
            (rule.of_family(IPV6), rule.within("masquerade6", INPUT_LINK), _OUT, rule.MASQUERADE),
        ),
    ),
    (
        Chain("forward", "filter", "forward", 0),
        (
            (rule.ESTABLISHED, rule.ACCEPT),
            (rule.within("connected", INPUT_LINK, OUTPUT_LINK), rule.ACCEPT),
            (rule.within("internal", INPUT_LINK), rule.DROP),
            (rule.within("internal", OUTPUT_LINK), rule.DROP),
            (rule.TRANSLATED, rule.ACCEPT),
            (_TO_BRIDGE, rule.DROP),
        ),
    ),
)
"""The chains, and the rules of each: what a packet meets (netfilter's hooks in their order: see nft(8))."""

_NAMES_TABLE = "labkit_names"
_NAMES_CHAIN = Chain("output", "nat", "output", -100)
_RESOLVER = "127.0.0.11"


def bridge_elements(bridge: Bridge) -> tuple[tuple[NamedSet, Element], ...]:
    """What admits a bridge: itself, and what it may do."""
    name, internal, icc, masquerade4, masquerade6 = bridge
    wanted = ((BRIDGES, True), (INTERNAL, internal), (MASQUERADE4, masquerade4), (MASQUERADE6, masquerade6))
    pair = ((CONNECTED, Element((name, name))),) if icc else ()
    return tuple((declared, Element((name,))) for declared, wants in wanted if wants) + pair


def port_element(port: PublishedPort) -> tuple[NamedSet, Element]:
    """The map that a published port belongs to, and its element there."""
    protocol, host_ip, host_port, ip, container_port = port
    key: tuple[str, ...] = (protocol, str(host_port))
    six = ":" in ip
    if host_ip:
        key = (host_ip, *key)
        declared = PUBLISHED6_ON if six else PUBLISHED_ON
    else:
        declared = PUBLISHED6 if six else PUBLISHED
    return declared, Element(key, (ip, str(container_port)))


def _filled(bridges: tuple[Bridge, ...], ports: tuple[PublishedPort, ...]) -> dict[NamedSet, tuple[Element, ...]]:
    found: dict[NamedSet, list[Element]] = {declared: [] for declared in SETS}
    pairs = [pair for bridge in bridges for pair in bridge_elements(bridge)]
    for declared, element in (*pairs, *map(port_element, ports)):
        found[declared].append(element)
    return {declared: tuple(elements) for declared, elements in found.items()}


def table_messages(table: str, bridges: tuple[Bridge, ...], ports: tuple[PublishedPort, ...]) -> tuple[Message, ...]:
    """The batch that replaces a table, if there is one, by a new one with these bridges and ports."""
    messages = [nft.add_table(INET, table), nft.delete_table(INET, table), nft.add_table(INET, table)]
    messages += [nft.add_set(INET, table, declared, number) for number, declared in enumerate(SETS, 1)]
    messages += [nft.add_chain(INET, table, chain) for chain, _ in RULES]
    messages += [nft.add_rule(INET, table, chain.name, pieces) for chain, rules in RULES for pieces in rules]
    for declared, elements in _filled(bridges, ports).items():
        messages += nft.add_elements(INET, table, declared, elements)
    return tuple(messages)


def table_text(table: str, bridges: tuple[Bridge, ...], ports: tuple[PublishedPort, ...]) -> str:
    """The same in the language of nft(8)."""
    lines = [f"table inet {table}", f"delete table inet {table}", f"table inet {table} {{"]
    for declared, elements in _filled(bridges, ports).items():
        filled = f" elements = {nft.element_text(elements)}" if elements else ""
        lines.append(f"\t{declared.declaration[:-2]};{filled} }}".replace(";;", ";"))
    for chain, rules in RULES:
        lines += [f"\tchain {chain.name} {{", *([f"\t\t{chain.declaration}"] if chain.hook else [])]
        lines += [f"\t\t{nft.rule_text(pieces)}" for pieces in rules] + ["\t}"]
    return "\n".join([*lines, "}", ""])


@dataclass(frozen=True, slots=True)
class InstallTable(Operation):
    """Make the table anew, with all its bridges and published ports, in one step. Undone by deleting it."""

    table: str
    bridges: tuple[Bridge, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    man: ClassVar[str] = "nft(8)"

    def run(self, context: Context) -> Result:
        # On a socket of its own: with all that a daemon had published the batch may be large.
        nft.transact(*table_messages(self.table, self.bridges, self.ports))
        return self.table

    def undo(self, result: Result, context: Context) -> None:
        RemoveTable(self.table).run(context)

    def describe(self) -> str:
        return (
            f"install the firewall table {self.table}: {len(self.bridges)} bridges, {len(self.ports)} published ports"
        )

    def shell(self) -> str:
        return f"nft -f - <<'END'\n{table_text(self.table, self.bridges, self.ports)}END"


@dataclass(frozen=True, slots=True)
class RemoveTable(Operation):
    """Delete the table with all that it has; no failure if there is none."""

    table: str
    man: ClassVar[str] = "nft(8)"

    def run(self, context: Context) -> Result:
        # Added first, since a table that isn't there can't be deleted.
        nft.transact(nft.add_table(INET, self.table), nft.delete_table(INET, self.table), fd=_socket(context))
        return None

    def describe(self) -> str:
        return f"remove the firewall table {self.table}"

    def shell(self) -> str:
        return f"nft 'add table inet {self.table}; delete table inet {self.table}'"


@dataclass(frozen=True, slots=True)
class AdmitBridge(Operation):
    """Let the containers of a bridge communicate: among each other (`icc`), and to the outside unless `internal`.

    `masquerade4`, `masquerade6`: their packets leave with an address of the host's.
    """

    table: str
    name: str
    internal: bool = False
    icc: bool = True
    masquerade4: bool = True
    masquerade6: bool = False
    man: ClassVar[str] = "nft(8)"

    def run(self, context: Context) -> Result:
        nft.transact(*self._messages(), fd=_socket(context))
        return self.name

    def undo(self, result: Result, context: Context) -> None:
        DismissBridge(self.table, self.name, self.internal, self.icc, self.masquerade4, self.masquerade6).run(context)

    def _messages(self) -> list[Message]:
        bridge = (self.name, self.internal, self.icc, self.masquerade4, self.masquerade6)
        pairs = bridge_elements(bridge)
        return [m for declared, element in pairs for m in nft.add_elements(INET, self.table, declared, (element,))]

    def describe(self) -> str:
        kind = "internal bridge" if self.internal else "bridge"
        return f"admit the {kind} {self.name} to the firewall{'' if self.icc else ', its containers kept apart'}"

    def shell(self) -> str:
        return f"nft {shlex.quote('; '.join(message.text for message in self._messages()))}"


@dataclass(frozen=True, slots=True)
class DismissBridge(Operation):
    """Take back what AdmitBridge with the same fields did; what isn't there is passed over."""

    table: str
    name: str
    internal: bool = False
    icc: bool = True
    masquerade4: bool = True
    masquerade6: bool = False
    man: ClassVar[str] = "nft(8)"

    def run(self, context: Context) -> Result:
        try:
            nft.transact(*self._messages(), fd=_socket(context))
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            for message in self._messages():  # each for itself, since one that isn't there keeps all from being done
                _unless_gone(message, context)
        return None

    def _messages(self) -> list[Message]:
        bridge = (self.name, self.internal, self.icc, self.masquerade4, self.masquerade6)
        return [nft.delete_element(INET, self.table, *pair) for pair in reversed(bridge_elements(bridge))]

    def describe(self) -> str:
        return f"dismiss the bridge {self.name} from the firewall"

    def shell(self) -> str:
        return "\n".join(f"nft {shlex.quote(message.text)}" for message in self._messages())


def _socket(context: Context) -> int:
    return context.descriptors.get("host-nftables", -1)


def _unless_gone(message: Message, context: Context) -> None:
    try:
        nft.transact(message, fd=_socket(context))
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise


@dataclass(frozen=True, slots=True)
class PublishPort(Operation):
    """Lead what arrives at a port of the host to a container.

    `host_ip` is one address of the host, or empty for any of the family of `ip`. KernelError with EEXIST if the port
    leads somewhere already, with Docker's words as hint. Undone by taking the element out.
    """

    table: str
    protocol: str
    host_ip: str
    host_port: int
    ip: str
    port: int
    man: ClassVar[str] = "nft(8)"

    def _element(self) -> tuple[NamedSet, Element]:
        return port_element((self.protocol, self.host_ip, self.host_port, self.ip, self.port))

    def _messages(self) -> tuple[Message, ...]:
        declared, element = self._element()
        return nft.add_elements(INET, self.table, declared, (element,), new=True)

    def run(self, context: Context) -> Result:
        try:
            nft.transact(*self._messages(), fd=_socket(context))
        except KernelError as error:
            if error.errno == errno.EEXIST:
                host_ip = self.host_ip or _wildcard(self.ip)
                error.hint = f"Bind for {host_ip}:{self.host_port} failed: port is already allocated"
                error.args = (error.call, error.errno, error.hint, error.operation)
            raise
        return self._element()[1].text

    def undo(self, result: Result, context: Context) -> None:
        # After a crash it isn't known whether the element that is there is this one or another container's.
        if result is not None or self._stands():
            UnpublishPort(self.table, self.protocol, self.host_ip, self.host_port, self.ip, self.port).run(context)

    def _stands(self) -> bool:
        declared, element = self._element()
        try:
            answers = nft.ask(nft.get_element(INET, self.table, declared, element))
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return any(nft.packed_value(declared, element) in answer for answer in answers)

    def describe(self) -> str:
        ip = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"lead {_host_port(self)} to {ip}:{self.port}"

    def shell(self) -> str:
        return "\n".join(f"nft {shlex.quote(message.text)}" for message in self._messages())


def _wildcard(ip: str) -> str:
    return "::" if ":" in ip else "0.0.0.0"


def _host_port(operation: PublishPort | UnpublishPort) -> str:
    host_ip = operation.host_ip or _wildcard(operation.ip)
    shown = f"[{host_ip}]" if ":" in host_ip else host_ip
    return f"{shown}:{operation.host_port}/{operation.protocol}"


@dataclass(frozen=True, slots=True)
class UnpublishPort(Operation):
    """Take a published port out again; no failure if it isn't there."""

    table: str
    protocol: str
    host_ip: str
    host_port: int
    ip: str
    port: int
    man: ClassVar[str] = "nft(8)"

    def _message(self) -> Message:
        pair = port_element((self.protocol, self.host_ip, self.host_port, self.ip, self.port))
        return nft.delete_element(INET, self.table, *pair)

    def run(self, context: Context) -> Result:
        _unless_gone(self._message(), context)
        return None

    def describe(self) -> str:
        return f"lead {_host_port(self)} nowhere"

    def shell(self) -> str:
        return f"nft {shlex.quote(self._message().text)}"


def _name_rules(udp_port: int, tcp_port: int) -> tuple[tuple[Piece, ...], ...]:
    # In a table of one family nft(8) can't read a rule that asks for the family.
    to_resolver = rule.inside(DESTINATION[IPV4]._replace(family=0), f"{_RESOLVER}/32")
    return tuple(
        (to_resolver, rule.port_is(protocol, 53), rule.translate_to(_RESOLVER, port))
        for protocol, port in (("udp", udp_port), ("tcp", tcp_port))
    )


def redirect_names(netns: str, udp_port: int, tcp_port: int) -> None:
    """Lead what is sent to 127.0.0.11:53 to these ports of that address, in the network namespace behind a path.

    An empty path is this process's own. A container may so have a server of its own on port 53. Raises KernelError.
    """
    table, chain = _NAMES_TABLE, _NAMES_CHAIN.name
    filled = [nft.add_chain(IPV4, table, _NAMES_CHAIN)]
    filled += [nft.add_rule(IPV4, table, chain, pieces) for pieces in _name_rules(udp_port, tcp_port)]
    try:
        nft.transact(nft.add_table(IPV4, table, new=True), *filled, netns=netns)
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
        # Deleting makes the kernel wait (`nft.connect`), so it isn't done for a table that isn't there.
        made_anew = (nft.add_table(IPV4, table), nft.delete_table(IPV4, table), nft.add_table(IPV4, table))
        nft.transact(*made_anew, *filled, netns=netns)


def redirect_names_shell(udp_port: int, tcp_port: int) -> str:
    """What redirect_names does, as an nft(8) command."""
    rules = "; ".join(nft.rule_text(pieces) for pieces in _name_rules(udp_port, tcp_port))
    text = f"table ip {_NAMES_TABLE} {{ chain {_NAMES_CHAIN.name} {{ {_NAMES_CHAIN.declaration} {rules}; }}; }}"
    return f"nft {shlex.quote(text)}"
