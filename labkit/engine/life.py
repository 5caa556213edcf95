"""The life of a container: create, start, exit, stop, kill, restart, pause, rename, remove (moby `daemon/*.go`).

A verb a function. Each takes the engine and leaves the container in a state that Docker knows too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from labkit.engine import (
    connecting,
    creation,
    disk,
    endpoints,
    legacy_links,
    mountpoints,
    naming,
    ports,
    starting,
    stdio,
    validation,
)
from labkit.engine.clock import rfc3339
from labkit.engine.container import Container
from labkit.engine.execution import carry_out
from labkit.engine.logging import options as log_options
from labkit.engine.models import CreateBody, State
from labkit.engine.names import random_name
from labkit.engine.traces import PlanSpan
from labkit.errors import Conflict, InvalidParameter, KernelError, LabkitError, NotFound, NotModified, Unavailable
from labkit.images.manifests import ContainerConfig
from labkit.images.removal import ContainerUse
from labkit.kernel import cgroups
from labkit.plan import Execution, Plan, Record, Step
from labkit.runtime.spawning import Introduced, Outcome, Started, StartFailed
from labkit.trace import TraceContext, new_trace

if TYPE_CHECKING:
    from labkit.engine.engine import Engine

log = logging.getLogger("labkit.engine")
STOP_TIMEOUT = 10
LOST = 255
"""Exit status of a container that ended without anybody to see it: after a power loss, as in dockerd."""


def now_ns() -> int:
    return time.time_ns()


async def create(
    engine: Engine, body: CreateBody, name: str, context: TraceContext, version: tuple[int, int] = (1, 50)
) -> tuple[Container, list[str]]:
    """Make a container for a client of this API version. Returns it with the warnings that the client shows."""
    if name:
        validation.check_name(name)
    name = name.lstrip("/")
    image = engine.images.resolve(body.Image) if body.Image else None
    if image is None:
        raise InvalidParameter("config cannot be empty in order to create a container: it needs an Image")
    identity = os.urandom(32).hex()
    defaults = msgspec.to_builtins(image.config.config or ContainerConfig())
    record = creation.make_record(identity, name, body, image.id, defaults)
    log_options.settle(record.HostConfig.LogConfig, engine.settings.log)
    warnings = validation.check(record.Config, record.HostConfig)
    engine.check_name_free(name)
    lower = engine.images.lower_dirs(image)
    record.Layers = [os.path.relpath(path, engine.settings.images) for path in lower]
    record.Name = f"/{name or random_name(engine.names)}"
    endpoints.configure(engine, record, body.NetworkingConfig)
    legacy_links.settle(engine, record)
    record.MountPoints = mountpoints.resolve(engine, record, version)
    hosts = naming.hosts_text(record, naming.gateways(engine.networks), [])
    plan = creation.create_plan(record, engine.settings, hosts, naming.resolver_text(record, has_names=False))
    carry_out(engine, plan, identity, context)
    container = Container(record, engine.settings)
    await mountpoints.complete(engine, container, context)
    engine.add(container)
    engine.events.publish("container", "create", identity, container.attributes())
    return container, warnings


async def start(engine: Engine, container: Container, context: TraceContext) -> None:
    """Start a container. Raises NotModified if it runs, Conflict, or what kept it from starting."""
    async with container.lock:
        state = container.record.State
        if state.Paused:
            raise Conflict("cannot start a paused container, try unpause instead")
        if state.Running:
            raise NotModified("container is already running")
        if engine.ending:
            raise Unavailable("the daemon is shutting down: start the container when it is back")
        container.record.Starting = True
        container.save()
        try:
            return await _start(engine, container, context)
        except LabkitError as error:
            failure, code = starting.explain_failure(container, error)
            failure.__cause__ = error if error is not failure else error.__cause__
            _note_failure(container, str(failure), code)
    if container.record.HostConfig.AutoRemove:
        await remove(engine, container, force=False, volumes=True)
    raise failure


async def _start(engine: Engine, container: Container, context: TraceContext) -> None:
    joined = endpoints.attach(engine, container)
    container.save()
    try:
        await container.open_log()
        mountpoints.mount(engine, container, context)
        await _run_plan(engine, container, joined, context)
    except LabkitError as error:
        container.close_log()
        mountpoints.unmount(engine, container)
        failure = ports.explained(container, error)
        endpoints.release(engine, container)
        raise failure from (error if failure is not error else error.__cause__)


async def _run_plan(engine: Engine, container: Container, joined: endpoints.Joined, context: TraceContext) -> None:
    prelude = endpoints.prelude(engine, container, joined)
    found, plan = starting.prepare(container, engine.settings, engine.machine, prelude, joined)
    config = container.record.Config
    made = stdio.make_pipes(config.Tty, config.OpenStdin)
    first = Execution(plan.by("daemon"))

    def write() -> None:
        starting.write_config(container, found)

    try:
        first.run_or_undo()
        with endpoints.host_netlink(joined, made):
            child = made.child | mountpoints.trees(first.context)
            started = await engine.spawner.start(container.id, plan, child, made.keep, write)
    except LabkitError as error:
        if isinstance(error, StartFailed):
            first.undo()
        engine.traces.plan(failed_span(container.id, plan, error, context, first.records))
        raise
    finally:
        made.close()
        mountpoints.close_trees(first.context)
    engine.traces.plan(started_span(container.id, plan, started, context, engine.spawner.pid, first.records))
    _running(container, started.pid, started.pidfd, started.descriptors, started.began)
    container.run.context = context
    endpoints.opened(engine, container, started.descriptors, first.context)
    engine.events.publish("container", "start", container.id, container.attributes())


def started_span(
    subject: str, plan: Plan, started: Started, context: TraceContext, spawner: int, first: Sequence[Record] = ()
) -> PlanSpan:
    """A plan that ended in a process, for the traces. `first` is what the daemon did of it."""
    pids = {"daemon": os.getpid(), "spawner": spawner, "init": started.pid}

    def records() -> tuple[Record, ...]:
        return (*first, *started.records())

    return PlanSpan(context.child(), subject, plan, records, started.offset, pids, started.exec_at)


def failed_span(
    subject: str, plan: Plan, error: LabkitError, context: TraceContext, first: Sequence[Record] = ()
) -> PlanSpan:
    """A plan that failed on its way, for the traces."""
    offset = time.time_ns() - time.monotonic_ns()
    done: tuple[Record, ...] = error.records if isinstance(error, StartFailed) else ()
    if isinstance(error, KernelError) and isinstance(error.record, Record):
        done = (error.record,)
    return PlanSpan(context.child(), subject, plan, lambda: (*first, *done), offset, {"daemon": os.getpid()})


def _running(container: Container, pid: int, pidfd: int, descriptors: dict[str, int], began: int) -> None:
    container.record.State = State(Status="running", Running=True, Pid=pid, StartedAt=rfc3339(began))
    container.record.Starting = False
    container.save()
    container.run.begin(pid, pidfd, descriptors, container.marks)


def _note_failure(container: Container, message: str, code: int) -> None:
    """A start that failed leaves the container as it was, with the reason in its state."""
    state = container.record.State
    state.ExitCode, state.Error = code, message
    container.record.Starting = False
    container.save()
    remove_bundle(container)


def remove_bundle(container: Container) -> None:
    """Remove a container's bundle and marks from the exec root."""
    disk.remove_tree(container.bundle)
    for stream in ("stdout", "stderr"):
        path = f"{container.marks}.{stream}"
        if os.path.lexists(path):
            os.unlink(path)


