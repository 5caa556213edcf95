"""Update: limits and the restart policy of a container that exists (moby `daemon/update.go`, `container_unix.go`).

What is asked for is merged into its configuration; for one that runs, the difference is a plan of cgroup writes, undone
if one of them fails, and carried out once more if the daemon dies over it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from labkit.engine import backoff, devices, resources, spec
from labkit.engine.container import Container
from labkit.engine.execution import carry_out
from labkit.engine.models import HostConfig, RestartPolicy, Struct
from labkit.errors import Conflict, InvalidParameter, KernelError, LabkitError
from labkit.kernel import cgroups, limits
from labkit.plan import Plan, Step
from labkit.trace import TraceContext, new_trace

if TYPE_CHECKING:
    from labkit.engine.engine import Engine

log = logging.getLogger("labkit.engine")
_MEMORY, _SWAP = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"


class UpdateBody(Struct):
    """What `POST /containers/{id}/update` takes. What is zero, empty or absent stays as it is."""

    BlkioWeight: int = 0
    CpuShares: int = 0
    NanoCpus: int = 0
    CpuPeriod: int = 0
    CpuQuota: int = 0
    CpuRealtimePeriod: int = 0
    CpuRealtimeRuntime: int = 0
    CpusetCpus: str = ""
    CpusetMems: str = ""
    Memory: int = 0
    MemoryReservation: int = 0
    MemorySwap: int = 0
    PidsLimit: int | None = None
    RestartPolicy: RestartPolicy | None = None


_LIMITS = tuple(name for name in UpdateBody.__struct_fields__ if name != "RestartPolicy")
_CONFLICTS = (
    ("NanoCpus", "CpuPeriod", "Nano CPUs cannot be updated as CPU Period has already been set"),
    ("NanoCpus", "CpuQuota", "Nano CPUs cannot be updated as CPU Quota has already been set"),
    ("CpuPeriod", "NanoCpus", "CPU Period cannot be updated as NanoCPUs has already been set"),
    ("CpuQuota", "NanoCpus", "CPU Quota cannot be updated as NanoCPUs has already been set"),
)


def merged(host: HostConfig, asked: HostConfig, policy: RestartPolicy | None) -> HostConfig:
    """The configuration after an update. Raises Conflict in dockerd's words for what doesn't fit to what there is."""
    for new, old, words in _CONFLICTS:
        if getattr(asked, new) > 0 and getattr(host, old) > 0:
            raise Conflict(f"Conflicting options: {words}")
    if asked.Memory and asked.Memory > swap_of(host) and not asked.MemorySwap:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    found = msgspec.structs.replace(host, MemorySwap=swap_of(host))
    for name in _LIMITS:
        if getattr(asked, name) not in (0, "", None):
            setattr(found, name, getattr(asked, name))
    if asked.PidsLimit is not None and asked.PidsLimit <= 0:
        found.PidsLimit = 0
    if policy and policy.Name:
        if host.AutoRemove and not backoff.is_none(policy):
            raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
        found.RestartPolicy = policy
    return found


def swap_of(host: HostConfig) -> int:
    """Memory and swap together, in bytes: twice the memory if only that was given, -1 for no limit."""
    return host.MemorySwap or host.Memory * 2


def changes(layout: cgroups.Layout, before: HostConfig, after: HostConfig) -> list[tuple[str, str, str]]:
    """What differs, as (controller, file, value) to write, in an order that the kernel takes."""
    old, new = (_files(layout, host) for host in (before, after))
    found = [(*key, value) for key, value in new.items() if old.get(key) != value]
    if swap_of(after) == -1 or swap_of(after) > swap_of(before) > 0:  # there was no limit at 0 and -1
        found.sort(key=lambda change: (change[1] == _MEMORY) - (change[1] == _SWAP))  # more: the sum first
    return found


def _files(layout: cgroups.Layout, host: HostConfig) -> dict[tuple[str, str], str]:
    wanted = spec.resources(host, (), devices.block_io(host))
    wanted.setdefault("pids", {"limit": -1})
    return {(controller, file): value for controller, file, value in cgroups.limit_files(layout, wanted)}


def update_plan(layout: cgroups.Layout, path: str, before: HostConfig, after: HostConfig) -> Plan:
    """The plan that brings a running container's cgroup `path` from one configuration to another."""
    operations = (
        cgroups.ChangeCgroup(f"{layout.directory(controller, path)}/{file}", value)
        for controller, file, value in changes(layout, before, after)
    )
    return Plan("update", tuple(Step("daemon", operation) for operation in operations))


async def update(engine: Engine, container: Container, body: UpdateBody, context: TraceContext) -> list[str]:
    """Change a container. Returns the warnings. Raises InvalidParameter, Conflict, or what the kernel refused."""
    asked = HostConfig(**{name: getattr(body, name) for name in _LIMITS})
    warnings = resources.check(asked, limits.read(), update=True)
    if body.RestartPolicy:
        backoff.check(body.RestartPolicy)
    async with container.lock:
        if container.removing or container.record.State.Dead:
            raise Conflict(_refused(container, 'container is marked for removal and cannot be "update"'))
        try:
            after = merged(container.record.HostConfig, asked, body.RestartPolicy)
            _change(engine, container, after, context)
        except (Conflict, KernelError) as error:
            kind = Conflict if isinstance(error, Conflict) else LabkitError
            raise kind(_refused(container, str(error))) from error
        container.save(durable=True)
        if container.run.running:
            engine.memory.begin(container)
    engine.events.publish("container", "update", container.id, container.attributes())
    return warnings


def finish(engine: Engine, container: Container, runs: bool) -> None:
    """Finish the update that a daemon before this one had begun. One that the kernel refuses now is forgotten."""
    record = container.record
    after, record.Updating = record.Updating, None
    if after is None:
        return
    try:
        if runs:
            carry_out(engine, _plan(engine, container, after), container.id, new_trace())
        record.HostConfig = after
    except KernelError as error:
        log.warning("%s: an update that a daemon died over could not be finished: %s", container.name, error)
    container.save_if_room()


def _change(engine: Engine, container: Container, after: HostConfig, context: TraceContext) -> None:
    """Make `after` the configuration. One that runs gets the limits now, one that doesn't when it starts."""
    plan = _plan(engine, container, after)
    if container.run.running and plan.steps:
        if problem := resources.shares_problem(after.CpuShares, engine.machine.cgroups.version):
            raise InvalidParameter(_refused(container, problem))
        _announce(container, after)
        try:
            carry_out(engine, plan, container.id, context)
        except LabkitError:
            container.record.Updating = None
            container.save_if_room()
            raise
    container.record.HostConfig, container.record.Updating = after, None


def _announce(container: Container, after: HostConfig) -> None:
    """Write down what is about to be done. Raises OSError without room for that."""
    container.record.Updating = after
    try:
        container.save(durable=True)
    except OSError:
        container.record.Updating = None
        raise


def _plan(engine: Engine, container: Container, after: HostConfig) -> Plan:
    before = container.record.HostConfig
    path = engine.settings.cgroup(container.id, before.CgroupParent)
    return update_plan(engine.machine.cgroups, path, before, after)


def _refused(container: Container, reason: str) -> str:
    return f"Cannot update container {container.id}: {reason}"
