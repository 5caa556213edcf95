"""Calls are written as strace writes them (`tests/strace` compares with the real one); these are the rules apart."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

import pytest

from labkit.explain.decode import SHAPES, Style, decode
from labkit.kernel import constants as c
from labkit.kernel import syscalls
from labkit.kernel.capabilities import NUMBERS

ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("name", "arguments", "result", "told"),
    [
        ("mount", ["proc", "/proc", "proc", 14, None], 0,
         'mount("proc", "/proc", "proc", MS_NOSUID|MS_NODEV|MS_NOEXEC, NULL) = 0'),
        ("umount2", [".", c.MNT_DETACH], 0, 'umount2(".", MNT_DETACH) = 0'),
        ("clone3", [c.CLONE_NEWPID | c.CLONE_NEWNET], 42,
         "clone3({flags=CLONE_NEWPID|CLONE_NEWNET, exit_signal=SIGCHLD}) = 42"),
        ("clone", [c.CLONE_VM | c.CLONE_PARENT | c.CLONE_NEWPID], 42,
         "clone(flags=CLONE_NEWPID|CLONE_VM|CLONE_PARENT) = 42"),
        ("setns", ["pidfd of 7", c.CLONE_NEWUTS], 0, "setns(<pidfd of 7>, CLONE_NEWUTS) = 0"),
        ("prctl", [c.PR_CAPBSET_DROP, NUMBERS["CAP_SYS_ADMIN"], 0], 0, "prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN) = 0"),
        ("prctl", [c.PR_CAP_AMBIENT, c.PR_CAP_AMBIENT_CLEAR_ALL, 0], 0,
         "prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL) = 0"),
        ("prctl", [c.PR_CAP_AMBIENT, c.PR_CAP_AMBIENT_RAISE, 0], 0,
         "prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN) = 0"),
        ("capset", [1, 1 << 12, 0], 0, "capset({effective=CAP_CHOWN, permitted=CAP_NET_ADMIN, inheritable=0}) = 0"),
        ("bpf", ["BPF_PROG_ATTACH", "BPF_CGROUP_DEVICE", 5, 6], 0, "bpf(BPF_PROG_ATTACH, BPF_CGROUP_DEVICE, 5, 6) = 0"),
        ("seccomp", [1, 0, 467], 0, "seccomp(SECCOMP_SET_MODE_FILTER, 0, {len=467}) = 0"),
        ("mknod", ["/dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3)], 0,
         'mknod("/dev/null", S_IFCHR|0666, makedev(1, 3)) = 0'),
        ("open", ["/f", os.O_RDWR | os.O_CREAT, 0o600], 5, 'open("/f", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 5'),
        ("open", ["/f", os.O_RDONLY, 0], 5, 'open("/f", O_RDONLY|O_CLOEXEC, 00) = 5'),
        ("prlimit", [7, 100, -1], 0, "prlimit(0, RLIMIT_NOFILE, {rlim_cur=100, rlim_max=RLIM_INFINITY}) = 0"),
        ("write", ["/sys/fs/cgroup/a/pids.max", "20"], 2, 'write(</sys/fs/cgroup/a/pids.max>, "20") = 2'),
        ("execve", ["/bin/sh", ["sh", "-c", 'a "b"'], 3], None,
         r'execve("/bin/sh", ["sh", "-c", "a \"b\""], /* 3 vars */) does not return'),
        ("setgroups", [[10, 20]], 0, "setgroups([10, 20]) = 0"),
        ("a_call_of_tomorrow", ["x", 1, None], 3, 'a_call_of_tomorrow("x", 1, NULL) = 0'),
    ],
)  # fmt: skip
def test_a_call_reads_as_strace_writes_it(name: str, arguments: list[Any], result: int | None, told: str) -> None:
    assert str(decode(name, arguments, result, 0, Style())) == told


def test_a_failure_is_told_by_its_name() -> None:
    told = decode("mount", ["/dev/null", "/proc/kcore", None, c.MS_BIND, None], -1, errno.ENOENT, Style())
    assert told.outcome == "= -1 ENOENT (No such file or directory)"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("clone3", [c.CLONE_NEWPID | c.CLONE_PIDFD]),
        ("clone3", [c.CLONE_NEWPID | c.CLONE_PIDFD | c.CLONE_INTO_CGROUP, 9]),
        ("clone", [c.CLONE_NEWPID | c.CLONE_VM | c.CLONE_PARENT | c.CLONE_PARENT_SETTID]),
    ],
)
def test_by_which_call_a_child_was_made_is_not_the_same_on_each_machine(name: str, arguments: list[int]) -> None:
    assert str(decode(name, arguments, 42, 0, Style(stable=True))) == "clone(flags=CLONE_NEWPID) = …"


def test_bits_without_a_name_are_not_lost() -> None:
    assert "MS_RDONLY|0x80000000" in str(decode("mount", [None, "/", None, 0x80000001, None], 0, 0, Style()))


def test_what_differs_from_run_to_run_is_left_out_on_request() -> None:
    stable = Style(stable=True)
    assert str(decode("open_tree", [c.AT_FDCWD, f"/var/lib/x/containers/{ID}/hosts", 1], 27, 0, stable)) == (
        'open_tree(AT_FDCWD, "…/containers/…/hosts", OPEN_TREE_CLONE) = …'
    )
    assert str(decode("mkdir", [f"/sys/fs/cgroup/memory/lab/{ID}", 0o755], 0, 0, stable)) == (
        'mkdir("/sys/fs/cgroup/memory/…", 0755) = 0'
    )
    assert (
        str(decode("mkdir", [f"/sys/fs/cgroup/lab/{ID}", 0o755], 0, 0, stable)) == 'mkdir("/sys/fs/cgroup/…", 0755) = 0'
    )
    assert (
        str(decode("setns", ["pidfd of 123", c.CLONE_NEWPID], 0, 0, stable)) == "setns(<pidfd of …>, CLONE_NEWPID) = 0"
    )


def test_ids_are_shortened_as_docker_does_unless_all_is_wanted() -> None:
    assert Style().words(f"container {ID}") == "container 0123456789ab"
    assert Style(full=True).words(f"container {ID}") == f"container {ID}"


def test_a_long_argument_is_cut_and_its_repetition_told_once() -> None:
    every = sum(1 << number for number in NUMBERS.values())
    short, full = (str(decode("capset", [every, every, 0], 0, 0, style)) for style in (Style(), Style(full=True)))
    assert "permitted=… the same, inheritable=0" in short
    assert full.count("CAP_SYS_ADMIN") == 2
    assert len(str(decode("chdir", ["/" + "x" * 500], 0, 0, Style()))) < 120


def test_every_call_that_the_bindings_record_has_its_shape() -> None:
    """The names in the seam to the kernel are those of the table: a new binding needs a line in it."""
    with open(syscalls.__file__, encoding="utf-8") as file:
        source = file.read()
    recorded = {line.split('"')[1] for line in source.split("_perform")[1:] if line.lstrip("_os(\n ").startswith('"')}
    assert {"mount", "mkdir", "close_range", "execve"} <= recorded
    assert recorded <= set(SHAPES)
