"""Messages with descriptors between daemon and spawner, over a SOCK_SEQPACKET socket (unix(7), SCM_RIGHTS).

A message is a dictionary of plain values, marshalled: both ends are labkit, and marshal is the fastest that
the standard library has. One that is too large for a packet travels in a memfd.
"""

from __future__ import annotations

import array
import marshal
import os
import socket
from typing import Any

PROTOCOL = 3
"""Version of what daemon and spawner say to each other, operations and all: one of another version is left alone."""
Message = dict[str, Any]
PACKET = 64 << 10
MOST_DESCRIPTORS = 64
_PACKET = bytearray(PACKET + 1)
"""What `receive` fills, in one thread of a process: a fresh one needs room that there may not be, and page faults."""
_VERSION = 4  # marshal's format, the same from Python 3.4 on


def send(sock: socket.socket, message: Message, fds: tuple[int, ...] | list[int] = ()) -> None:
    """Send one message; the descriptors stay open here. Raises OSError if the other end is gone."""
    data = marshal.dumps(message, _VERSION)
    if len(data) <= PACKET:
        socket.send_fds(sock, [b"\0", data], list(fds))
        return
    memory = os.memfd_create("labkit-message")
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(data)
        socket.send_fds(sock, [b"\1"], [memory, *fds])
    finally:
        os.close(memory)


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors (close-on-exec); None when the other end is gone."""
    data, fds = receive_into(sock, _PACKET, MOST_DESCRIPTORS)
    if not data:
        return None
    if data[0] == 1:
        memory = fds.pop(0)
        with open(memory, "rb") as file:
            file.seek(0)
            return marshal.loads(file.read()), fds
    return marshal.loads(data[1:]), fds


def receive_into(sock: socket.socket, buffer: bytearray, most: int) -> tuple[bytes, list[int]]:
    """One packet with its descriptors, close-on-exec from the start (`socket.recv_fds` drops its flags).

    There are fewer than were sent if this process may have no more: unix(7) drops the others.
    """
    fds = array.array("i")
    room = socket.CMSG_SPACE(most * fds.itemsize)
    length, ancillary, _, _ = sock.recvmsg_into([buffer], room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return bytes(memoryview(buffer)[:length]), list(fds)
