"""Messages of nf_tables: tables, chains, rules, sets, maps, their elements; batches (linux/netfilter/nf_tables.h).

A batch is one datagram between two marks. The kernel does all of it or, at the first failure, nothing of it.
Sets and maps are declared as data (`NamedSet`). Elements are written as nft(8) has them, and packed by their types.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

from labkit.errors import KernelError
from labkit.kernel.netlink import APPEND, CREATE, EXCL, Message, Netlink, attribute, nested, open_in, text_attribute
from labkit.kernel.nft_rules import INET, IPV4, IPV6, PROTOCOLS, Piece, number, value

_NETFILTER = 12  # NETLINK_NETFILTER
SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _DELRULE, _NEWSET, _NEWSETELEM, _GETSETELEM, _DELSETELEM, _GETGEN = (
    SUBSYSTEM << 8 | number for number in (0, 2, 3, 6, 8, 9, 12, 13, 14, 16)
)
_BATCH_BEGIN, _BATCH_END = 16, 17
_IS_MAP = 0x8  # NFT_SET_MAP
_HOST_ORDER = bytes((0, 4)) + struct.pack("=I", 1)  # for nft(8): the keys are in the machine's byte order
FAMILIES = {INET: "inet", IPV4: "ip", IPV6: "ip6"}
_ELEMENTS_A_MESSAGE = 256  # an attribute's length has 16 bits
_ROOM = 1 << 16  # a datagram up to here needs no larger buffer
_SOL_NETLINK, _EXTENDED_ACK, _SO_SNDBUFFORCE = 270, 11, 32

ABSENT = (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL, errno.EAFNOSUPPORT, errno.EPERM)
"""What is said where there is no nf_tables, or none for us."""

HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}


class Type(NamedTuple):
    """A type of keys and values: its name in nft(8), its number there (kept for display only), its size in bytes."""

    name: str
    number: int
    size: int


IPV4_ADDRESS = Type("ipv4_addr", 7, 4)
IPV6_ADDRESS = Type("ipv6_addr", 8, 16)
INET_PROTOCOL = Type("inet_proto", 12, 1)
INET_SERVICE = Type("inet_service", 13, 2)
LINK_NAME = Type("ifname", 41, 16)

_PACKERS: dict[Type, Callable[[str], bytes]] = {
    IPV4_ADDRESS: socket.inet_aton,
    IPV6_ADDRESS: lambda text: socket.inet_pton(socket.AF_INET6, text),
    INET_PROTOCOL: lambda text: bytes((PROTOCOLS[text],)),
    INET_SERVICE: lambda text: struct.pack(">H", int(text)),
    LINK_NAME: lambda text: text.encode(),
}


class NamedSet(NamedTuple):
    """A set, or, if it has a type of values, a map. Several types are a concatenation."""

    name: str
    key: tuple[Type, ...]
    value: tuple[Type, ...] = ()

    @property
    def declaration(self) -> str:
        """As in nft(8): `map published { type inet_proto . inet_service : ipv4_addr . inet_service; }`."""
        return f"{'map' if self.value else 'set'} {self.name} {{ type {self.types}; }}"

    @property
    def types(self) -> str:
        return " : ".join(" . ".join(kind.name for kind in kinds) for kinds in (self.key, self.value) if kinds)


class Element(NamedTuple):
    """An element of a set, or of a map, with its fields as nft(8) writes them."""

    key: tuple[str, ...]
    value: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return " : ".join(" . ".join(fields) for fields in (self.key, self.value) if fields)


class Chain(NamedTuple):
    """A chain; with a hook, a base chain: `kind` is filter or nat."""

    name: str
    kind: str = ""
    hook: str = ""
    priority: int = 0

    @property
    def declaration(self) -> str:
        return f"type {self.kind} hook {self.hook} priority {self.priority}; policy accept;" if self.hook else ""


def _message(kind: int, flags: int, family: int, text: str, *attributes: bytes) -> Message:
    return Message(kind, flags, struct.pack(">BBH", family, 0, 0) + b"".join(attributes), text)


def connect(netns: str = "", room: int = 0) -> socket.socket:
    """A socket for `transact`, which its owner closes; `room` is the size of the largest datagram, if that is large.

    Closing it after something was deleted waits until no packet can be in the deleted rules: 10 to 20 ms. Who deletes
    often keeps one open.
    """
    sock = open_in(netns, socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
    sock.setsockopt(_SOL_NETLINK, _EXTENDED_ACK, 1)
    if room > _ROOM:  # the buffer must hold the datagram and the kernel's bookkeeping
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * room)
    return sock


def transact(*messages: Message, netns: str = "", fd: int = -1) -> None:
    """Have the kernel do all of these messages or none, in this network namespace or in the one behind a path.

    `fd` is a socket of `connect` to use instead. Raises KernelError for the first message that the kernel refuses.
    """
    mark = struct.pack(">BBH", 0, 0, SUBSYSTEM)
    batch = (Message(_BATCH_BEGIN, 0, mark, ""), *messages, Message(_BATCH_END, 0, mark, ""))
    if fd >= 0:
        with Netlink(fd=fd) as link:
            link.send(*batch)
    else:
        room = sum(len(message.body) + 32 for message in batch)
        with connect(netns, room) as sock:
            transact(*messages, fd=sock.fileno())


def ask(message: Message, netns: str = "") -> list[bytes]:
    """The bodies of the answers to a message that changes nothing."""
    with Netlink(_NETFILTER, netns) as link:
        return link.send(message)


def is_there(netns: str = "") -> bool:
    """Whether this kernel has nf_tables, and lets us use it."""
    try:
        ask(_message(_GETGEN, 0, 0, ""), netns)
    except KernelError as error:
        if error.errno in ABSENT:
            return False
        raise
    return True


def add_table(family: int, table: str, new: bool = False) -> Message:
    """Make a table. One that is there already is no failure, unless `new` asks for EEXIST then."""
    text = f"{'create' if new else 'add'} table {FAMILIES[family]} {table}"
    flags = CREATE | EXCL if new else CREATE
    return _message(_NEWTABLE, flags, family, text, text_attribute(1, table), number(2, 0))


def delete_table(family: int, table: str) -> Message:
    """Delete a table with all that it has. ENOENT if there is none."""
    return _message(_DELTABLE, 0, family, f"delete table {FAMILIES[family]} {table}", text_attribute(1, table))


def add_chain(family: int, table: str, chain: Chain) -> Message:
    attributes = [text_attribute(1, table), text_attribute(3, chain.name)]
    text = f"add chain {FAMILIES[family]} {table} {chain.name}"
    if chain.hook:
        hook = nested(4, number(1, HOOKS[chain.hook]), number(2, chain.priority))
        attributes += [hook, number(5, 1), text_attribute(7, chain.kind)]  # policy NF_ACCEPT
        text += f" {{ {chain.declaration} }}"
    return _message(_NEWCHAIN, CREATE, family, text, *attributes)


def add_rule(
    family: int, table: str, chain: str, pieces: tuple[Piece, ...], first: bool = False, comment: str = ""
) -> Message:
    """Append a rule to a chain, or put it in front."""
    body = [text_attribute(1, table), text_attribute(2, chain), nested(4, *(piece.packed for piece in pieces))]
    said = f"{'insert' if first else 'add'} rule {FAMILIES[family]} {table} {chain} {rule_text(pieces)}"
    if comment:
        body.append(attribute(7, comment_data(comment)))
        said += f' comment "{comment}"'
    return _message(_NEWRULE, CREATE | (0 if first else APPEND), family, said, *body)


def comment_data(comment: str) -> bytes:
    """A rule's comment, as nft(8) and iptables-nft(8) keep it: type, length, text."""
    data = comment.encode() + b"\0"
    return bytes((0, len(data))) + data


