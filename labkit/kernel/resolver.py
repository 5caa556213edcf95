"""The sockets of a container's name server, 127.0.0.11 (ip(7), moby `libnetwork/resolver_unix.go`).

They are opened inside the container's network namespace and answered from the daemon. Port 53 of 127.0.0.11 is
translated to theirs by nf_tables, so that a name server in the container can have port 53 itself.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import ClassVar

from labkit.errors import KernelError
from labkit.kernel import syscalls
from labkit.kernel.netlink import open_in
from labkit.kernel.nftables import redirect_names
from labkit.plan import Context, Operation, Result

ADDRESS = "127.0.0.11"
UDP, TCP = "names-udp", "names-tcp"
_PORT = 53
_BACKLOG = 64


@dataclass(frozen=True, slots=True)
class ServeNames(Operation):
    """Open a UDP and a TCP socket at 127.0.0.11 and translate its port 53 to them.

    In a container's init they travel to the spawner over the control socket; else (`netns` is the path of the
    container's namespace) they stay here, as `names-udp` and `names-tcp` in the context. They go with their last
    descriptor, and keep the namespace until then. A kernel without nf_tables gets them on port 53 itself.
    """

    netns: str = ""
    man: ClassVar[str] = "ip(7)"

    def run(self, context: Context) -> Result:
        udp, tcp = self._open(0)
        ports = udp.getsockname()[1], tcp.getsockname()[1]
        try:
            redirect_names(self.netns, *ports)
        except KernelError:
            udp.close()
            tcp.close()
            udp, tcp = self._open(_PORT)
            ports = _PORT, _PORT
        if "control" in context.descriptors:
            with udp, tcp:
                fds = udp.fileno(), tcp.fileno()
                syscalls.sendmsg_fds(context.descriptors["control"], f"\0{UDP},{TCP}".encode(), fds)
        else:
            context.descriptors |= {UDP: udp.detach(), TCP: tcp.detach()}
        return f"udp {ports[0]}, tcp {ports[1]}"

    def _open(self, port: int) -> tuple[socket.socket, socket.socket]:
        udp, tcp = (open_in(self.netns, socket.AF_INET, kind | socket.SOCK_CLOEXEC) for kind in _KINDS)
        try:
            for sock in (udp, tcp):
                sock.bind((ADDRESS, port))
            tcp.listen(_BACKLOG)
        except OSError as error:
            udp.close()
            tcp.close()
            raise syscalls.failure("bind", (ADDRESS, port), error.errno or 0) from error
        return udp, tcp

    def undo(self, result: Result, context: Context) -> None:
        for name in (UDP, TCP):
            if name in context.descriptors:
                os.close(context.descriptors.pop(name))

    def describe(self) -> str:
        return f"open the sockets of the name server at {ADDRESS}"


_KINDS = socket.SOCK_DGRAM, socket.SOCK_STREAM
