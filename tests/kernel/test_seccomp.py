"""Filters, judged three ways: by an interpreter of BPF, by a plain reading of the profile, and by the kernel."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import signal
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import InvalidParameter, NotImplementedByLabkit
from labkit.kernel.bpf_machine import AUDIT_ARCH, RET_ALLOW, allows, interpret
from labkit.kernel.numbers import ABIS, X32_SYSCALL_BIT, names, parse, syscalls
from labkit.kernel.numbers.generate import compact, read
from labkit.kernel.seccomp import bpf, compile_oci, compile_profile, default_profile, describe, to_oci
from labkit.kernel.seccomp.compiler import MULTIPLEXED
from labkit.kernel.seccomp.profile import ABI_OF

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "seccomp-default.json"
KERNEL = (6, 1)
KILL, ALLOW, EPERM, ENOSYS = (bpf.RET_KILL_THREAD, RET_ALLOW, bpf.RET_ERRNO | 1, bpf.RET_ERRNO | errno.ENOSYS)
# What Docker gives a container (moby, oci/caps/defaults.go).
CAPABILITIES = frozenset(
    f"CAP_{name}"
    for name in (
        "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
        "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
    )
)  # fmt: skip


def holds(argument: dict[str, Any], arguments: list[int], narrow: bool) -> bool:
    """A condition, read as seccomp_rule_add(3) words it."""
    word = 0xFFFFFFFF if narrow else (1 << 64) - 1
    have = arguments[argument["index"]] & word
    value, second = argument["value"] & word, argument.get("valueTwo", 0) & word
    outcomes: dict[str, bool] = {
        "SCMP_CMP_EQ": have == value,
        "SCMP_CMP_NE": have != value,
        "SCMP_CMP_LT": have < value,
        "SCMP_CMP_LE": have <= value,
        "SCMP_CMP_GT": have > value,
        "SCMP_CMP_GE": have >= value,
        "SCMP_CMP_MASKED_EQ": have & value == second & value,
    }
    return outcomes[argument["op"]]


def returned(action: str, errno_ret: int | None) -> int:
    code = {"ALLOW": ALLOW, "LOG": bpf.RET_LOG, "ERRNO": bpf.RET_ERRNO, "KILL": KILL, "TRAP": bpf.RET_TRAP}
    data = (1 if errno_ret is None else errno_ret) if action == "SCMP_ACT_ERRNO" else 0
    return code[action.removeprefix("SCMP_ACT_")] | data


def judge(oci: dict[str, Any], native: str, abi: str, number: int, arguments: list[int]) -> int:
    """What the profile says about a call, found by reading it from top to bottom."""
    if abi not in {native, *(ABI_OF.get(name) for name in oci.get("architectures", []))}:
        return KILL
    table, default = syscalls(abi), returned(oci["defaultAction"], oci.get("defaultErrnoRet"))
    newest = max((table.get(name, 0) for rule in oci["syscalls"] for name in rule["names"]), default=0)
    strict = oci["defaultAction"] not in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG") and default != ENOSYS
    if strict and 0 < newest < number:
        return ENOSYS
    rules = [rule for rule in oci["syscalls"] if returned(rule["action"], rule.get("errnoRet")) != default]
    return decide(rules, abi, number, arguments, default)


def decide(rules: list[dict[str, Any]], abi: str, number: int, arguments: list[int], default: int) -> int:
    call, narrow = names(abi).get(number), abi in ("i386", "x32", "arm")
    for rule in rules:
        if call in rule["names"] and not rule.get("args"):
            return returned(rule["action"], rule.get("errnoRet"))
    for rule in rules:
        conditions = rule.get("args", [])
        repeated = len({condition["index"] for condition in conditions}) < len(conditions)
        combine = any if repeated else all
        if call in rule["names"] and combine(holds(condition, arguments, narrow) for condition in conditions):
            return returned(rule["action"], rule.get("errnoRet"))
        for name in rule["names"] if abi == "i386" else []:
            where, which = MULTIPLEXED.get(name, ("", 0))
            met = [condition["index"] == 0 or holds(condition, arguments, narrow) for condition in conditions]
            if call == where and arguments[0] & 0xFFFFFFFF == which and (combine(met) if met else True):
                return returned(rule["action"], rule.get("errnoRet"))
    return default


EDGES = [0, 1, 2, 7, 38, 0x20008, 0x7E020000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 33) + 7, (1 << 64) - 1]
words = st.sampled_from(EDGES) | st.integers(0, (1 << 64) - 1)
CALLS = [
    "read",
    "socket",
    "semop",
    "clone",
    "personality",
    "chown32",
    "socketcall",
    "ipc",
    "mseal",
    "set_tls",
    "no_such",
]
operators = st.sampled_from([f"SCMP_CMP_{op}" for op in ("EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ")])
conditions = st.fixed_dictionaries({"index": st.integers(0, 5), "value": words, "valueTwo": words, "op": operators})
actions = st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_TRAP"])
errnos = st.sampled_from([None, 1, 13, 38])
rules = st.fixed_dictionaries(
    {
        "names": st.lists(st.sampled_from(CALLS), min_size=1, max_size=3),
        "action": actions,
        "errnoRet": errnos,
        "args": st.lists(conditions, max_size=3),
    }
)
profiles = st.fixed_dictionaries(
    {
        "defaultAction": actions,
        "defaultErrnoRet": errnos,
        "architectures": st.lists(st.sampled_from([*ABI_OF, "SCMP_ARCH_MIPS"]), max_size=3),
        "syscalls": st.lists(rules, max_size=8),
    }
)


@settings(deadline=None, max_examples=100)
@given(st.data(), profiles, st.sampled_from(["x86_64", "aarch64"]))
def test_programs_decide_as_the_profile_reads(data: st.DataObject, profile: dict[str, Any], machine: str) -> None:
    program = compile_oci(profile, machine)
    for abi in ABIS:
        table = syscalls(abi)
        for number in [*(table[name] for name in CALLS if name in table), 999 | (table["read"] & X32_SYSCALL_BIT)]:
            arguments = data.draw(st.lists(words, min_size=6, max_size=6))
            got = interpret(program, number, AUDIT_ARCH[abi], tuple(arguments))
            assert got == judge(profile, machine, abi, number, arguments), (abi, number, arguments, describe(program))


def test_docker_default_allows_and_denies_what_its_file_says() -> None:
    """Every call that any table knows, with arguments at the edges, on all three ABIs of x86_64."""
    oci = to_oci(default_profile(), CAPABILITIES, KERNEL, "x86_64")
    program = compile_oci(oci, "x86_64")
    for abi in ("x86_64", "i386", "x32"):
        for number in syscalls(abi).values():
            for first in EDGES:
                arguments = [first, 0, 1, first, 0, 0]
                decided = interpret(program, number, AUDIT_ARCH[abi], tuple(arguments))
                assert decided == judge(oci, "x86_64", abi, number, arguments), (abi, names(abi)[number], first)


def test_docker_default_at_its_known_corners() -> None:
    program = compile_profile(default_profile(), "x86_64", CAPABILITIES, KERNEL)
    admin = compile_profile(default_profile(), "x86_64", CAPABILITIES | {"CAP_SYS_ADMIN"}, KERNEL)
    older = compile_profile(default_profile(), "x86_64", CAPABILITIES, (4, 4))

    def decide(program: bytes, abi: str, call: str, *arguments: int) -> int:
        padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
        return interpret(program, syscalls(abi)[call], AUDIT_ARCH[abi], tuple(padded))

    for abi in ("x86_64", "i386", "x32"):
        assert decide(program, abi, "getpid") == ALLOW
        assert decide(program, abi, "mount") == EPERM
        assert decide(admin, abi, "mount") == ALLOW
        assert decide(program, abi, "clone3") == ENOSYS
        assert decide(admin, abi, "clone3") == ALLOW
        assert decide(program, abi, "clone", 0x11) == ALLOW
        assert decide(program, abi, "clone", 0x10000011) == EPERM  # CLONE_NEWUSER
        assert decide(admin, abi, "clone", 0x10000011) == ALLOW
        assert decide(program, abi, "socket", 1) == ALLOW
        assert decide(program, abi, "socket", 38) == EPERM
        assert decide(program, abi, "socket", 40) == EPERM
        assert decide(program, abi, "ptrace") == ALLOW
        assert decide(older, abi, "ptrace") == EPERM
    assert decide(program, "x86_64", "personality", 1 << 32) == EPERM  # the high word counts
    assert decide(program, "x86_64", "personality", 0xFFFFFFFF) == ALLOW
    newer = max(syscalls("x86_64").values()) + 7
    assert interpret(program, newer, AUDIT_ARCH["x86_64"], (0,) * 6) == ENOSYS
    assert interpret(program, 0, AUDIT_ARCH["aarch64"], (0,) * 6) == KILL
    assert len(program) // 8 < 1000


# Skipped in a clone alone: moby's profile, under its own licence, is not copied into this repository.
@pytest.mark.skipif(not REFERENCE.exists(), reason="moby's default.json isn't shipped with labkit")
def test_docker_default_is_dockers() -> None:
    def rules(profile: dict[str, Any]) -> set[tuple[str, str]]:
        return {
            (name, json.dumps({**rule, "names": [], "comment": ""}, sort_keys=True))
            for rule in profile["syscalls"]
            for name in rule["names"]
        }

    theirs, ours = json.loads(REFERENCE.read_text()), default_profile()
    assert rules(ours) == rules(theirs)
    assert sum(len(rule["names"]) for rule in ours["syscalls"]) == sum(
        len(rule["names"]) for rule in theirs["syscalls"]
    )
    for key in ("defaultAction", "defaultErrnoRet"):
        assert ours[key] == theirs[key]
    families = [{key: value or [] for key, value in entry.items()} for entry in theirs["archMap"]]
    assert ours["archMap"] == families
    assert ours.keys() == theirs.keys()


# From profile to OCI


def rule(*calls: str, **more: Any) -> dict[str, Any]:
    return {"names": list(calls), "action": "SCMP_ACT_ALLOW", **more}


def test_to_oci_keeps_what_applies() -> None:
    second_is_2 = {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "archMap": [
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": None},
        ],
        "syscalls": [
            rule("always", args=None, comment="", includes={}, excludes=None),
            {"name": "single", "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "args": [second_is_2]},
            rule("arm", includes={"arches": ["arm64"]}),
            rule("not-arm", excludes={"arches": ["arm64"]}),
            rule("both", includes={"caps": ["CAP_A", "CAP_B"]}),
            rule("one", includes={"caps": ["CAP_A"]}),
            rule("without", excludes={"caps": ["CAP_B"]}),
            rule("new", includes={"minKernel": "6.2"}),
            rule("now", includes={"minKernel": "6.1"}),
            rule("old", excludes={"minKernel": "6.1"}),
        ],
    }  # fmt: skip

    def kept(capabilities: set[str], machine: str) -> list[str]:
        oci = to_oci(profile, capabilities, KERNEL, machine)
        return [name for rule in oci["syscalls"] for name in rule["names"]]

    assert kept({"CAP_A"}, "x86_64") == ["always", "single", "not-arm", "one", "without", "now"]
    assert kept({"CAP_A", "CAP_B"}, "aarch64") == ["always", "single", "arm", "both", "one", "now"]
    oci = to_oci(profile, (), KERNEL, "aarch64")
    assert oci["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert (oci["defaultErrnoRet"], oci["flags"]) == (1, ["SECCOMP_FILTER_FLAG_LOG"])
    assert oci["syscalls"][0] == {"names": ["always"], "action": "SCMP_ACT_ALLOW"}
    assert oci["syscalls"][1] == {
        "names": ["single"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": 38,
        "args": [second_is_2],
    }


def test_a_filter_tells_whether_it_lets_a_call_pass() -> None:
    assert allows(compile_profile(default_profile(), os.uname().machine, CAPABILITIES, KERNEL), "rt_sigprocmask")
    denied = {"names": ["rt_sigprocmask"], "action": "SCMP_ACT_ERRNO"}
    assert not allows(
        compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [denied]}, os.uname().machine, (), KERNEL),
        "rt_sigprocmask",
    )


def test_an_empty_profile_filters_nothing() -> None:
    program = compile_profile({}, "x86_64", (), KERNEL)
    assert interpret(program, 165, AUDIT_ARCH["x86_64"], (0,) * 6) == ALLOW


def sample(**more: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ERRNO", **more}


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ([], "not an object"),
        ({"syscalls": [rule("read")]}, "invalid seccomp action: ''"),
        (sample(defaultAction="ALLOW"), "invalid seccomp action: 'ALLOW'"),
        (sample(defaultErrnoRet=5000), "errnoRet"),
        (sample(syscalls=5), "syscalls is not a list"),
        (sample(syscalls=["read"]), "a rule is not an object"),
        (sample(syscalls=[rule("")]), "empty string"),
        (sample(syscalls=[{"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}]), "both 'name' and 'names'"),
        (sample(syscalls=[rule("read", args=[{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}])]), "argument index"),
        (sample(syscalls=[rule("read", args=[{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}])]), "value"),
        (sample(syscalls=[rule("read", args=[{"index": 0, "value": 1, "op": "EQ"}])]), "invalid operator"),
        (sample(syscalls=[rule("read", args=[1])]), "an argument is not an object"),
        (sample(syscalls=[rule("read", includes={"minKernel": "new"})]), 'invalid kernel version: "new"'),
        (sample(architectures=["SCMP_ARCH_X86"], archMap=[{}]), "both 'architectures' and 'archMap'"),
        (sample(architectures=["x86"]), "invalid seccomp architecture: 'x86'"),
        (
            sample(syscalls=[rule("read", args=[{"index": 0, "value": n, "op": "SCMP_CMP_EQ"}]) for n in range(2000)]),
            "too large",
        ),
    ],
)
def test_malformed_profiles_are_refused(profile: Any, message: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        compile_profile(profile, "x86_64", (), KERNEL)
    assert message in str(raised.value)


def test_what_labkit_can_not_do_is_said() -> None:
    with pytest.raises(NotImplementedByLabkit, match="SCMP_ACT_NOTIFY"):
        compile_profile(sample(syscalls=[{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]), "x86_64", (), KERNEL)
    with pytest.raises(NotImplementedByLabkit, match="riscv64"):
        compile_profile(default_profile(), "riscv64", (), KERNEL)


def test_describe_reads_like_the_filter() -> None:
    profile = sample(
        syscalls=[rule("mkdir"), rule("personality", args=[{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}])]
    )
    lines = describe(compile_profile(profile, "x86_64", (), KERNEL))
    assert lines[:2] == ["   0: ld arch", f"   1: jeq #0xc000003e, 2, {len(lines) - 1}  ; AUDIT_ARCH_X86_64"]
    assert lines[-1].endswith("ret KILL_THREAD")
    text = "\n".join(lines)
    for part in ("ld nr", "; mkdir", "; personality", "ld args[0].low", "ret ALLOW", "(EPERM)", "(ENOSYS)"):
        assert part in text


# The tables


def test_tables_are_read_as_they_were_written() -> None:
    header = (
        "#define __NR_SYSCALL_BASE 0\n#define __NR_open (__NR_SYSCALL_BASE + 5)\n#define __NR_close\t6\n"
        "#define __NR_shut __NR_close\n#define __ARM_NR_cacheflush\t\t(__ARM_NR_BASE+2)\n#define __NR_syscalls 9x\n"
    )
    numbers = read(header)
    assert numbers == {"open": 5, "close": 6, "shut": 6, "cacheflush": 0x0F0002}
    assert compact(numbers) == "5 open close =shut 983042 cacheflush"
    assert parse(compact(numbers)) == numbers
    for abi in ABIS:
        assert parse(compact(syscalls(abi))) == syscalls(abi)


def test_table_of_this_machine_has_the_kernels_numbers() -> None:
    table = syscalls(platform.machine())
    libc = ctypes.CDLL(None, use_errno=True)
    for call, result in {
        "getpid": os.getpid(),
        "getppid": os.getppid(),
        "getuid": os.getuid(),
        "getpgid": os.getpgid(0),
    }.items():
        assert libc.syscall(table[call], 0) == result
    assert libc.syscall(table["openat2"], -1, None, None, 0) == -1
    assert ctypes.get_errno() == errno.EINVAL  # of a size below the struct's; ENOSYS or EBADF elsewhere


# The kernel's own judgement

x86_64_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code and numbers of x86_64")
libc = ctypes.CDLL(None, use_errno=True)


def in_filtered_child(program: bytes, act: Callable[[], Any]) -> Any:
    """What `act` returns in a child process under the filter; the signal that ended it, as an int, if one did."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(receive)
            buffer = ctypes.create_string_buffer(program, len(program))
            sock_fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
            installed = [libc.prctl(38, 1, 0, 0, 0), libc.prctl(22, 2, sock_fprog)]  # NO_NEW_PRIVS, SECCOMP_MODE_FILTER
            assert installed == [0, 0], ctypes.get_errno()
            os.write(send, json.dumps(act()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(send)
    with os.fdopen(receive, "rb") as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else json.loads(text)


def attempt(number: int, *arguments: int) -> str:
    """The errno of a raw system call, "" if it succeeds."""
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(argument) for argument in arguments))
    return errno.errorcode[ctypes.get_errno()] if result == -1 else ""


