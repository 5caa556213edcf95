"""Kernel calls told as strace(1) tells them: numbers become the names that the kernel's headers give them.

A table says for each call what its arguments are; the tables of names come from `labkit.kernel`, so that a flag
has one definition. What differs between two runs of the same thing (descriptors, pids, IDs, the daemon's own
directories) is left out on request: a lesson's stored output must stay true.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from labkit.kernel import constants as c
from labkit.kernel import paths
from labkit.kernel.capabilities import NUMBERS
from labkit.kernel.process import RLIMITS

ELIDED = "…"
_LONGEST = 96
_ID = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")
_UUID = r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
_ANY_ID = re.compile(rf"\b(?:{_UUID}|[0-9a-f]{{64}}|[0-9a-f]{{32}}|[0-9a-f]{{16}}|[0-9a-f]{{12}})\b")
_CGROUP = re.compile(r"(/sys/fs/cgroup(?:/(?!unified/)[\w,.]+(?=/[^/\s]+/[0-9a-f]{64}))?)/\S*?[0-9a-f]{64}")
_ENGINE_DIRECTORY = re.compile(r"/[\w./-]+(?=/(?:bundles|containers|images|volumes)/)")
_PROCESS = re.compile(r"\b(process|pidfd of) \d+")


@dataclass(frozen=True, slots=True)
class Style:
    """How much is told. `stable` leaves out what the next run or another machine would have otherwise; `full`
    shortens nothing.
    """

    stable: bool = False
    full: bool = False

    def words(self, text: str) -> str:
        """A sentence or a path with its IDs shortened, or left out."""
        if self.stable:
            text = _ENGINE_DIRECTORY.sub(ELIDED, _CGROUP.sub(rf"\1/{ELIDED}", text))
            return _PROCESS.sub(rf"\1 {ELIDED}", _ANY_ID.sub(ELIDED, text))
        return text if self.full else _ID.sub(r"\1", text)

    def cut(self, text: str) -> str:
        return text if self.full or len(text) <= _LONGEST else text[:_LONGEST] + ELIDED


Show = Callable[[Any, Style], str]


class Shape(NamedTuple):
    """How a call is written: what its arguments are, in order, and (where they form a struct) their setting.

    `returns` tells what the result is; None where it is plain success.
    """

    arguments: tuple[Show, ...]
    setting: str = ""
    returns: Show | None = None


class Shown(NamedTuple):
    """A call, told: the call itself, and what it returned."""

    call: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.call} {self.outcome}"


def decode(name: str, arguments: list[Any] | tuple[Any, ...], result: Any, number: int, style: Style) -> Shown:
    """A recorded call (`labkit.trace.Call`) in strace's notation."""
    if style.stable and name == "clone3":  # which of the two it is differs from one machine to the next
        name, arguments = "clone", arguments[:1]
    shape = SHAPES.get(name) or Shape(tuple(_guess for _ in arguments))
    if name == "prctl":
        shape = PRCTL.get(tuple(arguments[:2])) or PRCTL.get(arguments[0], shape)
    shown = [show(argument, style) for show, argument in zip(shape.arguments, arguments, strict=False)]
    inside = shape.setting.format(*_merged(shown, style)) if shape.setting else ", ".join(shown)
    return Shown(f"{name}({inside})", _outcome(shape, result, number, style))


def _merged(shown: list[str], style: Style) -> list[str]:
    """A long argument that repeats the one before it is told once."""
    pairs = zip(shown, [*shown[:1], *shown], strict=False)
    repeats = [place > 0 and len(one) > 40 and one == before for place, (one, before) in enumerate(pairs)]
    return [f"{ELIDED} the same" if same and not style.full else one for one, same in zip(shown, repeats, strict=True)]


def _outcome(shape: Shape, result: Any, number: int, style: Style) -> str:
    if number:
        return f"= -1 {errno.errorcode.get(number, number)} ({os.strerror(number)})"
    if result is None:
        return "does not return"
    return f"= {shape.returns(result, style) if shape.returns else 0}"


# What an argument is


def text(value: Any, style: Style) -> str:
    """A string in C's notation; NULL for none."""
    return "NULL" if value is None else json.dumps(style.cut(style.words(str(value))), ensure_ascii=False)


def number(value: Any, style: Style) -> str:
    return str(value)


def octal(value: Any, style: Style) -> str:
    return f"0{value:o}"


def varying(value: Any, style: Style) -> str:
    """A descriptor, a pid: another one each time."""
    return ELIDED if style.stable else style.words(str(value))


