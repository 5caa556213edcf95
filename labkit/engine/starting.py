"""Start: from a container's record to its running process (moby `daemon/start.go`).

Reads what the plan depends on (image layers, users, devices), writes the bundle, computes the plan and has the
spawner carry it out.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from labkit.engine import devices, init_program, mounts, resources, runtimes, security, spec, users
from labkit.engine.container import Container
from labkit.engine.endpoints import NOTHING_JOINED, Joined
from labkit.engine.models import ContainerRecord
from labkit.engine.settings import Settings
from labkit.errors import InvalidParameter, KernelError, LabkitError
from labkit.kernel.seccomp import compile_oci, default_profile, to_oci
from labkit.plan import Operation, Plan
from labkit.runtime import oci, plans
from labkit.runtime.spawning import StartFailed

Spec = dict[str, Any]
_PREFIX = "failed to create task for container: failed to create shim task: OCI runtime create failed: "
_WRONG_KIND = (
    "Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is "
    "the expected type"
)


def prepare(
    container: Container,
    settings: Settings,
    machine: plans.Machine,
    prelude: tuple[Operation, ...] = (),
    joined: Joined = NOTHING_JOINED,
) -> tuple[Spec, Plan]:
    """Make the bundle's directory; returns the container's spec and the plan that starts it."""
    record = container.record
    host = record.HostConfig
    devices.refuse_requests(host)
    if problem := resources.shares_problem(host.CpuShares, machine.cgroups.version):
        raise InvalidParameter(f"{_PREFIX}{problem}: unknown")
    facts = spec.Facts(
        root=container.rootfs,
        directory=container.directory,
        cgroups_path=settings.cgroup(record.Id, record.HostConfig.CgroupParent),
        identity=identity(container, record.Config.User),
        machine=machine,
        devices=tuple(devices.chosen(host)),
        network=joined.namespace,
        files=joined.files,
        environment=tuple(joined.environment),
        mounts=tuple(mounts.user_mounts(record, settings)),
        joined=joined.namespaces,
        shm=joined.shm,
        block_io=devices.block_io(host),
    )
    seccomp = filter_of(record, machine)
    found = init_program.put_before(spec.build(record, facts, seccomp.oci), init_program.find(host))
    os.makedirs(container.rootfs, mode=0o710, exist_ok=True)
    layers = layers_of(container)
    binds = [mount["source"] for mount in found["mounts"] if mount["type"] == "bind"]
    files = frozenset(source for source in binds if os.path.exists(source) and not os.path.isdir(source))
    rows, columns = host.ConsoleSize
    streams = (*(["stdin"] if record.Config.OpenStdin else []), "stdout", "stderr")
    size, network = (rows, columns), tuple(joined.operations)
    bases = mounts.bases(record, settings)
    if program := runtimes.program_of(record, settings):
        # Half an ID is unique as well, and the name of a socket in there has 107 bytes at most (unix(7)).
        state = os.path.join(settings.runtime_states, record.Id[:32])
        runtime = oci.Runtime(program, record.Id, container.bundle, state)
        os.makedirs(settings.runtime_states, mode=0o700, exist_ok=True)
        found["process"]["consoleSize"] = {"height": rows, "width": columns}
        found, staging = oci.stage(found, runtime, files, bases)
        plan = oci.start_plan(found, machine, layers, runtime, streams, prelude, network, staging, host.CgroupParent)
        found = oci.spec_for(found, runtime)
        write_config(container, found)
        return found, plan
    plan = plans.start_plan(
        found, machine, layers, files, seccomp.program, size, streams, prelude, network, bases, host.CgroupParent
    )
    return found, plan


def write_config(container: Container, found: Spec) -> None:
    """Write the bundle's config.json (OCI runtime-spec bundle.md). By a rename: a runtime may be reading it."""
    path = os.path.join(container.bundle, "config.json")
    with open(f"{path}.new", "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(found), indent=1))
    os.replace(f"{path}.new", path)


def complete_bundle(container: Container, settings: Settings, machine: plans.Machine) -> None:
    """Write the config.json that a daemon which died during a start had not come to."""
    path = os.path.join(container.bundle, "config.json")
    if not os.path.exists(path) or not os.path.getsize(path):
        write_config(container, prepare(container, settings, machine)[0])


def layers_of(container: Container) -> plans.Layers:
    """The layers with the read-only ones named from their common directory: mount(2) takes a page of options."""
    return plans.Layers(*_relative(container.lower), container.upper, container.work)


@lru_cache(maxsize=64)
def _relative(lower: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    base = os.path.commonpath([os.path.dirname(path) for path in lower])
    return base, tuple(os.path.relpath(path, base) for path in lower)


def identity(container: Container, user: str) -> users.Identity:
    """Who `user` is by the container's own files."""
    passwd = users.read_layered(container.upper, container.lower, "etc/passwd")
    group = users.read_layered(container.upper, container.lower, "etc/group")
    return users.resolve(user, passwd, group, container.record.HostConfig.GroupAdd or ())


@dataclass(frozen=True, slots=True)
class Filter:
    """A system-call filter: in OCI form for the bundle, and compiled to BPF. Both empty for no filter."""

    oci: Spec | None = None
    program: bytes = b""


def filter_of(record: ContainerRecord, machine: plans.Machine) -> Filter:
    """The container's filter: Docker's default, one that `--security-opt seccomp=` gives, or none."""
    host = record.HostConfig
    chosen = security.parse(host.SecurityOpt).seccomp
    if host.Privileged or chosen == "unconfined":
        return Filter()
    if chosen == "builtin":
        chosen = ""
    names = plans.known_capabilities(spec.wanted_capabilities(host), machine)
    try:
        return _filter(chosen, names)
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise InvalidParameter(f"Decoding seccomp profile failed: {error}") from error


@lru_cache(maxsize=16)
def _filter(profile: str, names: tuple[str, ...]) -> Filter:
    found = msgspec.json.decode(profile, type=dict[str, Any]) if profile else default_profile()
    major, minor = re.findall(r"\d+", os.uname().release)[:2]
    oci = to_oci(found, frozenset(names), (int(major), int(minor)), os.uname().machine)
    return Filter(oci, compile_oci(oci, os.uname().machine))


def explain_failure(container: Container, error: LabkitError) -> tuple[LabkitError, int]:
    """What a client is told of a start that failed, in dockerd's words where clients match on them; the exit code."""
    cause = error.cause if isinstance(error, StartFailed) else error
    if not isinstance(cause, KernelError):
        return error, 128
    if cause.operation == "AttachTree" and cause.errno == errno.ENOTDIR:
        return InvalidParameter(f"{_PREFIX}{cause.call}: not a directory: unknown: {_WRONG_KIND}"), 127
    if cause.operation == "CreateByRuntime":
        return InvalidParameter(f"{_PREFIX}{cause.call}: unknown"), _status_of(cause.call)
    if cause.operation == "EnterDirectory" and cause.errno in (errno.ENOTDIR, errno.EEXIST):
        return InvalidParameter(f"Cannot mkdir: {container.record.Config.WorkingDir} is not a directory"), 128
    if cause.operation != "Execute":
        return LabkitError(f"{_PREFIX}{cause}"), 128
    reason, code = exec_failure(cause, container.record.Path)
    return InvalidParameter(f"{_PREFIX}unable to start container process: {reason}: unknown"), code


def _status_of(said: str) -> int:
    """The exit status that the docker command makes of what a runtime says."""
    lower = said.lower()
    if "executable file not found" in lower or "no such file or directory" in lower:
        return 127
    return 126 if "permission denied" in lower else 128


def exec_failure(cause: KernelError, program: str) -> tuple[str, int]:
    """runc's words for an execve(2) that failed, and the shell's exit status for it (126, 127)."""
    if cause.errno == errno.ENOENT and "/" not in program:
        return f'exec: "{program}": executable file not found in $PATH', 127
    if cause.errno in (errno.ENOENT, errno.ENOTDIR):
        return f'exec: "{program}": stat {program}: no such file or directory', 127
    return f'exec: "{program}": {os.strerror(cause.errno).lower()}', 126
