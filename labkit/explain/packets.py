"""Packets told in a line each: who to whom, which protocol, and what it says (tcpdump(8) tells more).

Ethernet and Linux's cooked headers, ARP (RFC 826), IPv4 (791), IPv6 (8200), ICMP (792, 4443, 4861), TCP (9293),
UDP (768); DNS and HTTP as `labkit.explain.payloads` reads them. The bytes come from the network and may be anything:
what is cut short or makes no sense is told as that.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from dataclasses import dataclass

from labkit.explain.payloads import CutShort, dns, first_line, take

ETHERNET, COOKED = 1, 276  # LINKTYPE_ETHERNET, LINKTYPE_LINUX_SLL2
NAMESERVER = "127.0.0.11"
"""Where containers find names: at port 53, which is translated to another one before the packet is seen."""
_VLAN = (0x8100, 0x88A8)
_EXTENSIONS = (0, 43, 60)  # hop-by-hop options, routing, destination options: length and next header at the same places
_FRAGMENT = 44
_TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
_ICMP = {
    (0, 0): "echo reply",
    (3, 0): "network unreachable",
    (3, 1): "host unreachable",
    (3, 2): "protocol unreachable",
    (3, 3): "port unreachable",
    (3, 4): "too large, and not to be fragmented",
    (3, 13): "administratively prohibited",
    (8, 0): "echo request",
    (11, 0): "time to live exceeded",
}
_ICMPV6 = {
    1: "unreachable",
    2: "too large",
    3: "hop limit exceeded",
    128: "echo request",
    129: "echo reply",
    131: "multicast listener report",
    133: "router solicitation",
    134: "router advertisement",
    143: "multicast listener report",
}
_DNS_PORTS = (53, 5353)


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet: `time` in nanoseconds since the epoch, `length` in bytes, and what it says.

    Source and target are addresses, with `:port` where there is one. `link` is the index of its link, 0 if unknown.
    """

    time: int
    length: int
    source: str
    target: str
    protocol: str
    what: str
    link: int = 0


@dataclass(frozen=True, slots=True)
class _Told:
    """What a layer says; the layers below add who it was."""

    source: str
    target: str
    protocol: str
    what: str


def decode(data: bytes, link_type: int, time: int = 0, length: int = 0) -> Packet:
    """Tell one packet of a pcap file. Never fails."""
    link = 0
    try:
        if link_type == COOKED:
            kind, _, link, *_ = struct.unpack(">HHIHBB8s", take(data, 0, 20))
            source, target, payload = "", "", data[20:]
        elif link_type == ETHERNET:
            target, source = _mac(take(data, 0, 6)), _mac(take(data, 6, 6))
            kind, payload = _behind_tags(data)
        else:
            raise CutShort(f"link type {link_type}")
        told = _network(kind, payload, source, target)
    except CutShort as error:
        told = _Told("", "", "?", f"not understood: {error}")
    return Packet(time, length or len(data), told.source, told.target, told.protocol, told.what, link)


def _behind_tags(data: bytes) -> tuple[int, bytes]:
    """The type in an Ethernet header, behind VLAN tags, and what follows."""
    place = 12
    kind = int.from_bytes(take(data, place, 2))
    while kind in _VLAN:
        place += 4
        kind = int.from_bytes(take(data, place, 2))
    return kind, data[place + 2 :]


def _network(kind: int, payload: bytes, source: str, target: str) -> _Told:
    if kind == 0x0806:
        return _arp(payload)
    if kind == 0x0800:
        return _ipv4(payload)
    if kind == 0x86DD:
        return _ipv6(payload)
    return _Told(source, target, f"0x{kind:04x}", f"{len(payload)} bytes")


def _mac(data: bytes) -> str:
    return data.hex(":")


def _address(data: bytes) -> str:
    return str(ipaddress.ip_address(data))


def _arp(data: bytes) -> _Told:
    hardware, protocol, sizes, operation = struct.unpack(">HHHH", take(data, 0, 8))
    if (hardware, protocol, sizes) != (1, 0x0800, 0x0604):
        return _Told("", "", "ARP", f"operation {operation}")
    sender, sender_ip = _mac(take(data, 8, 6)), _address(take(data, 14, 4))
    target_ip = _address(take(data, 24, 4))
    if operation == 1:
        return _Told(sender_ip, "everybody", "ARP", f"who has {target_ip}? tell {sender_ip}")
    return _Told(sender_ip, target_ip, "ARP", f"{sender_ip} is at {sender}")


