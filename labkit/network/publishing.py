"""Published ports: what was asked for, which ports of the host it becomes, and how the API shows it.

As moby's `libnetwork/portallocator` and `libnetwork/drivers/bridge/port_mapping_linux.go`.
Choosing ports is bookkeeping; holding and translating them are operations (`publish_operations`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from labkit.errors import InvalidParameter, KernelError, LabkitError
from labkit.kernel import ports as host
from labkit.kernel.flows import ForgetFlows
from labkit.kernel.nftables import PublishedPort, PublishPort, UnpublishPort
from labkit.plan import Operation

PROTOCOLS = ("tcp", "udp", "sctp")
_ANY4, _ANY6 = "0.0.0.0", "::"
_EPHEMERAL = "/proc/sys/net/ipv4/ip_local_port_range"
_FALLBACK = (49153, 65535)  # moby's, where the kernel doesn't say
_ATTEMPTS = 10  # moby's maxAllocatePortAttempts


@dataclass(frozen=True, slots=True)
class Wanted:
    """A container's port that is to be published: at one address of the host, or (`host_ip` empty) at all of them.

    `first` to `last` are the host's ports to choose from; 0 for any.
    """

    port: int
    protocol: str
    host_ip: str = ""
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Binding:
    """A port of the host that leads to a container's port. `host_ip` is an address or a wildcard, never empty.

    With an IPv6 `host_ip` and an IPv4 `ip`, the proxy alone serves it.
    """

    port: int
    protocol: str
    host_ip: str
    host_port: int
    ip: str

    @property
    def container_port(self) -> str:
        """`80/tcp`, as the API names it."""
        return f"{self.port}/{self.protocol}"

    @property
    def translatable(self) -> bool:
        """Whether nf_tables can lead packets there: it translates within a family."""
        return (":" in self.host_ip) == (":" in self.ip)

    def published(self) -> PublishedPort:
        """The fields of PublishPort."""
        anywhere = self.host_ip in (_ANY4, _ANY6)
        return self.protocol, "" if anywhere else self.host_ip, self.host_port, self.ip, self.port


def parse(
    port_bindings: Mapping[str, Sequence[Mapping[str, str]] | None] | None,
    exposed_ports: Iterable[str],
    publish_all: bool = False,
) -> tuple[Wanted, ...]:
    """What HostConfig.PortBindings, Config.ExposedPorts and HostConfig.PublishAllPorts ask for, in the order of ports.

    Raises InvalidParameter in Docker's words for a port, range, protocol or address that isn't one.
    """
    wanted = []
    published = set()
    for specification, bindings in (port_bindings or {}).items():
        port, protocol = parse_port(specification)
        for binding in bindings or ():
            published.add((port, protocol))
            first, last = _parse_host_port(binding.get("HostPort") or "")
            wanted.append(Wanted(port, protocol, _parse_address(binding.get("HostIp") or ""), first, last))
    if publish_all:
        exposed = {parse_port(specification) for specification in exposed_ports}
        wanted += [Wanted(port, protocol) for port, protocol in exposed - published]
    # Fixed ports come first, so that no range takes them.
    return tuple(sorted(wanted, key=lambda w: (w.first == 0, w.last - w.first, w.port, w.protocol, w.first)))


def parse_port(specification: str) -> tuple[int, str]:
    """`80/tcp`, or `80` for TCP, as port and protocol. Raises InvalidParameter."""
    number, slash, protocol = specification.partition("/")
    if not number.isascii() or not number.isdigit() or not 0 < int(number) <= 65535:
        raise InvalidParameter(f'invalid port specification: "{number}"')
    protocol = protocol.lower() if slash and protocol else "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidParameter(f"invalid transport protocol: {protocol}")
    return int(number), protocol


def _parse_host_port(text: str) -> tuple[int, int]:
    """`8080`, `8080-8090`, or nothing or 0 for any."""
    invalid = InvalidParameter(f'invalid port specification: "{text}"')
    numbers = text.partition("/")[0].split("-") if text else ["0"]
    if len(numbers) > 2 or not all(n.isascii() and n.isdigit() and int(n) <= 65535 for n in numbers):
        raise invalid
    first, last = int(numbers[0]), int(numbers[-1])
    if last < first:
        raise invalid
    return first, last


def _parse_address(text: str) -> str:
    if not text:
        return ""
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError as error:
        raise InvalidParameter(f'invalid port specification: invalid IP address "{text}"') from error


def ephemeral_range() -> tuple[int, int]:
    """The ports of the host that random ones are chosen from, the kernel's own (ip(7), ip_local_port_range)."""
    try:
        with open(_EPHEMERAL, encoding="ascii") as file:
            first, last = map(int, file.read().split())
    except (OSError, ValueError):
        return _FALLBACK
    return first, last