def adopt(engine: Engine, container: Container, process: Introduced | None) -> None:
    """Settle what a daemon before this one has left: the process runs, has ended, or never came to be."""
    record = container.record
    if process:
        paused = not process.outcome and _is_frozen(engine, container)
        _complete_bundle(engine, container)
        container.adopt_log()
        _running(container, process.pid, process.pidfd, process.descriptors, process.began)
        endpoints.adopt(engine, container, process.descriptors)
        connecting.resume(engine, container)
        mountpoints.hold(engine, container)
        _note_frozen(container, paused)
        if process.outcome:
            engine.background(settle(engine, container, process.outcome))
        return
    if record.State.Running:
        _ended(container, Outcome(LOST, now_ns(), False), "the container was lost with the machine or the spawner")
    record.Starting = False
    endpoints.release(engine, container)
    container.save()
    remove_bundle(container)
    if record.HostConfig.AutoRemove and record.State.Status == "exited":
        engine.background(remove(engine, container, force=False, volumes=True))


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
    for output in (run.output, *(one.run.output for one in container.execs.values())):
        output.hurry()
    await run.output.ended.wait()
    async with container.lock:
        _leave_networks(engine, container)
        _ended(container, outcome, error)
        container.save()
        if not error:
            engine.spawner.forget(container.id)
        remove_bundle(container)
        if outcome.oom:
            engine.events.publish("container", "oom", container.id, container.attributes())
        attributes = container.attributes(exitCode=str(outcome.code))
        engine.events.publish("container", "die", container.id, attributes)
        mountpoints.unmount(engine, container)
        run.end(outcome.code)
        container.renew()
    if container.record.HostConfig.AutoRemove:
        await remove(engine, container, force=False, volumes=True)


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