@x86_64_only
def test_the_kernel_enforces_dockers_default() -> None:
    program = compile_profile(default_profile(), "x86_64", CAPABILITIES, KERNEL)
    table, x32 = syscalls("x86_64"), syscalls("x32")

    def act() -> dict[str, str]:
        return {
            "mount": attempt(table["mount"], 0, 0, 0, 0, 0),
            "unshare": attempt(table["unshare"], 0),
            "clone3": attempt(table["clone3"], 0, 0),
            "AF_UNIX": attempt(table["socket"], 1, 1, 0),
            "AF_ALG": attempt(table["socket"], 38, 5, 0),
            "AF_VSOCK": attempt(table["socket"], 40, 1, 0),
            "personality asked": attempt(table["personality"], 0xFFFFFFFF),
            "personality linux": attempt(table["personality"], 0),
            "personality no randomisation": attempt(table["personality"], 0x40000),
            "keyctl": attempt(table["keyctl"], 0),
            "CLONE_NEWUSER": attempt(table["clone"], 0x10000000),
            "unnamed and new": attempt(4000),
            "x32 mount": attempt(x32["mount"], 0, 0, 0, 0, 0),
            "getpid": attempt(table["getpid"]),
        }

    assert in_filtered_child(program, act) == {
        "mount": "EPERM",
        "unshare": "EPERM",
        "clone3": "ENOSYS",
        "AF_UNIX": "",
        "AF_ALG": "EPERM",
        "AF_VSOCK": "EPERM",
        "personality asked": "",
        "personality linux": "",
        "personality no randomisation": "EPERM",
        "keyctl": "EPERM",
        "CLONE_NEWUSER": "EPERM",
        "unnamed and new": "ENOSYS",
        "x32 mount": "EPERM",
        "getpid": "",
    }


