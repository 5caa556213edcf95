"""The machine that runs classic BPF: its instructions, and what a seccomp filter says of a system call.

A filter is an array of `struct sock_filter` (linux/filter.h), run on `struct seccomp_data` (linux/seccomp.h) before
each call (seccomp(2)). `labkit.kernel.seccomp` compiles them; this much is in the spawner, too.
"""

from __future__ import annotations

import os
import struct

from labkit.kernel import constants as c

LD_W_ABS = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND_K = 0x54  # BPF_ALU | BPF_AND | BPF_K
JA = 0x05  # BPF_JMP | BPF_JA: the only jump that reaches beyond 255 instructions
JEQ = 0x15  # BPF_JMP | BPF_JEQ | BPF_K, and so on
JGT = 0x25
JGE = 0x35
RET = 0x06  # BPF_RET | BPF_K

# linux/audit.h, as seccomp_data.arch has them. x32 is x86_64 with a bit in the call's number.
AUDIT_ARCH = {
    "x86_64": 0xC000003E,
    "i386": 0x40000003,
    "x32": 0xC000003E,
    "aarch64": 0xC00000B7,
    "arm": 0x40000028,
}
RET_ALLOW = 0x7FFF0000
INSTRUCTION = struct.Struct("=HBBI")
_DATA = struct.Struct("=IIQ6Q")


def interpret(program: bytes, number: int, audit_arch: int, arguments: tuple[int, ...]) -> int:
    """What a filter returns for a call with six arguments, as the kernel would run it."""
    data = _DATA.pack(number, audit_arch, 0, *arguments)
    instructions, position, accumulator = list(INSTRUCTION.iter_unpack(program)), 0, 0
    while True:
        code, if_true, if_false, constant = instructions[position]
        position += 1
        if code == LD_W_ABS:
            accumulator = int.from_bytes(data[constant : constant + 4], "little")
        elif code == AND_K:
            accumulator &= constant
        elif code == JA:
            position += constant
        elif code == RET:
            return int(constant)
        else:
            met = {JEQ: accumulator == constant, JGT: accumulator > constant, JGE: accumulator >= constant}[code]
            position += if_true if met else if_false


def allows(program: bytes, call: str) -> bool:
    """Whether a filter lets a call of this process's own architecture pass, whatever its arguments (all are 0 here)."""
    return interpret(program, c.SYSCALLS[call], AUDIT_ARCH[os.uname().machine], (0,) * 6) == RET_ALLOW