def _ended(container: Container, outcome: Outcome, error: str) -> None:
    started = container.record.State.StartedAt
    container.record.State = State(
        Status="exited",
        ExitCode=outcome.code,
        OOMKilled=outcome.oom and outcome.code == 137,
        Error=error,
        StartedAt=started,
        FinishedAt=rfc3339(outcome.ended),
    )


async def kill(engine: Engine, container: Container, signal: int) -> None:
    """Send a signal to a container's init. Raises Conflict if it doesn't run."""
    run = container.run
    if not run.running:
        raise Conflict(f"cannot kill container: {container.id}: container {container.id} is not running")
    run.signal(signal)
    attributes = container.attributes(signal=str(signal))
    engine.events.publish("container", "kill", container.id, attributes)
    if signal == 9 and container.record.State.Paused:
        await unpause(engine, container)


async def stop(engine: Engine, container: Container, timeout: int | None = None, signal: str = "") -> None:
    """Ask a container to end, and kill it if it hasn't after `timeout` seconds (-1: wait for ever)."""
    run = container.run
    if not run.running:
        raise NotModified(f"container {container.id} is not running")
    config = container.record.Config
    number = validation.parse_signal(signal or config.StopSignal or "SIGTERM")
    seconds = (
        timeout
        if timeout is not None
        else (config.StopTimeout if isinstance(config.StopTimeout, int) else STOP_TIMEOUT)
    )
    await _signal_if_running(engine, container, number)
    try:
        await asyncio.wait_for(run.exited.wait(), None if seconds < 0 else seconds)
    except TimeoutError:
        await _signal_if_running(engine, container, 9)
        await run.exited.wait()
    engine.events.publish("container", "stop", container.id, container.attributes())


async def _signal_if_running(engine: Engine, container: Container, number: int) -> None:
    """Signal a process that may end by itself at this moment."""
    try:
        await kill(engine, container, number)
    except Conflict:
        return


async def restart(
    engine: Engine, container: Container, timeout: int | None, signal: str, context: TraceContext
) -> None:
    """Stop a container if it runs, then start it."""
    if container.run.running:
        automatic = container.record.HostConfig.AutoRemove
        container.record.HostConfig.AutoRemove = False
        try:
            await stop(engine, container, timeout, signal)
        except NotModified:
            pass  # it ended by itself meanwhile
        finally:
            container.record.HostConfig.AutoRemove = automatic
    await start(engine, container, context)
    engine.events.publish("container", "restart", container.id, container.attributes())


def _freezer(engine: Engine, container: Container, frozen: bool) -> cgroups.WriteCgroup:
    layout = engine.machine.cgroups
    path = engine.settings.cgroup(container.id, container.record.HostConfig.CgroupParent)
    directory = layout.directory("freezer", path)
    if layout.version == 2:
        return cgroups.WriteCgroup(f"{directory}/cgroup.freeze", "1" if frozen else "0")
    return cgroups.WriteCgroup(f"{directory}/freezer.state", "FROZEN" if frozen else "THAWED")


