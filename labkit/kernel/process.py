"""What a process is and may: session, signals, limits, user, working directory, filter, program.

setsid(2), signal(7), getrlimit(2), credentials(7), prctl(2), seccomp(2), execve(2).
"""

from __future__ import annotations

import errno
import os
import resource
import shlex
import signal
from base64 import b64decode
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from labkit.errors import KernelError
from labkit.kernel import constants as c
from labkit.kernel import null, syscalls
from labkit.kernel.bpf_machine import allows
from labkit.kernel.lending import Program
from labkit.kernel.mounts import make_mount_point
from labkit.plan import Context, Operation, Result

RLIMITS = {
    "RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4, "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11, "RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}  # fmt: skip


CHANGED_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)
"""The signals that the spawner or its Python don't leave at their default actions."""


@dataclass(frozen=True, slots=True)
class NewSession(Operation):
    """Lead a session of its own, without the caller's terminal (setsid(2))."""

    man: ClassVar[str] = "setsid(2)"
    ahead: ClassVar[bool] = True

    def run(self, context: Context) -> Result:
        syscalls.setsid()
        return None

    def describe(self) -> str:
        return "start a new session"

    def shell(self) -> str:
        return "setsid \\"


@dataclass(frozen=True, slots=True)
class ResetSignals(Operation):
    """Give all signals their default action and unblock them: the spawner's own settings are not the program's."""

    man: ClassVar[str] = "signal(7)"
    ahead: ClassVar[bool] = True

    def run(self, context: Context) -> Result:
        for number in CHANGED_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return None

    def describe(self) -> str:
        return "give signals their default actions"


@dataclass(frozen=True, slots=True)
class SetRlimit(Operation):
    """Set a resource limit; -1 is unlimited. Without CAP_SYS_RESOURCE the hard limit can't be raised: clamped then.

    The result tells the clamped limit, so that the trace (and the engine) can say so.
    """

    kind: str
    soft: int
    hard: int
    man: ClassVar[str] = "getrlimit(2)"

    def run(self, context: Context) -> Result:
        try:
            syscalls.prlimit(RLIMITS[self.kind], self.soft, self.hard)
            return None
        except KernelError as error:
            if error.errno != errno.EPERM:
                raise
        present = resource.getrlimit(RLIMITS[self.kind])[1]
        soft = min((limit for limit in (self.soft, present) if limit >= 0), default=-1)
        syscalls.prlimit(RLIMITS[self.kind], soft, present)
        return f"clamped to {present}: raising it needs CAP_SYS_RESOURCE"

    def describe(self) -> str:
        return f"limit {self.kind[7:].lower()} to {self.soft} (at most {self.hard})"

    def shell(self) -> str:
        soft, hard = ("unlimited" if limit == -1 else limit for limit in (self.soft, self.hard))
        return f"prlimit --pid $$ --{self.kind[7:].lower()}={soft}:{hard}"


@dataclass(frozen=True, slots=True)
class SetOomScore(Operation):
    """Say how likely the kernel's out-of-memory killer picks this process, -1000 to 1000 (proc(5))."""

    value: int
    man: ClassVar[str] = "proc_pid_oom_score_adj(5)"

    def run(self, context: Context) -> Result:
        syscalls.write_file("/proc/self/oom_score_adj", str(self.value))
        return None

    def describe(self) -> str:
        return f"set the out-of-memory score to {self.value}"

    def shell(self) -> str:
        return f"echo {self.value} > /proc/self/oom_score_adj"


