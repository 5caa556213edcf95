"""Rules of nf_tables, piece by piece: each piece as nft(8) writes it and as the kernel evaluates it.

The kernel's side is linux/netfilter/nf_tables.h: a rule is a list of expressions that load into registers, compare,
and end in a verdict. The registers here are those of 4 bytes: a key of several fields lies in consecutive ones.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import NamedTuple

from labkit.kernel.netlink import attribute, nested, text_attribute

INET, IPV4, IPV6 = 1, 2, 10
"""Families of tables and of packets: NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6."""

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}

_REGISTER = 8  # NFT_REG32_00
_VERDICT_REGISTER = 0
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_EQUAL, _NOT_EQUAL = 0, 1
_DROP, _ACCEPT, _JUMP, _RETURN = 0, 1, -3, -5
_IIF, _IIFNAME, _OIFNAME, _NFPROTO, _L4PROTO = 4, 6, 7, 15, 16  # enum nft_meta_keys
_CT_STATE, _CT_STATUS = 0, 2
_ESTABLISHED_OR_RELATED, _STATUS_DNAT = 0x6, 0x20
_INVERTED = 1  # NFT_LOOKUP_F_INV
_NAMES = {IPV4: "ip", IPV6: "ip6"}


class Piece(NamedTuple):
    """A part of a rule: how nft(8) writes it, and its expressions, packed."""

    text: str
    packed: bytes


class Field(NamedTuple):
    """What can be loaded of a packet: its name in nft(8), its size in bytes, and the expression that loads it.

    `family` is the family that a packet must be of to have it; 0 for any.
    """

    text: str
    size: int
    expression: str
    attributes: tuple[tuple[int, int], ...]
    family: int = 0


def _meta(text: str, size: int, key: int) -> Field:
    return Field(text, size, "meta", ((2, key),))


def _payload(text: str, size: int, header: int, offset: int, family: int = 0) -> Field:
    return Field(text, size, "payload", ((2, header), (3, offset), (4, size)), family)


INPUT_LINK = _meta("iifname", 16, _IIFNAME)
OUTPUT_LINK = _meta("oifname", 16, _OIFNAME)
PROTOCOL = _meta("meta l4proto", 1, _L4PROTO)
PORT = _payload("th dport", 2, _TRANSPORT_HEADER, 2)
SOURCE = {
    IPV4: _payload("ip saddr", 4, _NETWORK_HEADER, 12, IPV4),
    IPV6: _payload("ip6 saddr", 16, _NETWORK_HEADER, 8, IPV6),
}
DESTINATION = {
    IPV4: _payload("ip daddr", 4, _NETWORK_HEADER, 16, IPV4),
    IPV6: _payload("ip6 daddr", 16, _NETWORK_HEADER, 24, IPV6),
}


def number(kind: int, value: int) -> bytes:
    """An attribute with a number of four bytes, in network order as nf_tables has them all."""
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def value(kind: int, data: bytes) -> bytes:
    """An attribute with a value for a register (NFTA_DATA_VALUE)."""
    return nested(kind, attribute(1, data))


def verdict_value(code: int, chain: str = "") -> bytes:
    """A verdict's value (NFTA_DATA_VERDICT), with the chain to jump to."""
    target = (text_attribute(2, chain),) if chain else ()
    return nested(2, nested(2, number(1, code), *target))


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(1, text_attribute(1, name), nested(2, *attributes))


def _load(field: Field, register: int = _REGISTER) -> bytes:
    return _expression(field.expression, number(1, register), *(number(*pair) for pair in field.attributes))


def _compare(data: bytes, operator: int = _EQUAL) -> bytes:
    return _expression("cmp", number(1, _REGISTER), number(2, operator), value(3, data))


def _any_bit(mask: int) -> bytes:
    """The register has one of these bits; the kernel keeps such flags in the machine's byte order."""
    packed = struct.pack("=I", mask)
    masked = (number(1, _REGISTER), number(2, _REGISTER), number(3, 4), value(4, packed), value(5, bytes(4)))
    return _expression("bitwise", *masked) + _compare(bytes(4), _NOT_EQUAL)


def _of_family(family: int) -> bytes:
    """Needed in tables of the family inet alone; harmless in others."""
    return _load(_meta("", 1, _NFPROTO)) + _compare(bytes((family,))) if family else b""


def of_family(family: int) -> Piece:
    """Packets of one family only."""
    return Piece(f"meta nfproto ipv{4 if family == IPV4 else 6}", _of_family(family))


def _load_key(fields: tuple[Field, ...]) -> bytes:
    """Load the fields of a set's key one after the other, each from a new register on."""
    packed, register = _of_family(next((field.family for field in fields if field.family), 0)), _REGISTER
    for field in fields:
        packed += _load(field, register)
        register += (field.size + 3) // 4
    return packed