def names_of(*prefixes: str) -> dict[int, str]:
    """Value and name of the kernel's constants with these prefixes."""
    return {value: name for name, value in vars(c).items() if name.startswith(prefixes) and isinstance(value, int)}


def flags(table: Mapping[int, str], zero: str = "0") -> Show:
    """Bits by name, joined with |; bits without a name in hexadecimal."""

    def show(value: Any, style: Style) -> str:
        names = [name for bit, name in table.items() if bit and value & bit == bit]
        rest = value & ~sum(bit for bit in table if value & bit == bit)
        return "|".join([*names, *([hex(rest)] if rest else [])]) or zero

    return show


def one_of(table: Mapping[int, str]) -> Show:
    return lambda value, style: table.get(value, str(value))


def several(show: Show) -> Show:
    return lambda value, style: "[" + ", ".join(show(item, style) for item in value) + "]"


def _mode_and_kind(value: Any, style: Style) -> str:
    kinds = {stat.S_IFCHR: "S_IFCHR|", stat.S_IFBLK: "S_IFBLK|", stat.S_IFIFO: "S_IFIFO|"}
    return kinds.get(stat.S_IFMT(value), "") + octal(stat.S_IMODE(value), style)


def _device(value: Any, style: Style) -> str:
    return f"makedev({os.major(value)}, {os.minor(value)})"


def _limit(value: Any, style: Style) -> str:
    return "RLIM_INFINITY" if value == -1 else str(value)


def _open_flags(value: Any, style: Style) -> str:
    access = ("O_RDONLY", "O_WRONLY", "O_RDWR")[value & os.O_ACCMODE]
    return "|".join([access, *filter(None, [_OPEN(value & ~os.O_ACCMODE | os.O_CLOEXEC, style)])])


def _joined(value: Any, style: Style) -> str:
    """What setns(2) joins: the record says it in words, where the call has a descriptor."""
    return varying(value, style) if isinstance(value, int) else f"<{style.words(str(value))}>"


def _file(value: Any, style: Style) -> str:
    """The file behind a descriptor, as strace -y shows it."""
    return f"<{style.words(str(value))}>"


def _directory(value: Any, style: Style) -> str:
    return "AT_FDCWD" if value == c.AT_FDCWD else varying(value, style)


def _variables(value: Any, style: Style) -> str:
    return f"/* {value} vars */"


def _guess(value: Any, style: Style) -> str:
    if isinstance(value, list | tuple):
        return several(_guess)(value, style)
    return text(value, style) if isinstance(value, str | None) else number(value, style)


_OPEN = flags(
    {getattr(os, f"O_{name}"): f"O_{name}" for name in ("CREAT", "EXCL", "NOCTTY", "TRUNC", "APPEND", "NONBLOCK")}
    | {os.O_DIRECTORY: "O_DIRECTORY", os.O_PATH: "O_PATH", os.O_NOFOLLOW: "O_NOFOLLOW", os.O_CLOEXEC: "O_CLOEXEC"},
    zero="",
)
_CLONE = flags(names_of("CLONE_"))


_BY_THE_WAY = (
    c.CLONE_VM | c.CLONE_PARENT | c.CLONE_PARENT_SETTID | c.CLONE_PIDFD | c.CLONE_INTO_CGROUP
)  # whose child it is, on whose memory, and how one is told of it: not the same in each run, or on each machine


def _clone_flags(value: Any, style: Style) -> str:
    return _CLONE(value & ~_BY_THE_WAY if style.stable else value, style)


def _clone_args(value: Any, style: Style) -> str:
    """struct clone_args."""
    signal = "0" if value & c.CLONE_PARENT else "SIGCHLD"
    return f"{{flags={_CLONE(value, style)}, exit_signal={signal}}}"


_MOUNT = flags(names_of("MS_"))
_CAPABILITY = one_of({value: name for name, value in NUMBERS.items()})
_CAPABILITIES = flags({1 << value: name for name, value in NUMBERS.items()})
_FD = varying
_AT = ("AT_RECURSIVE", "AT_EMPTY_PATH")
_RESOLVE = flags({value: name for name, value in vars(paths).items() if name.startswith("RESOLVE_")})
_RLIMIT = one_of({value: name for name, value in RLIMITS.items()})
_IOCTL = one_of(names_of("TIOC", "SIOC"))
_PRCTL_OPTIONS = {value: name for value, name in names_of("PR_").items() if not name.startswith("PR_CAP_AMBIENT_")}
_PR_OPTION = one_of(_PRCTL_OPTIONS)
_AMBIENT = one_of(names_of("PR_CAP_AMBIENT_"))

