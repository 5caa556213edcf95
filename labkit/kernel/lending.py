"""A new process on its maker's memory, until its exec: what vfork(2) is for C, for Python.

fork(2) copies its caller's page tables, both sides then copy each page that they write to (in Python every look at an
object writes), and execve(2) takes the copy apart: together several times what the rest of an exec costs. A process
made with CLONE_VM (clone(2)) pays none of that. But two processes can't run Python on one memory at once, so the maker
waits, in C; and the new one must leave Python as it found it, so its function returns before anything is executed, and
C calls execve(2). "In C" is a chain of contexts (makecontext(3)): each is one call of the C library with a stack of its
own, prepared ahead, and the next is its successor (`uc_link`).

    the maker   clone -> clock_gettime -> send -> close_range -> read -> back in Python
    the child   `prepare`, in Python -> memset -> execve -> memset -> `failed`, in Python -> memset -> _exit

What memset writes down is whether Python is as it was: a child that is killed in there leaves it in whatever state.

The `read` is of a pipe whose other end only the child has: it ends when the child has executed a program, or has ended.
From one context to the next the C library makes a system call, `STEP`, which a filter of the child must let pass. Who
may trace the child may write to the maker's memory meanwhile (ptrace(2)): `labkit.runtime.lender` sees to that.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

from labkit.kernel import constants as c

_libc = ctypes.PyDLL(None, use_errno=True)
_CALLBACK = ctypes.CFUNCTYPE(None)
_SMALL, _LARGE = 16 << 10, 1 << 20
"""Bytes of stack for a call of C, and for Python."""
_CALLS = 10
_UCONTEXT = 8 << 10
"""Bytes that a ucontext_t has at most: 4,560, on arm64."""
_LINK_AND_STACK = struct.Struct("<8xQQ8xQ")
"""What makecontext(3) wants to be told in it: uc_link, uc_stack.ss_sp, uc_stack.ss_size."""
_BIRTH = struct.Struct("<i4xqqq")
_ENDED, _UNREAD = 16, _BIRTH.size
"""Where in a birth clock_gettime(2) puts its struct timespec, and what is read from the pipe, which is nothing."""
_LAST = (1 << 32) - 1
STEP = "rt_sigprocmask"
FLAGS = c.CLONE_VM | c.CLONE_PARENT_SETTID
"""Those of clone(2) that each child is made with."""


class Program(NamedTuple):
    """The arguments of execve(2)."""

    path: str
    argv: tuple[str, ...]
    env: dict[str, str]


class Birth(NamedTuple):
    """A child's pid (0: there is none), and when clone(2) began and ended (ns, CLOCK_MONOTONIC)."""

    pid: int
    began: int
    ended: int


def read_birth(packet: bytes) -> Birth:
    """What `Lending.lend` has sent."""
    pid, began, seconds, nanoseconds = _BIRTH.unpack(packet)
    return Birth(pid, began, seconds * 1_000_000_000 + nanoseconds)


def available() -> bool:
    """Whether this C library, Python and kernel can do it.

    Python 3.14 looks whether it is on the stack of its thread; Linux has close_range(2) since 5.9.
    """
    if sys.version_info >= (3, 14) or not hasattr(_libc, "makecontext"):
        return False
    return bool(_libc.syscall(c.SYSCALLS["close_range"], ctypes.c_uint(_LAST), ctypes.c_uint(_LAST), 0) == 0)


@cache
def _function(name: str) -> int:
    """The address of a function of the C library."""
    address = ctypes.cast(getattr(_libc, name), ctypes.c_void_p).value
    assert address
    return address


def _entry(callback: Any) -> int:
    """The address at which C calls a function of Python."""
    address = ctypes.cast(callback, ctypes.c_void_p).value
    assert address
    return address


def _strings(strings: Iterable[str]) -> ctypes.Array[ctypes.c_char_p]:
    """A char *[] with NULL at its end. Raises ValueError for a string with a NUL in it."""
    encoded = [os.fsencode(string) for string in strings]
    if any(b"\0" in string for string in encoded):
        raise ValueError("embedded null byte")
    return (ctypes.c_char_p * (len(encoded) + 1))(*encoded, None)


class _Context:
    """A ucontext_t, and the piece of stack for the function that it calls."""

    def __init__(self, stack: int = 0, size: int = 0) -> None:
        self._buffer = ctypes.create_string_buffer(_UCONTEXT)
        self._stack = stack, size
        self.address = ctypes.addressof(self._buffer)

    def call(self, function: int, *arguments: int, then: _Context | None = None) -> None:
        """Prepare a call, and what comes after it."""
        own = ctypes.c_void_p(self.address)
        _libc.getcontext(own)
        _LINK_AND_STACK.pack_into(self._buffer, 0, then.address if then else 0, *self._stack)
        _libc.makecontext(own, ctypes.c_void_p(function), len(arguments), *map(ctypes.c_void_p, arguments))


