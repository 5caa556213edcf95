"""Network links: for now the loopback link of a new network namespace (netdevice(7), network_namespaces(7))."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import ClassVar

from labkit.kernel import constants as c
from labkit.kernel import syscalls
from labkit.plan import Context, Operation, Result


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
