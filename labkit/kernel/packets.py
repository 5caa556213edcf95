"""Packets on a link as they pass by, as tcpdump sees them: packet sockets (packet(7)) with a filter (socket(7)).

A socket of one link gives whole Ethernet frames; one of all links gives what is inside of them, and says which link
each was on.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from typing import NamedTuple

from labkit.kernel import syscalls
from labkit.kernel.netlink import open_in

ANY = "any"
"""All links of the namespace."""
ETH_P_ALL, ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 0x0003, 0x0800, 0x0806, 0x86DD
LOOPBACK, OUTGOING = 772, 4  # ARPHRD_LOOPBACK, PACKET_OUTGOING
ETHERNET = 14
"""Bytes of an Ethernet header."""
SNAPSHOT = 262144
"""Bytes that are kept of a packet, as tcpdump does."""
PROTOCOLS = {"arp": (), "icmp": (1, 58), "tcp": (6, 6), "udp": (17, 17)}
"""What can be filtered for: numbers in IPv4 and in IPv6 (IANA, Protocol Numbers)."""

_SO_ATTACH_FILTER, _SO_TIMESTAMPNS, _SO_RCVBUFFORCE, _SOL_PACKET, _PACKET_STATISTICS = 26, 35, 33, 263, 6
_SIOCGIFINDEX = 0x8933
_RECEIVE_BUFFER = 8 << 20
_TIME = struct.Struct("=qq")

# Classic BPF (linux/bpf_common.h, linux/filter.h)
_LD_W, _LD_H, _LD_B, _LD_H_X, _LDX_HEADER = 0x20, 0x28, 0x30, 0x48, 0xB1
_JEQ, _JSET, _RET = 0x15, 0x45, 0x06
_ETHERNET_TYPE = 0xFFFFF000  # SKF_AD_OFF + SKF_AD_PROTOCOL: wherever the data begins
_INSTRUCTION = struct.Struct("=HBBI")
_OFFSET_OF_FRAGMENT = 0x1FFF
_YES, _NO = "yes", "no"


class Frame(NamedTuple):
    """A packet: when it passed (nanoseconds since the epoch), its bytes, how many it had.

    `direction` is PACKET_OUTGOING and so on (packet(7)); `link` the name of its link and `hardware` the kind of it
    (ARPHRD_…); `protocol` the Ethernet type, `address` the sender's there.
    """

    time: int
    data: bytes
    length: int
    direction: int
    link: str
    hardware: int
    protocol: int
    address: bytes


class _Step(NamedTuple):
    """An instruction: code and constant, and the labels to go on at if true and if false (empty: the next)."""

    code: int
    k: int
    then: str = ""
    otherwise: str = ""
    label: str = ""


def program(port: int = 0, protocol: str = "", start: int = ETHERNET) -> bytes:
    """A filter (`struct sock_filter[]`) for a port, in either direction, and one of PROTOCOLS; empty for all packets.

    `start` is where the IP header begins. Fragments behind the first have no ports, and pass no filter for one.
    """
    steps = [_Step(_LD_W, _ETHERNET_TYPE)]
    if protocol == "arp":
        steps.append(_Step(_JEQ, ETH_P_ARP, _YES, _NO))
    elif port or protocol:
        tcp_and_udp = tuple(zip(PROTOCOLS["tcp"], PROTOCOLS["udp"], strict=True))
        numbers = tuple((one,) for one in PROTOCOLS[protocol]) if protocol else tcp_and_udp
        steps += [_Step(_JEQ, ETH_P_IP, "v4"), _Step(_JEQ, ETH_P_IPV6, "v6", _NO)]
        steps += _transport("v4", start + 9, numbers[0], bool(port)) + (_ports_v4(start, port) if port else [])
        steps += _transport("v6", start + 6, numbers[1], bool(port)) + (_ports_v6(start, port) if port else [])
    else:
        return b""
    return _assemble([*steps, _Step(_RET, SNAPSHOT, label=_YES), _Step(_RET, 0, label=_NO)])


def _transport(version: str, at: int, numbers: tuple[int, ...], with_ports: bool) -> list[_Step]:
    """Go on to the ports, or be done, if the protocol is one of the numbers."""
    following = f"{version}-ports" if with_ports else _YES
    *others, last = numbers
    tests = [_Step(_JEQ, number, following) for number in others]
    return [_Step(_LD_B, at, label=version), *tests, _Step(_JEQ, last, following, _NO)]


def _ports_v4(start: int, port: int) -> list[_Step]:
    return [
        _Step(_LD_H, start + 6, label="v4-ports"),
        _Step(_JSET, _OFFSET_OF_FRAGMENT, _NO),
        _Step(_LDX_HEADER, start),
        _Step(_LD_H_X, start),
        _Step(_JEQ, port, _YES),
        _Step(_LD_H_X, start + 2),
        _Step(_JEQ, port, _YES, _NO),
    ]


def _ports_v6(start: int, port: int) -> list[_Step]:
    """The ports of a packet without extension headers; others are rare, and don't pass."""
    return [
        _Step(_LD_H, start + 40, label="v6-ports"),
        _Step(_JEQ, port, _YES),
        _Step(_LD_H, start + 42),
        _Step(_JEQ, port, _YES, _NO),
    ]


