"""Out of memory, told at the moment: the event `oom` and State.OOMKilled (moby `daemon/monitor.go`, EventOOM).

A container with a limit is watched while it runs. One that lives on after a kill has had its event; what was missed,
because it came together with the end or while no daemon was there, is told at the end (`labkit.engine.settling`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from labkit.engine.container import Container
from labkit.kernel.cgroups import oom_kills
from labkit.kernel.memory_events import MemoryEvents

if TYPE_CHECKING:
    from labkit.engine.engine import Engine

log = logging.getLogger("labkit.engine")


class MemoryWatch:
    """The containers that are watched, and what is told of them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._events = MemoryEvents()
        self._listening = False

    def begin(self, container: Container) -> None:
        """Watch a container that runs, if its memory is limited."""
        host = container.record.HostConfig
        layout = self._engine.machine.cgroups
        directory = layout.directory("memory", self._engine.settings.cgroup(container.id, host.CgroupParent))
        if not (host.Memory and directory):
            return
        try:
            self._events.add(container.id, directory, layout.version == 2)
        except OSError as error:
            log.warning("%s: that its memory runs out is told at its end only: %s", container.name, error)
            return
        if container.record.State.OOMKilled:  # by an earlier daemon, which has told of it
            container.run.memory_events = oom_kills(directory)
        if not self._listening:
            asyncio.get_running_loop().add_reader(self._events.fileno(), self._tell)
            self._listening = True

    def end(self, container: Container) -> None:
        self._events.remove(container.id)

    def _tell(self) -> None:
        for identity in self._events.take():
            if container := self._engine.containers.get(identity):
                container.run.memory_events += 1
                container.record.State.OOMKilled = True
                container.save_if_room()
                self._engine.events.publish("container", "oom", container.id, container.attributes())

    def close(self) -> None:
        if self._listening:
            asyncio.get_running_loop().remove_reader(self._events.fileno())
        self._events.close()
