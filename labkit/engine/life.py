"""The life of a container: create, start, rename (moby `daemon/create.go`, `start.go`, `rename.go`).

A verb a function. Each takes the engine and leaves the container in a state that Docker knows too. How a run ends is in
`settling`, the other verbs are in `stopping`, `pausing`, `restarting`, `removing` and `waiting`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from labkit.engine import (
    creation,
    endpoints,
    health,
    legacy_links,
    mountpoints,
    naming,
    ports,
    removing,
    runtimes,
    starting,
    stdio,
    stopping,
    validation,
)
from labkit.engine.backoff import Backoff
from labkit.engine.clock import now, rfc3339
from labkit.engine.container import Container
from labkit.engine.execution import carry_out
from labkit.engine.logging import options as log_options
from labkit.engine.models import CreateBody, Ending, State
from labkit.engine.names import random_name
from labkit.engine.spans import failed_span, started_span
from labkit.errors import Conflict, InvalidParameter, LabkitError, NotModified, Unavailable
from labkit.images.manifests import ContainerConfig
from labkit.plan import Context, Execution
from labkit.trace import TraceContext

if TYPE_CHECKING:
    from labkit.engine.engine import Engine


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
    runtimes.settle(engine.settings, record.HostConfig)
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
        check_startable(container)
        container.backoff = Backoff()
        container.record.RestartCount, container.record.HasBeenManuallyStopped = 0, False
        failure = await _try(engine, container, context)
    if failure:
        if container.record.HostConfig.AutoRemove:
            await removing.remove_by_itself(engine, container)
        raise failure


async def start_again(engine: Engine, container: Container, context: TraceContext) -> None:
    """Start a container that has waited for its restart. If that fails it has ended; raises what kept it from it."""
    async with container.lock:
        if not container.record.State.Restarting or container.backoff.cancelled:
            return
        failure = await _try(engine, container, context)
        if failure:
            stopping.give_up(container)
    if failure:
        raise failure


def check_startable(container: Container) -> None:
    state = container.record.State
    if state.Paused:
        raise Conflict("cannot start a paused container, try unpause instead")
    if state.Running:
        raise NotModified("container is already running")
    if container.removing or state.Dead:
        raise Conflict("container is marked for removal and cannot be started")


async def _try(engine: Engine, container: Container, context: TraceContext) -> LabkitError | None:
    """Start it, or write down what kept it from starting, and return that."""
    if engine.ending:
        return Unavailable("the daemon is shutting down: start the container when it is back")
    try:
        await _start(engine, container, context)
    except LabkitError as error:
        failure, code = starting.explain_failure(container, error)
        failure.__cause__ = error if error is not failure else error.__cause__
        _note_failure(container, str(failure), code)
        return failure
    return None


async def _start(engine: Engine, container: Container, context: TraceContext) -> None:
    joined = endpoints.attach(engine, container)
    container.record.Starting = True
    container.save()
    try:
        await container.open_log()
        mountpoints.mount(engine, container, context)
        await _run_plan(engine, container, joined, context)
    except (LabkitError, OSError) as error:  # OSError: the daemon has no descriptor, or the disk no room
        container.close_log()
        mountpoints.unmount(engine, container)
        failure = ports.explained(container, error) if isinstance(error, LabkitError) else LabkitError(str(error))
        endpoints.release(engine, container)
        raise failure from (error if failure is not error else error.__cause__)


async def _run_plan(engine: Engine, container: Container, joined: endpoints.Joined, context: TraceContext) -> None:
    prelude = endpoints.prelude(engine, container, joined)
    found, plan = starting.prepare(container, engine.settings, engine.machine, prelude, joined)
    config = container.record.Config
    made = stdio.make_pipes(config.Tty, config.OpenStdin)
    first = Execution(plan.by("daemon"), engine.networks.host.lend(Context()))

    def write() -> None:
        starting.write_config(container, found)

    try:
        first.run_or_undo()
        try:
            with endpoints.host_netlink(joined, made):
                child = made.child | mountpoints.trees(first.context)
                started = await engine.spawner.start(container.id, plan, child, made.keep, write)
        except (LabkitError, OSError):
            first.undo()
            raise
    except LabkitError as error:
        engine.traces.plan(failed_span(container.id, plan, error, context, first.records))
        raise
    finally:
        made.close()
        mountpoints.close_trees(first.context)
    engine.traces.plan(started_span(container.id, plan, started, context, engine.spawner.pid, first.records))
    note_running(container, started.pid, started.pidfd, started.descriptors, started.began)
    container.run.context = context
    engine.memory.begin(container)
    endpoints.opened(engine, container, started.descriptors, first.context)
    health.begin(engine, container)
    engine.events.publish("container", "start", container.id, container.attributes())


def note_running(container: Container, pid: int, pidfd: int, descriptors: dict[str, int], began: int) -> None:
    """The container's process runs: its state says so, its output is read. What earlier probes said is kept."""
    known = container.record.State.Health
    container.record.State = State(Status="running", Running=True, Pid=pid, StartedAt=rfc3339(began), Health=known)
    container.record.Ending = None
    container.record.Starting = False
    container.save()
    container.run.begin(pid, pidfd, descriptors, container.marks)


def _note_failure(container: Container, message: str, code: int) -> None:
    """A start that failed leaves the container as it was, with the reason in its state."""
    state = container.record.State
    state.ExitCode, state.Error = code, message
    container.record.Ending = Ending(By="start", ExitCode=code, At=now(), Error=message)
    container.record.Starting = False
    container.save()
    container.remove_bundle()


async def rename(engine: Engine, container: Container, name: str) -> None:
    """Give a container another name."""
    name = name.lstrip("/")
    if not name:
        raise InvalidParameter("Neither old nor new names may be empty")
    async with container.lock:
        if container.record.State.Dead:
            raise Conflict("container is marked for removal and cannot be renamed")
        if name == container.name:
            raise InvalidParameter("Renaming a container with the same name as its current name")
        try:
            validation.check_name(name)
            engine.check_name_free(name)
        except (InvalidParameter, Conflict) as error:
            raise type(error)(f"Error when allocating new name: {error}") from error
        old = container.name
        engine.names.pop(old)
        container.record.Name = f"/{name}"
        engine.names[name] = container
        endpoints.announce_again(engine, container)
        container.save(durable=True)
    engine.events.publish("container", "rename", container.id, container.attributes(oldName=f"/{old}"))
