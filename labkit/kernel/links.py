"""Network links, their addresses and routes (rtnetlink(7), veth(4), `ip-link(8)`, network_namespaces(7)).

A container's `eth0` is one end of a veth pair; the other end is a port of the network's bridge on the host. The
container's init makes both with one message, sent over a socket of the host's namespace that it was given
(`host-netlink` in the context), so that they need not be moved, and die with the container's namespace.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from dataclasses import dataclass
from typing import ClassVar

from labkit.errors import KernelError
from labkit.kernel import constants as c
from labkit.kernel import syscalls
from labkit.kernel.netlink import (
    ACK,
    CREATE,
    DUMP,
    EXCL,
    GONE,
    Message,
    Netlink,
    attribute,
    attributes,
    nested,
    passed_over,
    text_attribute,
)
from labkit.plan import Context, Operation, Result

NEWLINK, DELLINK, GETLINK, NEWADDR, DELADDR, GETADDR, NEWROUTE, GETROUTE = 16, 17, 18, 20, 21, 22, 24, 26
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, which flags to change
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, lengths, tos, table, protocol, scope, type, flags
_UP, _NO_DAD, _MAIN_TABLE, _BOOT, _UNICAST, _LINK_SCOPE = 1, 0x02, 254, 3, 1, 253

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
IFLA_IFALIAS, IFLA_NET_NS_FD = 20, 28
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA, _VETH_PEER = 1, 2, 4, 5, 1
_BRPORT_HAIRPIN, _BRPORT_ISOLATED, _MACVLAN_MODE = 4, 33, 1
_BRIDGE_CALLS = (36, 37)  # IFLA_BR_NF_CALL_IPTABLES, IFLA_BR_NF_CALL_IP6TABLES
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel has it. `alias` says whose it is; `master` is the index of the bridge it is a port of.

    `mac` is its hardware address, empty where it has none.
    """

    index: int
    name: str
    alias: str = ""
    master: int = 0
    up: bool = False
    mac: str = ""


def read_links(netlink: Netlink) -> list[Link]:
    """All links of a namespace."""
    answers = netlink.send(Message(GETLINK, DUMP, _LINK.pack(0, 0, 0, 0, 0), ""))
    return [_read_link(body) for body in answers]


def find_link(netlink: Netlink, name: str) -> Link | None:
    """The link of this name, None if there is none."""
    body = _LINK.pack(0, 0, 0, 0, 0) + text_attribute(IFLA_IFNAME, name)
    try:
        return _read_link(netlink.send(Message(GETLINK, 0, body, ""))[0])
    except KernelError as error:
        passed_over(error, *GONE)
        return None


def _index(netlink: Netlink, name: str) -> int:
    """The index of a link that must be there. Raises KernelError (ENODEV)."""
    body = _LINK.pack(0, 0, 0, 0, 0) + text_attribute(IFLA_IFNAME, name)
    return _read_link(netlink.send(Message(GETLINK, 0, body, f"RTM_GETLINK {name}"))[0]).index


def _read_link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = attributes(body[_LINK.size :])
    name, alias = (found.get(kind, b"").rstrip(b"\0").decode(errors="replace") for kind in (IFLA_IFNAME, IFLA_IFALIAS))
    master = int.from_bytes(found.get(IFLA_MASTER, b""), "little")
    mac = found.get(IFLA_ADDRESS, b"").hex(":")
    return Link(index, name, alias, master, bool(flags & _UP), mac)


def read_addresses(netlink: Netlink) -> dict[int, list[str]]:
    """The addresses of a namespace's links, with their prefix lengths, by the index of the link."""
    found: dict[int, list[str]] = {}
    for body in netlink.send(Message(GETADDR, DUMP, _ADDRESS.pack(0, 0, 0, 0, 0), "")):
        family, length, _, _, index = _ADDRESS.unpack_from(body)
        parts = attributes(body[_ADDRESS.size :])
        if address := parts.get(_IFA_LOCAL) or parts.get(_IFA_ADDRESS):
            found.setdefault(index, []).append(f"{socket.inet_ntop(family, address)}/{length}")
    return found