def delete_rule(family: int, table: str, chain: str, handle: bytes) -> Message:
    """Delete the rule with this handle (eight bytes, as the kernel says it)."""
    said = f"delete rule {FAMILIES[family]} {table} {chain} handle {int.from_bytes(handle, 'big')}"
    body = (text_attribute(1, table), text_attribute(2, chain), attribute(3, handle))
    return _message(_DELRULE, 0, family, said, *body)


def rule_text(pieces: tuple[Piece, ...]) -> str:
    return " ".join(piece.text for piece in pieces)


def _type_number(kinds: tuple[Type, ...]) -> int:
    """A concatenation's number, six bits for each of its types (only nft(8) reads it)."""
    found = 0
    for kind in kinds:
        found = found << 6 | kind.number
    return found


def _padded(size: int) -> int:
    return (size + 3) & ~3


def _size(kinds: tuple[Type, ...]) -> int:
    """A field of several fills whole registers; one alone has its own size."""
    return kinds[0].size if len(kinds) == 1 else sum(_padded(kind.size) for kind in kinds)


def add_set(family: int, table: str, declared: NamedSet, identity: int) -> Message:
    """Declare a set or map. `identity` is any number that no other set of the batch has."""
    attributes = [
        text_attribute(1, table),
        text_attribute(2, declared.name),
        number(3, _IS_MAP if declared.value else 0),
    ]
    attributes += [number(4, _type_number(declared.key)), number(5, _size(declared.key))]
    if declared.value:
        attributes += [number(6, _type_number(declared.value)), number(7, _size(declared.value))]
    attributes += [number(10, identity)]
    if declared.key == (LINK_NAME,):
        attributes += [attribute(13, _HOST_ORDER)]
    kind, _, rest = declared.declaration.partition(" ")
    text = f"add {kind} {FAMILIES[family]} {table} {rest}"
    return _message(_NEWSET, CREATE, family, text, *attributes)