@dataclass(frozen=True, slots=True)
class SetUser(Operation):
    """Become a user: supplementary groups, group, user (credentials(7)), with the stdio files made theirs."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    umask: int = 0o022
    man: ClassVar[str] = "credentials(7)"

    def run(self, context: Context) -> Result:
        if self.uid:
            self._own_stdio()
        syscalls.umask(self.umask)
        syscalls.setgroups(self.groups)
        syscalls.setresgid(self.gid)
        syscalls.setresuid(self.uid)
        return None

    def _own_stdio(self) -> None:
        """So that the user can open /dev/stdout. /dev/null belongs to all and stays as it is."""
        for fd in (0, 1, 2):
            if os.fstat(fd).st_rdev != null.NUMBER:
                syscalls.fchown(fd, self.uid, os.fstat(fd).st_gid)

    def describe(self) -> str:
        return f"become user {self.uid}, group {self.gid}"

    def shell(self) -> str:
        groups = ",".join(map(str, self.groups)) or "0"
        return f"setpriv --reuid {self.uid} --regid {self.gid} --groups {groups} \\"


@dataclass(frozen=True, slots=True)
class NoNewPrivileges(Operation):
    """From here on no execve(2) grants privileges: setuid bits and file capabilities do nothing."""

    man: ClassVar[str] = "PR_SET_NO_NEW_PRIVS(2const)"

    def run(self, context: Context) -> Result:
        syscalls.prctl(c.PR_SET_NO_NEW_PRIVS, 1)
        return None

    def describe(self) -> str:
        return "never gain privileges by running a program"

    def shell(self) -> str:
        return "setpriv --no-new-privs \\"


@dataclass(frozen=True, slots=True)
class InstallSeccomp(Operation):
    """Filter this process's system calls from here on, and those of all it will run.

    `program` is the filter in base64: struct sock_filter, 8 bytes each (seccomp(2)). Without no_new_privs this
    needs CAP_SYS_ADMIN, so it comes before capabilities are dropped.
    """

    program: str
    flags: int = 0
    man: ClassVar[str] = "seccomp(2)"

    def run(self, context: Context) -> Result:
        syscalls.seccomp(c.SECCOMP_SET_MODE_FILTER, self.flags, b64decode(self.program))
        return None

    def lets(self, call: str) -> bool:
        """Whether a system call passes."""
        return _lets(self.program, call)

    def describe(self) -> str:
        return f"filter system calls with {len(self.program) * 3 // 32} instructions of BPF"


@lru_cache(maxsize=16)
def _lets(program: str, call: str) -> bool:
    return allows(b64decode(program), call)


def sysctl_path(key: str) -> str:
    """The file of a kernel parameter. A key with slashes is taken as it is: links may have dots in their names."""
    return f"/proc/sys/{key if '/' in key else key.replace('.', '/')}"


@dataclass(frozen=True, slots=True)
class WriteSysctl(Operation):
    """Set a kernel parameter of this process's namespaces (sysctl(8), proc_sys(5))."""

    key: str
    value: str
    man: ClassVar[str] = "proc_sys(5)"

    def run(self, context: Context) -> Result:
        syscalls.write_file(sysctl_path(self.key), self.value)
        return None

    def describe(self) -> str:
        return f"set {self.key} to {self.value}"

    def shell(self) -> str:
        return f"sysctl -w {shlex.quote(f'{self.key}={self.value}')}"


@dataclass(frozen=True, slots=True)
class EnterDirectory(Operation):
    """Make a directory the working directory, making it first if it is missing. It must be beneath the root.

    A path such as /proc/self/fd/7 may lead to a directory of the host that is still open (CVE-2024-21626 in runc).
    """

    path: str
    make: bool = True
    man: ClassVar[str] = "chdir(2)"

    def run(self, context: Context) -> Result:
        if self.make:
            make_mount_point(self.path, directory=True)
        syscalls.chdir(self.path)
        try:
            os.getcwd()
        except FileNotFoundError as error:  # as the C library has it of a path that the kernel calls unreachable
            raise KernelError(f"chdir({self.path!r})", errno.EXDEV, "it is outside of the container") from error
        return None

    def describe(self) -> str:
        return f"work in {self.path}"

    def shell(self) -> str:
        path = shlex.quote(self.path)
        return f"mkdir -p {path} && cd {path}" if self.make else f"cd {path}"


@dataclass(frozen=True, slots=True)
class SealDescriptors(Operation):
    """Make sure that no descriptor but the standard streams outlives the exec: the host's files lie behind some."""

    man: ClassVar[str] = "close_range(2)"

    def run(self, context: Context) -> Result:
        try:
            syscalls.close_range(3, c.CLOSE_RANGE_CLOEXEC)
        except KernelError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):  # before Linux 5.11
                raise
            for name in os.listdir("/proc/self/fd"):
                if int(name) > 2:
                    _seal(int(name))
        return None

    def describe(self) -> str:
        return "let no other open file through to the program"


def _seal(fd: int) -> None:
    try:
        os.set_inheritable(fd, False)
    except OSError as error:
        if error.errno != errno.EBADF:  # the listing's own descriptor is closed by now
            raise


@dataclass(frozen=True, slots=True)
class Execute(Operation):
    """Become the program. `env` is "NAME=value" strings; a program without a slash is looked up in its PATH.

    Raises KernelError with ENOENT if there is none, with EACCES if it may not be run (execvp(3)).
    """

    argv: tuple[str, ...]
    env: tuple[str, ...]
    man: ClassVar[str] = "execve(2)"

    def run(self, context: Context) -> Result:
        syscalls.execve(*self.execution(context))
        return None

    def execution(self, context: Context) -> Program:
        """What `run` executes."""
        return Program(context.program or self.program(), self.argv, self.environment())

    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.env if "=" in entry)

    def program(self) -> str:
        """The program's path. Looked up before the one execve(2), as runc does, so that the trace can tell it."""
        program = self.argv[0]
        if "/" in program:
            return program
        path = self.environment().get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        found = [f"{folder or '.'}/{program}" for folder in path.split(":")]
        files = [candidate for candidate in found if os.path.isfile(candidate)]
        runnable = [candidate for candidate in files if os.access(candidate, os.X_OK)]
        return next(iter([*runnable, *files, *found]))

    def record(self, context: Context) -> tuple[Any, ...]:
        """The call that `run` is about to make: one that succeeds doesn't return to tell of it."""
        context.program = self.program()
        return syscalls.record_execve(context.program, self.argv, len(self.environment()))

    def describe(self) -> str:
        return f"become {shlex.join(self.argv)}"

    def shell(self) -> str:
        return f"exec env -i {shlex.join(self.env)} {shlex.join(self.argv)}"
