"""A container as the daemon holds it: its record, its places on disk, its present run, its execs."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from labkit.engine import disk
from labkit.engine.backoff import Backoff
from labkit.engine.logging import drivers
from labkit.engine.logging.logger import Logger, json_path
from labkit.engine.models import ZERO_TIME, ContainerRecord
from labkit.engine.run import Run
from labkit.engine.settings import Settings

if TYPE_CHECKING:
    from labkit.engine.execs import Exec
    from labkit.engine.health import Monitor

log = logging.getLogger("labkit.engine")


class Container:
    """The daemon's object for one container. `lock` is held while its state changes.

    `restarted_by_hand` and `removing` say that a request is doing so; `doomed` are the directories of a container that
    could not be removed yet.
    """

    def __init__(self, record: ContainerRecord, settings: Settings) -> None:
        self.record = record
        self.settings = settings
        self.directory = os.path.join(settings.containers, record.Id)
        self.bundle = os.path.join(settings.bundles, record.Id)
        self.lock = asyncio.Lock()
        self.log: Logger | None = None
        self.run = Run(None, record.Config.Tty)
        self.removed = asyncio.Event()
        self.execs: dict[str, Exec] = {}
        self.saved = 0
        self.backoff = Backoff()
        self.monitor: Monitor | None = None
        self.restarted_by_hand = False
        self.removing = False
        self.doomed: list[str] | None = None

    @property
    def id(self) -> str:
        return self.record.Id

    @property
    def name(self) -> str:
        return self.record.Name.lstrip("/")

    @property
    def log_path(self) -> str:
        """Where the log is, once there is one; empty unless the driver is json-file, as in dockerd."""
        record = self.record
        has_file = record.HostConfig.LogConfig.Type == "json-file" and record.State.StartedAt != ZERO_TIME
        return json_path(record, self.directory) if has_file else ""

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

    def save_if_room(self) -> bool:
        """`save` for what has happened, and is so whether the disk has room for it or not; whether it had."""
        try:
            self.save()
        except OSError as error:
            log.error("%s: what has become of it could not be written down: %s", self.name, error)
            return False
        return True

    def attributes(self, **more: str) -> dict[str, str]:
        """The attributes of its events."""
        return {**(self.record.Config.Labels or {}), "image": self.record.Config.Image, "name": self.name, **more}

    async def open_log(self) -> None:
        """Have a log for the run that begins. Raises LabkitError if its options make no sense or nobody takes it."""
        self.close_log()
        self.log = self.run.output.log = drivers.open_logger(self.record, self.directory)
        if self.log:
            await drivers.reach(self.log)

    def adopt_log(self) -> None:
        """Have a log for a run that a daemon before this one has begun."""
        self.close_log()
        self.log = self.run.output.log = drivers.adopt_logger(self.record, self.directory)

    def close_log(self) -> None:
        """Let go of the log: the run has ended, or never began."""
        if self.log:
            self.log.close()
            self.log = None

    def renew(self) -> None:
        """Be ready for another run."""
        self.close_log()
        self.run = Run(None, self.record.Config.Tty)

    def remove_bundle(self) -> None:
        """Remove the bundle and the marks from the exec root."""
        disk.remove_tree(self.bundle)
        for stream in ("stdout", "stderr"):
            path = f"{self.marks}.{stream}"
            if os.path.lexists(path):
                os.unlink(path)

    def close(self) -> None:
        """Let go of everything: the container is removed, or the daemon ends."""
        self.backoff.stop()
        self.close_log()
