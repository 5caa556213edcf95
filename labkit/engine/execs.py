"""Exec: one more process in a running container (moby `daemon/exec.go`)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labkit.engine import attaching, legacy_links, sharing, spec, starting, stdio, users, validation
from labkit.engine.container import Container
from labkit.engine.models import ExecCreateBody
from labkit.engine.run import Run
from labkit.engine.spans import failed_span, started_span
from labkit.errors import Conflict, InvalidParameter, KernelError, LabkitError
from labkit.kernel.capabilities import NUMBERS
from labkit.plan import Plan
from labkit.runtime import plans
from labkit.runtime.spawning import Outcome, StartFailed
from labkit.trace import TraceContext

if TYPE_CHECKING:
    from labkit.engine.engine import Engine


@dataclass(eq=False)
class Exec:
    """An exec: what was asked, its run, and whether it was started already (it can be once).

    `purpose` is the name of its plan.
    """

    id: str
    container: Container
    body: ExecCreateBody
    purpose: str = "exec"
    run: Run = field(init=False)
    started: bool = False
    failed: int | None = None

    def __post_init__(self) -> None:
        self.run = Run(None, self.body.Tty)

    @property
    def code(self) -> int | None:
        """The exit status; None until it has ended."""
        return self.failed if self.failed is not None else self.run.code

    async def start(self, engine: Engine, size: tuple[int, int], attach: bool, context: TraceContext) -> None:
        """Run the process. `attach` says that somebody wants its streams. Raises what kept it from starting."""
        if self.started:
            raise Conflict(self.already())
        check_running(self.container)
        self.started = True
        self._publish(engine, f"exec_start: {command_of(self.body)}")
        try:
            await self._start(engine, size, attach, context)
        except LabkitError as error:
            self._fail(error)
            raise self.explain(error) from error

    def already(self) -> str:
        """Why it can't be started (again)."""
        return f"exec command {self.id} " + ("is already running" if self.code is None else "has already run")

    async def _start(self, engine: Engine, size: tuple[int, int], attach: bool, context: TraceContext) -> None:
        body = self.body
        wanted = (("stdout", body.AttachStdout), ("stderr", body.AttachStderr)) if attach else ()
        outputs = tuple(name for name, asked in wanted if asked)
        made = stdio.make_pipes(body.Tty, body.AttachStdin and attach, outputs)
        try:
            made_plan = make_plan(engine, self.container, body, size, tuple(made.child))
            plan = Plan(self.purpose, made_plan.steps)
            pidfd = os.dup(self.container.run.pidfd)
            made.child["target"] = pidfd
            started = await engine.spawner.start(self.id, plan, made.child, made.keep)
        except StartFailed as error:
            engine.traces.plan(failed_span(self.container.id, plan, error, context))
            raise
        finally:
            made.close()
        engine.traces.plan(started_span(self.container.id, plan, started, context, engine.spawner.pid))
        self.run.begin(started.pid, started.pidfd, started.descriptors, "")

    def _fail(self, error: LabkitError) -> None:
        cause = error.cause if isinstance(error, StartFailed) else error
        self.failed = 126
        if isinstance(cause, KernelError) and cause.operation == "Execute":
            self.failed = starting.exec_failure(cause, (self.body.Cmd or [""])[0])[1]
        self.run.end(self.failed)

    def explain(self, error: LabkitError) -> LabkitError:
        """The error in dockerd's words: clients tell 126 and 127 by them."""
        cause = error.cause if isinstance(error, StartFailed) else error
        if not isinstance(cause, KernelError):
            return error
        reason = str(cause)
        if cause.operation == "Execute":
            reason = starting.exec_failure(cause, (self.body.Cmd or [""])[0])[0]
        if cause.operation == "EnterDirectory":
            folder = self.body.WorkingDir or self.container.record.Config.WorkingDir
            problem = os.strerror(cause.errno).lower()
            reason = f'chdir to cwd ("{folder}") set in config.json failed: {problem}'
        prefix = "OCI runtime exec failed: exec failed: unable to start container process"
        return InvalidParameter(f"{prefix}: {reason}: unknown")

    async def settle(self, engine: Engine, outcome: Outcome) -> None:
        """The process has ended: when its output was passed on, record its exit status."""
        await self.run.output.ended.wait()
        engine.spawner.forget(self.id)
        self.run.end(outcome.code)
        self._publish(engine, "exec_die", exitCode=str(outcome.code))

    def _publish(self, engine: Engine, action: str, **more: str) -> None:
        attributes = self.container.attributes(execID=self.id, **more)
        engine.events.publish("container", action, self.container.id, attributes)


