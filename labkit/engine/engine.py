"""The engine: all objects of one daemon, how they are found, and what the spawner tells about them.

moby `daemon/daemon.go`. Everything here runs in one event loop; what takes long (layers, archives) runs in threads.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from labkit.engine import disk, mountpoints, places, restarting, runtimes, settling, stopping
from labkit.engine.container import Container
from labkit.engine.events import Events
from labkit.engine.execs import Exec
from labkit.engine.memory_watch import MemoryWatch
from labkit.engine.models import ContainerRecord, Ending
from labkit.engine.networks import Networks
from labkit.engine.settings import Settings
from labkit.engine.stats import Sampler
from labkit.engine.traces import Traces
from labkit.engine.volumes import Volumes
from labkit.errors import Conflict, InvalidParameter, NotFound, NotModified
from labkit.images.removal import ContainerUse
from labkit.images.store import ImageStore
from labkit.kernel import capabilities, cgroups
from labkit.network.directory import Directory
from labkit.network.nameserver import NameServer
from labkit.runtime import spawning
from labkit.runtime.plans import Machine

log = logging.getLogger("labkit.engine")


KEPT_ENDINGS = 200
"""Of how many containers that are gone the reason of their end is kept."""


class Engine:
    """One daemon's containers, images, events and traces."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.containers: dict[str, Container] = {}
        self.names: dict[str, Container] = {}
        self.execs: dict[str, Exec] = {}
        self.events = Events()
        self.traces = Traces()
        self.machine = Machine(cgroups.read_layout(), capabilities.own_bounding())
        self.tasks: set[asyncio.Task[Any]] = set()
        self.networks = Networks(self)
        self.directory = Directory()
        self.nameserver = NameServer(self.directory)
        self.volumes = Volumes(self)
        self.sampler = Sampler(self)
        self.memory = MemoryWatch(self)
        self.creating: set[Container] = set()
        self.ending = False
        self.endings: OrderedDict[str, tuple[str, Ending]] = OrderedDict()
        self.id = ""
        self.spawner: spawning.SpawnerClient
        self.images: ImageStore
        self._locks: list[int] = []

    def boot(self) -> None:
        """Open what is on disk, find the spawner, take over what it runs. Raises LabkitError."""
        for folder in (self.settings.containers, self.settings.bundles, self.settings.marks):
            places.make_folder(folder)
        self._locks = [places.lock_folder(folder) for folder in (self.settings.data_root, self.settings.exec_root)]
        self.id = places.identity(self.settings.data_root)
        self.images = ImageStore(Path(self.settings.images))
        places.prepare_cgroups(self.machine.cgroups, self.settings.cgroup_parent)
        self.networks.load()
        self.volumes.store.load()
        introduced = self.connect_spawner()
        containers, debris = self._load()
        for container in containers:
            self.add(container)
            settling.adopt(self, container, introduced.pop(container.id, None))
        running = [one.record.Sandbox.Ports for one in self.containers.values() if one.run.running]
        self.networks.establish(tuple(binding for ports in running for binding in ports))
        mountpoints.boot(self, debris)
        for orphan in introduced.values():
            settling.abandon(self, orphan)
        due = [one for one in self.containers.values() if restarting.due_at_boot(one)]
        self.background(restarting.at_boot(self, due))

    def connect_spawner(self) -> dict[str, spawning.Introduced]:
        """Start listening to a spawner; returns the processes that it has."""
        sock, introduced = spawning.connect(self.settings.exec_root)
        self.spawner = spawning.SpawnerClient(sock, self.exited, self.started_for_nobody, self.spawner_lost)
        self.spawner.listen()
        return {process.key: process for process in introduced}

    def _load(self) -> tuple[list[Container], list[str]]:
        """The containers on disk; and the directories without a record, which a killed daemon had not finished."""
        found, debris = [], []
        for name in sorted(os.listdir(self.settings.containers)):
            folder = os.path.join(self.settings.containers, name)
            path = os.path.join(folder, "container.json")
            if os.path.exists(path) and not name.endswith(".removed"):
                found.append(Container(disk.read_json(path, ContainerRecord), self.settings))
            else:
                debris.append(folder)
        return found, debris

    def add(self, container: Container) -> None:
        self.containers[container.id] = container
        self.names[container.name] = container

    def discard(self, container: Container) -> None:
        self.containers.pop(container.id, None)
        self.names.pop(container.name, None)

    def remember(self, container: Container) -> None:
        """A container is gone: keep why it ended for those who wonder."""
        if container.record.Ending:
            self.endings[container.id] = container.name, container.record.Ending
        self.traces.forget(container.id)
        while len(self.endings) > KEPT_ENDINGS:
            self.endings.popitem(last=False)

    def find_ending(self, reference: str) -> Ending | None:
        """Why a container ended that is known by ID, name, or the beginning of its ID; None if it hasn't.

        Raises NotFound. One that was removed is known for a while.
        """
        try:
            return self.find(reference).record.Ending
        except NotFound:
            for identity, (name, found) in reversed(self.endings.items()):
                if reference and (identity.startswith(reference) or name == reference.lstrip("/")):
                    return found
            raise

    def find(self, reference: str) -> Container:
        """A container by ID, name, or the beginning of an ID that no other has. Raises NotFound, InvalidParameter."""
        found = self.containers.get(reference) or self.names.get(reference.lstrip("/"))
        if found:
            return found
        matches = [container for identity, container in self.containers.items() if identity.startswith(reference)]
        if len(matches) > 1:
            raise InvalidParameter(f"multiple IDs found with provided prefix: {reference}")
        if not matches or not reference:
            raise NotFound(f"No such container: {reference}")
        return matches[0]

    def find_exec(self, identity: str) -> Exec:
        if identity not in self.execs:
            raise NotFound(f"No such exec instance: {identity}")
        return self.execs[identity]

    def check_name_free(self, name: str) -> None:
        """Raises Conflict in Docker's words if a container has this name."""
        if other := self.names.get(name) or next((one for one in self.creating if one.name == name), None):
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{other.id}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )

    def containers_using(self, image: str) -> list[ContainerUse]:
        """The containers made from an image, for those who want to remove it."""
        used = (one for one in (*self.containers.values(), *self.creating) if one.record.Image == image)
        return [ContainerUse(one.id, one.record.State.Running) for one in used]

    def background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do something that nobody waits for; its failure is logged."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a task failed: %s", error, exc_info=error)

    def exited(self, key: str, outcome: spawning.Outcome) -> None:
        """The spawner has reaped a process."""
        if container := self.containers.get(key):
            self.background(settling.settle(self, container, outcome))
        elif run := self.execs.get(key):
            self.background(run.settle(self, outcome))
        else:
            self.spawner.forget(key)

    def started_for_nobody(self, started: spawning.Started) -> None:
        """A start that a killed daemon had asked for has succeeded: the container is ours."""
        process = spawning.Introduced(started.key, started.pid, started.pidfd, started.descriptors, started.began, None)
        if container := self.containers.get(started.key):
            settling.adopt(self, container, process)
        else:
            settling.abandon(self, process)

    def spawner_lost(self) -> None:
        """The spawner has died: a new one undoes what the old one had made, containers included."""
        log.error("the spawner has died; its containers are ended")
        self.connect_spawner()
        for container in list(self.containers.values()):
            if container.run.running:
                lost = spawning.Outcome(137, settling.now_ns(), False)
                self.background(settling.settle(self, container, lost, "the spawner has died"))
        for run in list(self.execs.values()):
            if run.run.running:
                self.background(run.settle(self, spawning.Outcome(137, settling.now_ns(), False)))

    def reconfigure(self, settings: Settings) -> None:
        """Go on with other settings, and tell of it (moby `daemon/reload.go`). The places are the same."""
        self.settings = settings
        self.events.publish("daemon", "reload", self.id, attributes(settings))

    async def shut_down(self) -> None:
        """Stop all containers (unless they shall live on) and end the spawner. A start under way ends first."""
        self.ending = True
        for container in list(self.containers.values()):
            container.backoff.stop()  # the next daemon starts it again
            async with container.lock:
                continue
        running = [container for container in self.containers.values() if container.run.running]
        if running and self.settings.live_restore:
            await asyncio.gather(*(one.monitor.stop() for one in running if one.monitor))
            self.networks.host.leave()
            return
        await asyncio.gather(*(self._stop(container) for container in running))
        while self.tasks:
            await asyncio.gather(*self.tasks, return_exceptions=True)
        self.networks.dismantle()
        self.spawner.end()
        self.spawner.close()
        places.remove_cgroups(self.machine.cgroups, self.settings.cgroup_parent)

    async def _stop(self, container: Container) -> None:
        try:
            await stopping.stop(self, container)
        except NotModified:
            return  # it has ended by itself meanwhile

    def close(self) -> None:
        """Let go of descriptors and locks."""
        for container in self.containers.values():
            container.close()
        self.memory.close()
        self.nameserver.close()
        self.images.close()
        for fd in self._locks:
            places.unlock_folder(fd)


def attributes(settings: Settings) -> dict[str, str]:
    """What is told of the settings that can change while the daemon runs."""
    lists = {
        "labels": settings.labels,
        "insecure-registries": settings.registries.insecure,
        "registry-mirrors": settings.registries.mirrors,
    }
    return {
        "name": os.uname().nodename,
        "debug": str(settings.debug).lower(),
        "live-restore": str(settings.live_restore).lower(),
        "default-runtime": settings.default_runtime,
        "runtimes": " ".join(f"{name}:{path or name}" for name, path in runtimes.known(settings).items()),
        **{name: json.dumps(values, separators=(",", ":")) for name, values in lists.items()},
    }