def _pack(kinds: tuple[Type, ...], fields: tuple[str, ...]) -> bytes:
    packed = b""
    for kind, field in zip(kinds, fields, strict=True):
        data = _PACKERS[kind](field)
        packed += data + bytes((kind.size if len(kinds) == 1 else _padded(kind.size)) - len(data))
    return packed


def _elements(declared: NamedSet, elements: tuple[Element, ...], with_values: bool) -> bytes:
    packed = []
    for element in elements:
        attributes = [value(1, _pack(declared.key, element.key))]
        if with_values and declared.value:
            attributes.append(value(2, _pack(declared.value, element.value)))
        packed.append(nested(1, *attributes))
    return nested(3, *packed)


def element_text(elements: tuple[Element, ...]) -> str:
    return f"{{ {', '.join(element.text for element in elements)} }}"


def add_elements(
    family: int, table: str, declared: NamedSet, elements: tuple[Element, ...], new: bool = False
) -> tuple[Message, ...]:
    """Put elements into a set or map. With `new`, one that is there already fails the batch with EEXIST."""
    verb, flags = ("create", CREATE | EXCL) if new else ("add", CREATE)
    messages = []
    for start in range(0, len(elements), _ELEMENTS_A_MESSAGE):
        some = elements[start : start + _ELEMENTS_A_MESSAGE]
        text = f"{verb} element {FAMILIES[family]} {table} {declared.name} {element_text(some)}"
        names = (text_attribute(1, table), text_attribute(2, declared.name))
        messages.append(_message(_NEWSETELEM, flags, family, text, *names, _elements(declared, some, True)))
    return tuple(messages)


def delete_element(family: int, table: str, declared: NamedSet, element: Element) -> Message:
    """Take an element out by its key. ENOENT if it isn't there."""
    key = Element(element.key)
    text = f"delete element {FAMILIES[family]} {table} {declared.name} {element_text((key,))}"
    names = (text_attribute(1, table), text_attribute(2, declared.name))
    return _message(_DELSETELEM, 0, family, text, *names, _elements(declared, (key,), False))


def get_element(family: int, table: str, declared: NamedSet, element: Element) -> Message:
    """Ask for the element with this key. ENOENT if it isn't there."""
    key = Element(element.key)
    text = f"get element {FAMILIES[family]} {table} {declared.name} {element_text((key,))}"
    names = (text_attribute(1, table), text_attribute(2, declared.name))
    return _message(_GETSETELEM, 0, family, text, *names, _elements(declared, (key,), False))


def packed_value(declared: NamedSet, element: Element) -> bytes:
    """An element's value as the kernel holds it."""
    return _pack(declared.value, element.value)
