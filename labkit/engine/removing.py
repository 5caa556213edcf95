"""Remove: a container goes with its writable layer, log and, if wished, volumes (moby `daemon/delete.go`).

What can't be removed stays, as `dead`, and the next attempt goes on where this one was kept from it.
"""

from __future__ import annotations

import asyncio
import os
import signal as signals
from typing import TYPE_CHECKING

from labkit.engine import disk, mountpoints, stopping
from labkit.engine.container import Container
from labkit.errors import Conflict, LabkitError, NotFound
from labkit.images.removal import ContainerUse
from labkit.trace import TraceContext

if TYPE_CHECKING:
    from labkit.engine.engine import Engine


async def remove(
    engine: Engine, container: Container, force: bool, volumes: bool = False, context: TraceContext | None = None
) -> None:
    """Remove a container. Raises Conflict if it runs and isn't forced, or is being removed; LabkitError if it
    can't be removed: it is `dead` then.
    """
    if container.removing:
        raise Conflict(f"removal of container {container.name} is already in progress")
    container.removing = True
    try:
        if container.record.State.Running:
            await _end(engine, container, force, context)
        await _remove(engine, container, volumes)
    finally:
        container.removing = False


async def remove_by_itself(engine: Engine, container: Container) -> None:
    """Remove a container that has ended, because it was made with `--rm`; not if somebody is removing it already."""
    if not container.removing:
        await _remove(engine, container, volumes=True)


async def _remove(engine: Engine, container: Container, volumes: bool) -> None:
    async with container.lock:
        if container.id not in engine.containers:
            return
        await _remove_files(engine, container, volumes)
        _forget(engine, container)
    await _release_image(engine, container.record.Image)


async def _end(engine: Engine, container: Container, force: bool, context: TraceContext | None) -> None:
    state = container.record.State
    if not force:
        advice = ": stop the container before removing or force remove"
        if state.Paused:
            advice = " and must be unpaused first"
        raise Conflict(f'cannot remove container "{container.record.Name}": container is {state.Status}{advice}')
    run = container.run
    await stopping.kill_if_running(engine, container, signals.SIGKILL, context, "rm")
    await run.exited.wait()


async def _remove_files(engine: Engine, container: Container, volumes: bool) -> None:
    state = container.record.State
    state.Status, state.Dead = "removing", True
    container.saved += 1
    container.remove_bundle()
    try:
        if container.doomed is None:
            container.doomed = mountpoints.withdraw(engine, container, volumes)
        await asyncio.to_thread(disk.remove_trees, container.doomed)
    except OSError as error:
        state.Status, state.Error = "dead", f"{error.filename}: {os.strerror(error.errno or 0)}"
        container.saved += 1
        raise LabkitError(
            f"container {container.id}: unable to remove filesystem for {container.id}: {state.Error}: "
            "mend that, and remove the container again"
        ) from error


def _forget(engine: Engine, container: Container) -> None:
    engine.discard(container)
    for identity in container.execs:
        engine.execs.pop(identity, None)
    container.close()
    container.run.end(container.record.State.ExitCode)
    container.removed.set()
    engine.remember(container)
    engine.events.publish("container", "destroy", container.id, container.attributes())


async def _release_image(engine: Engine, image: str) -> None:
    """Remove the layers of an image that was removed by force, once its last container is gone."""
    try:
        engine.images.resolve(image)
    except NotFound:
        used = {one.record.Image for one in engine.containers.values()}
        in_use = [ContainerUse(image, False)]
        await asyncio.to_thread(engine.images.collect, lambda identity: in_use if identity in used else [])
