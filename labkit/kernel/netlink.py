"""Netlink: how user space talks with the kernel about links, addresses, routes and nf_tables (netlink(7)).

Messages are made and sent whole, several in one datagram. The kernel works on them within sendto(2), so that all
answers are there when it returns. pyroute2 does much more; the spawner can't import it, and a start has no time to.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

from labkit.errors import KernelError
from labkit.kernel import constants as c
from labkit.kernel import syscalls
from labkit.trace import RECORDER

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_BUFFER = 1 << 20

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
CREATE, EXCL, APPEND = 0x400, 0x200, 0x800
_ERROR, _DONE = 2, 3
_NESTED = 0x8000
_CAPPED, _EXTENDED_ACK = 0x100, 11  # NLM_F_CAPPED, NETLINK_EXT_ACK
_SOL_NETLINK, _MESSAGE_OF_ERROR = 270, 1  # NLMSGERR_ATTR_MSG


class Message(NamedTuple):
    """One request: its type and flags, what follows the header, and what it says, for people (empty: not told)."""

    kind: int
    flags: int
    body: bytes
    text: str


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(data), kind) + data + bytes(-len(data) % 4)


def text_attribute(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in a message, by type; of several of one type the last."""
    return dict(each_attribute(data))


def each_attribute(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in a message, in order."""
    place = 0
    while place + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, place)
        if length < 4:
            return
        yield kind & 0x3FFF, data[place + 4 : place + length]
        place += (length + 3) & ~3


def open_in(netns: str, *kind: int) -> socket.socket:
    """A socket of the network namespace behind a path (/proc/PID/ns/net); of this one if the path is empty.

    A thread that lives for this moment joins the namespace: what it opens stays there, while this process stays
    where it is (network_namespaces(7)). Raises KernelError.
    """
    if not netns:
        return socket.socket(*kind)
    found: list[socket.socket] = []
    failures: list[Exception] = []

    def enter() -> None:
        try:
            fd = syscalls.open_path(netns, os.O_RDONLY)
            try:
                syscalls.setns(fd, c.CLONE_NEWNET, netns)
            finally:
                os.close(fd)
            found.append(socket.socket(*kind))
        except (KernelError, OSError) as error:
            failures.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return found[0]


class Netlink:
    """A netlink socket of one family, in this network namespace or in the one behind a path."""

    def __init__(self, family: int = socket.NETLINK_ROUTE, netns: str = "", fd: int = -1) -> None:
        """`fd` is an open socket to use (and to leave open) instead."""
        if fd >= 0:
            self._sock = socket.socket(fileno=os.dup(fd))
        else:
            self._sock = open_in(netns, socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
            self._sock.setsockopt(_SOL_NETLINK, _EXTENDED_ACK, 1)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, *messages: Message) -> list[bytes]:
        """Send messages in one datagram; returns the bodies of what was answered besides acknowledgements.

        Raises KernelError for the first that failed, with what the kernel says about it.
        """
        packed = bytearray()
        numbers = {}
        for message in messages:
            self._sequence += 1
            numbers[self._sequence] = message
            length = HEADER.size + len(message.body)
            packed += HEADER.pack(length, message.kind, message.flags | REQUEST, self._sequence, 0)
            packed += message.body + bytes(-length % 4)
        began = time.monotonic_ns()
        answers, failed = self._exchange(bytes(packed))
        ended = time.monotonic_ns()
        for number, message in numbers.items():
            code, hint = failed.get(number, (0, ""))
            shown = (message.text,)
            if RECORDER.calls is not None and message.text:
                result = -1 if code else HEADER.size + len(message.body)
                RECORDER.calls.append(("sendto", shown, result, code, began, ended))
            if code:
                error = syscalls.failure("sendto", shown, code)
                error.hint = hint or error.hint
                error.args = (error.call, error.errno, error.hint, error.operation)
                raise error
            began = ended
        return answers

    def _exchange(self, packed: bytes) -> tuple[list[bytes], dict[int, tuple[int, str]]]:
        """Send, and take the answers: those that say something, and the failures by sequence number."""
        self._sock.send(packed)
        answers: list[bytes] = []
        failed: dict[int, tuple[int, str]] = {}
        more = True
        while more:
            more = False
            try:
                data = self._sock.recv(_BUFFER, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            for kind, flags, number, body in _split(data):
                if kind == _ERROR:
                    code = -int.from_bytes(body[:4], "little", signed=True)
                    if code:
                        failed.setdefault(number, (code, _explanation(flags, body)))
                elif kind == _DONE:
                    return answers, failed
                else:
                    answers.append(body)
            more = True
        return answers, failed


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    place = 0
    while place + HEADER.size <= len(data):
        length, kind, flags, number, _ = HEADER.unpack_from(data, place)
        if length < HEADER.size:
            return
        yield kind, flags, number, data[place + HEADER.size : place + length]
        place += (length + 3) & ~3


def _explanation(flags: int, body: bytes) -> str:
    """What the kernel says about a failure (netlink(7), NETLINK_EXT_ACK)."""
    echoed = HEADER.size if flags & _CAPPED else int.from_bytes(body[4:8], "little")
    found = attributes(body[4 + ((echoed + 3) & ~3) :])
    return found.get(_MESSAGE_OF_ERROR, b"").rstrip(b"\0").decode(errors="replace")


def passed_over(error: KernelError, *numbers: int) -> None:
    """Raise an error again, unless it says what is as good as done, such as ENODEV of a removal."""
    if error.errno not in numbers:
        raise error


GONE = (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL)
"""What is said of a link, address or element that isn't there."""
