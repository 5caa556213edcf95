"""Start: from a container's record to its running process (moby `daemon/start.go`).

Reads what the plan depends on (image layers, users, devices), writes the bundle, computes the plan and has the
spawner carry it out.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from labkit.engine import mounts, spec, users
from labkit.engine.container import Container
from labkit.engine.endpoints import NOTHING_JOINED, Joined
from labkit.engine.models import ContainerRecord, DeviceMapping
from labkit.engine.settings import Settings
from labkit.errors import InvalidParameter, KernelError, LabkitError
from labkit.kernel.seccomp import compile_oci, default_profile, to_oci
from labkit.plan import Operation, Plan
from labkit.runtime import plans
from labkit.runtime.spawning import StartFailed

Spec = dict[str, Any]
_WRONG_KIND = (
    "Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is "
    "the expected type"
)
_MODES = {"c": stat.S_ISCHR, "b": stat.S_ISBLK}


def prepare(
    container: Container,
    settings: Settings,
    machine: plans.Machine,
    prelude: tuple[Operation, ...] = (),
    joined: Joined = NOTHING_JOINED,
) -> tuple[Spec, Plan]:
    """Make the bundle's directory; returns the container's spec and the plan that starts it."""
    record = container.record
    devices = tuple(find_devices(record.HostConfig.Devices or []))
    if record.HostConfig.Privileged:
        devices = tuple(all_devices())
    facts = spec.Facts(
        root=container.rootfs,
        directory=container.directory,
        cgroups_path=settings.cgroup(record.Id, record.HostConfig.CgroupParent),
        identity=identity(container, record.Config.User),
        machine=machine,
        devices=devices,
        network=joined.namespace,
        files=joined.files,
        environment=tuple(joined.environment),
        mounts=tuple(mounts.user_mounts(record, settings)),
    )
    seccomp = filter_of(record, machine)
    found = spec.build(record, facts, seccomp.oci)
    os.makedirs(container.rootfs, mode=0o710, exist_ok=True)
    layers = layers_of(container)
    binds = [mount["source"] for mount in found["mounts"] if mount["type"] == "bind"]
    files = frozenset(source for source in binds if os.path.exists(source) and not os.path.isdir(source))
    rows, columns = record.HostConfig.ConsoleSize
    streams = (*(["stdin"] if record.Config.OpenStdin else []), "stdout", "stderr")
    size, network = (rows, columns), tuple(joined.operations)
    bases = mounts.bases(record, settings)
    plan = plans.start_plan(found, machine, layers, files, seccomp.program, size, streams, prelude, network, bases)
    return found, plan


def write_config(container: Container, found: Spec) -> None:
    """Write the bundle's config.json (OCI runtime-spec bundle.md)."""
    with open(os.path.join(container.bundle, "config.json"), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(found), indent=1))


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


def find_devices(mappings: list[DeviceMapping]) -> Iterable[Spec]:
    """The host's devices that `--device` names, as nodes to make and rules to permit them."""
    for mapping in mappings:
        source, target = mapping.PathOnHost, mapping.PathInContainer or mapping.PathOnHost
        try:
            status = os.stat(source)
        except OSError as error:
            raise InvalidParameter(
                f'error gathering device information while adding custom device "{source}": no such file or directory'
            ) from error
        yield _device(target, status, mapping.CgroupPermissions or "rwm")


def _device(target: str, status: os.stat_result, access: str) -> Spec:
    kind = next((letter for letter, matches in _MODES.items() if matches(status.st_mode)), "")
    if not kind:
        raise InvalidParameter(
            f'error gathering device information while adding custom device "{target}": not a device node'
        )
    numbers = {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
    node = {"path": target, "type": kind, **numbers, "fileMode": stat.S_IMODE(status.st_mode)}
    node |= {"uid": status.st_uid, "gid": status.st_gid}
    return {"node": node, "rule": {"allow": True, "type": kind, **numbers, "access": access}}


def all_devices() -> Iterable[Spec]:
    """The host's devices, for `--privileged`; terminals and shared memory are the container's own."""
    for folder, folders, files in os.walk("/dev"):
        if folder == "/dev":
            folders[:] = [name for name in folders if name not in ("pts", "shm", "mqueue", "fd", ".lxc", ".udev")]
        for name in files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)) and path != "/dev/console":
                yield _device(path, status, "rwm")


@dataclass(frozen=True, slots=True)
class Filter:
    """A system-call filter: in OCI form for the bundle, and compiled to BPF. Both empty for no filter."""

    oci: Spec | None = None
    program: bytes = b""


def filter_of(record: ContainerRecord, machine: plans.Machine) -> Filter:
    """The container's filter: Docker's default, one that `--security-opt seccomp=` gives, or none."""
    host = record.HostConfig
    options = [option for option in host.SecurityOpt or [] if option.startswith(("seccomp=", "seccomp:"))]
    chosen = options[-1][8:] if options else ""
    if host.Privileged or chosen == "unconfined":
        return Filter()
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
    prefix = "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    if cause.operation == "AttachTree" and cause.errno == errno.ENOTDIR:
        return InvalidParameter(f"{prefix}{cause.call}: not a directory: unknown: {_WRONG_KIND}"), 127
    if cause.operation != "Execute":
        return LabkitError(f"{prefix}{cause}"), 128
    reason, code = exec_failure(cause, container.record.Path)
    return InvalidParameter(f"{prefix}unable to start container process: {reason}: unknown"), code


def exec_failure(cause: KernelError, program: str) -> tuple[str, int]:
    """runc's words for an execve(2) that failed, and the shell's exit status for it (126, 127)."""
    if cause.errno == errno.ENOENT and "/" not in program:
        return f'exec: "{program}": executable file not found in $PATH', 127
    if cause.errno in (errno.ENOENT, errno.ENOTDIR):
        return f'exec: "{program}": stat {program}: no such file or directory', 127
    return f'exec: "{program}": {os.strerror(cause.errno).lower()}', 126
