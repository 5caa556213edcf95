"""Classic BPF as seccomp(2) takes it: instructions, and a disassembler for people.

A filter is an array of `struct sock_filter` (linux/filter.h), run on `struct seccomp_data` (linux/seccomp.h) before
each system call. It can load 32-bit words of that, compare, jump forward, and return what is to happen.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from labkit.kernel.bpf_machine import AND_K, AUDIT_ARCH, INSTRUCTION, JA, JEQ, JGE, JGT, LD_W_ABS, RET, RET_ALLOW
from labkit.kernel.numbers import names

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
SHORT_JUMP = 255

# Offsets in struct seccomp_data. All architectures here are little-endian: an argument's low word comes first.
NUMBER = 0
ARCHITECTURE = 4
ARGUMENTS = 16

# What a filter returns (linux/seccomp.h): an action, with 16 bits of data.
RET_KILL_PROCESS = 0x80000000
RET_KILL_THREAD = 0x00000000
RET_TRAP = 0x00030000
RET_ERRNO = 0x00050000
RET_TRACE = 0x7FF00000
RET_LOG = 0x7FFC0000
DATA_MASK = 0xFFFF


class Instruction(NamedTuple):
    """`struct sock_filter`: code, jumps if true and false, constant."""

    code: int
    jt: int
    jf: int
    k: int


_RETURNS = {
    RET_KILL_PROCESS: "KILL_PROCESS",
    RET_KILL_THREAD: "KILL_THREAD",
    RET_TRAP: "TRAP",
    RET_ERRNO: "ERRNO",
    RET_TRACE: "TRACE",
    RET_LOG: "LOG",
    RET_ALLOW: "ALLOW",
}
_JUMPS = {JEQ: "jeq", JGT: "jgt", JGE: "jge"}


def encode(program: list[Instruction]) -> bytes:
    """The program as seccomp(2) wants it (`struct sock_fprog.filter`)."""
    return b"".join([INSTRUCTION.pack(*instruction) for instruction in program])


def decode(program: bytes) -> list[Instruction]:
    """The instructions of an encoded program."""
    return [Instruction(*fields) for fields in INSTRUCTION.iter_unpack(program)]


def describe(program: bytes) -> list[str]:
    """One line an instruction: its position, what it does, and what its constant means."""
    lines: list[str] = []
    arrivals: dict[int, tuple[str, str]] = {0: ("", "")}  # what is loaded, for which ABI; jumps go forward only
    for position, instruction in enumerate(decode(program)):
        loaded, abi = arrivals.get(position, ("", ""))
        for target, state in _successors(position, instruction, loaded, abi):
            arrivals.setdefault(target, state)
        lines.append(f"{position:4}: {_text(position, instruction, loaded, abi)}")
    return lines


def _successors(position: int, instruction: Instruction, loaded: str, abi: str) -> list[tuple[int, tuple[str, str]]]:
    """Where an instruction may lead, with what is loaded and known there."""
    code, jt, jf, k = instruction
    following = position + 1
    if code == LD_W_ABS:
        return [(following, (_word(k), abi))]
    if code == JA:
        return [(following + k, (loaded, abi))]
    if code in _JUMPS:
        found = _abi(k) if loaded == "arch" and code == JEQ else abi
        return [(following + jt, (loaded, found)), (following + jf, (loaded, abi))]
    return [] if code == RET else [(following, (loaded, abi))]


def _abi(audit_arch: int) -> str:
    return next((name for name, value in AUDIT_ARCH.items() if value == audit_arch), "")


def _text(position: int, instruction: Instruction, loaded: str, abi: str) -> str:
    code, jt, jf, k = instruction
    if code == LD_W_ABS:
        return f"ld {_word(k)}"
    if code == RET:
        return f"ret {describe_return(k)}"
    if code == JA:
        return f"ja {position + 1 + k}"
    if code == AND_K:
        return f"and #{k:#x}"
    if code in _JUMPS:
        return f"{_JUMPS[code]} #{k:#x}, {position + 1 + jt}, {position + 1 + jf}{_meaning(loaded, abi, k)}"
    return f"code {code:#x}, {jt}, {jf}, #{k:#x}"


def _word(offset: int) -> str:
    """The name of a word of struct seccomp_data."""
    if offset == NUMBER:
        return "nr"
    if offset == ARCHITECTURE:
        return "arch"
    if offset >= ARGUMENTS:
        index, low = divmod(offset - ARGUMENTS, 8)
        return f"args[{index}].{'high' if low else 'low'}"
    return f"[{offset}]"


def _meaning(loaded: str, abi: str, k: int) -> str:
    """What a compared constant stands for, as a comment."""
    if loaded == "arch" and _abi(k):
        return f"  ; AUDIT_ARCH_{_abi(k).upper()}"
    if loaded == "nr" and abi:
        name = names(abi).get(k) or (names("x32").get(k) if abi == "x86_64" else None)
        return f"  ; {name}" if name else ""
    return ""


def describe_return(value: int) -> str:
    """A filter's return value in words: `ALLOW`, `ERRNO(EPERM)`."""
    action, data = value & ~DATA_MASK, value & DATA_MASK
    name = _RETURNS.get(action, f"{action:#x}")
    if action == RET_ERRNO:
        return f"{name}({errno.errorcode.get(data, data)})"
    return f"{name}({data})" if data else name
