"""The log of one run of a container: its file, and where else its output goes (moby `daemon/logger/logger.go`).

The pump asks for `pieces` of what it has staged, and takes each out of the stage when it is written. What can't be
written at this moment stays in the stage, within the kernel, until `ready` says that it can.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from labkit.engine.logging import attributes, options
from labkit.engine.logging.formats import Format, Frames, JsonLines
from labkit.engine.logging.options import Rotation
from labkit.engine.logging.rotation import RotatedFile
from labkit.engine.models import ContainerRecord


class Remote(Protocol):
    """A place that output is sent to."""

    async def connect(self) -> None:
        """Reach it, before the container starts. Raises LabkitError."""
        ...

    def send(self, data: bytes, stream: str, time: int, final: bool) -> int:
        """Send the messages in raw output; how many bytes of it were taken, fewer if it can't take more now."""
        ...

    async def ready(self) -> None:
        """Wait until it takes more, or has been given up."""
        ...

    async def settled(self) -> None:
        """Wait until nothing waits to be sent any more."""
        ...

    def hurry(self) -> None:
        """The container has ended: wait only so long."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Files:
    """Where a container's log lies, in which format, and how it is rotated."""

    path: str
    format: Format
    rotation: Rotation


def files(record: ContainerRecord, directory: str) -> Files | None:
    """The files that `docker logs` reads; None if the driver keeps none. Raises InvalidParameter for bad options.

    Of what is sent where it can't be read back a copy is kept ("dual logging"), unless `cache-disabled` is true.
    """
    config = record.HostConfig.LogConfig
    asked = config.Config or {}
    if config.Type == "json-file":
        found = attributes.extra(record)
        if label := attributes.tag(record, ""):
            found["tag"] = label
        form = JsonLines(attributes.as_json(found))
        return Files(json_path(record, directory), form, options.json_rotation(asked))
    if config.Type == "local":
        return Files(os.path.join(directory, "local-logs", "container.log"), Frames(), options.local_rotation(asked))
    if config.Type in ("none", "journald") or options.boolean(asked.get("cache-disabled", "false")):
        return None
    return Files(os.path.join(directory, "container-cached.log"), Frames(), options.local_rotation(asked, "cache-"))


def json_path(record: ContainerRecord, directory: str) -> str:
    return os.path.join(directory, f"{record.Id}-json.log")


class Logger:
    """Writes one container's output. `file` is None if nothing is kept, `remote` if nothing is sent."""

    def __init__(self, places: Files | None, remote: Remote | None = None) -> None:
        self.file: RotatedFile | None = None
        self.format: Format = places.format if places else Frames()
        if places:
            os.makedirs(os.path.dirname(places.path), 0o700, exist_ok=True)
            rotation = places.rotation
            self.file = RotatedFile(places.path, rotation.capacity, rotation.count, rotation.compress)
        self.remote = remote
        self._sent: dict[str, int] = {}

    def pieces(self, data: bytes, stream: str, time: int, final: bool) -> Iterator[tuple[bytes, int]]:
        """Entries to append to the file, and how many raw bytes they stand for: as many as can be written now.

        The caller appends each before it asks for the next.
        """
        if self.remote:
            data, final = self._send(self.remote, data, stream, time, final), True
        if self.file is None:
            if data:
                yield b"", len(data)
                self._sent[stream] = 0
            return
        entries, held = self.format.encode(data, stream, time, final)
        data = data[:held]
        while entries and self.file.make_room():
            cut, raw = self.format.split(entries, data, self.file.room)
            yield entries[:cut], raw
            self._sent[stream] = max(0, self._sent.get(stream, 0) - raw)
            entries, data = entries[cut:], data[raw:]

    def _send(self, remote: Remote, data: bytes, stream: str, time: int, final: bool) -> bytes:
        """Send what has not been sent; returns all that was, since it last was taken out of the stage."""
        before = self._sent.get(stream, 0)
        sent = before + remote.send(data[before:], stream, time, final)
        self._sent[stream] = sent
        return data[:sent]

    @property
    def end(self) -> int:
        return self.file.end if self.file else 0

    def append(self, entries: bytes) -> None:
        if self.file:
            self.file.append(entries)

    def truncate(self, end: int) -> None:
        if self.file:
            self.file.truncate(end)

    async def connect(self) -> None:
        """Reach what the output is sent to. Raises LabkitError."""
        if self.remote:
            await self.remote.connect()

    async def ready(self) -> None:
        """Wait until more can be written."""
        if self.file:
            await self.file.settled()
        if self.remote:
            await self.remote.ready()

    async def settled(self) -> None:
        """Wait until nothing is done in the background any more."""
        if self.file:
            await self.file.settled()
        if self.remote:
            await self.remote.settled()

    def hurry(self) -> None:
        """The container has ended: what is left can't wait for ever."""
        if self.remote:
            self.remote.hurry()

    def close(self) -> None:
        if self.file:
            self.file.close()
        if self.remote:
            self.remote.close()
