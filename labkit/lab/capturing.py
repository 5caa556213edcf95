"""A container's packets while something happens: the table of what a lesson's own commands sent.

The engine captures (`/labkit/containers/ID/capture`); this side reads the file as it grows, on a thread.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from types import TracebackType
from typing import Self

from labkit.client.engine import Query
from labkit.client.locate import locate
from labkit.errors import LabkitError, NotFound
from labkit.explain import captures
from labkit.explain.packets import Packet


class Capture:
    """The packets that pass in a `with` statement; afterwards it displays as a table.

        with Capture("app") as seen:
            %docker exec app wget -qO- http://web
        seen

    `link` is one of the container's links or `any`, `port` and `protocol` (arp, icmp, tcp, udp) pick packets. Without
    `times`, what differs from run to run is left out. Raises LabkitError if the engine can't capture.
    """

    def __init__(
        self, container: str, link: str = "any", port: int = 0, protocol: str = "", times: bool = True
    ) -> None:
        self.container, self.times = container, times
        self.packets: list[Packet] = []
        self.names: dict[str, str] = {}
        self._name = uuid.uuid4().hex
        self._query: Query = {"link": link, "port": port or None, "protocol": protocol, "name": self._name}
        self._failure: LabkitError | None = None

    def __enter__(self) -> Self:
        """Begin: when this returns, no packet is missed any more."""
        self.packets.clear()
        self._client = locate()
        try:
            pieces = self._client.request("GET", f"/labkit/containers/{self.container}/capture", self._query).chunks()
            head = next(pieces)
        except BaseException:
            self._client.close()
            raise
        self._thread = threading.Thread(target=self._read, args=(chain([head], pieces),))
        self._thread.start()
        return self

    def _read(self, pieces: Iterator[bytes]) -> None:
        try:
            self.packets.extend(captures.read(pieces))
        except LabkitError as error:
            self._failure = error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End, with all packets that have passed until now."""
        ending = locate()
        try:
            with suppress(NotFound):  # it has ended by itself, with the container
                ending.request("DELETE", f"/labkit/captures/{self._name}").body()
            self._thread.join()
            self.names = captures.names_of(ending.get("/containers/json"))
        finally:
            ending.close()
            self._client.close()
        if self._failure:
            raise self._failure

    @property
    def table(self) -> captures.Capture:
        """The packets as a table."""
        return captures.Capture(self.packets, self.times, self.names)

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()
