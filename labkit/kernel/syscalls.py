"""The one seam to the kernel: system calls under the kernel's own names, and the recorder's point of view.

Every call that changes the machine goes through `_perform`, which times it, records it (`labkit.trace.RECORDER`)
and turns a failure into KernelError with what usually mends it. The functions take and return what the manual
page says. Single-threaded callers only: `PyDLL` keeps the GIL during a call, which makes calls cheap and a raw
clone3 safe.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl as fcntl_module
import os
import resource
import signal as signal_module
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from labkit.errors import KernelError
from labkit.kernel import constants as c
from labkit.kernel import paths
from labkit.trace import RECORDER

_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_libc.mount.argtypes = (*[ctypes.c_char_p] * 3, ctypes.c_ulong, ctypes.c_char_p)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)

HINTS = {
    ("clone3", errno.EPERM): "new namespaces need root, or a user namespace (rootless)",
    ("clone3", errno.ENOSPC): "too many namespaces: raise the limits below /proc/sys/user",
    ("clone3", errno.EAGAIN): "too many processes: see `ulimit -u` and pids.max of labkit's own cgroup",
    (
        "clone3",
        errno.ENOSYS,
    ): "this kernel (or a seccomp filter around labkit) has no clone3(2): Linux 5.3 or newer is needed",
    ("unshare", errno.EPERM): "new namespaces need root, or a user namespace (rootless)",
    ("mount", errno.EPERM): "mounting needs CAP_SYS_ADMIN in the mount namespace's user namespace",
    ("mount", errno.ENODEV): "this kernel lacks that filesystem type: see /proc/filesystems",
    ("pivot_root", errno.EINVAL): "the new root must be a mount point and the parent mount must not be shared",
    ("mkdir", errno.EROFS): "the filesystem is read-only: remount it, or choose another place",
    ("write", errno.EBUSY): "the cgroup has processes, or a child cgroup uses the controller",
    ("write", errno.ENOSPC): "cpuset: no CPUs or memory nodes are assigned to the cgroup",
    ("setns", errno.EPERM): "joining that namespace needs CAP_SYS_ADMIN in it",
    ("prlimit", errno.EPERM): "raising a hard limit needs CAP_SYS_RESOURCE",
}
"""What usually mends a failing call, by call and errno."""


def _perform(name: str, shown: tuple[Any, ...], function: Callable[..., Any], *raw: Any) -> int:
    """Make a call of the C library, record it, raise KernelError if it failed."""
    began = time.monotonic_ns()
    result: int = function(*raw)
    ended = time.monotonic_ns()
    number = ctypes.get_errno() if result == -1 else 0
    if RECORDER.calls is not None:
        RECORDER.calls.append((name, shown, result, number, began, ended))
    if number:
        raise failure(name, shown, number)
    return result


def _perform_os(name: str, shown: tuple[Any, ...], function: Callable[..., Any], *raw: Any) -> Any:
    """The same for calls that Python's own modules make and that raise OSError."""
    began = time.monotonic_ns()
    number, result = 0, None
    try:
        result = function(*raw)
    except OSError as error:
        number = error.errno or errno.EIO
    ended = time.monotonic_ns()
    if RECORDER.calls is not None:
        value = -1 if number else result if isinstance(result, int) else 0
        RECORDER.calls.append((name, shown, value, number, began, ended))
    if number:
        raise failure(name, shown, number)
    return result


def failure(name: str, shown: tuple[Any, ...], number: int) -> KernelError:
    """The error for a failed call, with the arguments and the usual remedy."""
    arguments = ", ".join(repr(a) if isinstance(a, str) else str(a) for a in shown if a not in ("", None))
    return KernelError(f"{name}({arguments})"[:400], number, HINTS.get((name, number), ""))


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


# Namespaces: clone(2), unshare(2), setns(2)


