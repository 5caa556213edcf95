"""Packets of a container's links as a pcap file that grows (pcap-savefile(5), draft-ietf-opsawg-pcap).

Docker has no such thing: there one runs tcpdump in the container, or in a second one in its network namespace.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import struct
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from labkit.engine.container import Container
from labkit.errors import Conflict, InvalidParameter, KernelError, NotFound
from labkit.kernel import packets
from labkit.kernel.packets import ANY, Frame

log = logging.getLogger("labkit.capture")
ETHERNET_FRAMES, COOKED_PACKETS = 1, 276  # LINKTYPE_ETHERNET, LINKTYPE_LINUX_SLL2
_NANOSECONDS = 0xA1B23C4D
_COOKED = struct.Struct(">HHIHBB8s")
_BURST = 256  # packets to take before the daemon looks at what else there is to do


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to capture: on which link (or `any`), for one port and protocol if given, and until when.

    `count` is in packets and `seconds` in seconds; 0 is without end.
    """

    link: str = ANY
    port: int = 0
    protocol: str = ""
    count: int = 0
    seconds: int = 0


def check(wanted: Wanted) -> None:
    """Raises InvalidParameter for what no packet can be."""
    if wanted.port not in range(65536):
        raise InvalidParameter(f"invalid port {wanted.port}: it must be between 1 and 65535")
    if wanted.protocol and wanted.protocol not in packets.PROTOCOLS:
        raise InvalidParameter(f"invalid protocol {wanted.protocol}: it must be one of {', '.join(packets.PROTOCOLS)}")
    if wanted.port and wanted.protocol in ("arp", "icmp"):
        raise InvalidParameter(f"packets of {wanted.protocol} have no ports: leave out the port or the protocol")
    if wanted.count < 0 or wanted.seconds < 0:
        raise InvalidParameter("count and seconds can't be negative")


def file_header(link_type: int) -> bytes:
    """What a pcap file begins with; times are in nanoseconds."""
    return struct.pack("=IHHiIII", _NANOSECONDS, 2, 4, 0, 0, packets.SNAPSHOT, link_type)


def record(frame: Frame, cooked: bytes = b"") -> bytes:
    """One packet in a pcap file. `cooked` stands in front of it where there is no Ethernet header."""
    seconds, nanoseconds = divmod(frame.time, 10**9)
    lengths = len(cooked) + len(frame.data), len(cooked) + frame.length
    return struct.pack("=IIII", seconds, nanoseconds, *lengths) + cooked + frame.data


def cooked_header(frame: Frame, index: int) -> bytes:
    """What a packet of any link has in front of it (LINKTYPE_LINUX_SLL2)."""
    address = frame.address[:8]
    return _COOKED.pack(frame.protocol, 0, index, frame.hardware, frame.direction, len(address), address)


def links_of(pid: int) -> list[str]:
    """The links in a process's network namespace."""
    lines = Path(f"/proc/{pid}/net/dev").read_text(encoding="utf-8").splitlines()[2:]
    return [line.partition(":")[0].strip() for line in lines]


class Capture:
    """Packets from now on. Ends by itself as `wanted` says, and when the container ends: its socket would keep the
    network namespace, with the links in it, alive.
    """

    def __init__(self, container: Container, wanted: Wanted) -> None:
        """Open the socket. Raises Conflict if the container is not running, NotFound if it has no such link."""
        check(wanted)
        self.run = container.run
        if not self.run.running:
            raise Conflict(f"container {container.id} is not running: there are no packets")
        self.wanted, self.taken, self.until, self.finished = wanted, 0, 0, False
        self.indexes: dict[str, int] = {}
        self.buffer = bytearray(packets.SNAPSHOT)
        self.ready = asyncio.Event()
        try:
            self.sock = packets.open_capture(f"/proc/{self.run.pid}/ns/net", wanted.link, wanted.port, wanted.protocol)
        except KernelError as error:
            if error.errno != errno.ENODEV:
                raise
            there = ", ".join((ANY, *links_of(self.run.pid)))
            raise NotFound(f"No such link: {wanted.link}: container {container.name} has {there}") from error

    def end(self) -> None:
        """End with the packets that have passed until now."""
        self.until = self.until or time.time_ns()
        self.ready.set()

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The file, piece by piece. Closes the socket at its end."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self.wanted.seconds, self.end) if self.wanted.seconds else None
        watch = loop.create_task(self._end_with_container())
        loop.add_reader(self.sock.fileno(), self._wake)
        try:
            yield file_header(COOKED_PACKETS if self.wanted.link == ANY else ETHERNET_FRAMES)
            while not self.finished:
                await self.ready.wait()
                if piece := self._take():
                    yield piece
        finally:
            loop.remove_reader(self.sock.fileno())
            watch.cancel()
            if timer:
                timer.cancel()
            if lost := packets.dropped(self.sock):
                log.warning("a capture has lost %d packets: its reader is too slow", lost)
            self.sock.close()

    async def _end_with_container(self) -> None:
        await self.run.exited.wait()
        self.end()

    def _wake(self) -> None:
        """Packets are there. They are waited for again when all are taken: until then the kernel keeps them."""
        asyncio.get_running_loop().remove_reader(self.sock.fileno())
        self.ready.set()

    def _take(self) -> bytes:
        """Some of the packets that are there."""
        found = bytearray()
        for _ in range(_BURST):
            if self.finished or not (frame := self._next()):
                break
            found += self._record(frame)
        return bytes(found)

    def _next(self) -> Frame | None:
        try:
            frame = packets.receive(self.sock, self.buffer)
        except BlockingIOError:
            self.finished = bool(self.until)
            if not self.finished:
                self.ready.clear()
                asyncio.get_running_loop().add_reader(self.sock.fileno(), self._wake)
            return None
        except OSError as error:
            log.debug("the link of a capture has gone: %s", error)
            self.finished = True
            return None
        self.taken += 1
        late = bool(self.until) and frame.time > self.until
        self.finished = late or self.taken == self.wanted.count
        return None if late else frame

    def _record(self, frame: Frame) -> bytes:
        if self.wanted.link != ANY:
            return record(frame)
        if frame.link not in self.indexes:
            self.indexes[frame.link] = packets.index_of(self.sock, frame.link)
        return record(frame, cooked_header(frame, self.indexes[frame.link]))