def read_networks(netlink: Netlink) -> list[str]:
    """The networks that this host has routes to or addresses in, as CIDR; default routes left out."""
    found = set()
    for body in netlink.send(Message(GETROUTE, DUMP, _ROUTE.pack(*[0] * 9), "")):
        family, length, _, _, table, *_ = _ROUTE.unpack_from(body)
        destination = attributes(body[_ROUTE.size :]).get(_RTA_DST)
        if destination and length and table == _MAIN_TABLE:
            found.add(f"{socket.inet_ntop(family, destination)}/{length}")
    for addresses in read_addresses(netlink).values():
        found |= {str(ipaddress.ip_interface(address).network) for address in addresses}
    return sorted(found)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _set_up(index: int, name: str) -> Message:
    return Message(NEWLINK, ACK, _LINK.pack(0, 0, index, _UP, _UP), f"RTM_NEWLINK {name} up")


def _add_address(index: int, name: str, address: str) -> Message:
    interface = ipaddress.ip_interface(address)
    packed, length = interface.ip.packed, interface.network.prefixlen
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    body = _ADDRESS.pack(family, length, 0, 0, index) + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    if family == socket.AF_INET and length < 31:
        body += attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
    if family == socket.AF_INET6:  # whether somebody else has it needn't be asked: addresses are leased
        body += attribute(_IFA_FLAGS, _u32(_NO_DAD))
    return Message(NEWADDR, ACK | CREATE | EXCL, body, f"RTM_NEWADDR {address} dev {name}")


def _add_route(index: int, name: str, gateway: str) -> Message:
    """The default route, through a gateway; straight onto the link if the gateway is empty (0.0.0.0 or ::)."""
    address = ipaddress.ip_address(gateway)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    scope = _LINK_SCOPE if not int(address) else 0
    body = _ROUTE.pack(family, 0, 0, 0, _MAIN_TABLE, _BOOT, scope, _UNICAST, 0) + attribute(_RTA_OIF, _u32(index))
    if int(address):
        body += attribute(_RTA_GATEWAY, address.packed)
    return Message(NEWROUTE, ACK | CREATE | EXCL, body, f"RTM_NEWROUTE default via {gateway} dev {name}")


def delete_link(name: str, netns: str = "") -> None:
    """Delete a link; that it isn't there is fine."""
    with Netlink(netns=netns) as netlink:
        body = _LINK.pack(0, 0, 0, 0, 0) + text_attribute(IFLA_IFNAME, name)
        try:
            netlink.send(Message(DELLINK, ACK, body, f"RTM_DELLINK {name}"))
        except KernelError as error:
            passed_over(error, *GONE)


@dataclass(frozen=True, slots=True)
class BringUpLoopback(Operation):
    """Set the `lo` link of this network namespace up: 127.0.0.1 and ::1 work from then on."""

    man: ClassVar[str] = "netdevice(7)"
    ahead: ClassVar[bool] = True

    def run(self, context: Context) -> Result:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            request = struct.pack("16sh14x", b"lo", 0)
            answer = syscalls.ioctl(sock.fileno(), c.SIOCGIFFLAGS, request)
            flags = struct.unpack_from("h", answer if isinstance(answer, bytes) else request, 16)[0]
            syscalls.ioctl(sock.fileno(), c.SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | c.IFF_UP))
        return None

    def describe(self) -> str:
        return "bring up the loopback link"

    def shell(self) -> str:
        return "ip link set lo up"


