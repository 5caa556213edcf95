"""Capabilities: root's power in pieces (capabilities(7), capset(2), prctl(2)).

A container keeps Docker's fourteen; the bounding set makes sure that no program it runs gets more.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import ClassVar

from labkit.errors import KernelError
from labkit.kernel import constants as c
from labkit.kernel import syscalls
from labkit.plan import Context, Operation, Result

NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
"""capability.h: the place in this tuple is the capability's number."""

NUMBERS = {f"CAP_{name}": number for number, name in enumerate(NAMES)}


def mask(names: tuple[str, ...]) -> int:
    """The bit mask of `CAP_*` names. Raises KeyError for a name that no kernel of this table's age knows."""
    return sum(1 << NUMBERS[name] for name in set(names))


def names(bits: int) -> tuple[str, ...]:
    """The `CAP_*` names in a bit mask, by number."""
    return tuple(name for name, number in NUMBERS.items() if bits >> number & 1)


def own_bounding() -> int:
    """The bounding set of this process, the most that a container can be given (proc(5), CapBnd)."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapBnd:"))


@dataclass(frozen=True, slots=True)
class DropBounding(Operation):
    """Take capabilities out of the bounding set, for this process and all that it will run."""

    dropped: tuple[str, ...]
    man: ClassVar[str] = "capabilities(7)"
    ahead: ClassVar[bool] = True

    def run(self, context: Context) -> Result:
        for name in self.dropped:
            try:
                syscalls.prctl(c.PR_CAPBSET_DROP, NUMBERS[name])
            except KernelError as error:
                if error.errno != errno.EINVAL:  # a capability that this kernel doesn't have
                    raise
        return None

    def describe(self) -> str:
        return f"give up {len(self.dropped)} capabilities for good"

    def shell(self) -> str:
        return "setpriv --bounding-set " + ",".join(f"-{name[4:].lower()}" for name in self.dropped) + " \\"


@dataclass(frozen=True, slots=True)
class KeepCapabilities(Operation):
    """Say that changing the user shall not clear the permitted set (PR_SET_KEEPCAPS)."""

    keep: bool
    man: ClassVar[str] = "prctl(2)"

    def run(self, context: Context) -> Result:
        syscalls.prctl(c.PR_SET_KEEPCAPS, int(self.keep))
        return None

    def describe(self) -> str:
        return "keep capabilities over the change of user" if self.keep else "back to normal: a user change clears them"


@dataclass(frozen=True, slots=True)
class SetCapabilities(Operation):
    """Set the effective, permitted and inheritable sets, then the ambient one (sets as `CAP_*` names)."""

    effective: tuple[str, ...]
    permitted: tuple[str, ...]
    inheritable: tuple[str, ...]
    ambient: tuple[str, ...]
    man: ClassVar[str] = "capset(2)"

    def run(self, context: Context) -> Result:
        syscalls.capset(mask(self.effective), mask(self.permitted), mask(self.inheritable))
        syscalls.prctl(c.PR_CAP_AMBIENT, c.PR_CAP_AMBIENT_CLEAR_ALL)
        for name in self.ambient:
            syscalls.prctl(c.PR_CAP_AMBIENT, c.PR_CAP_AMBIENT_RAISE, NUMBERS[name])
        return None

    def describe(self) -> str:
        return f"keep {len(self.permitted)} capabilities: {', '.join(name[4:] for name in self.permitted) or 'none'}"

    def shell(self) -> str:
        kept = ",".join(f"+{name[4:].lower()}" for name in self.inheritable) or "-all"
        return f"setpriv --inh-caps {kept} \\"
