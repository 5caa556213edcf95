"""Namespaces: what a process can see (namespaces(7), clone(2), unshare(2), setns(2)).

A container's first process is cloned into new namespaces; `docker exec` joins those of a running one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from labkit.kernel import constants as c
from labkit.kernel import syscalls
from labkit.plan import Context, Operation, Result

_UNSHARE_OPTIONS = {
    c.CLONE_NEWNS: "--mount",
    c.CLONE_NEWUTS: "--uts",
    c.CLONE_NEWIPC: "--ipc",
    c.CLONE_NEWNET: "--net",
    c.CLONE_NEWPID: "--pid --fork",
    c.CLONE_NEWCGROUP: "--cgroup",
    c.CLONE_NEWUSER: "--user",
    c.CLONE_NEWTIME: "--time",
}
_NSENTER_OPTIONS = {**_UNSHARE_OPTIONS, c.CLONE_NEWPID: "--pid"}


def namespace_names(flags: int) -> str:
    """The OCI names of the namespaces in a set of CLONE_NEW* flags, such as `pid, mount`."""
    return ", ".join(name for name, flag in c.NAMESPACES.items() if flags & flag)


def _options(table: dict[int, str], flags: int) -> str:
    return " ".join(option for flag, option in table.items() if flags & flag)


@dataclass(frozen=True, slots=True)
class Unshare(Operation):
    """Move this process into new namespaces; its children too, for the pid namespace."""

    flags: int
    man: ClassVar[str] = "unshare(2)"

    def run(self, context: Context) -> Result:
        syscalls.unshare(self.flags)
        return None

    def describe(self) -> str:
        return f"leave the present namespaces for new ones: {namespace_names(self.flags)}"

    def shell(self) -> str:
        return f"unshare {_options(_UNSHARE_OPTIONS, self.flags)} \\"


@dataclass(frozen=True, slots=True)
class CloneInit(Operation):
    """Fork the container's first process, its init, straight into new namespaces.

    `cgroup` is the v2 cgroup directory that the child is born in, or empty. The result is the init's pid; its
    pidfd is `pidfd` in the context. A child that waits in the same namespaces is taken instead.
    """

    flags: int
    cgroup: str = ""
    man: ClassVar[str] = "clone(2)"

    def run(self, context: Context) -> Result:
        if context.parked:
            return context.parked.take(context)
        directory = syscalls.open_path(self.cgroup, os.O_RDONLY | os.O_DIRECTORY) if self.cgroup else -1
        pid, pidfd = syscalls.clone3(self.flags, directory)
        if pid == 0:
            context.in_child = True
            return None
        if directory >= 0:
            syscalls.close(directory)
        context.pid, context.descriptors["pidfd"] = pid, pidfd
        return pid

    def describe(self) -> str:
        return f"fork the container's init into new namespaces: {namespace_names(self.flags) or 'none'}"

    def shell(self) -> str:
        return f"unshare {_options(_UNSHARE_OPTIONS, self.flags)} \\"


@dataclass(frozen=True, slots=True)
class CloneIntoPidNamespace(Operation):
    """Fork a process into the pid namespace of a running one (`docker exec`).

    setns(2) into a pid namespace holds for the caller's children only, so the spawner enters, forks and goes
    back. `pid` is the running init's. Its pidfd is `target` in the context. A child that waits there is taken instead;
    there is none if it must be `guarded`, since somebody in there may trace it and its memory would be the spawner's.
    """

    pid: int
    join_pid: bool = True
    cgroup: str = ""
    guarded: bool = False
    man: ClassVar[str] = "setns(2)"

    def run(self, context: Context) -> Result:
        if context.parked:
            return context.parked.take(context)
        fork = CloneInit(0, self.cgroup)
        if not self.join_pid:
            return fork.run(context)
        return _fork_into(context.descriptors["target"], self.target(), fork, context)

    def target(self) -> str:
        """What the trace calls the pidfd."""
        return f"pidfd of {self.pid}"

    def describe(self) -> str:
        return f"fork a process into the pid namespace of process {self.pid}"

    def shell(self) -> str:
        return f"nsenter --target {self.pid} --pid \\"


@dataclass(frozen=True, slots=True)
class CloneInitInto(Operation):
    """Fork a container's init into the pid namespace that a path names, and new ones besides (`--pid container:ID`).

    It is no process 1 there: it may outlive nobody, and the namespace's own init adopts its orphans.
    """

    path: str
    flags: int
    cgroup: str = ""
    man: ClassVar[str] = "setns(2)"

    def run(self, context: Context) -> Result:
        namespace = syscalls.open_path(self.path, os.O_RDONLY)
        try:
            return _fork_into(namespace, self.path, CloneInit(self.flags, self.cgroup), context)
        finally:
            syscalls.close(namespace)

    def describe(self) -> str:
        names = namespace_names(self.flags) or "none"
        return f"fork the container's init into the pid namespace {self.path} and new namespaces: {names}"

    def shell(self) -> str:
        return f"nsenter --pid={self.path} unshare {_options(_UNSHARE_OPTIONS, self.flags)} \\"


def _fork_into(namespace: int, shown: str, fork: CloneInit, context: Context) -> Result:
    """setns(2) into a pid namespace holds for the caller's children only: enter, fork, go back."""
    own = syscalls.open_path("/proc/self/ns/pid", os.O_RDONLY)
    try:
        syscalls.setns(namespace, c.CLONE_NEWPID, shown)
        try:
            return fork.run(context)
        finally:
            if not context.in_child:
                syscalls.setns(own, c.CLONE_NEWPID, "/proc/self/ns/pid")
    finally:
        if not context.in_child:
            syscalls.close(own)