SHAPES: dict[str, Shape] = {
    "clone": Shape((_clone_flags,), "flags={0}", varying),
    "clone3": Shape((_clone_args, _FD), "{0}", varying),
    "unshare": Shape((_CLONE,)),
    "setns": Shape((_joined, _CLONE)),
    "mount": Shape((text, text, text, _MOUNT, text)),
    "umount2": Shape((text, flags(names_of("MNT_", "UMOUNT_")))),
    "pivot_root": Shape((text, text)),
    "open_tree": Shape((_directory, text, flags(names_of("OPEN_TREE_", *_AT))), returns=varying),
    "move_mount": Shape((_FD, text, _directory, text, flags(names_of("MOVE_MOUNT_")))),
    "mount_setattr": Shape(
        (_FD, text, flags(names_of(*_AT)), flags(names_of("MOUNT_ATTR_")), _MOUNT),
        "{0}, {1}, {2}, {{attr_set={3}, propagation={4}}}",
    ),
    "openat2": Shape(
        (_directory, text, _open_flags, octal, _RESOLVE), "{0}, {1}, {{flags={2}, mode={3}, resolve={4}}}", varying
    ),
    "mkdir": Shape((text, octal)),
    "mkdirat": Shape((_directory, text, octal)),
    "rmdir": Shape((text,)),
    "mknod": Shape((text, _mode_and_kind, _device)),
    "symlink": Shape((text, text)),
    "chmod": Shape((text, octal)),
    "chown": Shape((text, number, number)),
    "fchown": Shape((_FD, number, number)),
    "chdir": Shape((text,)),
    "umask": Shape((octal,), returns=octal),
    "write": Shape((_file, text), returns=number),
    "open": Shape((text, _open_flags, octal), returns=varying),
    "close": Shape((_FD,)),
    "prctl": Shape((_PR_OPTION, number, number)),
    "capset": Shape((_CAPABILITIES,) * 3, "{{effective={}, permitted={}, inheritable={}}}"),
    "seccomp": Shape(
        (
            one_of({c.SECCOMP_SET_MODE_FILTER: "SECCOMP_SET_MODE_FILTER"}),
            flags(names_of("SECCOMP_FILTER_FLAG_")),
            number,
        ),
        "{0}, {1}, {{len={2}}}",
    ),
    "bpf": Shape((number, number, varying, varying), returns=varying),
    "sethostname": Shape((text,)),
    "setdomainname": Shape((text,)),
    "setsid": Shape(()),
    "setgroups": Shape((several(number),)),
    "setresgid": Shape((number,) * 3),
    "setresuid": Shape((number,) * 3),
    "prlimit": Shape((_RLIMIT, _limit, _limit), "0, {0}, {{rlim_cur={1}, rlim_max={2}}}"),
    "ioctl": Shape((_FD, _IOCTL)),
    "dup2": Shape((_FD, number), returns=number),
    "close_range": Shape((number, flags(names_of("CLOSE_RANGE_"))), "{0}, ~0U, {1}"),
    "sendmsg": Shape((_FD, number, several(_FD)), "{0}, {{SCM_RIGHTS, {2}}}", number),
    "pidfd_open": Shape((varying, number), returns=varying),
    "pidfd_send_signal": Shape((_FD, number)),
    "execve": Shape((text, several(text), _variables)),
}
"""What the arguments of each recorded call are (`labkit.kernel.syscalls` records them)."""

PRCTL: dict[int | tuple[int, int], Shape] = {
    c.PR_CAPBSET_DROP: Shape((_PR_OPTION, _CAPABILITY)),
    c.PR_SET_KEEPCAPS: Shape((_PR_OPTION, number)),
    c.PR_SET_NO_NEW_PRIVS: Shape((_PR_OPTION, number)),
    c.PR_SET_CHILD_SUBREAPER: Shape((_PR_OPTION, number)),
    c.PR_CAP_AMBIENT: Shape((_PR_OPTION, _AMBIENT, _CAPABILITY)),
    (c.PR_CAP_AMBIENT, c.PR_CAP_AMBIENT_CLEAR_ALL): Shape((_PR_OPTION, _AMBIENT)),
}
"""prctl(2) is many calls in one: what its other arguments are depends on the first."""