def has_ipv6() -> bool:
    """Whether this host can listen at IPv6 addresses at all."""
    return host.is_free("udp", _ANY6, 0)


@dataclass(slots=True)
class Ports:
    """The ports of the host that this daemon's containers have.

    `probe` says whether no other program has a port, `ephemeral` what random ones are chosen from: serially, from the
    one after the last, so that a port that was just given up isn't given out at once.
    """

    probe: Callable[[str, str, int], bool] = host.is_free
    ephemeral: Callable[[], tuple[int, int]] = ephemeral_range
    listens_ipv6: Callable[[], bool] = has_ipv6
    _taken: set[tuple[str, str, int]] = field(default_factory=set)
    _latest: dict[tuple[str, int, int], int] = field(default_factory=dict)

    def claim(
        self,
        wanted: Iterable[Wanted],
        endpoint_name: str,
        endpoint_id: str,
        ipv4: str,
        ipv6: str,
        default_host_ip: str = "",
    ) -> tuple[Binding, ...]:
        """Choose a port of the host for each and note it as taken; all or none.

        `ipv4`, `ipv6` are the endpoint's addresses, empty for one that it lacks; `default_host_ip` is the network's
        (com.docker.network.bridge.host_binding_ipv4). Raises LabkitError in Docker's words.
        """
        found: list[Binding] = []
        try:
            for want in wanted:
                found += self._claim_one(want, addresses(want, ipv4, ipv6, default_host_ip, self.listens_ipv6))
        except LabkitError as error:
            self.release(found)
            raise connectivity_error(endpoint_name, endpoint_id, str(error)) from error
        return tuple(found)

    def _claim_one(self, want: Wanted, pairs: tuple[tuple[str, str], ...]) -> list[Binding]:
        """One port for all the addresses, as `-p 80` has the same for IPv4 and IPv6."""
        if not pairs:
            return []
        port = self._choose(want, tuple(host_ip for host_ip, _ in pairs))
        bindings = [Binding(want.port, want.protocol, host_ip, port, ip) for host_ip, ip in pairs]
        self._taken.update(_key(binding) for binding in bindings)
        return bindings

    def _choose(self, want: Wanted, host_ips: tuple[str, ...]) -> int:
        if want.first and want.first == want.last:  # whether another program has it, holding it will tell
            for host_ip in host_ips:
                if (want.protocol, host_ip, want.first) in self._taken:
                    raise LabkitError(f"Bind for {host_ip}:{want.first} failed: port is already allocated")
            return want.first
        first, last = (want.first, want.last) if want.last else self.ephemeral()
        begin = (want.protocol, first, last)
        busy = 0
        for port in _serially(first, last, self._latest.get(begin, first - 1)):
            if any((want.protocol, host_ip, port) in self._taken for host_ip in host_ips):
                continue
            self._latest[begin] = port
            if all(self.probe(want.protocol, host_ip, port) for host_ip in host_ips):
                return port
            busy += 1
            if busy == _ATTEMPTS and not want.last:
                break
        raise LabkitError("all ports are allocated")

    def release(self, bindings: Iterable[Binding]) -> None:
        """These ports may be given out again."""
        self._taken.difference_update(_key(binding) for binding in bindings)

    def reclaim(self, bindings: Iterable[Binding]) -> None:
        """Note as taken what running containers have, when the daemon has started again."""
        self._taken.update(_key(binding) for binding in bindings)


def _key(binding: Binding) -> tuple[str, str, int]:
    return binding.protocol, binding.host_ip, binding.host_port