@dataclass(frozen=True, slots=True)
class JoinNamespaces(Operation):
    """Join namespaces of a running process, by its pidfd (`target` in the context)."""

    pid: int
    flags: int
    man: ClassVar[str] = "setns(2)"

    def run(self, context: Context) -> Result:
        syscalls.setns(context.descriptors["target"], self.flags, f"pidfd of {self.pid}")
        return None

    def describe(self) -> str:
        return f"join the namespaces of process {self.pid}: {namespace_names(self.flags)}"

    def shell(self) -> str:
        return f"nsenter --target {self.pid} {_options(_NSENTER_OPTIONS, self.flags)} \\"


@dataclass(frozen=True, slots=True)
class JoinNamespaceFile(Operation):
    """Join one namespace that a path names (`--network container:ID`, OCI `namespaces[].path`)."""

    path: str
    flag: int
    man: ClassVar[str] = "setns(2)"

    def run(self, context: Context) -> Result:
        fd = syscalls.open_path(self.path, os.O_RDONLY)
        syscalls.setns(fd, self.flag, self.path)
        syscalls.close(fd)
        return None

    def describe(self) -> str:
        return f"join the {namespace_names(self.flag)} namespace {self.path}"

    def shell(self) -> str:
        option = _NSENTER_OPTIONS[self.flag].split()[0]
        return f"nsenter {option}={self.path} \\"


@dataclass(frozen=True, slots=True)
class SetHostname(Operation):
    """Set the host name of this UTS namespace (uts_namespaces(7))."""

    name: str
    man: ClassVar[str] = "sethostname(2)"

    def run(self, context: Context) -> Result:
        syscalls.sethostname(self.name)
        return None

    def describe(self) -> str:
        return f"call this host {self.name!r}"

    def shell(self) -> str:
        return f"hostname {self.name}"


@dataclass(frozen=True, slots=True)
class SetDomainname(Operation):
    """Set the NIS domain name of this UTS namespace (uts_namespaces(7))."""

    name: str
    man: ClassVar[str] = "setdomainname(2)"

    def run(self, context: Context) -> Result:
        syscalls.setdomainname(self.name)
        return None

    def describe(self) -> str:
        return f"call this host's domain {self.name!r}"

    def shell(self) -> str:
        return f"domainname {self.name}"
