"""The spawner: the small single-threaded process that forks containers and outlives a daemon's crash.

It stands where containerd and its shims stand in Docker. It runs the `spawner` operations of a plan, forks the
container's init, is its parent, tells its exit (pidfd_open(2), waitid(2)), undoes the host's side of the plan
then, and keeps the descriptors of its stdio, so that a daemon that comes back is handed them again. It
imports the standard library and the operations only.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import marshal
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from labkit.errors import KernelError, LabkitError
from labkit.kernel import constants as c
from labkit.kernel import resolver, syscalls
from labkit.kernel.cgroups import CreateCgroup, memory_cgroup, memory_counts, oom_kills
from labkit.kernel.oci_runtime import CreateByRuntime
from labkit.plan import Context, Execution, Journal, Numbered, decode, decode_all, recover
from labkit.runtime import channel, oci, plans
from labkit.runtime.init import DESCRIPTORS, ERROR, RECORDS, run_init
from labkit.runtime.orphans import Orphans, take_created
from labkit.runtime.parking import Parked
from labkit.runtime.prefork import Prefork
from labkit.runtime.spare import Spare

MOST_DESCRIPTORS = 4
"""How many descriptors a child sends in one packet at most."""
LONGEST = 1 << 20
"""Bytes that a child sends in one packet at most."""
LIMIT = "the spawner's limit of open files is reached: raise that of the daemon that starts it (LimitNOFILE, ulimit -n)"
STARVED = 0.01
"""Seconds after which it is tried again to do something for which there was no memory: nobody tells that there is."""
NAME = "labkit-spawner"
"""What ps(1) and top(1) call it, which was executed by a descriptor."""
REST = ((0.001, Prefork.park), (0.5, Prefork.end))
"""What is done, one after the other, after so many seconds without anything to do. A start or an exec begins it anew.

What is there for nothing but speed takes memory, and would puzzle who looks at the machine with lsns(1) or ps(1).
"""
OPERATIONS = plans, resolver, oci
"""Imported for their side effect: all operations that a plan may hold are known by name."""


@dataclass(slots=True)
class Process:
    """A container's init or an exec's process, from its fork until the daemon says that it may be forgotten."""

    key: str
    context: Context
    execution: Execution
    kept: dict[str, int]
    control: socket.socket | None
    request: int
    began: int
    parked: Parked | None = None
    records: bytes = b""
    runtime: CreateByRuntime | None = None
    """Another runtime that makes the container: until it is `ready`, the process is that one's `create`."""
    error: tuple[Any, ...] | None = None
    ready: bool = False
    code: int | None = None
    ended: int = 0
    signal: int = 0
    oom_kills: int = 0
    memory: dict[str, int] | None = None
    undone: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.context.pid

    @property
    def pidfd(self) -> int:
        return self.context.descriptors["pidfd"]

    @property
    def cgroups(self) -> list[str]:
        """The cgroups that were made for this process."""
        return [op.path for _, op in self.execution.operations if isinstance(op, CreateCgroup)]

    def outcome(self) -> dict[str, Any]:
        """How it ended: exit status (None while it runs), time (ns since the epoch), whether memory ran out."""
        found = {"code": self.code, "ended": self.ended, "oom": bool(self.oom_kills)}
        return found | {"signal": self.signal, "memory": self.memory}