def _assemble(steps: list[_Step]) -> bytes:
    places = {step.label: place for place, step in enumerate(steps)}
    packed = bytearray()
    for place, step in enumerate(steps):
        jumps = [places[to] - place - 1 if to else 0 for to in (step.then, step.otherwise)]
        packed += _INSTRUCTION.pack(step.code, *jumps, step.k)
    return bytes(packed)


def open_capture(netns: str, link: str, port: int = 0, protocol: str = "") -> socket.socket:
    """A socket that gets the packets of a link, or of ANY, in the network namespace behind a path (empty: this one).

    It doesn't block. It keeps the namespace alive: close it when what lives there ends. Raises KernelError: ENODEV if
    there is no such link.
    """
    start, kind = (0, socket.SOCK_DGRAM) if link == ANY else (ETHERNET, socket.SOCK_RAW)
    everything = socket.htons(ETH_P_ALL) if link == ANY else 0
    sock = open_in(netns, socket.AF_PACKET, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, everything)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        if filtering := program(port, protocol, start):
            _attach(sock, filtering)
        if link == ANY:
            _drain(sock)  # what came before the filter
        else:
            sock.bind((link, ETH_P_ALL))
    except OSError as error:
        sock.close()
        raise syscalls.failure("bind", (link,), error.errno or 0) from error
    return sock


def _attach(sock: socket.socket, filtering: bytes) -> None:
    held = ctypes.create_string_buffer(filtering, len(filtering))
    instructions = len(filtering) // _INSTRUCTION.size
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", instructions, ctypes.addressof(held)))


def _drain(sock: socket.socket) -> None:
    try:
        while True:
            sock.recv(1)
    except BlockingIOError:
        return


def receive(sock: socket.socket, buffer: bytearray) -> Frame:
    """The next packet. Raises BlockingIOError if there is none, OSError if the link has gone.

    What leaves through the loopback link comes in through it right after: such a packet is told once.
    """
    while True:
        length, ancillary, _, (link, protocol, direction, hardware, address) = sock.recvmsg_into(
            [buffer], 64, socket.MSG_TRUNC
        )
        if hardware == LOOPBACK and direction == OUTGOING:
            continue
        seconds, nanoseconds = _TIME.unpack(ancillary[0][2])
        time, data = seconds * 10**9 + nanoseconds, bytes(buffer[:length])
        return Frame(time, data, length, direction, link, hardware, protocol, address)


def index_of(sock: socket.socket, link: str) -> int:
    """A link's index in the socket's network namespace (netdevice(7)). Raises OSError."""
    answer = fcntl.ioctl(sock, _SIOCGIFINDEX, struct.pack("16sI12x", link.encode(), 0))
    return int(struct.unpack_from("I", answer, 16)[0])


def dropped(sock: socket.socket) -> int:
    """How many packets the kernel has dropped because nobody took them in time, since the last time it was asked."""
    statistics = sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
    return int(struct.unpack("=II", statistics)[1])
