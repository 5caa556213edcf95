"""The places that a daemon needs before it can serve: directories of its own, and its cgroup in each tree."""

from __future__ import annotations

import fcntl
import logging
import os
import uuid

from labkit.errors import Conflict, Forbidden, KernelError, LabkitError
from labkit.kernel import cgroups
from labkit.kernel.storage import RemoveDirectory
from labkit.plan import Context

log = logging.getLogger("labkit.engine")
_NOTHING = Context()


def make_folder(path: str) -> None:
    """Make a directory of the daemon's; raises Forbidden with reason and remedy."""
    try:
        os.makedirs(path, mode=0o711, exist_ok=True)
    except OSError as error:
        raise Forbidden(_unusable(path, error)) from error


def _unusable(path: str, error: OSError) -> str:
    return (
        f"can't use {path}: {os.strerror(error.errno or 0)}: labkit needs to write there; "
        "run the daemon as root, or choose other places with --data-root and --exec-root"
    )


def identity(data_root: str) -> str:
    """The daemon's ID, made when it first used its data root (moby `daemon/id.go`)."""
    path = os.path.join(data_root, "engine-id")
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        made = str(uuid.uuid4())
        with open(f"{path}.new", "w", encoding="ascii") as file:
            file.write(made)
        os.rename(f"{path}.new", path)
        return made


def lock_folder(path: str) -> int:
    """Make sure that one daemon at a time uses a directory; returns the descriptor that holds the lock."""
    try:
        fd = os.open(os.path.join(path, "daemon.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Forbidden(_unusable(path, error)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise Conflict(f"another labkit daemon uses {path}: stop it, or choose another place for this one") from error
    return fd


def unlock_folder(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def prepare_cgroups(layout: cgroups.Layout, parent: str) -> None:
    """Make the cgroup below which all containers are, with what its children need. Having it already is fine."""
    try:
        for directory in layout.directories(parent):
            if not os.path.isdir(directory):
                cgroups.CreateCgroup(directory).run(_NOTHING)
        if layout.version == 2:
            _enable_controllers(layout, parent)
        elif cpuset := layout.directory("cpuset", parent):
            _inherit_cpuset(cpuset)
    except KernelError as error:
        raise Forbidden(f"can't make the cgroups for containers: {error}: run the daemon as root") from error


def _enable_controllers(layout: cgroups.Layout, parent: str) -> None:
    """v2: pass the controllers that there are down to the containers' cgroups (cgroup.subtree_control)."""
    with open(f"{layout.unified}/cgroup.controllers", encoding="ascii") as file:
        wanted = [name for name in file.read().split() if name in cgroups.V2_CONTROLLERS]
    for directory in (layout.unified, layout.directory("", parent)):
        for name in wanted:
            cgroups.WriteCgroup(f"{directory}/cgroup.subtree_control", f"+{name}").run(_NOTHING)


def _inherit_cpuset(directory: str) -> None:
    """v1: a new cpuset has no CPUs and no memory; give it the parent's, and have its children inherit (cpuset(7))."""
    cgroups.WriteCgroup(f"{directory}/cgroup.clone_children", "1").run(_NOTHING)
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not _read(os.path.join(directory, name)):
            value = _read(os.path.join(os.path.dirname(directory), name))
            cgroups.WriteCgroup(f"{directory}/{name}", value).run(_NOTHING)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def remove_cgroups(layout: cgroups.Layout, parent: str) -> None:
    """Remove the containers' common cgroup; it stays if somebody else has put something into it."""
    for directory in layout.directories(parent):
        try:
            RemoveDirectory(directory).run(_NOTHING)
        except LabkitError as error:
            log.warning("%s stays: %s", directory, error)