def _ipv4(data: bytes) -> _Told:
    header = take(data, 0, 20)
    size, total = (header[0] & 15) * 4, int.from_bytes(header[2:4])
    if header[0] >> 4 != 4 or size < 20:
        raise CutShort("an IPv4 header that is none")
    source, target = _address(header[12:16]), _address(header[16:20])
    if offset := int.from_bytes(header[6:8]) & 0x1FFF:
        return _Told(source, target, "IPv4", f"a fragment, from byte {offset * 8} on")
    # With segmentation offload a packet can be longer than its header can say: then the length there is 0.
    return _transport(header[9], data[size : total or len(data)], source, target)


def _ipv6(data: bytes) -> _Told:
    header = take(data, 0, 40)
    if header[0] >> 4 != 6:
        raise CutShort("an IPv6 header that is none")
    source, target = _address(header[8:24]), _address(header[24:40])
    length = int.from_bytes(header[4:6])
    following, payload = header[6], data[40 : 40 + length if length else len(data)]
    while following in _EXTENSIONS:
        following, payload = take(payload, 0, 1)[0], payload[(take(payload, 1, 1)[0] + 1) * 8 :]
    if following == _FRAGMENT:
        fragment = take(payload, 0, 8)
        if offset := int.from_bytes(fragment[2:4]) >> 3:
            return _Told(source, target, "IPv6", f"a fragment, from byte {offset * 8} on")
        following, payload = fragment[0], payload[8:]
    return _transport(following, payload, source, target)


def _transport(protocol: int, data: bytes, source: str, target: str) -> _Told:
    tell = _TRANSPORTS.get(protocol)
    if tell is None:
        return _Told(source, target, f"IP protocol {protocol}", f"{len(data)} bytes")
    try:
        return tell(data, source, target)
    except CutShort as error:
        return _Told(source, target, _NAMES[protocol], f"not understood: {error}")


def _icmp(data: bytes, source: str, target: str) -> _Told:
    kind, code = take(data, 0, 2)
    said = _ICMP.get((kind, code), f"type {kind}, code {code}")
    if kind in (0, 8):
        said += f" {int.from_bytes(take(data, 6, 2))}"
    return _Told(source, target, "ICMP", said)


def _icmpv6(data: bytes, source: str, target: str) -> _Told:
    kind, code = take(data, 0, 2)
    said = _ICMPV6.get(kind, f"type {kind}, code {code}")
    if kind in (128, 129):
        said += f" {int.from_bytes(take(data, 6, 2))}"
    elif kind == 135:
        said = f"who has {_address(take(data, 8, 16))}?"
    elif kind == 136:
        said = f"{_address(take(data, 8, 16))} is here"
    return _Told(source, target, "ICMPv6", said)


def _udp(data: bytes, source: str, target: str) -> _Told:
    source_port, target_port, length = struct.unpack(">HHH", take(data, 0, 6))
    payload = data[8 : length or len(data)]
    protocol, what = "UDP", f"{len(payload)} bytes"
    if _is_dns(source, source_port) or _is_dns(target, target_port):
        protocol, what = _dns_or(protocol, what, payload)
    return _Told(_with_port(source, source_port), _with_port(target, target_port), protocol, what)


def _is_dns(address: str, port: int) -> bool:
    return port in _DNS_PORTS or address == NAMESERVER


def _dns_or(protocol: str, what: str, message: bytes) -> tuple[str, str]:
    """What a DNS message says; the rest as given if it is none."""
    try:
        return "DNS", dns(message)
    except CutShort:
        return protocol, what


def _tcp(data: bytes, source: str, target: str) -> _Told:
    header = take(data, 0, 20)
    source_port, target_port = struct.unpack_from(">HH", header)
    payload = data[(header[12] >> 4) * 4 :]
    flags = " ".join(name for bit, name in enumerate(_TCP_FLAGS) if header[13] >> bit & 1) or "no flags"
    protocol, what = "TCP", f"{flags}, {len(payload)} bytes" if payload else flags
    if line := first_line(payload):
        protocol, what = "HTTP", line
    elif payload and (_is_dns(source, source_port) or _is_dns(target, target_port)):
        protocol, what = _dns_or(protocol, what, payload[2:])
    return _Told(_with_port(source, source_port), _with_port(target, target_port), protocol, what)


def _with_port(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


_TRANSPORTS: dict[int, Callable[[bytes, str, str], _Told]] = {1: _icmp, 6: _tcp, 17: _udp, 58: _icmpv6}
_NAMES = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}