@dataclass(frozen=True, slots=True)
class CreateBridge(Operation):
    """Make a bridge, a switch in the kernel, and set it up with its addresses (the networks' gateways).

    `alias` marks whose it is. A fixed `mac` keeps it from taking over the lowest address of its ports. `filtered`: what
    crosses it passes the firewall, if br_netfilter is there. Undone by deleting it.
    """

    name: str
    alias: str
    mac: str
    addresses: tuple[str, ...]
    mtu: int = 0
    filtered: bool = False
    man: ClassVar[str] = "rtnetlink(7)"

    def run(self, context: Context) -> Result:
        body = _LINK.pack(0, 0, 0, 0, 0) + text_attribute(IFLA_IFNAME, self.name)
        body += attribute(IFLA_ADDRESS, _mac(self.mac))
        body += attribute(IFLA_MTU, _u32(self.mtu)) if self.mtu else b""
        calls = [attribute(kind, b"\1") for kind in _BRIDGE_CALLS] if self.filtered else []
        body += nested(
            IFLA_LINKINFO, text_attribute(_INFO_KIND, "bridge"), *([nested(_INFO_DATA, *calls)] if calls else [])
        )
        with Netlink() as netlink:
            netlink.send(Message(NEWLINK, ACK | CREATE | EXCL, body, f"RTM_NEWLINK {self.name} type bridge"))
            index = _index(netlink, self.name)
            mark = _LINK.pack(0, 0, index, 0, 0) + text_attribute(IFLA_IFALIAS, self.alias)
            netlink.send(
                Message(NEWLINK, ACK, mark, f"RTM_NEWLINK {self.name} alias {self.alias!r}"),
                *(_add_address(index, self.name, address) for address in self.addresses),
                _set_up(index, self.name),
            )
        return self.name

    def undo(self, result: Result, context: Context) -> None:
        with Netlink() as netlink:
            found = find_link(netlink, self.name)
        if found and found.mac == self.mac:  # known by it from the first message on
            delete_link(self.name)

    def describe(self) -> str:
        return f"make the bridge {self.name} with {', '.join(self.addresses) or 'no address'}"

    def shell(self) -> str:
        mtu = f" mtu {self.mtu}" if self.mtu else ""
        calls = " nf_call_iptables 1 nf_call_ip6tables 1" if self.filtered else ""
        lines = [f"ip link add {self.name} address {self.mac}{mtu} type bridge{calls}"]
        lines += [f"ip link set {self.name} alias '{self.alias}'"]
        lines += [f"ip address add {address} dev {self.name}" for address in self.addresses]
        return "\n".join([*lines, f"ip link set {self.name} up"])


@dataclass(frozen=True, slots=True)
class DeleteLink(Operation):
    """Delete a link; of a veth pair the other end goes too. That it isn't there is fine."""

    name: str
    netns: str = ""
    man: ClassVar[str] = "rtnetlink(7)"

    def run(self, context: Context) -> Result:
        delete_link(self.name, self.netns)
        return None

    def describe(self) -> str:
        return f"delete the link {self.name}"

    def shell(self) -> str:
        return f"{_inside(self.netns)}ip link delete {self.name}"