class Spawner:
    """The event loop and the table of processes."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.journals = os.path.join(folder, "journal")
        os.makedirs(self.journals, mode=0o700, exist_ok=True)
        self.processes: dict[str, Process] = {}
        self.daemon: socket.socket | None = None
        self.selector = selectors.EpollSelector()
        self.running = True
        self.rested = len(REST)
        self.orphans: Orphans | None = None
        self.spare = Spare()
        self.prefork = Prefork(self.selector, self.spare, self.log)
        self.packet = bytearray(LONGEST)  # here from the start: a machine without memory has no room for it later
        for name in recover(self.journals, self.log):
            self.log(f"undid {name}, which a dead spawner had left")
        self.listener = self._listen(os.path.join(folder, "spawner.sock"))
        self.selector.register(self.listener, selectors.EVENT_READ, self.accept)

    @staticmethod
    def log(text: str) -> None:
        try:
            print(f"labkit spawner: {text}", file=sys.stderr, flush=True)
        except OSError:
            return  # a full disk: containers are worth more than a line

    @staticmethod
    def _listen(path: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        if os.path.lexists(path):
            os.unlink(path)
        mask = os.umask(0o177)
        listener.bind(path)
        os.umask(mask)
        listener.listen(4)
        return listener

    def run(self) -> None:
        """Serve until told to end, or until nobody is left to serve: no daemon and no process."""
        gc.collect()
        gc.freeze()
        starved = False
        while self.running:
            try:
                self.turn()
                starved = False
            except MemoryError:  # what there was to do is told anew; others may give memory back meanwhile
                if not starved:
                    with contextlib.suppress(OSError):  # a full disk, besides
                        os.write(sys.stderr.fileno(), b"labkit spawner: there is no memory\n")  # takes none itself
                starved = True
                time.sleep(STARVED)  # there is no event for it
        self.prefork.end()
        os.unlink(os.path.join(self.folder, "spawner.sock"))

    def turn(self) -> None:
        """Do what there is to do; wait for it if there is nothing."""
        pause, rest = REST[self.rested] if self.rested < len(REST) else (None, None)
        events = self.selector.select(pause)
        for key, _ in events:
            key.data()
        if rest and not events:
            self.rested += 1
            rest(self.prefork)

    def accept(self) -> None:
        try:
            with self.spare:
                sock, _ = self.listener.accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            return  # it is told of again, and has room when what another daemon has left is closed
        if self.daemon:
            self.drop_daemon()
        for process in list(self.processes.values()):
            self.settle(process)
        self.running = True
        self.daemon = sock
        self.selector.register(sock, selectors.EVENT_READ, lambda: self.serve(sock))
        self.tell({"hello": channel.PROTOCOL, "pid": os.getpid()})
        for process in list(self.processes.values()):
            self.introduce(process)
        self.tell({"introduced": len(self.processes)})

    def settle(self, process: Process) -> None:
        """Wait for the end of a start that a dead daemon had asked for: a daemon finds what runs, or nothing."""
        while process.control:
            self.hear(process)
        if process.error or (process.runtime and not process.ready):
            self.reap(process)

    def introduce(self, process: Process) -> None:
        """Hand a running or ended process to a daemon that has come back."""
        names = list(process.kept)
        message = {"process": process.key, "pid": process.pid, "names": names, "began": process.began}
        message |= {"pidfd": process.code is None, **process.outcome()}
        fds = [process.pidfd] if process.code is None else []
        self.tell(message, (*fds, *process.kept.values()))

    def drop_daemon(self) -> None:
        if self.daemon:
            self.selector.unregister(self.daemon)
            self.daemon.close()
            self.daemon = None
        self.running = bool(self.processes)

    def tell(self, message: channel.Message, fds: tuple[int, ...] = ()) -> None:
        if not self.daemon:
            return
        try:
            with self.spare:
                channel.send(self.daemon, message, fds)
        except (BrokenPipeError, ConnectionResetError):
            self.drop_daemon()

    def serve(self, sock: socket.socket) -> None:
        """Take one request of the daemon."""
        if sock is not self.daemon:  # it has died, as was seen since the selector told of this
            return None
        try:
            with self.spare:
                received = channel.receive(sock)
        except ConnectionResetError:
            received = None
        if received is None:
            return self.drop_daemon()
        message, fds = received
        verb = message["do"]
        if verb == "start":
            self.start(message, fds)
        elif verb == "drop":
            self.drop(message["key"], message["names"])
        elif verb == "forget":
            self.forget(message["key"])
        elif verb == "reject":
            self.reject(message["key"])
        elif verb == "end":
            self.running = False
        return None

    def start(self, message: channel.Message, fds: list[int]) -> None:
        """Run the host's side of a plan, which forks; the child goes on with the rest of it."""
        if len(fds) < len(message["child"]) + len(message["keep"]):
            _close(fds)  # the kernel hands over as many as there is room for
            return self.refuse(message["request"], KernelError("recvmsg", errno.EMFILE, LIMIT))
        lent = dict(zip(message["child"], fds, strict=False))
        kept = dict(zip(message["keep"], fds[len(lent) :], strict=True))
        execution = None
        began = time.time_ns()
        try:
            operations = decode_all(message["host"])
            journal = Journal(os.path.join(self.journals, message["key"]))
            parked = self.take_parked(operations, message, lent)
            execution = Execution(operations, Context(dict(lent), parked=parked), journal)
            control = self.fork(execution, message["init"], lent)
            process = Process(message["key"], execution.context, execution, kept, control, message["request"], began)
            process.parked = parked
            process.runtime = self.runtime_of(message["last"])
            self.watch(process)
        except (LabkitError, OSError, MemoryError) as error:
            _close(kept.values())
            self.refuse(message["request"], error, execution)
        finally:
            _close(lent.values())
        return None

    def runtime_of(self, last: list[Any]) -> CreateByRuntime | None:
        """The runtime that a plan's last operation becomes, if it is one. What that leaves behind becomes ours."""
        if last[0] != CreateByRuntime.__name__:
            return None
        self.orphans = self.orphans or Orphans(self.selector, self.owned)
        found = decode(last)
        assert isinstance(found, CreateByRuntime)
        return found

    def owned(self) -> set[int]:
        """The children that are waited for by their pidfds."""
        return self.prefork.pids() | {process.pid for process in self.processes.values() if process.code is None}

    def take_parked(self, operations: Numbered, message: channel.Message, lent: dict[str, int]) -> Parked | None:
        """A child that waits to be what the plan is about to fork, if there can be one.

        It gets its work at once, so that it is ready when the host's side is done.
        """
        parked = self.prefork.child_for(operations, message["first"], lent)
        if parked is None:
            return None
        try:
            parked.work(message["init"], lent)
        except OSError as error:  # somebody has killed it, or there is no descriptor left for a large plan
            self.log(f"the parked child is of no use: {error}")
            parked.discard()
            return None
        return parked

    def fork(self, execution: Execution, init: bytes, lent: dict[str, int]) -> socket.socket:
        """Run the host's operations and give the child its own; returns the control socket to it."""
        assert execution.journal
        context, parked = execution.context, execution.context.parked
        control, child = (None, None) if parked else socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if child:
            context.descriptors["control"] = child.fileno()
        # Decoded before the fork: what a child allocates makes copies of the pages that it is put on.
        ready = () if parked else decode_all(marshal.loads(init))
        try:
            execution.journal.open(execution.operations)
            execution.run()
        except (LabkitError, OSError, MemoryError):
            if context.in_child:
                os._exit(127)
            if isinstance(parked, Parked):
                parked.discard()
            with self.spare:
                execution.undo()
            execution.journal.discard()
            raise
        if context.in_child:
            try:
                run_init(ready, context)
            finally:
                os._exit(127)  # whatever went wrong: there must be no second spawner
        execution.journal.close()
        if isinstance(parked, Parked):
            parked.go()
            return parked.control
        assert control
        assert child
        child.close()
        return control

    def watch(self, process: Process) -> None:
        self.processes[process.key] = process
        assert process.control
        self.selector.register(process.control, selectors.EVENT_READ, lambda: self.hear(process))
        self.selector.register(process.pidfd, selectors.EVENT_READ, lambda: self.reap(process))

    def refuse(
        self, request: int, error: LabkitError | OSError | MemoryError, execution: Execution | None = None
    ) -> None:
        """Tell that a start failed before there was a child."""
        fields = (str(error), 0, "", "")
        if isinstance(error, MemoryError):
            fields = ("malloc", errno.ENOMEM, "", "")
        elif isinstance(error, OSError) and error.errno == errno.EMFILE:
            fields = ("open", error.errno, LIMIT, "")
        elif isinstance(error, OSError):  # no room for the journal
            fields = ("write", error.errno or 0, f"the journal is below {self.folder}: make room there", "")
        elif isinstance(error, KernelError):
            fields = (error.call, error.errno, error.hint, error.operation)
        host = [tuple(record) for record in execution.records] if execution else []
        failed = tuple(error.record) if isinstance(error, KernelError) and isinstance(error.record, tuple) else None
        self.tell({"failed": request, "error": (*fields, failed, []), "host": host})

    def hear(self, process: Process) -> None:
        """What a child says on its way to its exec."""
        if not process.control:  # closed since the selector told of it
            return
        data, fds = channel.receive_into(process.control, self.packet, MOST_DESCRIPTORS)
        kind, body = data[:1], data[1:]
        if kind == DESCRIPTORS:
            names = body.decode().split(",")
            process.kept |= dict(zip(names, fds, strict=False))
            if len(fds) < len(names):
                self.end(process, LIMIT)
        elif kind == RECORDS:
            process.records = body
        elif kind == ERROR:
            process.error = marshal.loads(body)
        elif not data:
            self._release_control(process)
            if not (process.error or process.runtime):
                self._tell_started(process)

    def _release_control(self, process: Process) -> None:
        if process.control:
            self.selector.unregister(process.control)
            process.control.close()
            process.control = None
            if process.parked:
                process.parked.left()

    def _tell_started(self, process: Process) -> None:
        """The control socket has closed at the exec: the program runs."""
        process.ready = True
        host = [tuple(record) for record in process.execution.records]
        times = {"began": process.began, "exec": time.monotonic_ns(), "now": (time.time_ns(), time.monotonic_ns())}
        message = {"started": process.request, "process": process.key, "pid": process.pid, "host": host, **times}
        message["init"] = process.records
        names = list(process.kept)
        self.tell(message | {"names": names}, (process.pidfd, *process.kept.values()))
        self.rested = 0

    def reap(self, process: Process) -> None:
        """A process has ended: take its status, undo the host's side of its plan, tell the daemon."""
        if process.code is not None:  # reaped since the selector told of it
            return
        with self.spare:
            self._reap(process)

    def _reap(self, process: Process) -> None:
        while process.control:
            self.hear(process)
        status = os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED)
        assert status
        if process.runtime and not (process.ready or process.error) and self.take_over(process, status.si_status):
            return
        process.ended = time.time_ns()
        killed = status.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
        process.signal = status.si_status if killed else 0
        process.code = 128 + status.si_status if killed else status.si_status
        self.selector.unregister(process.pidfd)
        os.close(process.pidfd)
        for name in resolver.UDP, resolver.TCP:  # they would keep the network namespace
            if name in process.kept:
                os.close(process.kept.pop(name))
        memory = memory_cgroup(process.cgroups)
        process.oom_kills = oom_kills(memory) if memory else 0
        if process.oom_kills:
            process.memory = memory_counts(memory)
        process.undone = process.execution.undo()
        for failure in process.undone:
            self.log(failure)
        if process.execution.journal and not process.undone:
            process.execution.journal.remove()
        self._tell_ended(process)

    def take_over(self, process: Process, status: int) -> bool:
        """A runtime's `create` has ended: from now on the process is the container's init. False if there is none."""
        assert process.runtime
        try:
            pid, pidfd = take_created(process.runtime, status, process.context.descriptors, process.kept)
        except (KernelError, OSError, ValueError) as error:
            known = (
                error if isinstance(error, KernelError) else KernelError(str(error), getattr(error, "errno", 0) or 0)
            )
            records = marshal.loads(process.records) if process.records else []
            process.error = (known.call, known.errno, known.hint, CreateByRuntime.__name__, None, records)
            return False
        self.selector.unregister(process.pidfd)
        os.close(process.pidfd)
        process.context.pid, process.context.descriptors["pidfd"] = pid, pidfd
        self.selector.register(pidfd, selectors.EVENT_READ, lambda: self.reap(process))
        self._tell_started(process)
        return True

    def _tell_ended(self, process: Process) -> None:
        if process.error:
            host = [tuple(record) for record in process.execution.records]
            self.tell({"failed": process.request, "error": process.error, "host": host})
            self.forget(process.key)
        else:
            self.tell({"exited": process.key, **process.outcome()})

    def drop(self, key: str, names: list[str]) -> None:
        """Close descriptors that were kept, so that the other end sees their end."""
        if process := self.processes.get(key):
            for name in names:
                if name in process.kept:
                    os.close(process.kept.pop(name))

    def reject(self, key: str) -> None:
        """The daemon could not take a process's descriptors: end it, and tell of a start that has failed."""
        if (process := self.processes.get(key)) and process.code is None:
            self.end(process, "the daemon's limit of open files is reached: raise it (LimitNOFILE, ulimit -n)")

    @staticmethod
    def end(process: Process, hint: str) -> None:
        """End a process whose descriptors somebody had no room for: its start has failed."""
        process.error = ("recvmsg", errno.EMFILE, hint, "", None, [])
        signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)

    def forget(self, key: str) -> None:
        """The daemon has written down what became of a process."""
        if process := self.processes.pop(key, None):
            _close(process.kept.values())
            process.kept = {}


def _close(descriptors: Iterable[int]) -> None:
    for fd in descriptors:
        os.close(fd)


def serve(folder: str, ready: int) -> NoReturn:
    """Be the spawner of the exec root `folder` until it is told to end; closes `ready` when it listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Inherited: a container's processes must not look into what an exec has open, or trace it, until it is a program.
    syscalls.prctl(c.PR_SET_DUMPABLE, 0)
    with open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(NAME)
    spawner = Spawner(folder)
    os.close(ready)
    spawner.run()
    os._exit(0)
