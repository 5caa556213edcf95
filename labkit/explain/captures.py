"""Captured packets: pcap files read (pcap-savefile(5)), and told as lines or as a table."""

from __future__ import annotations

import html
import re
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from labkit.cli.tabwriter import align
from labkit.errors import InvalidParameter
from labkit.explain.packets import NAMESERVER, Packet, decode

_MAGIC = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}  # what a fraction of a second is in nanoseconds
_TITLES = ("Time", "From", "To", "Protocol", "What")
_LARGEST = 1 << 20
_WITH_PORT = re.compile(r"(\[.+\]|[\d.]+):(\d+)")
_CHOSEN_BY_THE_KERNEL = 32768  # and up (ip(7), ip_local_port_range)


def read(pieces: Iterable[bytes]) -> Iterator[Packet]:
    """The packets of a pcap file that comes in pieces, each as soon as it is whole.

    Raises InvalidParameter if it is no such file. A last packet that is cut short is left out.
    """
    held, link_type, order, unit = b"", -1, "<", 1
    for piece in pieces:
        held += piece
        if link_type < 0:
            if len(held) < 24:
                continue
            order, unit = _format(held)
            link_type = struct.unpack_from(f"{order}I", held, 20)[0] & 0x0FFFFFFF
            held = held[24:]
        place = 0
        while len(held) - place >= 16:
            seconds, fraction, kept, length = struct.unpack_from(f"{order}IIII", held, place)
            if kept > _LARGEST:
                raise InvalidParameter(f"a packet of {kept} bytes in a pcap file: it is damaged")
            if len(held) - place < 16 + kept:
                break
            data = held[place + 16 : place + 16 + kept]
            place += 16 + kept
            yield decode(data, link_type, seconds * 10**9 + fraction * unit, length)
        held = held[place:]
    if link_type < 0 and held:
        raise InvalidParameter(f"{len(held)} bytes are no pcap file")


def _format(head: bytes) -> tuple[str, int]:
    """Byte order, and nanoseconds in a unit of time."""
    for order in "<>":
        if unit := _MAGIC.get(struct.unpack_from(f"{order}I", head)[0]):
            return order, unit
    raise InvalidParameter(f"a file that begins with {head[:4].hex()} is no pcap file")


def line(packet: Packet) -> str:
    """A packet as tcpdump would tell it: local time, who to whom, what."""
    clock = time.strftime("%H:%M:%S", time.localtime(packet.time // 10**9))
    return (
        f"{clock}.{packet.time % 10**9 // 1000:06} {packet.source} > {packet.target} {packet.protocol}: {packet.what}"
    )


@dataclass(frozen=True, slots=True)
class Capture:
    """Packets that display as a table. Times are in milliseconds after the first.

    Without `times`, what differs from run to run is left out: these, and the ports that the kernel chose. `names`
    are what to write for addresses.
    """

    packets: Sequence[Packet]
    times: bool = True
    names: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, ...]]:
        """The cells, below their titles."""
        began = self.packets[0].time if self.packets else 0
        first = 0 if self.times else 1
        found: list[tuple[str, ...]] = [_TITLES[first:]]
        for one in self.packets:
            after = f"{(one.time - began) / 1e6:.3f} ms"
            found.append((after, self._who(one.source), self._who(one.target), one.protocol, one.what)[first:])
        return found

    def _who(self, endpoint: str) -> str:
        if not (found := _WITH_PORT.fullmatch(endpoint)):
            return self.names.get(endpoint, endpoint)
        address, port = found[1].strip("[]"), int(found[2])
        name = self.names.get(address, found[1])
        return name if not self.times and port >= _CHOSEN_BY_THE_KERNEL else f"{name}:{port}"

    def text(self) -> str:
        titles, *rows = self.rows()
        lines = ["\t".join(title.upper() for title in titles), *("\t".join(row) for row in rows)]
        return "\n".join(one.rstrip() for one in align("\n".join(lines)).split("\n")) + "\n"

    def __repr__(self) -> str:
        return self.text().rstrip("\n")

    def _repr_html_(self) -> str:
        titles, *rows = self.rows()
        head = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in titles)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        counted = f"{len(rows)} packet{'' if len(rows) == 1 else 's'}"
        return f"<table><caption>{counted}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def names_of(containers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Which container has an address, from what `GET /containers/json` answers."""
    found = {NAMESERVER: "name server"}
    for container in containers:
        name = container["Names"][0].lstrip("/")
        for endpoint in ((container.get("NetworkSettings") or {}).get("Networks") or {}).values():
            for address in (endpoint.get("IPAddress"), endpoint.get("GlobalIPv6Address")):
                if address:
                    found[address] = name
    return found
