"""Links, addresses and routes, in network namespaces that nobody else sees."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from labkit.errors import KernelError
from labkit.kernel.constants import CLONE_NEWNET
from labkit.kernel.links import (
    BringUpLoopback,
    ConfigureLink,
    CreateBridge,
    CreateMacvlan,
    CreateVeth,
    CutOff,
    DeleteLink,
    SetDefaultRoute,
    find_link,
    read_addresses,
    read_links,
    read_networks,
)
from labkit.kernel.namespaces import Unshare
from labkit.kernel.netlink import Netlink
from labkit.lab import Child
from labkit.plan import Context

pytestmark = pytest.mark.root
BRIDGE = CreateBridge("br0", "mine", "02:42:00:00:00:01", ("10.7.0.1/24", "fd00:7::1/64"), 1400)


@pytest.fixture
def host() -> Iterator[Child]:
    """A process in a network namespace of its own, with a bridge."""
    with Child() as child:
        child.do(Unshare(CLONE_NEWNET), BringUpLoopback(), BRIDGE)
        yield child


@pytest.fixture
def guest() -> Iterator[Child]:
    """Another process, in another namespace."""
    with Child() as child:
        child.do(Unshare(CLONE_NEWNET), BringUpLoopback())
        yield child


def netns(child: Child) -> str:
    return f"/proc/{child.pid}/ns/net"


def veth(guest: Child, **more: Any) -> CreateVeth:
    return CreateVeth("veth1", "br0", "eth0", "02:42:0a:07:00:02", netns=netns(guest), **more)


def ip(child: Child, *arguments: str) -> list[dict[str, Any]]:
    """What `ip` says about a namespace."""
    command = ["nsenter", f"--net={netns(child)}", "ip", "-json", "-details", *arguments]
    done = subprocess.run(command, capture_output=True, check=True)
    found: list[dict[str, Any]] = [entry for entry in json.loads(done.stdout or "[]") if entry]
    return found


def test_a_bridge(host: Child) -> None:
    (found,) = ip(host, "address", "show", "dev", "br0")
    assert (found["mtu"], found["address"], found["ifalias"]) == (1400, "02:42:00:00:00:01", "mine")
    assert "UP" in found["flags"]
    assert [entry["local"] for entry in found["addr_info"]][:2] == ["10.7.0.1", "fd00:7::1"]
    with Netlink(netns=netns(host)) as netlink:
        link = find_link(netlink, "br0")
        assert link
        assert (link.alias, link.up, link.mac) == ("mine", True, "02:42:00:00:00:01")
        assert {one.name for one in read_links(netlink)} >= {"lo", "br0"}
        assert read_addresses(netlink)[link.index][:2] == ["10.7.0.1/24", "fd00:7::1/64"]
        assert {"10.7.0.0/24", "fd00:7::/64", "127.0.0.0/8"} <= set(read_networks(netlink))
        assert find_link(netlink, "br1") is None


def test_a_cable(host: Child, guest: Child) -> None:
    host.do(veth(guest, mtu=1300, hairpin=True))
    (outer,) = ip(host, "link", "show", "dev", "veth1")
    assert (outer["master"], outer["mtu"]) == ("br0", 1300)
    assert outer["linkinfo"]["info_slave_data"]["hairpin"] is True
    guest.do(ConfigureLink("eth0", ("10.7.0.2/24", "fd00:7::2/64"), ("10.7.0.1", "fd00:7::1")))
    (inner,) = ip(guest, "link", "show", "dev", "eth0")
    assert (inner["address"], inner["mtu"], inner["operstate"]) == ("02:42:0a:07:00:02", 1300, "UP")
    assert ip(guest, "route", "show", "default")[0]["gateway"] == "10.7.0.1"
    assert ip(guest, "-6", "route", "show", "default")[0]["gateway"] == "fd00:7::1"
    guest.sh("busybox ping -c 1 -W 2 10.7.0.1 >/dev/null")
    guest.sh("busybox ping -c 1 -W 2 fd00:7::1 >/dev/null")


def test_a_cable_that_is_cut_off_lets_nothing_through(host: Child, guest: Child) -> None:
    host.do(veth(guest))
    guest.do(ConfigureLink("eth0", ("10.7.0.2/24",)))
    host.sh("busybox ping -c 1 -W 2 10.7.0.2 >/dev/null")
    host.do(CutOff("veth1"))
    host.sh("! busybox ping -c 1 -W 1 10.7.0.2 >/dev/null 2>&1")
    host.do(CutOff("veth1"), CutOff("nothing"))


def test_links_can_be_configured_from_outside(host: Child, guest: Child) -> None:
    host.do(veth(guest))
    ConfigureLink("eth0", ("10.7.0.2/24",), netns=netns(guest)).run(Context())
    SetDefaultRoute("eth0", ("10.7.0.1",), netns(guest)).run(Context())
    SetDefaultRoute("eth0", ("10.7.0.9",), netns(guest)).run(Context())
    assert [route["gateway"] for route in ip(guest, "route", "show", "default")] == ["10.7.0.9"]
    DeleteLink("eth0", netns(guest)).run(Context())
    with Netlink(netns=netns(host)) as netlink:
        assert find_link(netlink, "veth1") is None
    DeleteLink("eth0", netns(guest)).run(Context())


def test_a_second_address_on_a_wire(host: Child, guest: Child) -> None:
    host.do(CreateMacvlan("br0", "eth0", "02:42:0a:07:00:03", netns=netns(guest)))
    (found,) = ip(guest, "link", "show", "dev", "eth0")
    assert found["linkinfo"]["info_kind"] == "macvlan"
    assert found["linkinfo"]["info_data"]["mode"] == "bridge"


def test_undoing_takes_only_what_was_made(host: Child) -> None:
    """The bridge of somebody else with the same name stays."""
    command = ["nsenter", f"--net={netns(host)}", sys.executable, "-c"]
    other = 'CreateBridge("br0", "other", "02:42:00:00:00:09", ())'
    code = f"from labkit.kernel.links import *\nfrom labkit.plan import Context\n{other}.undo(None, Context())"
    subprocess.run([*command, code], check=True)
    assert ip(host, "link", "show", "dev", "br0")
    mine = 'CreateBridge("br0", "mine", "02:42:00:00:00:01", ())'
    subprocess.run([*command, code.replace(other, mine)], check=True)
    assert "br0" not in [link["ifname"] for link in ip(host, "link", "show")]


@pytest.mark.parametrize(
    ("operation", "errno", "said"),
    [
        (BRIDGE, "EEXIST", "RTM_NEWLINK br0 type bridge"),
        (CreateVeth("veth1", "br9", "eth0", "02:42:0a:07:00:02"), "ENODEV", "RTM_GETLINK br9"),
        (ConfigureLink("eth7", ("10.7.0.2/24",)), "ENODEV", "RTM_GETLINK eth7"),
        (ConfigureLink("br0", ("10.7.0.1/24",)), "EEXIST", "RTM_NEWADDR 10.7.0.1/24 dev br0"),
        (ConfigureLink("br0", (), ("10.9.0.1",)), "ENETUNREACH", "RTM_NEWROUTE default via 10.9.0.1 dev br0"),
    ],
)
def test_what_fails_says_which_message(host: Child, operation: Any, errno: str, said: str) -> None:
    with pytest.raises(KernelError) as caught:
        host.do(operation)
    assert caught.value.errno_name == errno
    assert said in str(caught.value)


def test_a_filtered_bridge_and_an_isolated_port(host: Child, guest: Child) -> None:
    host.do(CreateBridge("br1", "quiet", "02:42:00:00:00:02", (), filtered=True))
    (bridge,) = ip(host, "link", "show", "dev", "br1")
    assert bridge["linkinfo"]["info_data"]["nf_call_iptables"] == 1
    assert bridge["linkinfo"]["info_data"]["nf_call_ip6tables"] == 1
    host.do(veth(guest, isolated=True))
    (port,) = ip(host, "link", "show", "dev", "veth1")
    assert port["linkinfo"]["info_slave_data"]["isolated"] is True
    assert port["linkinfo"]["info_slave_data"]["hairpin"] is False
