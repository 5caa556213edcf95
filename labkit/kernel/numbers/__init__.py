"""System call numbers of the architectures that a container's processes may use.

A seccomp filter sees numbers, profiles say names (syscalls(2), seccomp(2)). The tables are data, written by
`python -m labkit.kernel.numbers.generate` from the kernel's own headers, one module an application binary
interface, and are read when first asked for.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

ABIS = ("x86_64", "i386", "x32", "aarch64", "arm")

X32_SYSCALL_BIT = 0x40000000  # what tells x32's calls from x86_64's (asm/unistd.h)


def parse(table: str) -> dict[str, int]:
    """Read a table: a number, then the names that count up from there; `=name` is another name of the last one."""
    numbers: dict[str, int] = {}
    number = 0
    for word in table.split():
        if word.isdecimal():
            number = int(word)
        elif word[0] == "=":
            numbers[word[1:]] = number - 1
        else:
            numbers[word] = number
            number += 1
    return numbers


@cache
def syscalls(abi: str) -> dict[str, int]:
    """Name to number for one of `ABIS`; x32's numbers carry their bit."""
    table = parse(import_module(f"labkit.kernel.numbers.{abi}").SYSCALLS)
    return {name: number | X32_SYSCALL_BIT for name, number in table.items()} if abi == "x32" else table


@cache
def names(abi: str) -> dict[int, str]:
    """Number to name for one of `ABIS`."""
    return {number: name for name, number in reversed(syscalls(abi).items())}
