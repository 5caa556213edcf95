"""Health checks: a command that is run in a container again and again says how it is (moby `daemon/health.go`).

Each container has one timer and at most one probe. A probe is an exec, with an exec's events; it is killed with its
process group if it takes too long, or if its container ends. The status is kept in the record, a container that starts
(or that a daemon takes over) is `starting`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from labkit.engine import execs
from labkit.engine.clock import parse_rfc3339, rfc3339
from labkit.engine.health_checks import SECOND, command, go_duration, interval, judge, settings, status_of
from labkit.engine.models import ExecCreateBody, Health, HealthResult
from labkit.engine.output import Attachment
from labkit.engine.traces import PROBE
from labkit.errors import LabkitError
from labkit.trace import new_trace

if TYPE_CHECKING:
    from labkit.engine.container import Container
    from labkit.engine.engine import Engine

MOST_OUTPUT = 4096
GRACE = 2.0
"""Seconds for which the output of a probe that has ended may stay open, as with dockerd's execs."""


@dataclass(eq=False, slots=True)
class Collector:
    """Takes a probe's output as a client would: the first bytes of it."""

    gone: asyncio.Event = field(default_factory=asyncio.Event)
    kept: bytearray = field(default_factory=bytearray)
    more: bool = False
    congested: bool = False

    def write(self, data: bytes) -> None:
        room = MOST_OUTPUT - len(self.kept)
        self.kept += data[:room]
        self.more |= len(data) > room

    async def drain(self) -> None:
        return

    def text(self) -> str:
        return self.kept.decode(errors="replace") + ("..." if self.more else "")


class Monitor:
    """The probing of one container: a timer, or a probe that runs."""

    def __init__(self, engine: Engine, container: Container) -> None:
        self.engine, self.container = engine, container
        self.check = settings(container.record.Config)
        self.started = parse_rfc3339(container.record.State.StartedAt)
        self.task: asyncio.Task[None] | None = None
        self.timer = self._wait()

    def _wait(self) -> asyncio.TimerHandle:
        status = status_of(self.container.record.State)
        delay = interval(self.check, status, time.time_ns() - self.started) / SECOND
        return asyncio.get_running_loop().call_later(delay, self._due)

    def _due(self) -> None:
        self.task = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        began = time.time_ns()
        try:
            code, output = await probe(self.engine, self.container, self.check.Timeout / SECOND)
        except LabkitError as error:
            code, output = -1, str(error)
        result = HealthResult(Start=rfc3339(began), End=rfc3339(time.time_ns()), ExitCode=code, Output=output)
        known = self.container.record.State.Health
        if isinstance(known, Health):
            _note(self.engine, self.container, judge(known, result, self.check, self.started))
        self.timer = self._wait()

    async def stop(self) -> None:
        """Probe no more; returns when a probe under way is dead."""
        self.timer.cancel()
        if self.task:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)


def begin(engine: Engine, container: Container) -> None:
    """The container runs: from now on it is probed, if it has a check."""
    if command(container.record.Config) is None:
        container.record.State.Health = msgspec.UNSET
        return
    known = container.record.State.Health
    container.record.State.Health = Health(Log=known.Log if isinstance(known, Health) else [])
    container.save()
    engine.traces.probed(container.id)
    resume(engine, container)


def resume(engine: Engine, container: Container) -> None:
    """Go on to probe a container that was paused. What it says first decides its status."""
    if isinstance(container.record.State.Health, Health) and container.monitor is None:
        container.monitor = Monitor(engine, container)


async def stop(container: Container) -> None:
    """Probe no more: the container ends, or is paused. It counts as unhealthy then, as in dockerd."""
    monitor, container.monitor = container.monitor, None
    if monitor is None:
        return
    await monitor.stop()
    state = container.record.State
    if isinstance(state.Health, Health):
        state.Health.Status = "unhealthy"
        container.save()


def _note(engine: Engine, container: Container, health: Health) -> None:
    before, container.record.State.Health = status_of(container.record.State), health
    container.save()
    if health.Status != before:
        action = f"health_status: {health.Status}"
        engine.events.publish("container", action, container.id, container.attributes())


async def probe(engine: Engine, container: Container, patience: float) -> tuple[int, str]:
    """Run the container's check once: exit code and output. Code -1 if it took longer than `patience` seconds.

    Raises LabkitError if it can't be run.
    """
    words = command(container.record.Config)
    body = ExecCreateBody(Cmd=words, AttachStdout=True, AttachStderr=True)
    one = execs.create(engine, container, body, PROBE)
    collector = Collector()
    one.run.output.attachments.add(Attachment(collector, frozenset(("stdout", "stderr")), False))
    starting = asyncio.create_task(one.start(engine, (0, 0), True, new_trace()))
    try:
        await asyncio.shield(starting)
        if await _ends_in_time(one, patience):
            return one.code or 0, collector.text()
        said = f": {collector.text()}" if collector.kept else ""
        return -1, f"Health check exceeded timeout ({go_duration(patience)}){said}"
    finally:
        await asyncio.shield(_put_away(engine, one, starting))


async def _ends_in_time(one: execs.Exec, patience: float) -> bool:
    try:
        await asyncio.wait_for(one.run.exited.wait(), patience)
    except TimeoutError:
        return False
    return True


async def _put_away(engine: Engine, one: execs.Exec, starting: asyncio.Task[None]) -> None:
    """Kill what is left of a probe, and forget it: nobody starts it again, and each container has many.

    One that is just being started (`starting`) is waited for: it would run on.
    """
    await asyncio.gather(starting, return_exceptions=True)
    if one.run.running:
        kill_group(one.run.pid, one.run.pidfd)
        if not await _ends_in_time(one, GRACE):
            one.run.output.close()  # a process that left the group has its end of the pipe
            await one.run.exited.wait()
    engine.execs.pop(one.id, None)
    one.container.execs.pop(one.id, None)


def kill_group(pid: int, pidfd: int) -> None:
    """Kill a session leader that is known by its descriptor, with its process group."""
    try:
        signal.pidfd_send_signal(pidfd, 0)  # while it isn't reaped, its pid and group are nobody else's
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
