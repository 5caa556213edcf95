"""A container as the daemon holds it: its record, its places on disk, its present run, its execs."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from labkit.engine import disk
from labkit.engine.models import ContainerRecord
from labkit.engine.output import LogFile
from labkit.engine.run import Run
from labkit.engine.settings import Settings

if TYPE_CHECKING:
    from labkit.engine.execs import Exec


class Container:
    """The daemon's object for one container. `lock` is held while its state changes."""

    def __init__(self, record: ContainerRecord, settings: Settings) -> None:
        self.record = record
        self.settings = settings
        self.directory = os.path.join(settings.containers, record.Id)
        self.bundle = os.path.join(settings.bundles, record.Id)
        self.lock = asyncio.Lock()
        self.log = self._open_log()
        self.run = Run(self.log, record.Config.Tty)
        self.removed = asyncio.Event()
        self.execs: dict[str, Exec] = {}
        self.saved = 0

    def _open_log(self) -> LogFile | None:
        return None if self.record.HostConfig.LogConfig.Type == "none" else LogFile(self.log_path)

    @property
    def id(self) -> str:
        return self.record.Id

    @property
    def name(self) -> str:
        return self.record.Name.lstrip("/")

    @property
    def log_path(self) -> str:
        return os.path.join(self.directory, f"{self.id}-json.log")

    @property
    def upper(self) -> str:
        """The writable layer."""
        return os.path.join(self.directory, "layer", "diff")

    @property
    def work(self) -> str:
        return os.path.join(self.directory, "layer", "work")

    @property
    def lower(self) -> tuple[str, ...]:
        """The read-only layers, topmost first."""
        return tuple(os.path.join(self.settings.images, path) for path in self.record.Layers)

    @property
    def rootfs(self) -> str:
        """Where the root is mounted, in the container's own mount namespace."""
        return os.path.join(self.bundle, "rootfs")

    @property
    def marks(self) -> str:
        return os.path.join(self.settings.marks, self.id)

    def save(self, durable: bool = False) -> None:
        """Write the record. Without `durable` it survives the daemon's death, though not a power loss."""
        disk.write_json(os.path.join(self.directory, "container.json"), self.record, durable)
        self.saved += 1

    def attributes(self, **more: str) -> dict[str, str]:
        """The attributes of its events."""
        return {**(self.record.Config.Labels or {}), "image": self.record.Config.Image, "name": self.name, **more}

    def renew(self) -> None:
        """Be ready for another run."""
        self.run = Run(self.log, self.record.Config.Tty)

    def close(self) -> None:
        """Let go of everything: the container is removed, or the daemon ends."""
        if self.log:
            self.log.close()
            self.log = None
