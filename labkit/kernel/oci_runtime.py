"""Another OCI runtime in the place of labkit's own: runc or crun make the container (runc(8), runtime-spec runtime.md).

A child of the spawner prepares what such a runtime takes for granted, in a mount namespace of its own: the root, the
network namespace with its links, a cgroup layout that it understands. Then it becomes `RUNTIME create`. The container's
first process outlives that, and is the spawner's from then on, which says `start` and takes the exit status.
"""

from __future__ import annotations

import array
import json
import os
import shlex
import socket
from dataclasses import dataclass
from typing import Any, ClassVar

from labkit.errors import KernelError
from labkit.kernel import constants as c
from labkit.kernel import syscalls
from labkit.kernel.cgroups import remove_cgroup
from labkit.kernel.lending import Program
from labkit.plan import Context, Operation, Result

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


@dataclass(frozen=True, slots=True)
class HoldRuntime(Operation):
    """Make a cgroup for the runtime itself. Undone by ending the runtime, if it is at work, and removing it.

    A runtime outlives the spawner, and would go on to make a container of which nobody knows: whoever takes the start
    back finds it here. What it has put into the container's cgroups is found there.
    """

    path: str
    man: ClassVar[str] = "cgroups(7)"

    def run(self, context: Context) -> Result:
        syscalls.mkdir(self.path)
        return None

    def undo(self, result: Result, context: Context) -> None:
        remove_cgroup(self.path)

    def describe(self) -> str:
        return f"make the cgroup {self.path} for the runtime itself"

    def shell(self) -> str:
        return f"mkdir {shlex.quote(self.path)}"


@dataclass(frozen=True, slots=True)
class HoldNetwork(Operation):
    """Give this process's network namespace a path, and go back to the parent's: the runtime joins it by that path."""

    path: str
    man: ClassVar[str] = "network_namespaces(7)"

    def run(self, context: Context) -> Result:
        os.close(syscalls.open_path(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
        syscalls.mount("/proc/self/ns/net", self.path, None, c.MS_BIND)
        parent = f"/proc/{os.getppid()}/ns/net"
        fd = syscalls.open_path(parent, os.O_RDONLY)
        syscalls.setns(fd, c.CLONE_NEWNET, parent)
        os.close(fd)
        return None

    def describe(self) -> str:
        return f"keep the network namespace at {self.path}"

    def shell(self) -> str:
        return f"touch {self.path} && mount --bind /proc/self/ns/net {self.path}"


@dataclass(frozen=True, slots=True)
class HideTree(Operation):
    """Unmount the v2 tree of a hybrid cgroup layout, in this mount namespace: crun refuses to work with it."""

    path: str
    man: ClassVar[str] = "umount(2)"

    def run(self, context: Context) -> Result:
        syscalls.umount2(self.path, c.MNT_DETACH)
        return None

    def describe(self) -> str:
        return f"hide {self.path} from the runtime"

    def shell(self) -> str:
        return f"umount --lazy {shlex.quote(self.path)}"


@dataclass(frozen=True, slots=True)
class ListenForTerminal(Operation):
    """Listen where the runtime sends the master of the container's terminal (runc `docs/terminals.md`)."""

    path: str
    man: ClassVar[str] = "unix(7)"

    def run(self, context: Context) -> Result:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        folder = os.open(os.path.dirname(self.path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # the name of a socket has 107 bytes at most
            sock.bind(f"/proc/self/fd/{folder}/{os.path.basename(self.path)}")
        finally:
            os.close(folder)
        sock.listen(1)
        context.descriptors["console"] = sock.detach()
        return None

    def undo(self, result: Result, context: Context) -> None:
        fd = context.descriptors.pop("console", -1)
        if fd >= 0:
            os.close(fd)

    def describe(self) -> str:
        return f"listen at {self.path} for the terminal"


@dataclass(frozen=True, slots=True)
class CreateByRuntime(Operation):
    """Become `RUNTIME create`. `state` is the directory that holds all that the runtime keeps of this container."""

    runtime: str
    state: str
    bundle: str
    identity: str
    terminal: bool = False
    hidden: str = ""
    man: ClassVar[str] = "runc(8)"

    def run(self, context: Context) -> Result:
        syscalls.execve(*self.execution(context))
        return None

    def execution(self, _: Context) -> Program:
        """What `run` executes."""
        return Program(self.runtime, self.argv(), _ENVIRONMENT)

    def argv(self) -> tuple[str, ...]:
        console = ("--console-socket", self.console) if self.terminal else ()
        return (*self._words(), "create", "--bundle", self.bundle, "--pid-file", self.pid_file, *console, self.identity)

    def _words(self) -> tuple[str, ...]:
        return (self.runtime, "--root", f"{self.state}/root", "--log", self.log, "--log-format", "json")

    @property
    def pid_file(self) -> str:
        return f"{self.state}/pid"

    @property
    def log(self) -> str:
        return f"{self.state}/log"

    @property
    def console(self) -> str:
        return f"{self.state}/console"

    def describe(self) -> str:
        return f"have {os.path.basename(self.runtime)} create the container"

    def shell(self) -> str:
        return f"exec {shlex.join(self.argv())}"

    def created(self) -> tuple[int, int]:
        """The pid of the container's first process, and a pidfd of it. Raises KernelError."""
        with open(self.pid_file, encoding="ascii") as file:
            pid = int(file.read())
        return pid, syscalls.pidfd_open(pid)

    def start(self) -> None:
        """Have the runtime let the program go. Raises KernelError with what the runtime says."""
        pid = os.fork()
        if pid == 0:
            self._become_start()
        _, status = os.waitpid(pid, 0)
        if status:
            raise self.failure("start")

    def _become_start(self) -> None:
        try:
            if self.hidden:
                syscalls.unshare(c.CLONE_NEWNS)
                syscalls.mount(None, "/", None, c.MS_SLAVE | c.MS_REC)
                syscalls.umount2(self.hidden, c.MNT_DETACH)
            os.execve(self.runtime, [*self._words(), "start", self.identity], _ENVIRONMENT)
        finally:
            os._exit(127)

    def failure(self, verb: str) -> KernelError:
        """What kept the runtime from it, in its own words."""
        said = [line for line in _log_lines(self.log) if line.get("level") in ("error", "fatal")]
        text = said[-1].get("msg", "") if said else "it gives no reason"
        return KernelError(f"{os.path.basename(self.runtime)} {verb} failed: {text}", 0, "", type(self).__name__)


def _log_lines(path: str) -> list[dict[str, Any]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return [json.loads(line) for line in file if line.startswith("{") and line.rstrip().endswith("}")]
    except (FileNotFoundError, ValueError):
        return []


def receive_terminal(listener: int) -> int:
    """The master of the terminal that a runtime has sent; the connection waits since then."""
    with socket.socket(fileno=os.dup(listener)) as sock:
        connection, _ = sock.accept()
    with connection:
        fds = array.array("i")
        room = socket.CMSG_SPACE(fds.itemsize)
        _, ancillary, _, _ = connection.recvmsg(4096, room, socket.MSG_CMSG_CLOEXEC)
        for _, _, content in ancillary:
            fds.frombytes(content)
    return fds[0]
