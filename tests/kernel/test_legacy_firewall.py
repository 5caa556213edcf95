"""Bridges without nf_tables: packets go as iptables-legacy lets them, and ports by the proxy."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator

import pytest

from labkit.errors import KernelError
from labkit.kernel import nft_messages as nft
from labkit.kernel.legacy_firewall import AdmitBridgeLegacy, DismissBridgeLegacy
from labkit.network.proxy import Proxy, held
from labkit.network.publishing import Binding, publish_operations
from labkit.plan import Context, Execution
from tests.support.netlab import Namespace, ask, ask_all, bridge, cable, container

ADMITTED = (
    AdmitBridgeLegacy("labkit0", ("172.30.0.0/24", "fd30::/64"), masqueraded=("172.30.0.0/24", "fd30::/64")),
    AdmitBridgeLegacy("labkit-b", ("172.31.0.0/24",), masqueraded=("172.31.0.0/24",)),
    AdmitBridgeLegacy("labkit-i", ("172.32.0.0/24",), internal=True),
    AdmitBridgeLegacy("labkit-s", ("172.33.0.0/24",), icc=False, masqueraded=("172.33.0.0/24",)),
)


class House:
    """`lan` ─ `host` ─ labkit0 (one, two), labkit-b (three), labkit-i (four), labkit-s (six, seven); no nf_tables."""

    def __init__(self) -> None:
        self.host, self.lan = Namespace(), Namespace()
        cable(self.host, "lan0", self.lan, "eth0")
        self.host.command("ip address add 192.168.50.1/24 dev lan0; ip address add fd50::1/64 dev lan0 nodad")
        self.lan.command("ip address add 192.168.50.2/24 dev eth0; ip address add fd50::2/64 dev eth0 nodad")
        self.lan.command("ip route add 172.30.0.0/24 via 192.168.50.1; ip route add 172.32.0.0/24 via 192.168.50.1")
        self.lan.serve("lan", 80)
        for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-iptables"):
            self.host.sysctl(key, "1")
        bridge(self.host, "labkit0", "172.30.0.1/24", "fd30::1/64")
        for letter, number in (("b", 31), ("i", 32), ("s", 33)):
            bridge(self.host, f"labkit-{letter}", f"172.{number}.0.1/24")
        self.one = container(
            self.host, "one", "labkit0", "172.30.0.2/24", "fd30::2/64", gateways=("172.30.0.1", "fd30::1")
        )
        self.two = container(self.host, "two", "labkit0", "172.30.0.3/24", gateways=("172.30.0.1",))
        self.three = container(self.host, "three", "labkit-b", "172.31.0.2/24", gateways=("172.31.0.1",))
        self.four = container(self.host, "four", "labkit-i", "172.32.0.2/24", gateways=("172.32.0.1",))
        self.six = container(self.host, "six", "labkit-s", "172.33.0.2/24", gateways=("172.33.0.1",))
        self.seven = container(self.host, "seven", "labkit-s", "172.33.0.3/24", gateways=("172.33.0.1",))

    def close(self) -> None:
        for namespace in (self.host, self.lan, self.one, self.two, self.three, self.four, self.six, self.seven):
            namespace.close()


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.close()


@pytest.mark.root
def test_packets_without_nf_tables(house: House) -> None:
    rules = house.host.command("iptables-legacy-save; ip6tables-legacy-save")
    execution = Execution(tuple(enumerate(ADMITTED)))
    house.host.run(execution.run_or_undo)
    answers = ask_all(
        {
            "out": (house.one, "192.168.50.2", 80, "tcp"),
            "out, IPv6": (house.one, "fd50::2", 80, "tcp"),
            "neighbour": (house.two, "172.30.0.2", 80, "udp"),
            "from bridge to bridge": (house.one, "172.31.0.2", 80, "tcp"),
            "straight": (house.lan, "172.30.0.2", 80, "tcp"),
            "out of an internal network": (house.four, "192.168.50.2", 80, "tcp"),
            "into an internal network": (house.lan, "172.32.0.2", 80, "tcp"),
            "neighbour, ICC off": (house.six, "172.33.0.3", 80, "tcp"),
            "out, ICC off": (house.six, "192.168.50.2", 80, "tcp"),
            "from the host": (house.host, "172.32.0.2", 80, "tcp"),
        }
    )
    assert answers == {
        "out": "lan 192.168.50.1",
        "out, IPv6": "lan fd50::1",
        "neighbour": "one 172.30.0.3",
        "from bridge to bridge": "",
        "straight": "",
        "out of an internal network": "",
        "into an internal network": "",
        "neighbour, ICC off": "",
        "out, ICC off": "lan 192.168.50.1",
        "from the host": "four 172.32.0.1",
    }
    assert house.host.command("nft list tables") == ""
    house.host.run(lambda: ADMITTED[0].run(Context()))  # once more, as after a kill
    saved = house.host.command("iptables-legacy-save")
    assert saved.count("-A FORWARD -o labkit0 -j DROP") == 1
    for admitted in ADMITTED:
        fields = (admitted.name, admitted.subnets, admitted.internal, admitted.icc, admitted.masqueraded)
        house.host.run(lambda fields=fields: DismissBridgeLegacy(*fields).run(Context()))  # type: ignore[misc]  # bound
    left = house.host.command("iptables-legacy-save; ip6tables-legacy-save")
    assert (rules, "-A" in left) == ("", False)
    house.host.command("\n".join(admitted.shell() for admitted in ADMITTED))
    assert sorted(rules_in(house.host.command("iptables-legacy-save"))) == sorted(rules_in(saved))


def rules_in(saved: str) -> list[str]:
    return [line for line in saved.splitlines() if line.startswith("-A")]


@pytest.mark.root
def test_ports_are_reached_by_the_proxy(house: House) -> None:
    """From everywhere; what the container sees is the host."""
    bindings = tuple(
        Binding(80, protocol, host_ip, 8080, "172.30.0.2")
        for protocol in ("tcp", "udp")
        for host_ip in ("0.0.0.0", "::")
    )
    context = Context()
    operations = publish_operations("labkit", bindings, translate=False)
    house.host.run(Execution(tuple(enumerate(operations)), context).run_or_undo)
    asked = [(house.lan, "192.168.50.1"), (house.lan, "fd50::1"), (house.host, "127.0.0.1"), (house.host, "::1")]
    asked += [(house.one, "192.168.50.1"), (house.two, "172.30.0.1"), (house.one, "fd50::1")]

    async def serve() -> list[str]:
        proxy = Proxy(held(bindings, context.descriptors), house.host.path)
        proxy.start()
        try:
            return [
                await asyncio.to_thread(ask, source, address, 8080, protocol)
                for source, address in asked
                for protocol in ("tcp", "udp")
            ]
        finally:
            proxy.stop()

    assert asyncio.run(serve()) == ["one 172.30.0.1"] * 2 * len(asked)
    assert context.descriptors == {}


@pytest.mark.root
def test_whether_there_is_nf_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nft.is_there()

    def refuse(number: int) -> None:
        def ask(*_: object) -> list[bytes]:
            raise KernelError("sendto", number)

        monkeypatch.setattr(nft, "ask", ask)

    for number in (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EPERM):
        refuse(number)
        assert not nft.is_there()
    refuse(errno.ENOBUFS)
    with pytest.raises(KernelError):
        nft.is_there()
