"""Which devices a cgroup v2 may use: an eBPF program in place of v1's devices.allow and devices.deny.

The kernel runs it on each open and mknod of a device node below the cgroup (cgroups(7), bpf(2),
BPF_PROG_TYPE_CGROUP_DEVICE). The rules are those of OCI's `linux.resources.devices`; runc and crun do it the same way.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from typing import Any

from labkit.errors import InvalidParameter, KernelError
from labkit.kernel import syscalls

BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 2  # besides those of the cgroups above: a device must pass all of them

# struct bpf_cgroup_dev_ctx: u32 access_type (access << 16 | type), u32 major, u32 minor
TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_BLOCK, _CHAR
ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_MKNOD, _READ, _WRITE
ALL_ACCESS = 7

# eBPF (linux/bpf.h): code, registers, jump offset, constant. Only 32-bit arithmetic and jumps, so that no constant is
# sign-extended.
_LDX_W = 0x61  # BPF_LDX | BPF_MEM | BPF_W
_MOV = 0xB4  # BPF_ALU | BPF_MOV | BPF_K
_MOV_X = 0xBC  # BPF_ALU | BPF_MOV | BPF_X
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_RSH = 0x74  # BPF_ALU | BPF_RSH | BPF_K
_JNE = 0x56  # BPF_JMP32 | BPF_JNE | BPF_K
_JSET = 0x46  # BPF_JMP32 | BPF_JSET | BPF_K
_JA = 0x05  # BPF_JMP | BPF_JA
_EXIT = 0x95  # BPF_JMP | BPF_EXIT

_RESULT, _CONTEXT, _TYPE, _WANTED, _MAJOR, _MINOR = range(6)  # registers

_BPF_SYSCALL = 321 if os.uname().machine == "x86_64" else 280
_LICENSE = b"BSD\0"  # no helper function is called that would need another one


@dataclass(frozen=True, slots=True)
class DeviceRule:
    """One rule (OCI runtime-spec, `linux.resources.devices`). No number or -1 is any; type "a" is all devices."""

    allow: bool
    type: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"

    def __post_init__(self) -> None:
        if self.type not in ("a", *TYPES):
            raise InvalidParameter(f'invalid device type "{self.type}": expected "a", "b" or "c"')
        if not self.access or set(self.access) - ACCESS.keys():
            raise InvalidParameter(f'invalid device access "{self.access}": expected letters of "rwm"')
        for number in (self.major, self.minor):
            if number is not None and not -1 <= number <= 0xFFFFFFFF:
                raise InvalidParameter(f"invalid device number {number}")


def compile_device_program(rules: tuple[DeviceRule, ...]) -> bytes:
    """The program: for each kind of access that is wanted, the last rule that matches decides; none denies."""
    program = [
        _step(_LDX_W, _TYPE, _CONTEXT, offset=0),
        _step(_MOV_X, _WANTED, _TYPE),
        _step(_AND, _TYPE, constant=0xFFFF),
        _step(_RSH, _WANTED, constant=16),
        _step(_LDX_W, _MAJOR, _CONTEXT, offset=4),
        _step(_LDX_W, _MINOR, _CONTEXT, offset=8),
    ]
    for rule in reversed(rules):
        if rule.type == "a":  # all devices and all access, as on v1: earlier rules can't matter any more
            return b"".join([*program, *_leave(rule.allow)])
        program += _block(rule)
    return b"".join([*program, *_leave(False)])


def _step(code: int, register: int = 0, source: int = 0, offset: int = 0, constant: int = 0) -> bytes:
    """struct bpf_insn."""
    return struct.pack("=BBhI", code, source << 4 | register, offset, constant)


def _leave(allow: bool) -> list[bytes]:
    return [_step(_MOV, _RESULT, constant=int(allow)), _step(_EXIT)]


def _block(rule: DeviceRule) -> list[bytes]:
    """A rule's instructions: skipped for other devices, and left behind if they don't settle the matter."""
    access = sum(bit for letter, bit in ACCESS.items() if letter in rule.access)
    verdict = _allowing(access) if rule.allow else _denying(access)
    wanted = [(_TYPE, TYPES[rule.type]), (_MAJOR, rule.major), (_MINOR, rule.minor)]
    tests = [(register, value) for register, value in wanted if value is not None and value >= 0]
    after = len(tests) + len(verdict)
    block = [
        _step(_JNE, register, offset=after - index, constant=value) for index, (register, value) in enumerate(tests, 1)
    ]
    return block + verdict


def _allowing(access: int) -> list[bytes]:
    """What is allowed is no longer wanted; when nothing is left, the device may be used."""
    if access == ALL_ACCESS:
        return _leave(True)
    left = [_step(_AND, _WANTED, constant=ALL_ACCESS & ~access), _step(_JNE, _WANTED, offset=2, constant=0)]
    return left + _leave(True)


def _denying(access: int) -> list[bytes]:
    if access == ALL_ACCESS:
        return _leave(False)
    return [_step(_JSET, _WANTED, offset=1, constant=access), _step(_JA, offset=2), *_leave(False)]


def load_device_program(program: bytes) -> int:
    """Have the kernel verify a program; returns its descriptor (close-on-exec). Raises KernelError."""
    instructions = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(_LICENSE)
    attributes = struct.pack(
        "=IIQQ", BPF_PROG_TYPE_CGROUP_DEVICE, len(program) // 8, *map(ctypes.addressof, (instructions, license_))
    )
    shown = ("BPF_PROG_LOAD", "BPF_PROG_TYPE_CGROUP_DEVICE", len(program) // 8)
    return _bpf(BPF_PROG_LOAD, shown, attributes)


def attach(cgroup_fd: int, program_fd: int) -> None:
    """Attach a program to a cgroup, for as long as the cgroup lives. Raises KernelError."""
    attributes = struct.pack("=IIII", cgroup_fd, program_fd, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI)
    _bpf(BPF_PROG_ATTACH, ("BPF_PROG_ATTACH", "BPF_CGROUP_DEVICE", cgroup_fd, program_fd), attributes)


def _bpf(command: int, shown: tuple[Any, ...], attributes: bytes) -> int:
    """bpf(2), by the seam through which all calls go, so that a trace has it."""
    try:
        return syscalls._perform(
            "bpf", shown, syscalls._syscall, _BPF_SYSCALL, command, attributes, ctypes.c_uint(len(attributes))
        )
    except KernelError as error:
        if error.errno != errno.EPERM:
            raise
        hint = "device rules on cgroup v2 need CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN, in the first user namespace"
        raise KernelError(error.call, error.errno, hint) from error
