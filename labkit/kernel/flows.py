"""UDP flows that the kernel remembers (conntrack): forgotten when what their port leads to changes (conntrack(8)).

A translation is chosen at a flow's first packet and kept while packets come. So without this, a client that goes on
sending would go on reaching the former container's address, or nobody (moby `libnetwork/iptables/conntrack.go`).
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from labkit.errors import KernelError
from labkit.kernel.netlink import DUMP, Message, Netlink, attribute, attributes, nested
from labkit.plan import Context, Operation, Result

_NETFILTER = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET and _DELETE
_ORIGINAL, _REPLY, _ID, _FILTER = 1, 2, 12, 25
_PROTOCOL_AND_PORT = 1 << 3 | 1 << 5  # CTA_FILTER_F_CTA_PROTO_NUM, _PROTO_DST_PORT
_UDP = 17
_UNKNOWN = (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)


class Flow(NamedTuple):
    """One flow: where its first packet went to, who answers, and what names it to the kernel."""

    to: tuple[str, int]
    answered_by: tuple[str, int]
    tuple_data: bytes
    identity: bytes


def _read(data: bytes, family: int) -> tuple[int, tuple[str, int], tuple[str, int]]:
    """Of one direction: protocol, source and destination."""
    parts = attributes(data)
    ip, protocol = attributes(parts.get(1, b"")), attributes(parts.get(2, b""))
    kinds = (1, 2) if family == socket.AF_INET else (3, 4)
    empty = bytes(4 if family == socket.AF_INET else 16)
    addresses = [socket.inet_ntop(family, ip.get(kind, empty)) for kind in kinds]
    ports = [int.from_bytes(protocol.get(kind, b""), "big") for kind in (2, 3)]
    return protocol.get(1, b"\0")[0], (addresses[0], ports[0]), (addresses[1], ports[1])


def udp_flows(netlink: Netlink, family: int, port: int) -> list[Flow]:
    """The UDP flows to a port, at whatever address."""
    wanted = nested(2, attribute(1, bytes((_UDP,))), attribute(3, struct.pack(">H", port)))
    flags = nested(_FILTER, attribute(1, struct.pack("=I", _PROTOCOL_AND_PORT)), attribute(2, bytes(4)))
    body = struct.pack(">BBH", family, 0, 0) + nested(_ORIGINAL, wanted) + flags
    found = []
    for answer in netlink.send(Message(_GET, DUMP, body, "")):
        fields = attributes(answer[4:])
        protocol, _, to = _read(fields[_ORIGINAL], family)
        _, answered_by, _ = _read(fields[_REPLY], family)
        if (protocol, to[1]) == (_UDP, port):  # kernels before 5.8 know no filter
            found.append(Flow(to, answered_by, fields[_ORIGINAL], fields.get(_ID, b"")))
    return found


def _is_own(ip: str) -> bool:
    """Whether an address is one of this host's."""
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((ip, 0))
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class ForgetFlows(Operation):
    """Have the kernel forget the UDP flows to a published port: those led to the container, and those not led at all.

    Fields as PublishPort's. The result is how many there were. A kernel that can't tell flows is passed over.
    """

    host_ip: str
    host_port: int
    ip: str
    port: int
    man: ClassVar[str] = "conntrack(8)"

    def run(self, context: Context) -> Result:
        family = socket.AF_INET6 if ":" in self.ip else socket.AF_INET
        try:
            with Netlink(_NETFILTER) as netlink:
                flows = [flow for flow in udp_flows(netlink, family, self.host_port) if self._concerned(flow)]
                for flow in flows:
                    self._forget(netlink, family, flow)
        except KernelError as error:
            if error.errno not in _UNKNOWN:
                raise
            return None
        return len(flows)

    def undo(self, result: Result, context: Context) -> None:
        self.run(context)  # what came meanwhile was led to a container that isn't to be

    def _concerned(self, flow: Flow) -> bool:
        if flow.answered_by == (self.ip, self.port):
            return True
        at_host = flow.to == flow.answered_by and _is_own(flow.to[0])
        return at_host and self.host_ip in ("", flow.to[0])

    def _forget(self, netlink: Netlink, family: int, flow: Flow) -> None:
        body = struct.pack(">BBH", family, 0, 0) + nested(_ORIGINAL, flow.tuple_data) + attribute(_ID, flow.identity)
        try:
            netlink.send(Message(_DELETE, 0, body, f"IPCTNL_MSG_CT_DELETE udp to {flow.to[0]} port {flow.to[1]}"))
        except KernelError as error:
            if error.errno != errno.ENOENT:  # it has ended by itself
                raise

    def describe(self) -> str:
        return f"forget UDP flows to the host's port {self.host_port}"

    def shell(self) -> str:
        family = " --family ipv6" if ":" in self.ip else ""
        address = f" --orig-dst {self.host_ip}" if self.host_ip else ""
        return f"conntrack -D{family} -p udp{address} --orig-port-dst {self.host_port}"
