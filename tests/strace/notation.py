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
    "clone", "clone3", "unshare", "setns", "mount", "umount2", "pivot_root", "open_tree", "move_mount", "mount_setattr",
    "capset", "prctl", "seccomp", "sethostname", "setdomainname", "mkdir", "mkdirat", "rmdir", "mknod", "setresuid",
    "setresgid", "setgroups", "chdir", "write", "execve", "bpf",
)  # fmt: skip
"""Each call that shapes a container: all of them must be in the trace, and all in the trace must have been made."""

NETLINK = "sendto"
"""The call that netlink messages go by: compared are their types and lengths, message by message."""

STRACE_NAMES = ",".join([*WATCHED, NETLINK, "mknodat", "fork", "vfork", "execveat", "fchdir", "chroot"])

_LINE = re.compile(r"(\w+)\((.*)\)\s+= (.*)")
_DESCRIPTOR = re.compile(r"(?<![\w\"])(\d+|AT_FDCWD)<([^<>]*)>")
_FLAGS = re.compile(r"\b[A-Z][A-Z0-9_]+(?:\|[A-Z][A-Z0-9_]+)+\b")
_KERNEL_FILES = ("/sys/fs/cgroup/", "/proc/")

_MESSAGE = re.compile(r"nlmsg_len=(\d+), nlmsg_type=(?:(0x[0-9a-f]+)|([A-Z_<|8]+))")
_MESSAGES = {
    0x10: "RTM_NEWLINK", 0x11: "NFNL_MSG_BATCH_END", 0x12: "RTM_GETLINK", 0x14: "RTM_NEWADDR", 0x18: "RTM_NEWROUTE",
    0xA00: "NFT_MSG_NEWTABLE", 0xA03: "NFT_MSG_NEWCHAIN", 0xA06: "NFT_MSG_NEWRULE",
}  # fmt: skip
_BATCH = 20
"""The length of what opens a batch for nf_tables, whose number is that of RTM_NEWLINK elsewhere."""

REWRITTEN: dict[str, tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]] = {
    "clone": ((r".*\bflags=([^,]+).*", r"flags=\1"),),
    "clone3": ((r"\{flags=([^,]+),.* exit_signal=(\w+).*", r"{flags=\1, exit_signal=\2}"),),
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
    if call["name"] == NETLINK:
        return f"{_kind_told(call['arguments'][0])} of {call['result']} bytes"
    shown = decode(call["name"], call["arguments"], call["result"], call["errno"], Style(full=True))
    inside = shown.call.removeprefix(f"{call['name']}(").removesuffix(")")
    if call["name"] == "write":
        inside = re.sub(r"/proc/\d+/", "/proc/self/", inside)
    return common(call["name"], inside, shown.outcome.removeprefix("= "))


def from_strace(line: str) -> str:
    """A line of strace -y; empty for what isn't watched (a write not to a file of the kernel's), or isn't over."""
    match = _LINE.fullmatch(line)
    if not match or match[1] == NETLINK:
        return ""
    name, arguments, result = match.groups()
    if result.startswith("? ERESTART"):  # the kernel makes it once more, by itself: signal(7)
        return ""
    if name == "write":
        found = re.fullmatch(r"\d+<([^<>]*)>, (\".*\"), \d+", arguments)
        if not found or not found[1].startswith(_KERNEL_FILES):
            return ""
        path = re.sub(r"^/proc/\d+/", "/proc/self/", found[1])
        return common(name, f"<{path}>, {found[2]}", result)
    return common(name, _DESCRIPTOR.sub(r"\1", arguments), _DESCRIPTOR.sub(r"\1", result))


def _kind_told(text: str) -> str:
    """The type of a netlink message, which the trace shows as ip(8) or nft(8) would say it."""
    first, second = text.split()[:2]
    return first if first.startswith("RTM_") else f"NFT_MSG_NEW{second.upper()}"


def netlink_in(line: str) -> list[str]:
    """The netlink messages of a line of strace, which may know only the number of a type."""
    if not line.startswith(f"{NETLINK}("):
        return []
    found = []
    for length, number, name in _MESSAGE.findall(line):
        kind = _MESSAGES[int(number, 16)] if number else name.rpartition("|")[2]
        if int(length) > _BATCH and not kind.endswith(("BEGIN", "END")):
            found.append(f"{kind} of {length} bytes")
    return found


def calls_in(file: Path) -> list[str]:
    """The watched calls of one process up to the exec of its program."""
    calls: list[str] = []
    for line in file.read_text().splitlines():
        calls += netlink_in(line)
        if call := from_strace(line):
            calls.append(call)
            if call.startswith("execve(") and call.endswith(" = 0"):
                break
    return calls
