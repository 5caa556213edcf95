"""Ports of the host, held for containers (bind(2), listen(2), ip(7); moby `bindTCPOrUDP` of the bridge driver).

nf_tables leads packets to the container before they reach these sockets. They keep other programs off the port, and
what isn't translated arrives at them, for the userland proxy.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from typing import ClassVar

from labkit.errors import KernelError
from labkit.kernel import syscalls
from labkit.plan import Context, Operation, Result

_KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, getattr(socket, "IPPROTO_SCTP", 132)),
}
_BACKLOG = 4096  # the kernel has its own limit, net.core.somaxconn


def bound(protocol: str, host_ip: str, host_port: int) -> socket.socket:
    """A socket bound to a port of the host; IPv6 ones take no IPv4. Raises OSError as bind(2) says."""
    kind, number = _KINDS[protocol]
    family = socket.AF_INET6 if ":" in host_ip else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, number)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol != "udp":  # connections that have ended, but linger, don't keep the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host_ip, host_port))
    except OSError:
        sock.close()
        raise
    return sock


def is_free(protocol: str, host_ip: str, host_port: int) -> bool:
    """Whether a port could be held at this moment."""
    try:
        with bound(protocol, host_ip, host_port) as sock:
            if protocol != "udp":
                sock.listen(0)  # of two that reuse the address, only one may listen
    except OSError:
        return False
    return True


def descriptor_name(protocol: str, host_ip: str, host_port: int) -> str:
    """What the socket is called among a context's descriptors."""
    return f"port {_shown(host_ip, host_port)}/{protocol}"


def _shown(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


@dataclass(frozen=True, slots=True)
class HoldPort(Operation):
    """Bind a port of the host, and listen for TCP, on behalf of a container's port; undone by closing the socket.

    The socket is `descriptor_name(...)` in the context. A port in use gives KernelError with Docker's words as hint.
    """

    protocol: str
    host_ip: str
    host_port: int
    ip: str
    port: int
    man: ClassVar[str] = "bind(2)"

    def run(self, context: Context) -> Result:
        shown = (self.protocol, _shown(self.host_ip, self.host_port))
        try:
            sock: socket.socket = syscalls._perform_os(
                "bind", shown, bound, self.protocol, self.host_ip, self.host_port
            )
            with sock:
                if self.protocol != "udp":
                    syscalls._perform_os("listen", (*shown, _BACKLOG), sock.listen, _BACKLOG)
                name = descriptor_name(self.protocol, self.host_ip, self.host_port)
                context.descriptors[name] = sock.detach()
        except KernelError as error:
            error.hint = f"failed to bind host port for {self._shown()}: {_reason(error.errno)}"
            error.args = (error.call, error.errno, error.hint, error.operation)
            raise
        return name

    def undo(self, result: Result, context: Context) -> None:
        fd = context.descriptors.pop(descriptor_name(self.protocol, self.host_ip, self.host_port), -1)
        if fd >= 0:
            os.close(fd)

    def _shown(self) -> str:
        return f"{_shown(self.host_ip, self.host_port)}:{_shown(self.ip, self.port)}/{self.protocol}"

    def describe(self) -> str:
        port = f"{_shown(self.host_ip, self.host_port)}/{self.protocol}"
        return f"hold the host's port {port} for {_shown(self.ip, self.port)}"

    def shell(self) -> str:
        kind = {"udp": "UDP-RECVFROM", "sctp": "SCTP-LISTEN"}.get(self.protocol, "TCP-LISTEN")
        to = {"udp": "UDP", "sctp": "SCTP"}.get(self.protocol, "TCP")
        bind = f"[{self.host_ip}]" if ":" in self.host_ip else self.host_ip
        return f"socat {kind}:{self.host_port},bind={bind},reuseaddr,fork {to}:{_shown(self.ip, self.port)} &"


def _reason(number: int) -> str:
    """Go's words for an errno, which Docker's clients know: those of strerror(3), in lower case."""
    if number == errno.EADDRNOTAVAIL:
        return "cannot assign requested address"
    return os.strerror(number).lower()