def within(name: str, *fields: Field, inverted: bool = False) -> Piece:
    """The fields together are (or, inverted, are not) an element of the set of that name."""
    text = f"{' . '.join(field.text for field in fields)} {'!= ' if inverted else ''}@{name}"
    flags = (number(5, _INVERTED),) if inverted else ()
    return Piece(text, _load_key(fields) + _expression("lookup", number(2, _REGISTER), text_attribute(1, name), *flags))


def inside(field: Field, network: str) -> Piece:
    """The address is in a network. Prefixes end at a byte, or are applied as a mask."""
    net = ipaddress.ip_network(network)
    whole, rest = divmod(net.prefixlen, 8)
    packed = _of_family(field.family)
    if rest:
        zero = bytes(field.size)
        masked = (number(1, _REGISTER), number(2, _REGISTER), number(3, field.size))
        packed += _load(field)
        packed += _expression("bitwise", *masked, value(4, net.netmask.packed), value(5, zero))
        packed += _compare(net.network_address.packed)
    else:  # as nft(8) does it: load the bytes of the prefix, and no more
        attributes = (*field.attributes[:-1], (4, whole))
        packed += _load(field._replace(attributes=attributes)) + _compare(net.network_address.packed[:whole])
    shown = str(net.network_address) if net.prefixlen == net.max_prefixlen else network
    return Piece(f"{field.text} {shown}", packed)


def link_begins(field: Field, prefix: str) -> Piece:
    """The link's name begins so: compared as far as the prefix goes, without the terminating zero."""
    return Piece(f'{field.text} "{prefix}*"', _load(field) + _compare(prefix.encode()))


def port_is(protocol: str, port: int) -> Piece:
    """A packet of this protocol to this port."""
    packed = _load(PROTOCOL) + _compare(bytes((PROTOCOLS[protocol],)))
    return Piece(f"{protocol} dport {port}", packed + _load(PORT) + _compare(struct.pack(">H", port)))


ESTABLISHED = Piece(
    "ct state established,related",
    _expression("ct", number(1, _REGISTER), number(2, _CT_STATE)) + _any_bit(_ESTABLISHED_OR_RELATED),
)
"""Of a connection that has been answered, or an error about one."""

TRANSLATED = Piece(
    "ct status dnat", _expression("ct", number(1, _REGISTER), number(2, _CT_STATUS)) + _any_bit(_STATUS_DNAT)
)
"""Of a connection whose destination was translated."""


def _address_type(flag: int, operator: int) -> bytes:
    """Of an address (NFTA_FIB_F_SADDR or _DADDR): whether the routing tables have it as one of this host's."""
    found = _expression("fib", number(1, _REGISTER), number(2, 3), number(3, flag))  # NFT_FIB_RESULT_ADDRTYPE
    return found + _compare(struct.pack("=I", 2), operator)  # RTN_LOCAL


TO_THIS_HOST = Piece("fib daddr type local", _address_type(2, _EQUAL))
"""To an address of this host."""

NOT_FROM_THIS_HOST = Piece("fib saddr type != local", _address_type(1, _NOT_EQUAL))
"""From an address that isn't this host's."""

FROM_NO_LINK = Piece("iif 0", _load(_meta("iif", 4, _IIF)) + _compare(bytes(4)))
"""Where the input link isn't known: what this host sends, and what br_netfilter shows behind a bridge."""


def _verdict(text: str, code: int, chain: str = "") -> Piece:
    return Piece(text, _expression("immediate", number(1, _VERDICT_REGISTER), verdict_value(code, chain)))


ACCEPT = _verdict("accept", _ACCEPT)
DROP = _verdict("drop", _DROP)
RETURN = _verdict("return", _RETURN)
MASQUERADE = Piece("masquerade", _expression("masq"))
COUNTER = Piece("counter", _expression("counter", attribute(1, bytes(8)), attribute(2, bytes(8))))


def jump(chain: str) -> Piece:
    return _verdict(f"jump {chain}", _JUMP, chain)


def translate_by(name: str, family: int, *fields: Field) -> Piece:
    """The new destination is what the map has for these fields: an address and a port. No entry, no match."""
    key = " . ".join(field.text for field in fields)
    lookup = (number(2, _REGISTER), number(3, _REGISTER), text_attribute(1, name))
    port = _REGISTER + (1 if family == IPV4 else 4)
    translation = (number(1, 1), number(2, family), number(3, _REGISTER), number(5, port))  # NFT_NAT_DNAT
    packed = _load_key(fields) + _expression("lookup", *lookup) + _expression("nat", *translation)
    return Piece(f"dnat {_NAMES[family]} to {key} map @{name}", packed)


def translate_to(address: str, port: int) -> Piece:
    """The new destination is this IPv4 address and port."""
    packed = _expression("immediate", number(1, _REGISTER), value(2, socket.inet_aton(address)))
    packed += _expression("immediate", number(1, _REGISTER + 1), value(2, struct.pack(">H", port)))
    translation = (number(1, 1), number(2, IPV4), number(3, _REGISTER), number(5, _REGISTER + 1))
    return Piece(f"dnat to {address}:{port}", packed + _expression("nat", *translation))