# push rbx; mov eax, edi; mov ebx, esi; xchg ecx, edx; int 0x80; pop rbx; ret: from C's registers to the gate's.
INT80 = bytes.fromhex("53 89f8 89f3 87d1 cd80 5b c3")


def i386_call(number: int, *arguments: int) -> int:
    """A system call by the 32-bit gate of a 64-bit process."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(INT80)
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return int(kind(address)(number, *[*arguments, 0, 0, 0][:3]))


@x86_64_only
def test_the_kernel_enforces_it_for_32_bit_calls() -> None:
    table = syscalls("i386")
    unfiltered = compile_oci({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"]}, "x86_64")
    if in_filtered_child(unfiltered, lambda: i386_call(table["getpid"]) == os.getpid()) is not True:
        pytest.skip("this kernel runs no 32-bit programs (CONFIG_IA32_EMULATION)")
    program = compile_profile(default_profile(), "x86_64", CAPABILITIES, KERNEL)
    calls = {
        "mount": (0, -errno.EPERM),
        "clone3": (0, -errno.ENOSYS),
        "personality": (0x40000, -errno.EPERM),
        "umount": (0, -errno.EPERM),
    }
    for call, (argument, result) in calls.items():
        assert in_filtered_child(program, partial(i386_call, table[call], argument)) == result
    assert in_filtered_child(program, lambda: i386_call(table["getpid"]) == os.getpid()) is True
    only_native = compile_oci({"defaultAction": "SCMP_ACT_ALLOW"}, "x86_64")
    assert in_filtered_child(only_native, lambda: i386_call(table["getpid"])) == signal.SIGSYS


@x86_64_only
def test_actions_beyond_errno() -> None:
    def with_action(action: str, **more: Any) -> bytes:
        return compile_oci(
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["sync"], "action": action, **more}]}, "x86_64"
        )

    number = syscalls("x86_64")["sync"]
    assert in_filtered_child(with_action("SCMP_ACT_KILL"), lambda: attempt(number)) == signal.SIGSYS
    assert in_filtered_child(with_action("SCMP_ACT_KILL_PROCESS"), lambda: attempt(number)) == signal.SIGSYS
    assert in_filtered_child(with_action("SCMP_ACT_TRAP"), lambda: attempt(number)) == signal.SIGSYS
    assert in_filtered_child(with_action("SCMP_ACT_LOG"), lambda: attempt(number)) == ""
    assert in_filtered_child(with_action("SCMP_ACT_TRACE"), lambda: attempt(number)) == "ENOSYS"  # nobody traces
    assert in_filtered_child(with_action("SCMP_ACT_ERRNO"), lambda: attempt(number)) == "EPERM"
    assert in_filtered_child(with_action("SCMP_ACT_ERRNO", errnoRet=13), lambda: attempt(number)) == "EACCES"
