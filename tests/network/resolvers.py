"""Resolvers for tests: on loopback, over UDP and TCP, on a thread of their own, answering as they are told to."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Answering = Callable[[bytes, bool], list[bytes]]
"""From a query, and whether it came over TCP, what to send back: nothing, or several messages."""


class Resolver:
    """Answers until it is closed. `asked` are the queries that came, with the ports they came from (0: over TCP)."""

    def __init__(self, answering: Answering, host: str = "127.0.0.1", port: int = 0, streams: bool = True) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.answering = answering
        self.asked: list[tuple[bytes, int]] = []
        self.udp, self.tcp = bound_pair(host, port, family)
        self.listening = [self.tcp] if streams else []
        for sock in self.listening:
            sock.listen()
        self.port = self.udp.getsockname()[1]
        self.address = f"{host}#{self.port}"
        self.told, self.tell = socket.socketpair()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self.udp, self.told, *self.listening], [], [])
            if self.told in ready:
                return
            if self.udp in ready:
                query, client = self.udp.recvfrom(65535)
                self.asked.append((query, client[1]))
                for answer in self.answering(query, False):
                    self.udp.sendto(answer, client)
            if self.tcp in ready:
                sock, _ = self.tcp.accept()
                with sock, sock.makefile("rb") as reader:
                    query = reader.read(int.from_bytes(reader.read(2)))
                    self.asked.append((query, 0))
                    for answer in self.answering(query, True):
                        sock.sendall(len(answer).to_bytes(2) + answer)

    def close(self) -> None:
        self.tell.close()
        self.thread.join()
        for sock in (self.udp, self.tcp, self.told):
            sock.close()


def bound_pair(
    host: str = "127.0.0.1", port: int = 0, family: int = socket.AF_INET
) -> tuple[socket.socket, socket.socket]:
    """A UDP socket and a TCP socket on one port. The latter doesn't listen yet."""
    while True:
        udp, tcp = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.bind((host, port))
        try:
            tcp.bind((host, udp.getsockname()[1]))
        except OSError:
            # Somebody's connection has this port. Another one, unless it must be this.
            udp.close()
            tcp.close()
            if port:
                raise
            continue
        return udp, tcp


@contextmanager
def resolver(answering: Answering, host: str = "127.0.0.1", port: int = 0, streams: bool = True) -> Iterator[Resolver]:
    """A resolver for the length of a test; without `streams` it refuses TCP."""
    running = Resolver(answering, host, port, streams)
    try:
        yield running
    finally:
        running.close()


def nobody() -> str:
    """An address that refuses at once: its port was free a moment ago."""
    udp, tcp = bound_pair()
    with udp, tcp:
        return f"127.0.0.1#{udp.getsockname()[1]}"


def sockets() -> set[str]:
    """The sockets that this process has open."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue  # that of the listing itself
    return {one for one in found if one.startswith("socket:")}
