"""Restart: by request, by policy after a run's end, when the daemon starts (moby `daemon/restart.go`, `monitor.go`).

`labkit.engine.backoff` decides, this module acts.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from labkit.engine import life, removing, stopping
from labkit.engine.clock import parse_rfc3339
from labkit.engine.container import Container
from labkit.engine.endpoints import shares
from labkit.engine.models import ZERO_TIME
from labkit.errors import LabkitError, NotModified
from labkit.trace import TraceContext, new_trace

if TYPE_CHECKING:
    from labkit.engine.engine import Engine

log = logging.getLogger("labkit.engine")


async def restart(
    engine: Engine, container: Container, timeout: int | None, signal: str, context: TraceContext
) -> None:
    """Stop a container if it runs, or waits for its restart, then start it."""
    if container.record.State.Running:
        container.restarted_by_hand = True
        try:
            await stopping.stop(engine, container, timeout, signal, context, "restart")
        except NotModified:
            pass  # it ended by itself meanwhile
        finally:
            container.restarted_by_hand = False
    await life.start(engine, container, context)
    engine.events.publish("container", "restart", container.id, container.attributes())


def wanted(engine: Engine, container: Container, code: int, ran: float) -> bool:
    """Whether a run that has just ended is to be followed by another one, by the container's policy."""
    record = container.record
    stopped = record.HasBeenManuallyStopped or engine.ending
    policy = record.HostConfig.RestartPolicy
    return not engine.ending and container.backoff.decide(policy, code, stopped, ran, record.RestartCount)


def begin(engine: Engine, container: Container) -> None:
    """Start the container after its delay. Its state says already that it is restarting."""
    container.backoff.begin(lambda: engine.background(_again(engine, container)))


async def _again(engine: Engine, container: Container) -> None:
    try:
        await life.start_again(engine, container, new_trace())
    except LabkitError as error:
        log.warning("%s was not restarted: %s", container.name, error)
        if container.record.HostConfig.AutoRemove:
            await removing.remove_by_itself(engine, container)


def due_at_boot(container: Container) -> bool:
    """Whether a container that doesn't run when the daemon starts is started with it, as dockerd does."""
    record = container.record
    state = record.State
    if state.Running or state.Dead or state.StartedAt == ZERO_TIME:
        return False
    ran = (parse_rfc3339(state.FinishedAt) - parse_rfc3339(state.StartedAt)) / 1e9
    policy, stopped = record.HostConfig.RestartPolicy, record.HasBeenManuallyStopped
    return container.backoff.decide(policy, state.ExitCode, stopped, ran, record.RestartCount)


async def at_boot(engine: Engine, containers: list[Container]) -> None:
    """Start these; those that share another's network after that one."""
    waves = ([one for one in containers if not shares(one.record)], [one for one in containers if shares(one.record)])
    for wave in waves:
        await asyncio.gather(*(_start_at_boot(engine, container) for container in wave))


async def _start_at_boot(engine: Engine, container: Container) -> None:
    try:
        await life.start(engine, container, new_trace())
    except NotModified:
        return  # somebody was quicker
    except LabkitError as error:
        log.error("failed to start container %s: %s", container.name, error)
