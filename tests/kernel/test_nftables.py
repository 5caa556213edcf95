"""The firewall's table: what nft(8) reads of it, and what becomes of real packets."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import KernelError
from labkit.kernel.netlink import attributes
from labkit.kernel.nft_messages import connect
from labkit.kernel.nftables import (
    PUBLISHED,
    PUBLISHED6_ON,
    AdmitBridge,
    DismissBridge,
    InstallTable,
    PublishPort,
    RemoveTable,
    UnpublishPort,
    bridge_elements,
    port_element,
    redirect_names,
    redirect_names_shell,
    table_messages,
)
from labkit.plan import Context, Execution, Operation, decode, encode
from labkit.trace import RECORDER
from tests.support.netlab import Namespace, Server, ask, ask_all, bridge, cable, container

BRIDGES = (("labkit0", False, True, True, True), ("labkit-0badcafe", True, False, False, False))
PORTS = (
    ("tcp", "", 8080, "172.30.0.2", 80),
    ("udp", "127.0.0.1", 53, "172.30.0.2", 53),
    ("sctp", "", 9, "fd30::2", 9),
    ("tcp", "fd50::1", 8080, "fd30::2", 80),
)
TABLE = "labkit"


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.close()


def without_handles(listed: Any) -> Any:
    if isinstance(listed, dict):
        return {key: without_handles(value) for key, value in listed.items() if key != "handle"}
    return [without_handles(value) for value in listed] if isinstance(listed, list) else listed


def listing(namespace: Namespace, what: str = f"table inet {TABLE}") -> Any:
    return without_handles(json.loads(namespace.command(f"nft -j list {what}")))


def run(namespace: Namespace, *operations: Operation) -> Execution:
    execution = Execution(tuple(enumerate(operations)))
    namespace.run(execution.run_or_undo)
    return execution


@pytest.mark.root
def test_nft_makes_the_same_table_of_what_shell_prints(namespace: Namespace) -> None:
    operation = InstallTable(TABLE, BRIDGES, PORTS)
    run(namespace, operation)
    made = listing(namespace)
    run(namespace, RemoveTable(TABLE))
    assert TABLE not in namespace.command("nft list tables")
    namespace.command(operation.shell())
    assert listing(namespace) == made


@pytest.mark.root
def test_single_operations_come_to_the_same_as_their_shell_commands(namespace: Namespace) -> None:
    other = Namespace()
    operations = (
        *(AdmitBridge(TABLE, *bridge) for bridge in BRIDGES),
        *(PublishPort(TABLE, *port) for port in PORTS),
        UnpublishPort(TABLE, *PORTS[0]),
        DismissBridge(TABLE, *BRIDGES[0]),
    )
    run(namespace, InstallTable(TABLE), *operations)
    run(other, InstallTable(TABLE))
    for operation in operations:
        other.command(operation.shell())
    assert listing(namespace) == listing(other) != without_handles([])
    other.command(RemoveTable(TABLE).shell())
    other.command(RemoveTable(TABLE).shell())
    assert TABLE not in other.command("nft list tables")
    other.close()


@pytest.mark.root
def test_what_is_undone_leaves_the_table_as_it_was(namespace: Namespace) -> None:
    run(namespace, InstallTable(TABLE))
    before = listing(namespace)
    execution = run(namespace, AdmitBridge(TABLE, *BRIDGES[0]), PublishPort(TABLE, *PORTS[0]))
    assert listing(namespace) != before
    assert namespace.run(execution.undo) == []
    assert listing(namespace) == before
    assert namespace.run(execution.undo) == []  # what isn't there is passed over
    execution = run(namespace, InstallTable(TABLE))
    assert namespace.run(execution.undo) == []
    assert TABLE not in namespace.command("nft list tables")


@pytest.mark.root
@pytest.mark.parametrize("other", ["172.30.0.2", "172.30.0.3"])
def test_a_port_is_published_once(namespace: Namespace, other: str) -> None:
    run(namespace, InstallTable(TABLE), PublishPort(TABLE, *PORTS[0]))
    before = listing(namespace)
    again = PublishPort(TABLE, "tcp", "", 8080, other, 80)
    with pytest.raises(KernelError) as caught:
        run(namespace, again)
    assert caught.value.errno == errno.EEXIST
    assert caught.value.hint == "Bind for 0.0.0.0:8080 failed: port is already allocated"
    assert listing(namespace) == before


@pytest.mark.root
def test_after_a_crash_only_an_own_element_is_undone(namespace: Namespace) -> None:
    run(namespace, InstallTable(TABLE), PublishPort(TABLE, *PORTS[0]))
    before = listing(namespace)
    foreign = PublishPort(TABLE, "tcp", "", 8080, "172.30.0.3", 80)
    namespace.run(lambda: foreign.undo(None, Context()))
    assert listing(namespace) == before
    namespace.run(lambda: PublishPort(TABLE, *PORTS[0]).undo(None, Context()))
    assert "8080" not in namespace.command(f"nft list map inet {TABLE} published")
    namespace.run(lambda: PublishPort(TABLE, *PORTS[0]).undo(None, Context()))


@pytest.mark.root
def test_installing_replaces_what_a_crash_left_and_no_other_table(namespace: Namespace) -> None:
    run(namespace, InstallTable("labkit_0badcafe", BRIDGES, PORTS), InstallTable(TABLE, BRIDGES, PORTS))
    other = listing(namespace, "table inet labkit_0badcafe")
    run(namespace, InstallTable(TABLE, BRIDGES[:1], PORTS[1:]))
    assert PORTS[0][3] not in namespace.command(f"nft list map inet {TABLE} published")
    run(namespace, RemoveTable(TABLE))
    assert listing(namespace, "table inet labkit_0badcafe") == other


@pytest.mark.root
def test_a_table_of_thousands_of_ports_is_one_batch(namespace: Namespace) -> None:
    ports = tuple(("tcp", "", port, "172.30.0.2", 80) for port in range(1, 5001))
    run(namespace, InstallTable(TABLE, BRIDGES, ports))
    assert namespace.command(f"nft list map inet {TABLE} published").count("172.30.0.2") == 5000


@pytest.mark.root
def test_operations_use_an_open_socket(namespace: Namespace) -> None:
    run(namespace, InstallTable(TABLE))
    with connect(namespace.path) as sock:  # this thread is in another namespace: only the socket leads there
        context = Context({"host-nftables": sock.fileno()})
        operations = (AdmitBridge(TABLE, *BRIDGES[0]), PublishPort(TABLE, *PORTS[0]))
        execution = Execution(tuple(enumerate(operations)), context)
        execution.run_or_undo()
        assert "8080" in namespace.command(f"nft list map inet {TABLE} published")
        assert execution.undo() == []
    assert "8080" not in namespace.command(f"nft list map inet {TABLE} published")


@pytest.mark.root
def test_the_trace_tells_what_was_sent(namespace: Namespace) -> None:
    def traced() -> list[tuple[Any, ...]]:
        calls = RECORDER.start()
        try:
            InstallTable(TABLE).run(Context())
            PublishPort(TABLE, *PORTS[0]).run(Context())
        finally:
            RECORDER.stop()
        return calls

    told = [call[1][0] for call in namespace.run(traced) if call[0] == "sendto"]
    assert told[:3] == [f"add table inet {TABLE}", f"delete table inet {TABLE}", f"add table inet {TABLE}"]
    assert f"add rule inet {TABLE} forward ct state established,related accept" in told
    assert told[-1] == f"create element inet {TABLE} published {{ tcp . 8080 : 172.30.0.2 . 80 }}"


@pytest.mark.root
def test_without_a_table_there_is_nothing_to_publish_in(namespace: Namespace) -> None:
    with pytest.raises(KernelError) as caught:
        run(namespace, PublishPort(TABLE, *PORTS[0]))
    assert caught.value.errno == errno.ENOENT
    run(namespace, UnpublishPort(TABLE, *PORTS[0]), DismissBridge(TABLE, *BRIDGES[0]))


def test_operations_travel_as_plain_data() -> None:
    for operation in (
        InstallTable(TABLE, BRIDGES, PORTS),
        AdmitBridge(TABLE, *BRIDGES[0]),
        PublishPort(TABLE, *PORTS[0]),
    ):
        copy = decode(json.loads(json.dumps(encode(operation))))
        assert copy.shell() == operation.shell()
        assert copy.describe() == operation.describe()


names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=15)


@given(names, st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_a_bridge_is_in_the_sets_that_it_asks_for(name: str, internal: bool, icc: bool, four: bool, six: bool) -> None:
    found = {declared.name: element.key for declared, element in bridge_elements((name, internal, icc, four, six))}
    wanted = {"bridges": True, "internal": internal, "connected": icc, "masquerade4": four, "masquerade6": six}
    assert found.keys() == {label for label, wants in wanted.items() if wants}
    assert found["bridges"] == (name,)


@given(st.integers(1, 65535), st.ip_addresses(v=4), st.integers(1, 65535))
def test_a_port_of_any_address_is_in_the_map_of_its_family(host_port: int, ip: Any, port: int) -> None:
    declared, element = port_element(("udp", "", host_port, str(ip), port))
    assert declared == PUBLISHED
    assert element.text == f"udp . {host_port} : {ip} . {port}"
    declared, element = port_element(("udp", "fd00::1", host_port, "fd00::2", port))
    assert declared == PUBLISHED6_ON
    assert element.text == f"fd00::1 . udp . {host_port} : fd00::2 . {port}"


@given(st.lists(st.integers(1, 65535), unique=True, max_size=1200))
def test_no_attribute_outgrows_its_length(ports: list[int]) -> None:
    for message in table_messages(TABLE, (), tuple(("tcp", "", port, "172.30.0.2", 80) for port in ports)):
        assert sum(len(found) + 4 for found in attributes(message.body[4:]).values()) <= len(message.body)
        assert len(message.body) < 1 << 16


# Packets: a host between a LAN and three bridges, with and without br_netfilter looking at bridged packets.


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
    run(built.host, InstallTable(TABLE, HOUSE_BRIDGES, HOUSE_PORTS))
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


@pytest.mark.root
def test_names_are_led_to_other_ports(namespace: Namespace) -> None:
    """Also when a name server of the container's own has port 53 of all addresses, and twice."""
    own = Server(namespace, "own", (53,))
    other = Server(namespace, "resolver", (4053, 4054), "::ffff:127.0.0.11")
    try:
        for udp, tcp in ((4054, 4054), (4053, 4053)):
            redirect_names(namespace.path, udp, tcp)
            for protocol in ("udp", "tcp"):
                assert ask(namespace, "127.0.0.11", 53, protocol).startswith("resolver")
                assert ask(namespace, "127.0.0.1", 53, protocol).startswith("own")
    finally:
        own.close()
        other.close()
    made = listing(namespace, "table ip labkit_names")
    namespace.command("nft delete table ip labkit_names")
    namespace.command(redirect_names_shell(4053, 4053))
    assert listing(namespace, "table ip labkit_names") == made


@pytest.mark.root
def test_names_are_led_from_within(namespace: Namespace) -> None:
    namespace.run(lambda: redirect_names("", 4053, 4053))
    assert "127.0.0.11:4053" in namespace.command("nft list ruleset")