class CloneArgs(ctypes.Structure):
    """struct clone_args (clone(2)), the 88 bytes that Linux 5.7 knows."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls",
            "set_tid", "set_tid_size", "cgroup",
        )
    )  # fmt: skip


def clone3(flags: int, cgroup: int = -1) -> tuple[int, int]:
    """clone3(2) as a fork: (pid, pidfd) in the parent, (0, -1) in the child. `cgroup` is a directory's descriptor.

    The child of CLONE_PARENT sends at its end what its parent's other child sends.
    """
    pidfd = ctypes.c_int(-1)
    args = CloneArgs(flags=flags | c.CLONE_PIDFD, pidfd=ctypes.addressof(pidfd))
    args.exit_signal = 0 if flags & c.CLONE_PARENT else signal_module.SIGCHLD
    if cgroup >= 0:
        args.flags |= c.CLONE_INTO_CGROUP
        args.cgroup = cgroup
    shown = (args.flags, cgroup) if cgroup >= 0 else (args.flags,)
    pid = _perform("clone3", shown, _syscall, c.SYSCALLS["clone3"], ctypes.byref(args), ctypes.sizeof(args))
    return pid, pidfd.value if pid else -1


def unshare(flags: int) -> None:
    """unshare(2): move this process into new namespaces."""
    _perform("unshare", (flags,), _libc.unshare, flags)


def setns(fd: int, flags: int, what: str = "") -> None:
    """setns(2): join the namespaces behind a descriptor (of /proc/PID/ns/* or a pidfd)."""
    _perform("setns", (what or fd, flags), _libc.setns, fd, flags)


# Mounts: mount(2), umount2(2), pivot_root(2), open_tree(2), move_mount(2)


def mount(source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    raw = (_bytes(source), os.fsencode(target), _bytes(fstype), flags, _bytes(data))
    _perform("mount", (source, target, fstype, flags, data), _libc.mount, *raw)


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _perform("umount2", (target, flags), _libc.umount2, os.fsencode(target), flags)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    raw = (c.SYSCALLS["pivot_root"], os.fsencode(new_root), os.fsencode(put_old))
    _perform("pivot_root", (new_root, put_old), _syscall, *raw)


def open_tree(path: str, flags: int, directory: int = c.AT_FDCWD) -> int:
    """open_tree(2): a descriptor of a (copy of a) mount."""
    raw = (c.SYSCALLS["open_tree"], directory, os.fsencode(path), flags)
    return _perform("open_tree", (directory, path, flags), _syscall, *raw)


def move_mount(fd: int, target: str, directory: int = c.AT_FDCWD) -> None:
    """move_mount(2): attach the mount behind a descriptor at `target`; at `directory` itself if that is empty."""
    flags = c.MOVE_MOUNT_F_EMPTY_PATH | (0 if target else c.MOVE_MOUNT_T_EMPTY_PATH)
    raw = (c.SYSCALLS["move_mount"], fd, b"", directory, os.fsencode(target), flags)
    _perform("move_mount", (fd, "", directory, target, flags), _syscall, *raw)


class MountAttr(ctypes.Structure):
    """struct mount_attr (mount_setattr(2))."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd"))


def mount_setattr(fd: int, flags: int, attributes: int, propagation: int = 0) -> None:
    """mount_setattr(2) on the mount behind a descriptor: set MOUNT_ATTR_* and the propagation type (MS_SHARED, ...)."""
    attr = MountAttr(attr_set=attributes, propagation=propagation)
    shown = (fd, "", c.AT_EMPTY_PATH | flags, attributes, propagation)
    raw = (fd, b"", c.AT_EMPTY_PATH | flags, ctypes.byref(attr), ctypes.c_size_t(ctypes.sizeof(attr)))
    _perform("mount_setattr", shown, _syscall, c.SYSCALLS["mount_setattr"], *raw)


def move_mount_onto(fd: int, point: int) -> None:
    """move_mount(2): attach the mount behind a descriptor at what another descriptor stands for."""
    flags = c.MOVE_MOUNT_F_EMPTY_PATH | c.MOVE_MOUNT_T_EMPTY_PATH
    _perform("move_mount", (fd, "", point, "", flags), _syscall, c.SYSCALLS["move_mount"], fd, b"", point, b"", flags)


# Files: mkdir(2), rmdir(2), mknod(2), symlink(2), write(2), ...


def mkdir(path: str, mode: int = 0o755) -> None:
    """mkdir(2)."""
    _perform_os("mkdir", (path, mode), os.mkdir, path, mode)


def mkdirat(directory: int, name: str, mode: int = 0o755) -> None:
    """mkdirat(2)."""
    _perform_os("mkdirat", (directory, name, mode), lambda: os.mkdir(name, mode, dir_fd=directory))


def openat2(directory: int, path: str, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2)."""
    shown = (directory, path, flags | os.O_CLOEXEC, mode, resolve)
    return int(_perform_os("openat2", shown, paths.openat2, directory, path, flags, mode, resolve))


def rmdir(path: str) -> None:
    """rmdir(2)."""
    _perform_os("rmdir", (path,), os.rmdir, path)


def mknod(path: str, mode: int, device: int) -> None:
    """mknod(2)."""
    _perform_os("mknod", (path, mode, device), os.mknod, path, mode, device)


def symlink(target: str, path: str) -> None:
    """symlink(2)."""
    _perform_os("symlink", (target, path), os.symlink, target, path)


def chmod(path: str, mode: int) -> None:
    """chmod(2)."""
    _perform_os("chmod", (path, mode), os.chmod, path, mode)


def chown(path: str, uid: int, gid: int) -> None:
    """chown(2)."""
    _perform_os("chown", (path, uid, gid), os.chown, path, uid, gid)


def fchown(fd: int, uid: int, gid: int) -> None:
    """fchown(2)."""
    _perform_os("fchown", (fd, uid, gid), os.fchown, fd, uid, gid)


def chdir(path: str) -> None:
    """chdir(2)."""
    _perform_os("chdir", (path,), os.chdir, path)


def umask(mask: int) -> int:
    """umask(2)."""
    return int(_perform_os("umask", (mask,), os.umask, mask))


def write_file(path: str, text: str) -> None:
    """Open a kernel file (of cgroups(7), proc(5)) for writing and write a value to it: open(2), write(2), close(2)."""
    _perform_os("write", (path, text), _write_file, path, text.encode())


def _write_file(path: str, data: bytes) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def open_path(path: str, flags: int, mode: int = 0) -> int:
    """open(2)."""
    return int(_perform_os("open", (path, flags, mode), os.open, path, flags | os.O_CLOEXEC, mode))


def close(fd: int) -> None:
    """close(2)."""
    _perform_os("close", (fd,), os.close, fd)


# Process attributes: prctl(2), capset(2), seccomp(2), setuid(2), setrlimit(2), sethostname(2), ...


def prctl(option: int, argument: int = 0, argument3: int = 0) -> int:
    """prctl(2)."""
    return _perform("prctl", (option, argument, argument3), _libc.prctl, option, argument, argument3, 0, 0)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2), version 3 of its header; each argument is a bit mask of capabilities(7)."""
    header = struct.pack("Ii", 0x20080522, 0)
    low = (effective & 0xFFFFFFFF, permitted & 0xFFFFFFFF, inheritable & 0xFFFFFFFF)
    data = struct.pack("6I", *low, effective >> 32, permitted >> 32, inheritable >> 32)
    _perform("capset", (effective, permitted, inheritable), _syscall, c.SYSCALLS["capset"], header, data)


def seccomp(operation: int, flags: int, program: bytes) -> None:
    """seccomp(2) with a filter: an array of struct sock_filter, 8 bytes each."""
    length = len(program) // 8
    sock_fprog = struct.pack("HxxxxxxP", length, ctypes.cast(ctypes.c_char_p(program), ctypes.c_void_p).value)
    _perform("seccomp", (operation, flags, length), _syscall, c.SYSCALLS["seccomp"], operation, flags, sock_fprog)


def sethostname(name: str) -> None:
    """sethostname(2)."""
    _perform_os("sethostname", (name,), socket.sethostname, name)


def setdomainname(name: str) -> None:
    """setdomainname(2)."""
    raw = os.fsencode(name)
    _perform("setdomainname", (name,), _libc.setdomainname, raw, ctypes.c_size_t(len(raw)))


def setsid() -> None:
    """setsid(2)."""
    _perform_os("setsid", (), os.setsid)


def setgroups(groups: tuple[int, ...]) -> None:
    """setgroups(2)."""
    _perform_os("setgroups", (groups,), os.setgroups, groups)


def setresgid(gid: int) -> None:
    """setresgid(2), real, effective and saved alike."""
    _perform_os("setresgid", (gid, gid, gid), os.setresgid, gid, gid, gid)


def setresuid(uid: int) -> None:
    """setresuid(2), real, effective and saved alike."""
    _perform_os("setresuid", (uid, uid, uid), os.setresuid, uid, uid, uid)


def prlimit(kind: int, soft: int, hard: int) -> None:
    """prlimit(2) for this process; -1 is RLIM_INFINITY."""
    _perform_os("prlimit", (kind, soft, hard), resource.prlimit, 0, kind, (soft, hard))


def ioctl(fd: int, request: int, argument: int | bytes = 0) -> bytes | int:
    """ioctl(2)."""
    result: bytes | int = _perform_os("ioctl", (fd, request), fcntl_module.ioctl, fd, request, argument)
    return result


def dup3(fd: int, target: int) -> None:
    """dup2(2): the copy survives an exec."""
    _perform_os("dup2", (fd, target), os.dup2, fd, target, True)


def close_range(first: int, flags: int) -> None:
    """close_range(2) from `first` to the last."""
    _perform(
        "close_range", (first, flags), _syscall, c.SYSCALLS["close_range"], first, ctypes.c_uint(0xFFFFFFFF), flags
    )


def sendmsg_fds(fd: int, data: bytes, fds: tuple[int, ...]) -> None:
    """sendmsg(2) with SCM_RIGHTS (unix(7)) on the socket behind `fd`."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        _perform_os("sendmsg", (fd, len(data), fds), socket.send_fds, sock, [data], fds)


# Signals and processes: pidfd_open(2), pidfd_send_signal(2), waitid(2)


def pidfd_open(pid: int) -> int:
    """pidfd_open(2)."""
    return _perform("pidfd_open", (pid, 0), _syscall, c.SYSCALLS["pidfd_open"], pid, 0)


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """pidfd_send_signal(2)."""
    _perform_os("pidfd_send_signal", (pidfd, signal), signal_module.pidfd_send_signal, pidfd, signal)


def record_execve(path: str, argv: tuple[str, ...], count: int) -> tuple[Any, ...]:
    """The record of an execve(2) that is about to be made: it never returns, so it is told of beforehand."""
    began = time.monotonic_ns()
    return ("execve", (path, argv, count), None, 0, began, began)


def execve(path: str, argv: tuple[str, ...], env: dict[str, str]) -> None:
    """execve(2). Returns only by raising KernelError."""
    _perform_os("execve", (path, argv, len(env)), os.execve, path, argv, env)