@dataclass(frozen=True, slots=True)
class CreateVeth(Operation):
    """Make a veth pair: `name`, a port of `bridge` on the host, and `peer` in the container's network namespace.

    One message: the peer is born in its namespace (`netns`, or the caller's own), the host's end up and on its
    bridge. The pair goes with either namespace. `hairpin` lets a frame leave by the port that it came from,
    `isolated` keeps it from the bridge's other isolated ports.
    """

    name: str
    bridge: str
    peer: str
    mac: str
    mtu: int = 0
    netns: str = ""
    hairpin: bool = False
    isolated: bool = False
    man: ClassVar[str] = "veth(4)"

    def run(self, context: Context) -> Result:
        namespace = syscalls.open_path(self.netns or "/proc/self/ns/net", os.O_RDONLY)
        try:
            with Netlink(fd=context.descriptors.get("host-netlink", -1)) as netlink:
                master = _index(netlink, self.bridge)
                netlink.send(
                    self._message(master, namespace), *([self._port()] if self.hairpin or self.isolated else [])
                )
        finally:
            os.close(namespace)
        return self.name

    def _port(self) -> Message:
        chosen = ((_BRPORT_HAIRPIN, self.hairpin), (_BRPORT_ISOLATED, self.isolated))
        data = nested(_INFO_SLAVE_DATA, *(attribute(kind, b"\1") for kind, wanted in chosen if wanted))
        body = _LINK.pack(0, 0, 0, 0, 0) + text_attribute(IFLA_IFNAME, self.name)
        body += nested(IFLA_LINKINFO, text_attribute(_INFO_SLAVE_KIND, "bridge"), data)
        return Message(NEWLINK, ACK, body, f"RTM_NEWLINK {self.name} bridge_slave{self._modes()}")

    def _modes(self) -> str:
        return (" hairpin on" if self.hairpin else "") + (" isolated on" if self.isolated else "")

    def _message(self, master: int, namespace: int) -> Message:
        mtu = attribute(IFLA_MTU, _u32(self.mtu)) if self.mtu else b""
        peer = _LINK.pack(0, 0, 0, 0, 0) + text_attribute(IFLA_IFNAME, self.peer)
        peer += attribute(IFLA_ADDRESS, _mac(self.mac)) + attribute(IFLA_NET_NS_FD, _u32(namespace)) + mtu
        info = text_attribute(_INFO_KIND, "veth") + nested(_INFO_DATA, nested(_VETH_PEER, peer))
        body = _LINK.pack(0, 0, 0, _UP, _UP) + text_attribute(IFLA_IFNAME, self.name)
        body += attribute(IFLA_MASTER, _u32(master)) + mtu + nested(IFLA_LINKINFO, info)
        text = f"RTM_NEWLINK {self.name} master {self.bridge} up type veth peer {self.peer} {self.mac}"
        return Message(NEWLINK, ACK | CREATE | EXCL, body, text)

    def undo(self, result: Result, context: Context) -> None:
        delete_link(self.name)

    def describe(self) -> str:
        return f"make a virtual cable from {self.peer} in the container to {self.name} on the bridge {self.bridge}"

    def shell(self) -> str:
        pid = self.netns.removeprefix("/proc/").split("/")[0] if self.netns else "$PID"
        mtu = f" mtu {self.mtu}" if self.mtu else ""
        peer = f"peer name {self.peer} address {self.mac} netns {pid}"
        lines = [f"ip link add {self.name}{mtu} type veth {peer}", f"ip link set {self.name} master {self.bridge} up"]
        lines += [f"ip link set {self.name} type bridge_slave{self._modes()}"] if self._modes() else []
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class CreateMacvlan(Operation):
    """Make a link of the container's own on one of the host's: another MAC address on the same wire."""

    parent: str
    name: str
    mac: str
    mode: str = "bridge"
    mtu: int = 0
    netns: str = ""
    man: ClassVar[str] = "ip-link(8)"

    def run(self, context: Context) -> Result:
        namespace = syscalls.open_path(self.netns or "/proc/self/ns/net", os.O_RDONLY)
        try:
            with Netlink(fd=context.descriptors.get("host-netlink", -1)) as netlink:
                parent = _index(netlink, self.parent)
                data = nested(_INFO_DATA, attribute(_MACVLAN_MODE, _u32(MACVLAN_MODES[self.mode])))
                body = _LINK.pack(0, 0, 0, 0, 0) + text_attribute(IFLA_IFNAME, self.name)
                body += attribute(IFLA_LINK, _u32(parent)) + attribute(IFLA_ADDRESS, _mac(self.mac))
                body += attribute(IFLA_MTU, _u32(self.mtu)) if self.mtu else b""
                body += attribute(IFLA_NET_NS_FD, _u32(namespace))
                body += nested(IFLA_LINKINFO, text_attribute(_INFO_KIND, "macvlan"), data)
                text = f"RTM_NEWLINK {self.name} link {self.parent} type macvlan mode {self.mode} {self.mac}"
                netlink.send(Message(NEWLINK, ACK | CREATE | EXCL, body, text))
        finally:
            os.close(namespace)
        return self.name

    def undo(self, result: Result, context: Context) -> None:
        if self.netns:
            delete_link(self.name, self.netns)

    def describe(self) -> str:
        return f"make {self.name} in the container, a second address on the wire of {self.parent}"

    def shell(self) -> str:
        pid = self.netns.removeprefix("/proc/").split("/")[0] if self.netns else "$PID"
        return (
            f"ip link add {self.name} link {self.parent} netns {pid} address {self.mac} type macvlan mode {self.mode}"
        )