def _serially(first: int, last: int, latest: int) -> Iterable[int]:
    """All ports of a range once, from the one after `latest` on."""
    count = last - first + 1
    start = latest + 1 - first
    return (first + (start + offset) % count for offset in range(count))


def addresses(
    want: Wanted, ipv4: str, ipv6: str, default_host_ip: str, listens_ipv6: Callable[[], bool]
) -> tuple[tuple[str, str], ...]:
    """The pairs of a host's and a container's address that a port is published at.

    Without an address of the host: at all, IPv4 and IPv6. A container without IPv6 is reached from IPv6 by the proxy.
    """
    chosen = want.host_ip or ("" if default_host_ip == _ANY4 else default_host_ip)
    if chosen:
        target = (ipv6 or ipv4) if ":" in chosen else ipv4
        return ((chosen, target),) if target else ()
    pairs = [(_ANY4, ipv4)] if ipv4 else []
    if (ipv6 or ipv4) and listens_ipv6():
        pairs.append((_ANY6, ipv6 or ipv4))
    return tuple(pairs)


def publish_operations(table: str, bindings: Iterable[Binding], translate: bool = True) -> list[Operation]:
    """What publishes the ports: each is held, then nf_tables leads to the container (`translate`: the host has it)."""
    operations: list[Operation] = []
    for binding in bindings:
        operations.append(host.HoldPort(binding.protocol, binding.host_ip, binding.host_port, binding.ip, binding.port))
        if translate and binding.translatable:
            operations.append(PublishPort(table, *binding.published()))
            operations += _forget(binding)
    return operations


def _forget(binding: Binding) -> list[Operation]:
    """UDP flows keep the way that their first packet took."""
    return [ForgetFlows(*binding.published()[1:])] if binding.protocol == "udp" else []


def withdraw_operations(table: str, bindings: Iterable[Binding], translate: bool = True) -> list[Operation]:
    """What ends the translations. The sockets are closed by who has them."""
    operations: list[Operation] = []
    for binding in bindings:
        if translate and binding.translatable:
            operations.append(UnpublishPort(table, *binding.published()))
            operations += _forget(binding)
    return operations


def connectivity_error(endpoint_name: str, endpoint_id: str, reason: str) -> LabkitError:
    """Docker's error for ports that can't be published."""
    return LabkitError(
        "failed to set up container networking: driver failed programming external connectivity on endpoint "
        f"{endpoint_name} ({endpoint_id}): {reason}"
    )


def explained(error: KernelError, endpoint_name: str, endpoint_id: str) -> LabkitError:
    """The error of a plan whose HoldPort or PublishPort failed, in Docker's words; any other as it is."""
    if error.operation in ("HoldPort", "PublishPort"):
        return connectivity_error(endpoint_name, endpoint_id, error.hint or str(error))
    return error


def port_map(bindings: Iterable[Binding], exposed: Iterable[str] = ()) -> dict[str, list[dict[str, str]] | None]:
    """NetworkSettings.Ports (Engine API): by container port; null for one that is exposed and not published."""
    ports: dict[str, list[dict[str, str]] | None] = {}
    for specification in exposed:
        port, protocol = parse_port(specification)
        ports[f"{port}/{protocol}"] = None
    for binding in bindings:
        shown = {"HostIp": binding.host_ip, "HostPort": str(binding.host_port)}
        ports[binding.container_port] = [*(ports.get(binding.container_port) or ()), shown]
    return ports


def summary_ports(bindings: Iterable[Binding], exposed: Iterable[str] = ()) -> list[dict[str, Any]]:
    """ContainerSummary.Ports (Engine API), in the order of ports."""
    bindings = tuple(bindings)
    published = {(binding.port, binding.protocol) for binding in bindings}
    bare = [pair for pair in map(parse_port, exposed) if pair not in published]
    found: list[dict[str, Any]] = [
        {"IP": b.host_ip, "PrivatePort": b.port, "PublicPort": b.host_port, "Type": b.protocol} for b in bindings
    ]
    found += [{"PrivatePort": port, "Type": protocol} for port, protocol in bare]
    return sorted(found, key=lambda p: (p["PrivatePort"], p["Type"], p.get("PublicPort", 0), p.get("IP", "")))
