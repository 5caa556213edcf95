"""Pause and unpause: all processes of a container frozen (cgroups(7), freezer; moby `daemon/pause.go`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.engine import health
from labkit.engine.container import Container
from labkit.engine.execution import carry_out
from labkit.errors import Conflict, LabkitError
from labkit.kernel import cgroups
from labkit.plan import Plan, Step
from labkit.trace import TraceContext, new_trace

if TYPE_CHECKING:
    from labkit.engine.engine import Engine


async def pause(engine: Engine, container: Container, context: TraceContext | None = None) -> None:
    """Freeze all processes of a container. Raises Conflict if it doesn't run, or is paused already."""
    async with container.lock:
        state = container.record.State
        if not state.Running:
            raise Conflict(f"container {container.id} is not running")
        if state.Paused:
            raise Conflict(f"container {container.id} is already paused")
        check_not_restarting(container)
        await health.stop(container)  # on v1, what is frozen can't be killed
        try:
            _freeze(engine, container, True, context)
        except LabkitError:
            health.resume(engine, container)
            raise
        engine.events.publish("container", "pause", container.id, container.attributes())


async def unpause(engine: Engine, container: Container, context: TraceContext | None = None) -> None:
    """Let the processes of a paused container go on. Raises LabkitError if it isn't paused: dockerd's 500."""
    async with container.lock:
        thaw(engine, container, context)


def thaw(engine: Engine, container: Container, context: TraceContext | None) -> None:
    """`unpause` for who holds the container's lock."""
    if not container.record.State.Paused:
        raise LabkitError(f"container {container.id} is not paused")
    _freeze(engine, container, False, context)
    engine.events.publish("container", "unpause", container.id, container.attributes())
    health.resume(engine, container)


def check_not_restarting(container: Container) -> None:
    """Raises Conflict, in dockerd's words, for what a container can't do while it waits for its restart."""
    if container.record.State.Restarting:
        raise Conflict(f"container {container.id} is restarting, wait until the container is running")


def _freezer(engine: Engine, container: Container, frozen: bool) -> cgroups.WriteCgroup:
    layout = engine.machine.cgroups
    path = engine.settings.cgroup(container.id, container.record.HostConfig.CgroupParent)
    directory = layout.directory("freezer", path)
    if layout.version == 2:
        return cgroups.WriteCgroup(f"{directory}/cgroup.freeze", "1" if frozen else "0")
    return cgroups.WriteCgroup(f"{directory}/freezer.state", "FROZEN" if frozen else "THAWED")


def _freeze(engine: Engine, container: Container, frozen: bool, context: TraceContext | None) -> None:
    plan = Plan("pause" if frozen else "unpause", (Step("daemon", _freezer(engine, container, frozen)),))
    carry_out(engine, plan, container.id, context or new_trace())
    note_frozen(container, frozen)


def note_frozen(container: Container, frozen: bool) -> None:
    """Write down whether a container is paused."""
    state = container.record.State
    if state.Paused != frozen:
        state.Paused, state.Status = frozen, "paused" if frozen else "running"
        container.save()


def is_frozen(engine: Engine, container: Container) -> bool:
    """Whether a container is paused, as the kernel has it: a daemon may have died before it wrote that down."""
    operation = _freezer(engine, container, True)
    return cgroups.read_value(operation.path) in (operation.value, "FREEZING")
