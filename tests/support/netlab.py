"""Network namespaces, links and small servers, for tests with real packets; all of it goes with the descriptors."""

from __future__ import annotations

import ctypes
import os
import selectors
import socket
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from labkit.kernel import constants as c
from labkit.kernel.netlink import open_in

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)  # without the GIL: a thread's own
DEAF = 0.8
"""Seconds after which what was not answered will not be: everything here is on one machine."""


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def in_thread(function: Callable[[], T]) -> T:
    """Run a function in a thread of its own, which may change its namespaces."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


class Namespace:
    """A network namespace that lives as long as this object's descriptor."""

    def __init__(self) -> None:
        def make() -> int:
            _checked(_libc.unshare(c.CLONE_NEWNET))
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        self.fd = in_thread(make)
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        self._servers: list[Server] = []
        # Nobody else has these addresses: neighbours need not wait until that was asked.
        self.command("ip link set lo up; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")

    def run(self, function: Callable[[], T]) -> T:
        """Run a function with this as the thread's network namespace."""

        def enter() -> T:
            _checked(_libc.setns(self.fd, c.CLONE_NEWNET))
            return function()

        return in_thread(enter)

    def command(self, text: str) -> str:
        """Run a shell command in here; CalledProcessError with what it said."""
        command = ["nsenter", f"--net={self.path}", "sh", "-ec", text]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{text}: {done.stderr}{done.stdout}"
        return done.stdout

    def sysctl(self, key: str, value: str) -> None:
        def write() -> None:
            with open(f"/proc/sys/{key}", "w", encoding="ascii") as file:
                file.write(value)

        self.run(write)

    def socket(self, family: int, kind: int) -> socket.socket:
        return open_in(self.path, family, kind | socket.SOCK_CLOEXEC)

    def serve(self, name: str, *ports: int) -> None:
        """Answer on these ports, TCP and UDP, any address: `name`, and the address that was seen asking."""
        self._servers.append(Server(self, name, ports))

    def close(self) -> None:
        for server in self._servers:
            server.close()
        os.close(self.fd)


class Server:
    """One thread that answers on some sockets."""

    def __init__(self, namespace: Namespace, name: str, ports: tuple[int, ...], address: str = "::") -> None:
        self.name = name.encode()
        self.selector = selectors.DefaultSelector()
        self.wake, self.waker = socket.socketpair()
        self.selector.register(self.wake, selectors.EVENT_READ)
        for port in ports:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                sock = namespace.socket(socket.AF_INET6, kind)
                sock.bind((address, port))
                if kind == socket.SOCK_STREAM:
                    sock.listen()
                self.selector.register(sock, selectors.EVENT_READ)
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while True:
            for key, _ in self.selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self.wake:
                    return
                self.answer(sock)

    def answer(self, sock: socket.socket) -> None:
        if sock.type == socket.SOCK_DGRAM:
            _, client = sock.recvfrom(100)
            sock.sendto(self.name + b" " + client[0].removeprefix("::ffff:").encode(), client)
            return
        connection, client = sock.accept()
        with connection:
            connection.sendall(self.name + b" " + client[0].removeprefix("::ffff:").encode())

    def close(self) -> None:
        self.waker.send(b"x")
        self.thread.join()
        for key in list(self.selector.get_map().values()):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            sock.close()
        self.waker.close()
        self.selector.close()


def ask(namespace: Namespace, address: str, port: int, protocol: str = "tcp", source: str = "") -> str:
    """What a server says at this address, asked from a namespace: its name and whom it saw. Empty if nobody answers."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with namespace.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.settimeout(DEAF)
        if source:
            sock.bind((source, 0))
        try:
            # A link-local address has its link's name with it.
            sock.connect(
                socket.getaddrinfo(address, port)[0][4] if "%" not in address else scoped(namespace, address, port)
            )
            if protocol != "tcp":
                sock.send(b"?")
            return sock.recv(100).decode()
        except OSError:
            return ""


def scoped(namespace: Namespace, address: str, port: int) -> tuple[str, int, int, int]:
    ip, _, link = address.partition("%")
    return ip, port, 0, namespace.run(lambda: socket.if_nametoindex(link))


def ask_all(questions: dict[str, tuple[Namespace, str, int, str]]) -> dict[str, str]:
    """`ask` all of these at once, so that those without an answer are waited for together."""
    with ThreadPoolExecutor(32) as pool:
        found = {label: pool.submit(ask, *question) for label, question in questions.items()}
        return {label: answer.result() for label, answer in found.items()}


def cable(one: Namespace, name: str, other: Namespace, peer: str) -> None:
    """A veth pair between two namespaces, up on both sides."""
    one.command(f"ip link add {name} type veth peer name {peer} netns {other.path}; ip link set {name} up")
    other.command(f"ip link set {peer} up")


def bridge(host: Namespace, name: str, *addresses: str) -> None:
    """A bridge as labkit makes them, with the gateways' addresses."""
    lines = [f"ip link add {name} type bridge", f"ip link set {name} up"]
    lines += [f"ip address add {address} dev {name} {'nodad' if ':' in address else ''}" for address in addresses]
    host.command("; ".join(lines))
    host.sysctl(f"net/ipv4/conf/{name}/route_localnet", "1")


def container(host: Namespace, name: str, on: str, *addresses: str, gateways: tuple[str, ...] = ()) -> Namespace:
    """A namespace on a bridge, as a container's."""
    made = Namespace()
    cable(host, f"v{name}", made, "eth0")
    host.command(f"ip link set v{name} master {on}; ip link set v{name} type bridge_slave hairpin on")
    lines = [f"ip address add {address} dev eth0 {'nodad' if ':' in address else ''}" for address in addresses]
    lines += [f"ip route add default via {gateway}" for gateway in gateways]
    made.command("; ".join(lines) or "true")
    made.serve(name, 80, 81)
    return made
