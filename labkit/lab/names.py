"""A name server of one's own, for lessons: it answers from a dictionary, and tells what it was asked."""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from labkit.errors import LabkitError
from labkit.kernel.netlink import open_in
from labkit.network import messages

_PORT = 53


class Names:
    """Answers at `address`, port 53 (UDP), inside the network namespace of the process `pid`, in a `with` statement.

    `known` are IPv4 addresses by name; what isn't there doesn't exist. `asked` are the questions that came. The
    process that answers is the notebook's own: a socket belongs to the namespace in which it was opened, and may be
    used from anywhere.
    """

    def __init__(self, pid: int, address: str, known: Mapping[str, str]) -> None:
        self.known = {name.lower(): ipaddress.IPv4Address(text).packed for name, text in known.items()}
        self.asked: list[str] = []
        self._place = (pid, address)

    def __enter__(self) -> Self:
        pid, address = self._place
        self._sock = open_in(f"/proc/{pid}/ns/net", socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._sock.bind((address, _PORT))
        except OSError as error:
            self._sock.close()
            raise LabkitError(f"can't answer at {address}, port {_PORT}: {error.strerror}") from error
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def _serve(self) -> None:
        while self._end not in select.select([self._sock.fileno(), self._end], [], [])[0]:
            data, client = self._sock.recvfrom(messages.STREAM)
            try:
                query = messages.read_query(data)
            except messages.Malformed:
                continue
            if query.kind == messages.A:
                self.asked.append(query.name)
            self._sock.sendto(self._answer(query), client)

    def _answer(self, query: messages.Query) -> bytes:
        known = self.known.get(query.name)
        if known is None:
            return messages.reply(query, code=messages.NXDOMAIN)
        return messages.reply(query, [messages.record(messages.A, known)] if query.kind == messages.A else [])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        os.eventfd_write(self._end, 1)
        self._thread.join()
        os.close(self._end)
        self._sock.close()
