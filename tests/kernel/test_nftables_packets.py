"""Packets through the table: what is published is reached, what isn't is not, with and without br_netfilter."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from labkit.kernel.nftables import (
    InstallTable,
)
from labkit.plan import Context
from tests.support.netlab import Namespace, ask, ask_all, bridge, cable, container

TABLE = "labkit"


class House:
    """`lan` ─ `host` ─ labkit0 (one, two), labkit-b (three), labkit-i (internal: four, five), labkit-s (six, seven).

    labkit-s is the one whose containers are kept apart (ICC off). `bridged` says whether br_netfilter looks.
    """

    def __init__(self, bridged: str) -> None:
        self.host, self.lan = Namespace(), Namespace()
        cable(self.host, "lan0", self.lan, "eth0")
        self.host.command("ip address add 192.168.50.1/24 dev lan0; ip address add fd50::1/64 dev lan0 nodad")
        self.host.command("ip link add spare type bridge; ip link set spare up; ip address add 10.9.0.1/24 dev spare")
        self.lan.command("ip address add 192.168.50.2/24 dev eth0; ip address add fd50::2/64 dev eth0 nodad")
        self.lan.command("ip route add 10.9.0.0/24 via 192.168.50.1")
        for network in ("172.30.0.0/24", "172.31.0.0/24", "172.32.0.0/24"):
            self.lan.command(f"ip route add {network} via 192.168.50.1")
        self.lan.serve("lan", 80)
        self.host.serve("host", 82, 8080)  # 8080 as labkit holds it
        for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            self.host.sysctl(key, "1")
        for key in ("iptables", "ip6tables"):
            self.host.sysctl(f"net/bridge/bridge-nf-call-{key}", bridged)
        self.containers = dict(self.build())
        self.namespaces = [self.host, self.lan, *self.containers.values()]

    def build(self) -> Iterator[tuple[str, Namespace]]:
        bridge(self.host, "labkit0", "172.30.0.1/24", "fd30::1/64")
        bridge(self.host, "labkit-b", "172.31.0.1/24")
        bridge(self.host, "labkit-i", "172.32.0.1/24")
        bridge(self.host, "labkit-s", "172.33.0.1/24")
        gateways = ("172.30.0.1", "fd30::1")
        for number, name in ((2, "one"), (3, "two")):
            addresses = (f"172.30.0.{number}/24", f"fd30::{number}/64")
            yield name, container(self.host, name, "labkit0", *addresses, gateways=gateways)
        yield "three", container(self.host, "three", "labkit-b", "172.31.0.2/24", gateways=("172.31.0.1",))
        for number, name in ((2, "four"), (3, "five")):
            yield name, container(self.host, name, "labkit-i", f"172.32.0.{number}/24", gateways=("172.32.0.1",))
        for number, name in ((2, "six"), (3, "seven")):
            yield name, container(self.host, name, "labkit-s", f"172.33.0.{number}/24", gateways=("172.33.0.1",))

    def close(self) -> None:
        for namespace in self.namespaces:
            namespace.close()


HOUSE_BRIDGES = (
    ("labkit0", False, True, True, True),
    ("labkit-b", False, True, True, False),
    ("labkit-i", True, True, False, False),
    ("labkit-s", False, False, True, False),
)
OF_BOTH_PROTOCOLS = tuple(
    port
    for protocol in ("tcp", "udp")
    for port in (
        (protocol, "", 8080, "172.30.0.2", 80),
        (protocol, "", 8080, "fd30::2", 80),
        (protocol, "127.0.0.1", 8081, "172.30.0.2", 80),
        (protocol, "192.168.50.1", 8082, "172.30.0.3", 81),
        (protocol, "fd50::1", 8083, "fd30::3", 80),
        (protocol, "", 8090, "172.31.0.2", 80),
        (protocol, "", 8091, "172.33.0.2", 80),
        (protocol, "", 8092, "172.32.0.2", 80),  # of an internal network: nobody comes in
    )
)


HOUSE_PORTS = (*OF_BOTH_PROTOCOLS, ("udp", "127.0.0.1", 8084, "172.30.0.2", 7003))


@pytest.fixture(scope="module", params=["0", "1"], ids=["routed", "bridged"])
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    built = House(request.param)
    built.host.run(lambda: InstallTable(TABLE, HOUSE_BRIDGES, HOUSE_PORTS).run(Context()))
    yield built
    built.close()


@pytest.mark.root
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_published_ports_are_reached(house: House, protocol: str) -> None:
    one, two, three, six = (house.containers[name] for name in ("one", "two", "three", "six"))
    gateway, gateway6 = "172.30.0.1", "fd30::1"
    answers = ask_all(
        {
            label: (source, address, port, protocol)
            for label, source, address, port in (
                ("from the LAN", house.lan, "192.168.50.1", 8080),
                ("from the LAN, another address", house.lan, "10.9.0.1", 8080),
                ("from the LAN, IPv6", house.lan, "fd50::1", 8080),
                ("from the LAN, one address", house.lan, "192.168.50.1", 8082),
                ("from the LAN, one IPv6 address", house.lan, "fd50::1", 8083),
                ("from the host, 127.0.0.1", house.host, "127.0.0.1", 8080),
                ("from the host, 127.0.0.5", house.host, "127.0.0.5", 8080),
                ("from the host, 127.0.0.1 alone", house.host, "127.0.0.1", 8081),
                ("from the host, own address", house.host, "192.168.50.1", 8080),
                ("from the host, own IPv6 address", house.host, "fd50::1", 8080),
                ("from itself", one, "192.168.50.1", 8080),
                ("from itself, gateway", one, gateway, 8080),
                ("from itself, IPv6", one, "fd50::1", 8080),
                ("from its neighbour", two, "192.168.50.1", 8080),
                ("from its neighbour, IPv6 gateway", two, gateway6, 8080),
                ("from another bridge", three, "192.168.50.1", 8080),
                ("from another bridge, its gateway", three, "172.31.0.1", 8080),
                ("to another bridge", one, "192.168.50.1", 8090),
                ("to itself, ICC off", six, "192.168.50.1", 8091),
                ("to a neighbour, ICC off", house.containers["seven"], "192.168.50.1", 8091),
                ("to ICC off from elsewhere", one, "192.168.50.1", 8091),
            )
        }
    )
    assert answers == {
        "from the LAN": "one 192.168.50.2",
        "from the LAN, another address": "one 192.168.50.2",
        "from the LAN, IPv6": "one fd50::2",
        "from the LAN, one address": "two 192.168.50.2",
        "from the LAN, one IPv6 address": "two fd50::2",
        "from the host, 127.0.0.1": f"one {gateway}",
        "from the host, 127.0.0.5": f"one {gateway}",
        "from the host, 127.0.0.1 alone": f"one {gateway}",
        "from the host, own address": "one 192.168.50.1",
        "from the host, own IPv6 address": "one fd50::1",
        "from itself": f"one {gateway}",
        "from itself, gateway": f"one {gateway}",
        "from itself, IPv6": f"one {gateway6}",
        "from its neighbour": f"one {gateway}",
        "from its neighbour, IPv6 gateway": f"one {gateway6}",
        "from another bridge": f"one {gateway}",
        "from another bridge, its gateway": f"one {gateway}",
        "to another bridge": "three 172.31.0.1",
        "to itself, ICC off": "six 172.33.0.1",
        "to a neighbour, ICC off": "six 172.33.0.1",
        "to ICC off from elsewhere": "six 172.33.0.1",
    }


@pytest.mark.root
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_what_is_not_published_is_not_reached(house: House, protocol: str) -> None:
    one, two, three, four = (house.containers[name] for name in ("one", "two", "three", "four"))
    questions = {
        "a port that is no container's": (house.lan, "192.168.50.1", 8099),
        "127.0.0.1's port, at another address": (house.lan, "192.168.50.1", 8081),
        "one address's port, at another": (house.lan, "10.9.0.1", 8082),
        "the LAN, straight to a container": (house.lan, "172.30.0.2", 80),
        "the LAN, straight to an internal container": (house.lan, "172.32.0.2", 80),
        "from bridge to bridge": (one, "172.31.0.2", 80),
        "and back": (three, "172.30.0.2", 80),
        "into an internal network": (one, "172.32.0.2", 80),
        "into an internal network, by a published port": (house.lan, "192.168.50.1", 8092),
        "out of an internal network": (four, "192.168.50.2", 80),
        "out of an internal network, a published port": (four, "192.168.50.1", 8080),
        "from an internal network to another bridge": (four, "172.30.0.2", 80),
        "the host's 127.0.0.1, from a container": (two, "127.0.0.1", 82),
    }
    answers = ask_all({label: (*question, protocol) for label, question in questions.items()})
    assert answers == dict.fromkeys(questions, "")


@pytest.mark.root
def test_containers_talk_as_their_networks_say(house: House) -> None:
    names = house.containers
    answers = ask_all(
        {
            "neighbours": (names["one"], "172.30.0.3", 80, "tcp"),
            "neighbours, IPv6": (names["one"], "fd30::3", 80, "udp"),
            "internal neighbours": (names["four"], "172.32.0.3", 80, "tcp"),
            "out, masqueraded": (names["one"], "192.168.50.2", 80, "udp"),
            "out, masqueraded, IPv6": (names["one"], "fd50::2", 80, "tcp"),
            "to the host": (names["one"], "172.30.0.1", 82, "tcp"),
            "internal to the host": (names["four"], "172.32.0.1", 82, "tcp"),
            "from the host": (house.host, "172.30.0.2", 80, "tcp"),
            "from the host to internal": (house.host, "172.32.0.2", 80, "tcp"),
            "out, ICC off": (names["six"], "192.168.50.2", 80, "tcp"),
        }
    )
    assert answers == {
        "neighbours": "two 172.30.0.2",
        "neighbours, IPv6": "two fd30::2",
        "internal neighbours": "five 172.32.0.2",
        "out, masqueraded": "lan 192.168.50.1",
        "out, masqueraded, IPv6": "lan fd50::1",
        "to the host": "host 172.30.0.2",
        "internal to the host": "host 172.32.0.2",
        "from the host": "one 172.30.0.1",
        "from the host to internal": "four 172.32.0.1",
        "out, ICC off": "lan 192.168.50.1",
    }


@pytest.mark.root
def test_icc_off_keeps_neighbours_apart(house: House, request: pytest.FixtureRequest) -> None:
    """By the table where br_netfilter shows it bridged packets; else by isolated ports of the bridge."""
    six = house.containers["six"]
    bridged = "bridged" in request.node.name
    answers = {protocol: ask(six, "172.33.0.3", 80, protocol) for protocol in ("tcp", "udp")}
    assert answers == dict.fromkeys(answers, "" if bridged else "seven 172.33.0.2")
    for name in ("six", "seven"):
        house.host.command(f"ip link set v{name} type bridge_slave isolated on")
    try:
        assert ask(six, "172.33.0.3", 80) == ""
        if not bridged:  # routed, it comes from the bridge itself, which is no isolated port
            assert ask(six, "192.168.50.1", 8091) == "six 172.33.0.1"
            assert ask(house.containers["seven"], "192.168.50.1", 8091) == "six 172.33.0.1"
    finally:
        for name in ("six", "seven"):
            house.host.command(f"ip link set v{name} type bridge_slave isolated off")


@contextmanager
def listening(namespace: Namespace, address: str, port: int) -> Iterator[Callable[[], str]]:
    """A socket for datagrams; what is yielded says whom one came from, or nothing."""
    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, port))
        sock.settimeout(0.3)

        def came() -> str:
            try:
                return str(sock.recvfrom(10)[1][0])
            except TimeoutError:
                return ""

        yield came


@pytest.mark.root
@pytest.mark.parametrize("where", ["lan", "one"])
def test_nobody_outside_may_use_127_0_0_1(house: House, where: str) -> None:
    """A neighbour that routes 127.0.0.1 to the host, as in CVE-2020-8558."""
    outside = house.lan if where == "lan" else house.containers[where]
    gateway = "192.168.50.1" if where == "lan" else "172.30.0.1"
    outside.command(
        "ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local"
        f"; ip route add 127.0.0.1/32 via {gateway} onlink dev eth0"
    )
    outside.sysctl("net/ipv4/conf/eth0/route_localnet", "1")
    try:
        with (
            listening(house.host, "127.0.0.1", 7001) as private,
            listening(house.host, "0.0.0.0", 7002) as public,
            listening(house.containers["one"], "0.0.0.0", 7003) as published,
        ):
            with outside.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for port in (7001, 8084):
                    sock.sendto(b"?", ("127.0.0.1", port))
                sock.sendto(b"?", (gateway, 7002))
            assert (private(), published(), bool(public())) == ("", "", True)
            with house.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"?", ("127.0.0.1", 8084))
            assert published()
            assert ask(outside, "127.0.0.1", 8081) == ""
            assert ask(outside, "127.0.0.1", 8080) == ""
            assert ask(outside, gateway, 8080).startswith("one")
    finally:
        outside.command("ip route del 127.0.0.1/32; ip route add local 127.0.0.0/8 dev lo table local")
        outside.command("ip route add local 127.0.0.1 dev lo table local")
        outside.sysctl("net/ipv4/conf/eth0/route_localnet", "0")


@pytest.mark.root
def test_what_cannot_be_translated_reaches_the_held_port(house: House) -> None:
    """::1 never leaves a host, and link-local addresses are not forwarded: the proxy's socket serves both."""
    link_local = house.host.command("ip -6 -o address show dev lan0 scope link").split()[3].partition("/")[0]
    answers = ask_all(
        {
            "::1": (house.host, "::1", 8080, "tcp"),
            "::1, UDP": (house.host, "::1", 8080, "udp"),
            "link-local": (house.lan, f"{link_local}%eth0", 8080, "tcp"),
        }
    )
    assert {label: answer.split()[:1] for label, answer in answers.items()} == {label: ["host"] for label in answers}
