"""What strace writes and what `labkit explain` writes, brought to one notation, so that they can be compared as text.

Left out on both sides is what only one of them can know: the address of a struct, the descriptor behind a name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from labkit.explain.decode import Style, decode
from labkit.explain.telling import Data

WATCHED = (
    "clone3", "unshare", "setns", "mount", "umount2", "pivot_root", "open_tree", "move_mount", "mount_setattr",
    "capset", "prctl", "seccomp", "sethostname", "setdomainname", "mkdir", "mkdirat", "rmdir", "mknod", "setresuid",
    "setresgid", "setgroups", "chdir", "write", "execve", "bpf",
)  # fmt: skip
"""Each call that shapes a container: all of them must be in the trace, and all in the trace must have been made."""

STRACE_NAMES = ",".join([*WATCHED, "mknodat", "clone", "fork", "vfork", "execveat", "fchdir", "chroot"])

_LINE = re.compile(r"(\w+)\((.*)\)\s+= (.*)")
_DESCRIPTOR = re.compile(r"(?<![\w\"])(\d+|AT_FDCWD)<([^<>]*)>")
_FLAGS = re.compile(r"\b[A-Z][A-Z0-9_]+(?:\|[A-Z][A-Z0-9_]+)+\b")
_KERNEL_FILES = ("/sys/fs/cgroup/", "/proc/")

REWRITTEN: dict[str, tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]] = {
    "clone3": ((r"\{flags=([^,]+).*", r"{flags=\1, exit_signal=SIGCHLD}"),),
    "setns": ((r"^(?:<.*>|\d+), ", ""),),
    "mknodat": ((r"^AT_FDCWD, ", ""), (r"\b0x[0-9a-f]+", lambda match: str(int(match[0], 16)))),
    "sethostname": ((r", \d+$", ""),),
    "setdomainname": ((r", \d+$", ""),),
    "setgroups": ((r"^\d+, ", ""), ("NULL", "[]")),
    "mount_setattr": ((r", attr_clr=0", ""), (r", userns_fd=0\}, \d+$", "}"), (r" /\* MS_\?\?\? \*/", "")),
    "capset": ((r"^\{version=[^}]*\}, ", ""), (r"1<<", "")),
    "seccomp": ((r", filter=0x[0-9a-f]+", ""),),
    "prctl": ((r"(, 0){2,3}$", ""),),
    "execve": ((r"0x[0-9a-f]+ ", ""), (r"/\* 1 var \*/", "/* 1 vars */")),
    "bpf": ((r"(BPF_\w+).*", r"\1"),),
}
"""For a call: what is replaced in the arguments, on whichever side it occurs."""


def common(name: str, arguments: str, result: str) -> str:
    """A call in the notation of both."""
    for pattern, replacement in REWRITTEN.get(name, ()):
        arguments = re.sub(pattern, replacement, arguments)
    arguments = _FLAGS.sub(lambda match: "|".join(sorted(match[0].split("|"))), arguments)
    result = "0" if name == "execve" and result == "does not return" else result
    return f"{name.removesuffix('at')}({arguments}) = {result}"


def from_trace(call: Data) -> str:
    """A call as the engine's trace has it."""
    shown = decode(call["name"], call["arguments"], call["result"], call["errno"], Style(full=True))
    inside = shown.call.removeprefix(f"{call['name']}(").removesuffix(")")
    if call["name"] == "write":
        inside = re.sub(r"/proc/\d+/", "/proc/self/", inside)
    return common(call["name"], inside, shown.outcome.removeprefix("= "))


def from_strace(line: str) -> str:
    """A line of strace -y; empty for what isn't watched: a write elsewhere than to a file of the kernel's."""
    match = _LINE.fullmatch(line)
    if not match:
        return ""
    name, arguments, result = match.groups()
    if name == "write":
        found = re.fullmatch(r"\d+<([^<>]*)>, (\".*\"), \d+", arguments)
        if not found or not found[1].startswith(_KERNEL_FILES):
            return ""
        path = re.sub(r"^/proc/\d+/", "/proc/self/", found[1])
        return common(name, f"<{path}>, {found[2]}", result)
    return common(name, _DESCRIPTOR.sub(r"\1", arguments), _DESCRIPTOR.sub(r"\1", result))


def calls_in(file: Path) -> list[str]:
    """The watched calls of one process up to the exec of its program."""
    calls: list[str] = []
    for line in file.read_text().splitlines():
        if call := from_strace(line):
            calls.append(call)
            if call.startswith("execve(") and call.endswith(" = 0"):
                break
    return calls
