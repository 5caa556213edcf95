"""Kill and stop: signals to a container, and what they mean for its restart policy (moby `daemon/kill.go`, `stop.go`).

Each signal is a plan of one operation, so that it is in the trace. Who asked for it is kept with the run: it may be why
the container ends.
"""

from __future__ import annotations

import asyncio
import logging
import signal as signals
from typing import TYPE_CHECKING

from labkit.engine import backoff, pausing, validation
from labkit.engine.container import Container
from labkit.engine.execution import carry_out
from labkit.engine.models import Config
from labkit.engine.run import Asked
from labkit.errors import Conflict, KernelError, NotModified
from labkit.kernel.signals import SendSignal
from labkit.plan import Context, Plan, Step
from labkit.trace import TraceContext, new_trace

if TYPE_CHECKING:
    from labkit.engine.engine import Engine

log = logging.getLogger("labkit.engine")
STOP_TIMEOUT = 10


async def kill(
    engine: Engine, container: Container, number: int, context: TraceContext | None = None, verb: str = "kill"
) -> None:
    """Send a signal to a container's init. Raises Conflict if it doesn't run.

    One that is meant to end it keeps its restart policy from starting it again; while it waits for its restart,
    there is nothing to send.
    """
    async with container.lock:
        record = container.record
        if not record.State.Running:
            raise Conflict(f"container {container.id} is not running")
        ends = verb != "kill" or meant_to_end(record.Config, number)
        if ends:
            container.backoff.cancelled = True
        if not engine.ending:
            record.HasBeenManuallyStopped = True
            if not backoff.is_none(record.HostConfig.RestartPolicy):
                container.save_if_room()  # it must not be started again if the daemon dies now
        if record.State.Restarting:
            if ends:
                give_up(container)
            return
        _send(engine, container, number, context or new_trace(), verb)
        if ends and record.State.Paused:
            pausing.thaw(engine, container, context)
        engine.events.publish("container", "kill", container.id, container.attributes(signal=str(number)))


def meant_to_end(config: Config, number: int) -> bool:
    """Whether a signal counts as a stop: SIGKILL, the container's stop signal, and any if it has named none (moby)."""
    if number == signals.SIGKILL or not config.StopSignal:
        return True
    return number == validation.parse_signal(config.StopSignal)


def _send(engine: Engine, container: Container, number: int, context: TraceContext, verb: str) -> None:
    run = container.run
    plan = Plan(verb, (Step("daemon", SendSignal(run.pid, number)),))
    try:
        if run.pidfd >= 0:
            carry_out(engine, plan, container.id, context, Context({"pidfd": run.pidfd}))
    except KernelError as error:
        raise Conflict(f"container {container.id} is not running: {error.errno_name}") from error
    run.asked.append(Asked(verb, number, "daemon" if engine.ending else "client", context.trace_id))


def give_up(container: Container) -> None:
    """A container that waits for its restart is not restarted: it has ended as its last run did."""
    container.backoff.stop()
    state = container.record.State
    state.Running = state.Restarting = False
    state.Status = "exited"
    if container.record.Ending:
        container.record.Ending.Next = "stopped before its restart"
    container.save_if_room()
    container.run.end(state.ExitCode)
    container.renew()


async def stop(
    engine: Engine,
    container: Container,
    timeout: int | None = None,
    signal: str = "",
    context: TraceContext | None = None,
    verb: str = "stop",
) -> None:
    """Ask a container to end, and kill it if it hasn't after `timeout` seconds (-1: wait for ever)."""
    config = container.record.Config
    number = validation.parse_signal(signal or config.StopSignal or "SIGTERM")
    if not container.record.State.Running:
        raise NotModified(f"container {container.id} is not running")
    run, chosen = container.run, config.StopTimeout if isinstance(config.StopTimeout, int) else STOP_TIMEOUT
    seconds = chosen if timeout is None else timeout
    context = context or new_trace()
    await kill_if_running(engine, container, number, context, verb)
    try:
        await asyncio.wait_for(run.exited.wait(), None if seconds < 0 else seconds)
    except TimeoutError:
        log.info("%s has not ended %d s after signal %d: it is killed", container.name, seconds, number)
        await kill_if_running(engine, container, signals.SIGKILL, context, verb)
        await run.exited.wait()
    engine.events.publish("container", "stop", container.id, container.attributes())


async def kill_if_running(
    engine: Engine, container: Container, number: int, context: TraceContext | None, verb: str
) -> None:
    """Signal a process that may end by itself at this moment."""
    try:
        await kill(engine, container, number, context, verb)
    except Conflict:
        return