class Lending:
    """A process's memory, lent to one child after the other.

    For a process with one thread and no signal handlers. Its children can't enter a time namespace (setns(2)).
    """

    def __init__(self) -> None:
        self._area = mmap.mmap(-1, (_CALLS + 1) * _SMALL + 2 * _LARGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._area))
        small = (_Context(base + i * _SMALL, _SMALL) for i in range(_CALLS))
        self._clone, self._clock, self._send, self._close, self._read, *rest = small
        self._returned, self._execve, self._refused, self._told, self._exit = rest
        self._top = base + (_CALLS + 1) * _SMALL  # of the stack on which a child calls setcontext(3)
        self._prepare, self._failed = (_Context(self._top + i * _LARGE, _LARGE) for i in range(2))
        self._back = _Context()
        self._birth = ctypes.create_string_buffer(_UNREAD + 1)
        self._entries = _CALLBACK(self._run_prepare), _CALLBACK(self._run_failed)
        self._kept: tuple[ctypes.Array[Any], ...] = ()
        self._whole = ctypes.c_byte(1)

    def lend(
        self,
        flags: int,
        prepare: Callable[[], Program | None],
        failed: Callable[[], object],
        tell: socket.socket,
        pipe: tuple[int, int],
    ) -> Birth:
        """Make a child, and wait for its exec or its end. The child runs `prepare`, and then what that has returned.

        Where that can't be executed it runs `failed`, and it ends with 127. Neither may raise. `flags` are clone(2)'s.
        The birth is sent over `tell` at once (`read_birth`). `pipe` is one of this process's own: its writing end and
        all descriptors above that are closed here. Raises OSError if there is no child. Ends this process, with 127,
        after a child that was killed at its work: what that was changing is as it left it.
        """
        self._work = prepare, failed
        self._whole.value = 0
        self._prepare_child()
        self._prepare_own(flags | FLAGS, tell.fileno(), *pipe)
        ctypes.set_errno(0)
        _BIRTH.pack_into(self._birth, 0, 0, time.monotonic_ns(), 0, 0)
        _libc.swapcontext(ctypes.c_void_p(self._back.address), ctypes.c_void_p(self._clone.address))
        birth = read_birth(self._birth.raw[:_UNREAD])
        if birth.pid and not self._whole.value:
            os._exit(127)
        if not birth.pid:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return birth

    def _prepare_own(self, flags: int, tell: int, reading: int, writing: int) -> None:
        """The calls that lead from here to here."""
        birth = ctypes.addressof(self._birth)
        child = _function("setcontext"), self._top, flags, self._prepare.address
        self._clone.call(_function("clone"), *child, birth, 0, 0, then=self._clock)
        self._clock.call(_function("clock_gettime"), time.CLOCK_MONOTONIC, birth + _ENDED, then=self._send)
        self._send.call(_function("send"), tell, birth, _UNREAD, socket.MSG_NOSIGNAL, then=self._close)
        self._close.call(_function("syscall"), c.SYSCALLS["close_range"], writing, _LAST, 0, then=self._read)
        self._read.call(_function("read"), reading, birth + _UNREAD, 1, then=self._back)

    def _prepare_child(self) -> None:
        """The calls that lead from a child's beginning to its end."""
        prepare, failed = map(_entry, self._entries)
        memset, whole, leave = _function("memset"), ctypes.addressof(self._whole), (_function("_exit"), 127)
        self._prepare.call(prepare, then=self._returned)
        self._returned.call(memset, whole, 1, 1, then=self._execve)
        self._execve.call(*leave)
        self._refused.call(memset, whole, 0, 1, then=self._failed)
        self._failed.call(failed, then=self._told)
        self._told.call(memset, whole, 1, 1, then=self._exit)
        self._exit.call(*leave)

    def _run_prepare(self) -> None:
        program = self._work[0]()
        if program:
            self._execute(program)

    def _execute(self, program: Program) -> None:
        """Have the program executed when Python has returned."""
        environment = (f"{name}={value}" for name, value in program.env.items())
        try:
            path = ctypes.create_string_buffer(os.fsencode(program.path))
            self._kept = path, _strings(program.argv), _strings(environment)
        except ValueError:
            self._kept = ()  # no addresses, no program: `failed` finds out why
        addresses = [ctypes.addressof(kept) for kept in self._kept] or [0, 0, 0]
        self._execve.call(_function("execve"), *addresses, then=self._refused)

    def _run_failed(self) -> None:
        self._work[1]()
