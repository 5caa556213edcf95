"""The end of a run: what is written down, undone and told, and what the restart policy makes of it.

moby `daemon/monitor.go`.

Also what a daemon finds of runs that one before it began.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from labkit.engine import (
    connecting,
    endings,
    endpoints,
    health,
    life,
    mountpoints,
    pausing,
    removing,
    restarting,
    starting,
    updating,
)
from labkit.engine.clock import parse_rfc3339, rfc3339
from labkit.engine.container import Container
from labkit.engine.execution import carry_out
from labkit.engine.models import State
from labkit.errors import LabkitError
from labkit.plan import Plan, Step
from labkit.runtime.spawning import Introduced, Outcome
from labkit.trace import new_trace

if TYPE_CHECKING:
    from labkit.engine.engine import Engine

log = logging.getLogger("labkit.engine")
LOST = 255
"""Exit status of a container that ended without anybody to see it: after a power loss, as in dockerd."""
_LOST = "the container was lost with the machine or the spawner"


def now_ns() -> int:
    return time.time_ns()


def adopt(engine: Engine, container: Container, process: Introduced | None) -> None:
    """Settle what a daemon before this one has left: the process runs, has ended, or never came to be."""
    record = container.record
    updating.finish(engine, container, runs=process is not None and process.outcome is None)
    if process:
        paused = not process.outcome and pausing.is_frozen(engine, container)
        ran_out = record.State.OOMKilled
        _complete_bundle(engine, container)
        container.adopt_log()
        life.note_running(container, process.pid, process.pidfd, process.descriptors, process.began)
        endpoints.adopt(engine, container, process.descriptors)
        connecting.resume(engine, container)
        mountpoints.hold(engine, container)
        record.State.OOMKilled = ran_out
        pausing.note_frozen(container, paused)
        if process.outcome:
            engine.background(settle(engine, container, process.outcome))
        else:
            engine.memory.begin(container)
            health.begin(engine, container)
        return
    if record.State.Restarting:
        record.State.Running = record.State.Restarting = False
        record.State.Status = "exited"
    elif record.State.Running:
        _ended(container, Outcome(LOST, now_ns(), False), _LOST, again=False)
    record.Starting = False
    endpoints.release(engine, container)
    container.save()
    container.remove_bundle()
    if record.HostConfig.AutoRemove and record.State.Status == "exited":
        engine.background(removing.remove_by_itself(engine, container))


def _complete_bundle(engine: Engine, container: Container) -> None:
    """The container runs, whether its bundle can be told once more or not (a device may be gone)."""
    try:
        starting.complete_bundle(container, engine.settings, engine.machine)
    except LabkitError as error:
        log.warning("%s runs without a bundle: %s", container.name, error)


def abandon(engine: Engine, process: Introduced) -> None:
    """Let go of a process that no record belongs to (an exec of a killed daemon): nobody reads its output."""
    for fd in (*process.descriptors.values(), *([process.pidfd] if process.pidfd >= 0 else [])):
        os.close(fd)
    engine.spawner.drop(process.key, *process.descriptors)
    if process.outcome:
        engine.spawner.forget(process.key)


async def settle(engine: Engine, container: Container, outcome: Outcome, error: str = "") -> None:
    """The container's process has ended: when its output is in the log, record the exit and tell who waits."""
    run = container.run
    engine.memory.end(container)
    await health.stop(container)
    for output in (run.output, *(one.run.output for one in container.execs.values())):
        output.hurry()
    await run.output.ended.wait()
    async with container.lock:
        _leave_networks(engine, container)
        ran = outcome.ended / 1e9 - parse_rfc3339(container.record.State.StartedAt) / 1e9
        again = restarting.wanted(engine, container, outcome.code, ran)
        _ended(container, outcome, error, again)
        if container.save_if_room() and not error:  # if not, the spawner tells the next daemon
            engine.spawner.forget(container.id)
        container.remove_bundle()
        _tell(engine, container, outcome, ran)
        mountpoints.unmount(engine, container)
        run.end(outcome.code)
        container.renew()
        if again:
            restarting.begin(engine, container)
    if container.record.HostConfig.AutoRemove and not again and not container.restarted_by_hand:
        await removing.remove_by_itself(engine, container)


def _tell(engine: Engine, container: Container, outcome: Outcome, ran: float) -> None:
    kills = (outcome.memory or {}).get("Kills", int(outcome.oom))
    if kills > container.run.memory_events:
        engine.events.publish("container", "oom", container.id, container.attributes())
    attributes = container.attributes(execDuration=str(int(ran)), exitCode=str(outcome.code))
    engine.events.publish("container", "die", container.id, attributes)


def _leave_networks(engine: Engine, container: Container) -> None:
    """End the container's traffic and give back its addresses. What can't be undone is logged: it has ended anyway."""
    operations = endpoints.end(engine, container)
    if operations:
        plan = Plan("release", tuple(Step("daemon", operation) for operation in operations))
        try:
            carry_out(engine, plan, container.id, container.run.context or new_trace())
        except LabkitError as error:
            log.warning("%s: %s", container.name, error)
    endpoints.release(engine, container)


def _ended(container: Container, outcome: Outcome, error: str, again: bool) -> None:
    """Write down how a run has ended, and whether another one follows (`again`)."""
    record = container.record
    known = record.State.Health
    record.Ending = endings.ending(outcome, container.run.asked, error, known or None)
    record.State = State(
        Status="restarting" if again else "exited",
        Running=again,
        Restarting=again,
        ExitCode=outcome.code,
        OOMKilled=outcome.oom or record.State.OOMKilled,
        Error=error,
        StartedAt=record.State.StartedAt,
        FinishedAt=rfc3339(outcome.ended),
        Health=record.State.Health,
    )
    if again:
        record.RestartCount += 1
        policy, delay = record.HostConfig.RestartPolicy.Name, container.backoff.delay
        record.Ending.Next = f"restart {record.RestartCount} after {delay:g} s, by its policy {policy}"