def command_of(body: ExecCreateBody) -> str:
    """A command as the events have it: moby puts a space between the program and its arguments, be there any or not."""
    program, *arguments = body.Cmd or [""]
    return f"{program} {' '.join(arguments)}"


def check_running(container: Container) -> None:
    """An exec needs a container that runs, isn't paused, and doesn't wait for its restart."""
    if container.record.State.Restarting:
        raise Conflict(f"container {container.id} is restarting, wait until the container is running")
    if not container.run.running:
        raise Conflict(f"container {container.id} is not running")
    if container.record.State.Paused:
        raise Conflict(f"container {container.id} is paused, unpause the container before exec")


def create(engine: Engine, container: Container, body: ExecCreateBody, purpose: str = "exec") -> Exec:
    """Remember an exec, to be started later."""
    check_running(container)
    if not body.Cmd or not body.Cmd[0]:
        raise InvalidParameter("No exec command specified")
    validation.check_size(body.ConsoleSize)
    _check_keys(body.DetachKeys)
    made = Exec(os.urandom(32).hex(), container, body, purpose)
    engine.execs[made.id] = made
    container.execs[made.id] = made
    attributes = container.attributes(execID=made.id)
    engine.events.publish("container", f"exec_create: {command_of(body)}", container.id, attributes)
    return made


def _check_keys(text: str) -> None:
    try:
        attaching.parse_keys(text)
    except InvalidParameter as error:
        raise InvalidParameter(f"Invalid escape keys ({text}) provided") from error


def make_plan(
    engine: Engine, container: Container, body: ExecCreateBody, size: tuple[int, int], streams: tuple[str, ...]
) -> Plan:
    """The plan of an exec: the container's own spec decides its namespaces, cgroups, filter."""
    record = container.record
    if body.WorkingDir and not body.WorkingDir.startswith("/"):
        raise InvalidParameter("OCI runtime exec failed: exec failed: Cwd must be an absolute path: unknown")
    identity = starting.identity(container, body.User or record.Config.User)
    cgroup = engine.settings.cgroup(record.Id, record.HostConfig.CgroupParent)
    links = tuple(legacy_links.environment(engine, container))
    facts = spec.Facts(container.rootfs, container.directory, cgroup, identity, engine.machine, environment=links)
    process = exec_process(container, body, facts, identity)
    bundle = {"linux": {"namespaces": spec.namespaces(record.HostConfig, engine.machine), "cgroupsPath": cgroup}}
    seccomp = starting.Filter() if body.Privileged else starting.filter_of(record, engine.machine)
    guarded = sharing.may_trace(engine, container)
    return plans.exec_plan(process, container.run.pid, bundle, engine.machine, seccomp.program, size, streams, guarded)


def exec_process(
    container: Container, body: ExecCreateBody, facts: spec.Facts, identity: users.Identity
) -> dict[str, Any]:
    """The `process` object of an exec: the container's, with what was asked for this one."""
    record = container.record
    process = spec.process(record, facts)
    terminal = ["TERM=xterm"] if body.Tty else []
    environment = [*terminal, *facts.environment, *(record.Config.Env or []), *(body.Env or [])]
    process |= {
        "terminal": body.Tty,
        "args": list(body.Cmd or []),
        "env": spec.environment(record, identity, environment),
        "cwd": body.WorkingDir or record.Config.WorkingDir or "/",
    }
    if body.Privileged:
        everything = list(plans.known_capabilities(tuple(NUMBERS), facts.machine))
        process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), everything)
    return process