async def pause(engine: Engine, container: Container, context: TraceContext | None = None) -> None:
    """Freeze all processes of a container (cgroups(7), freezer)."""
    async with container.lock:
        if not container.run.running:
            raise Conflict(f"container {container.id} is not running")
        if container.record.State.Paused:
            raise Conflict(f"container {container.id} is already paused")
        _freeze(engine, container, True, context)
        engine.events.publish("container", "pause", container.id, container.attributes())


async def unpause(engine: Engine, container: Container, context: TraceContext | None = None) -> None:
    """Let the processes of a paused container go on."""
    async with container.lock:
        if not container.record.State.Paused:
            raise Conflict(f"container {container.id} is not paused")
        _freeze(engine, container, False, context)
        engine.events.publish("container", "unpause", container.id, container.attributes())


def _freeze(engine: Engine, container: Container, frozen: bool, context: TraceContext | None) -> None:
    plan = Plan("pause" if frozen else "unpause", (Step("daemon", _freezer(engine, container, frozen)),))
    carry_out(engine, plan, container.id, context or new_trace())
    _note_frozen(container, frozen)


def _note_frozen(container: Container, frozen: bool) -> None:
    state = container.record.State
    if state.Paused != frozen:
        state.Paused, state.Status = frozen, "paused" if frozen else "running"
        container.save()


def _is_frozen(engine: Engine, container: Container) -> bool:
    """Whether a container is paused, as the kernel has it: a daemon may have died before it wrote that down."""
    operation = _freezer(engine, container, True)
    return cgroups.read_value(operation.path) in (operation.value, "FREEZING")


async def rename(engine: Engine, container: Container, name: str) -> None:
    """Give a container another name."""
    name = name.lstrip("/")
    if not name:
        raise InvalidParameter("Neither old nor new names may be empty")
    validation.check_name(name)
    async with container.lock:
        if name == container.name:
            raise InvalidParameter("Renaming a container with the same name as its current name")
        engine.check_name_free(name)
        old = container.name
        engine.names.pop(old)
        container.record.Name = f"/{name}"
        engine.names[name] = container
        endpoints.announce_again(engine, container)
        container.save(durable=True)
    engine.events.publish("container", "rename", container.id, container.attributes(oldName=f"/{old}"))


async def remove(engine: Engine, container: Container, force: bool, volumes: bool = False) -> None:
    """Remove a container with its writable layer and log, and if wished its anonymous volumes.

    Raises Conflict if it runs and isn't forced.
    """
    if container.run.running:
        if not force:
            what = "paused" if container.record.State.Paused else "running"
            raise Conflict(
                f'cannot remove container "{container.record.Name}": container is {what}: '
                "stop the container before removing or force remove"
            )
        run = container.run
        await _signal_if_running(engine, container, 9)
        await run.exited.wait()
    async with container.lock:
        if container.id not in engine.containers:
            return
        container.record.State.Dead = True
        remove_bundle(container)
        await asyncio.to_thread(disk.remove_trees, mountpoints.withdraw(engine, container, volumes))
        _forget(engine, container)
    await _release_image(engine, container.record.Image)


async def _release_image(engine: Engine, image: str) -> None:
    """Remove the layers of an image that was removed by force, once its last container is gone."""
    try:
        engine.images.resolve(image)
    except NotFound:
        used = {one.record.Image for one in engine.containers.values()}
        in_use = [ContainerUse(image, False)]
        await asyncio.to_thread(engine.images.collect, lambda identity: in_use if identity in used else [])


def _forget(engine: Engine, container: Container) -> None:
    engine.discard(container)
    for identity in container.execs:
        engine.execs.pop(identity, None)
    container.close()
    container.run.end(container.record.State.ExitCode)
    container.removed.set()
    engine.events.publish("container", "destroy", container.id, container.attributes())


async def wait(container: Container, condition: str) -> int:
    """Wait for a condition of `POST /containers/{id}/wait`; the exit status."""
    run = container.run
    if condition == "removed":
        await container.removed.wait()
        return container.record.State.ExitCode
    if condition == "next-exit" or run.running:
        await run.exited.wait()
        return run.code or 0
    if condition not in ("", "not-running"):
        raise InvalidParameter(f'invalid condition: "{condition}"')
    return container.record.State.ExitCode
