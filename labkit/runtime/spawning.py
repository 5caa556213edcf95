"""The daemon's side of the spawner: start one or find the one that a dead daemon left, and ask it for processes."""

from __future__ import annotations

import asyncio
import errno
import itertools
import marshal
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import labkit
from labkit.errors import KernelError, LabkitError, Unavailable
from labkit.kernel import constants as c
from labkit.kernel import syscalls
from labkit.plan import OPERATIONS, Plan, Record
from labkit.runtime import channel

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(labkit.__file__)))
ATTEMPTS = 5
_PROGRAM = """import sys
sys.path.append(sys.argv[1])
from labkit.runtime.spawner import serve
serve(sys.argv[2], int(sys.argv[3]))"""


@dataclass(frozen=True, slots=True)
class Started:
    """A process that runs: its descriptors by name, and what the plan that started it did, as it came.

    `began` is nanoseconds since the epoch; `offset` turns CLOCK_MONOTONIC of the records into the same.
    """

    key: str
    pid: int
    pidfd: int
    descriptors: dict[str, int]
    host: list[Any]
    init: bytes
    began: int
    offset: int
    exec_at: int

    def records(self) -> tuple[Record, ...]:
        """The records of the executed operations; made when somebody asks, since a start needn't wait for that."""
        init: list[Any] = marshal.loads(self.init) if self.init else []
        return tuple(Record(*record) for record in (*self.host, *init))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a process ended: exit status (128 and the signal if it was killed), time, whether memory had run out.

    `signal` is the one that killed it, `memory` what its memory cgroup had counted, if the kernel had killed for memory
    in there (`labkit.kernel.cgroups.memory_counts`).
    """

    code: int
    ended: int
    oom: bool
    signal: int = 0
    memory: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Introduced:
    """A process that the spawner has kept while no daemon was there; `outcome` is None while it runs."""

    key: str
    pid: int
    pidfd: int
    descriptors: dict[str, int]
    began: int
    outcome: Outcome | None


class StartFailed(LabkitError):
    """A plan failed. `cause` says which operation and why; the records tell what had been done before."""

    def __init__(self, cause: KernelError, records: tuple[Record, ...]) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.records = records


def _idle() -> None:
    return


@dataclass(slots=True)
class SpawnerClient:
    """The connection to the spawner. The callbacks are called from the event loop.

    `started` tells of a process whose start a daemon before this one had asked for.
    """

    sock: socket.socket
    exited: Callable[[str, Outcome], None]
    started: Callable[[Started], None]
    lost: Callable[[], None]
    waiting: dict[int, asyncio.Future[Started]] = field(default_factory=dict)
    unsent: deque[tuple[channel.Message, list[int]]] = field(default_factory=deque)
    last: int = 0
    pid: int = field(init=False)

    def __post_init__(self) -> None:
        credentials = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)  # pid, uid, gid (unix(7))
        self.pid = int.from_bytes(credentials[:4], sys.byteorder)

    async def start(
        self, key: str, plan: Plan, child: dict[str, int], keep: dict[str, int], meanwhile: Callable[[], None] = _idle
    ) -> Started:
        """Carry out a plan that ends in a process. Raises StartFailed, after everything was undone.

        `meanwhile` is called while the spawner works.

        `child` are descriptors for the new process, `keep` those that the spawner keeps for the next daemon. All
        stay open here.
        """
        self.last += 1
        request = self.last
        future: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        self.waiting[request] = future
        message = {"do": "start", "request": request, "key": key, **encode_plan(plan)}
        names = {"child": list(child), "keep": list(keep)}
        try:
            self._send(message | names, [*child.values(), *keep.values()])
            meanwhile()
            return await future
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Unavailable(f"the spawner doesn't answer ({error}): restart the daemon") from error
        finally:
            self.waiting.pop(request, None)

    def drop(self, key: str, *names: str) -> None:
        """Let the spawner close descriptors that it keeps."""
        self._send({"do": "drop", "key": key, "names": list(names)})

    def forget(self, key: str) -> None:
        """What became of this process is written down."""
        self._send({"do": "forget", "key": key})

    def end(self) -> None:
        """End the spawner, when nothing runs any more."""
        self._send({"do": "end"})

    def _send(self, message: channel.Message, fds: Sequence[int] = ()) -> None:
        """Send a message, or keep it until the spawner has taken others: a burst of starts fills its socket."""
        if not self.unsent:
            try:
                channel.send(self.sock, message, list(fds))
                return
            except BlockingIOError:
                asyncio.get_running_loop().add_writer(self.sock, self._send_on)
        self.unsent.append((message, [os.dup(fd) for fd in fds]))

    def _send_on(self) -> None:
        while self.unsent:
            message, fds = self.unsent[0]
            try:
                channel.send(self.sock, message, fds)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                break  # `_hear` is told of it too, and tells those who wait
            self._forget_unsent()
        self._give_up()

    def _forget_unsent(self) -> None:
        for fd in self.unsent.popleft()[1]:
            os.close(fd)

    def _give_up(self) -> None:
        """Send nothing more of what was kept; there may be nothing."""
        asyncio.get_running_loop().remove_writer(self.sock)
        while self.unsent:
            self._forget_unsent()

    def listen(self) -> None:
        """Take what the spawner says from the event loop on."""
        asyncio.get_running_loop().add_reader(self.sock, self._hear)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.sock)
        self._give_up()
        self.sock.close()

    def _hear(self) -> None:
        try:
            received = channel.receive(self.sock)
        except ConnectionResetError:
            received = None
        if received is None:
            self.close()
            for future in [future for future in self.waiting.values() if not future.done()]:
                future.set_exception(Unavailable("the spawner has died while it started a process: try again"))
            self.lost()
            return
        message, fds = received
        if "started" in message and len(fds) <= len(message["names"]):
            self._reject(message["process"], fds)
        elif "started" in message:
            self._started(_read_started(message, fds), message["started"])
        elif "failed" in message:
            self._failed(message)
        elif "exited" in message:
            self.exited(message["exited"], _read_outcome(message))

    def _reject(self, key: str, fds: list[int]) -> None:
        """There is no descriptor left here for those of a new process: its start has failed."""
        for fd in fds:
            os.close(fd)
        self._send({"do": "reject", "key": key})

    def _started(self, started: Started, request: int) -> None:
        future = self.waiting.get(request)
        if future and not future.done():
            future.set_result(started)
        else:
            self.started(started)

    def _failed(self, message: channel.Message) -> None:
        call, errno, hint, operation, failed, inside = message["error"]
        records = [Record(*record) for record in (*message["host"], *inside, *([failed] if failed else []))]
        future = self.waiting.get(message["failed"])
        if future and not future.done():
            future.set_exception(StartFailed(KernelError(call, errno, hint, operation), tuple(records)))


def encode_plan(plan: Plan) -> dict[str, Any]:
    """A plan for the spawner: its own operations, and those of the child as one piece that it hands on as it is.

    Of the child's it sees the first ones, which may be done ahead, and the last one.
    """
    init = plan.encoded("init")
    ahead = itertools.takewhile(lambda operation: OPERATIONS[operation[1]].ahead, init)
    first = [operation[1:] for operation in ahead]
    return {"host": plan.encoded("spawner"), "first": first, "init": marshal.dumps(init), "last": init[-1][1:]}


def _read_started(message: channel.Message, fds: list[int]) -> Started:
    wall, monotonic = message["now"]
    descriptors = dict(zip(message["names"], fds[1:], strict=True))
    began, exec_at = message["began"], message["exec"]
    done = message["host"], message["init"]
    return Started(message["process"], message["pid"], fds[0], descriptors, *done, began, wall - monotonic, exec_at)


def _greet(folder: str) -> tuple[socket.socket, channel.Message]:
    """A connection to the spawner and its greeting. One that is just ending lets a connection in, and drops it."""
    path = os.path.join(folder, "spawner.sock")
    for _ in range(ATTEMPTS):
        try:
            sock = _connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            _start(folder)
            sock = _connect(path)
        try:
            hello = channel.receive(sock)
        except ConnectionResetError:
            hello = None
        if hello:
            return sock, hello[0]
        sock.close()
    raise Unavailable(f"the spawner ends as soon as it is asked: see {folder}/spawner.log")


def connect(folder: str) -> tuple[socket.socket, list[Introduced]]:
    """The spawner of this exec root and the processes it has: the one that runs already, or a new one."""
    sock, hello = _greet(folder)
    if (version := hello.get("hello")) != channel.PROTOCOL:
        sock.close()
        raise Unavailable(
            f"the spawner of {folder} speaks version {version} of its protocol, this labkit {channel.PROTOCOL}: "
            "stop its containers with the labkit that made it"
        )
    processes: list[Introduced] = []
    while received := channel.receive(sock):
        message, fds = received
        if "introduced" in message:
            return sock, processes
        processes.append(_read_introduced(message, fds))
    raise Unavailable(f"the spawner of {folder} went away while it introduced its processes: try again")


def _read_introduced(message: channel.Message, fds: list[int]) -> Introduced:
    pidfd = fds.pop(0) if message["pidfd"] else -1
    descriptors = dict(zip(message["names"], fds, strict=True))
    outcome = None if message["code"] is None else _read_outcome(message)
    return Introduced(message["process"], message["pid"], pidfd, descriptors, message["began"], outcome)


def _read_outcome(message: channel.Message) -> Outcome:
    return Outcome(message["code"], message["ended"], message["oom"], message.get("signal", 0), message.get("memory"))


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def _start(folder: str) -> None:
    """Start a spawner in a session of its own; returns when it listens."""
    ready, theirs = os.pipe()
    log = os.open(os.path.join(folder, "spawner.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    interpreter = _unwritable(sys.executable)
    try:
        os.set_inheritable(theirs, True)
        streams = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate((null, log, log))]
        command = [sys.executable, "-I", "-S", "-c", _PROGRAM, _ROOT, folder, str(theirs)]
        os.posix_spawn(f"/proc/self/fd/{interpreter}", command, os.environ, file_actions=streams, setsid=True)
    finally:
        for fd in (theirs, log, null, interpreter):
            os.close(fd)
    with open(ready, "rb") as pipe:
        pipe.read()


def _unwritable(program: str) -> int:
    """A descriptor of a program, to be executed, through which nobody can write to it.

    A container's init is the host's Python until its exec, and a program that is /proc/self/exe stays that: it could
    reopen it for writing, were it not on a read-only mount of its own (CVE-2019-5736 was the same in runc). Without
    privileges, and before Linux 5.12, it is the file as it is.
    """
    path = os.path.realpath(program)
    try:
        mount = syscalls.open_tree(path, c.OPEN_TREE_CLONE | c.OPEN_TREE_CLOEXEC)
    except KernelError:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        syscalls.mount_setattr(mount, 0, c.MOUNT_ATTR_RDONLY)
    except KernelError as error:
        if error.errno != errno.ENOSYS:
            os.close(mount)
            raise
    return mount