@dataclass(frozen=True, slots=True)
class ConfigureLink(Operation):
    """Give a link its addresses, set it up, and route what isn't local through it: one datagram of messages.

    `gateways` are the default routes' (0.0.0.0: straight onto the link). `netns` is the path of the link's
    namespace, empty for the caller's own. Undone with the link.
    """

    name: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...] = ()
    netns: str = ""
    man: ClassVar[str] = "rtnetlink(7)"

    def run(self, context: Context) -> Result:
        with Netlink(netns=self.netns) as netlink:
            index = _index(netlink, self.name)
            netlink.send(
                *(_add_address(index, self.name, address) for address in self.addresses),
                _set_up(index, self.name),
                *(_add_route(index, self.name, gateway) for gateway in self.gateways),
            )
        return None

    def describe(self) -> str:
        routes = f", default route via {', '.join(self.gateways)}" if self.gateways else ""
        return f"give {self.name} {', '.join(self.addresses) or 'no address'} and set it up{routes}"

    def shell(self) -> str:
        lines = [f"ip address add {address} dev {self.name}" for address in self.addresses]
        lines += [f"ip link set {self.name} up"]
        lines += [f"ip route add default via {gateway} dev {self.name}" for gateway in self.gateways]
        return "\n".join(_inside(self.netns) + line for line in lines)


@dataclass(frozen=True, slots=True)
class SetDefaultRoute(Operation):
    """Route what isn't local through these gateways and no others: the container's networks have changed."""

    name: str
    gateways: tuple[str, ...]
    netns: str
    man: ClassVar[str] = "rtnetlink(7)"

    def run(self, context: Context) -> Result:
        with Netlink(netns=self.netns) as netlink:
            index = _index(netlink, self.name)
            for gateway in self.gateways:
                message = _add_route(index, self.name, gateway)
                # NLM_F_REPLACE in the place of NLM_F_EXCL: the present default route, if any, gives way.
                netlink.send(message._replace(flags=ACK | CREATE | 0x100))
        return None

    def describe(self) -> str:
        return f"route what isn't local through {', '.join(self.gateways)}"

    def shell(self) -> str:
        lines = [f"ip route replace default via {gateway} dev {self.name}" for gateway in self.gateways]
        return "\n".join(_inside(self.netns) + line for line in lines)


@dataclass(frozen=True, slots=True)
class CutOff(Operation):
    """Set a container's link down at the host's end: nothing passes, and its bridge forgets the addresses behind it.

    A container's namespace, and with it the link, goes some time after the last process. Until then its address
    would still answer, though it may be another container's by now. That the link isn't there is fine.
    """

    name: str
    man: ClassVar[str] = "rtnetlink(7)"

    def run(self, context: Context) -> Result:
        body = _LINK.pack(0, 0, 0, 0, _UP) + text_attribute(IFLA_IFNAME, self.name)
        with Netlink() as netlink:
            try:
                netlink.send(Message(NEWLINK, ACK, body, f"RTM_NEWLINK {self.name} down"))
            except KernelError as error:
                passed_over(error, *GONE)
        return None

    def describe(self) -> str:
        return f"cut off {self.name}"

    def shell(self) -> str:
        return f"ip link set {self.name} down"


def _inside(netns: str) -> str:
    return f"nsenter --net={netns} " if netns else ""
