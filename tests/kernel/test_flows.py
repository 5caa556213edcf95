"""UDP flows follow their published port to another container, though their client never stops."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from labkit.kernel.flows import ForgetFlows
from labkit.kernel.nftables import InstallTable, PublishPort, UnpublishPort
from labkit.plan import Context, Operation
from tests.support.netlab import Namespace, ask, bridge, cable, container

TABLE = "labkit"


class Client:
    """A client that asks from one port again and again."""

    def __init__(self, namespace: Namespace, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.sock = namespace.socket(family, socket.SOCK_DGRAM)
        self.sock.settimeout(0.4)
        self.sock.connect((address, 8080))

    def ask(self) -> str:
        try:
            self.sock.send(b"?")
            return self.sock.recv(100).decode().split()[0]
        except OSError:
            return ""


class Wired:
    """`lan` ─ `host` ─ labkit0 (one, two), with IPv4 and IPv6; the host answers on 8080 itself."""

    def __init__(self) -> None:
        self.host, self.lan = Namespace(), Namespace()
        cable(self.host, "lan0", self.lan, "eth0")
        self.host.command("ip address add 192.168.50.1/24 dev lan0; ip address add fd50::1/64 dev lan0 nodad")
        self.lan.command("ip address add 192.168.50.2/24 dev eth0; ip address add fd50::2/64 dev eth0 nodad")
        self.lan.command("ip route add default via 192.168.50.1")
        for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            self.host.sysctl(key, "1")
        self.host.serve("host", 8080)
        bridge(self.host, "labkit0", "172.30.0.1/24", "fd30::1/64")
        gateways = ("172.30.0.1", "fd30::1")
        self.one, self.two = (
            container(self.host, name, "labkit0", f"172.30.0.{number}/24", f"fd30::{number}/64", gateways=gateways)
            for number, name in ((2, "one"), (3, "two"))
        )
        self.run(InstallTable(TABLE, (("labkit0", False, True, True, True),)))

    def run(self, *operations: Operation) -> list[object]:
        return [self.host.run(lambda done=operation: done.run(Context())) for operation in operations]  # type: ignore[misc]  # bound

    def close(self) -> None:
        for namespace in (self.host, self.lan, self.one, self.two):
            namespace.close()


@pytest.fixture
def wired() -> Iterator[Wired]:
    made = Wired()
    yield made
    made.close()


@pytest.mark.root
@pytest.mark.parametrize(
    ("address", "one", "two"), [("192.168.50.1", "172.30.0.2", "172.30.0.3"), ("fd50::1", "fd30::2", "fd30::3")]
)
def test_a_client_follows_its_port(wired: Wired, address: str, one: str, two: str) -> None:
    client = Client(wired.lan, address)
    with client.sock:
        assert client.ask() == "host"
        wired.run(PublishPort(TABLE, "udp", "", 8080, one, 80))
        assert client.ask() == "host"  # what the operation is for
        assert wired.run(ForgetFlows("", 8080, one, 80)) == [1]
        assert client.ask() == "one"
        wired.run(UnpublishPort(TABLE, "udp", "", 8080, one, 80), PublishPort(TABLE, "udp", "", 8080, two, 80))
        assert client.ask() == "one"
        assert wired.run(ForgetFlows("", 8080, one, 80)) == [1]
        assert client.ask() == "two"
        assert wired.run(ForgetFlows("", 8080, one, 80)) == [0]
        assert client.ask() == "two"


@pytest.mark.root
def test_flows_of_others_stay(wired: Wired) -> None:
    """Flows that pass through to the same port of another machine, or that come to another address of the host."""
    wired.lan.serve("lan", 8080)
    passing, local = Client(wired.one, "192.168.50.2"), Client(wired.lan, "192.168.50.1")
    with passing.sock, local.sock:
        assert (passing.ask(), local.ask()) == ("lan", "host")
        assert wired.run(ForgetFlows("127.0.0.1", 8080, "172.30.0.3", 80)) == [0]
        assert wired.run(ForgetFlows("192.168.50.1", 8080, "172.30.0.3", 80)) == [1]
        assert wired.run(ForgetFlows("", 9999, "172.30.0.3", 80)) == [0]
    assert ask(wired.lan, "192.168.50.1", 8080, "udp").startswith("host")


def test_by_hand() -> None:
    assert ForgetFlows("", 53, "fd00::2", 53).shell() == "conntrack -D --family ipv6 -p udp --orig-port-dst 53"
    assert "--orig-dst 10.0.0.1" in ForgetFlows("10.0.0.1", 53, "172.17.0.2", 53).shell()
