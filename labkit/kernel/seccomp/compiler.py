"""`linux.seccomp` (OCI runtime-spec) to a classic BPF program, deciding as runc with libseccomp does.

Of each architecture's calls, sorted by number, neighbours with the same fate become one range; a binary search
finds the range, and only calls with conditions on their arguments cost more than about nine comparisons.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from labkit.errors import InvalidParameter, NotImplementedByLabkit
from labkit.kernel.bpf_machine import AND_K, AUDIT_ARCH, JA, JEQ, JGE, JGT, LD_W_ABS, RET, RET_ALLOW
from labkit.kernel.numbers import X32_SYSCALL_BIT, syscalls
from labkit.kernel.seccomp import bpf
from labkit.kernel.seccomp.bpf import Instruction
from labkit.kernel.seccomp.profile import ABI_OF, checked, listed, machine, to_oci

_NARROW = ("i386", "x32", "arm")  # 32-bit arguments: only the low word counts, as for libseccomp

_ACTIONS = {
    "SCMP_ACT_ALLOW": RET_ALLOW,
    "SCMP_ACT_ERRNO": bpf.RET_ERRNO,
    "SCMP_ACT_KILL": bpf.RET_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": bpf.RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": bpf.RET_KILL_PROCESS,
    "SCMP_ACT_TRAP": bpf.RET_TRAP,
    "SCMP_ACT_TRACE": bpf.RET_TRACE,
    "SCMP_ACT_LOG": bpf.RET_LOG,
}
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
_ENOSYS = bpf.RET_ERRNO | errno.ENOSYS
_MAX_ERRNO = 4095
_WORD = 0xFFFFFFFF
_LAST_NUMBER = _WORD

# The comparisons that BPF has no equality for: the jump for the low word, and whether its outcome is turned round.
_ORDERED = {
    "SCMP_CMP_GE": (JGE, False),
    "SCMP_CMP_GT": (JGT, False),
    "SCMP_CMP_LT": (JGE, True),
    "SCMP_CMP_LE": (JGT, True),
}
_OPERATORS = {"SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_MASKED_EQ", *_ORDERED}

# i386 also has these calls multiplexed into socketcall(2) and ipc(2), whose first argument then says which.
_SOCKETCALL = """
socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown setsockopt
getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg
"""
MULTIPLEXED = {name: ("socketcall", number) for number, name in enumerate(_SOCKETCALL.split(), 1)}
MULTIPLEXED |= {
    name: ("ipc", number)
    for name, number in (
        ("semop", 1), ("semget", 2), ("semctl", 3), ("semtimedop", 4), ("msgsnd", 11), ("msgrcv", 12),
        ("msgget", 13), ("msgctl", 14), ("shmat", 21), ("shmdt", 22), ("shmget", 23), ("shmctl", 24),
    )
}  # fmt: skip


class Condition(NamedTuple):
    """A comparison of one argument, as seccomp_rule_add(3) has it; unsigned."""

    argument: int
    op: str
    value: int
    value_two: int = 0


class Rule(NamedTuple):
    """What happens to calls of these names; `cases` are alternatives, each a set of conditions. None: always."""

    names: list[str]
    returns: int
    cases: list[tuple[Condition, ...]]


class Fate(NamedTuple):
    """What happens to one call: the first case that matches, else `returns`."""

    returns: int
    cases: tuple[tuple[tuple[Condition, ...], int], ...] = ()
    narrow: bool = False


def compile_profile(
    profile: dict[str, Any], arch: str, capabilities: Collection[str], kernel: tuple[int, int]
) -> bytes:
    """Docker's profile to a program for seccomp(2): `to_oci`, then `compile_oci`."""
    return compile_oci(to_oci(profile, capabilities, kernel, arch), arch)


def compile_oci(seccomp: dict[str, Any], arch: str) -> bytes:
    """The program (`struct sock_filter[]`) for processes on a machine of this architecture (uname -m)."""
    default, rules = _parse(seccomp)
    abis = [ABI_OF[machine(arch)[0]]]  # libseccomp always filters the native one
    for name in listed(seccomp, "architectures"):
        if not isinstance(name, str) or not name.startswith("SCMP_ARCH_"):
            raise InvalidParameter(f"invalid seccomp architecture: {name!r}")
        if ABI_OF.get(name) not in (None, *abis):  # others don't run on this machine: they stay unknown, and are killed
            abis.append(ABI_OF[name])
    stub = seccomp["defaultAction"] not in _PERMISSIVE and default != _ENOSYS
    program = [_load(bpf.ARCHITECTURE)]
    for audit_arch in dict.fromkeys(AUDIT_ARCH[abi] for abi in abis):
        members = [abi for abi in abis if AUDIT_ARCH[abi] == audit_arch]
        section = [_load(bpf.NUMBER), *_search(_ranges(members, rules, default, stub))]
        program += [*_branch(JEQ, audit_arch, len(section)), *section]
    program.append(Instruction(RET, 0, 0, bpf.RET_KILL_THREAD))  # libseccomp's treatment of unknown architectures
    if len(program) > bpf.MAX_INSTRUCTIONS:
        raise InvalidParameter(f"seccomp profile is too large: {len(program)} instructions of {bpf.MAX_INSTRUCTIONS}")
    return bpf.encode(program)


# From JSON


def _parse(seccomp: dict[str, Any]) -> tuple[int, list[Rule]]:
    default = _action(seccomp.get("defaultAction"), seccomp.get("defaultErrnoRet"))
    return default, [_rule(rule) for rule in listed(seccomp, "syscalls")]


def _action(name: object, errno_ret: object) -> int:
    """The filter's return value for an action; EPERM where the profile says no errno, as runc has it."""
    if name == "SCMP_ACT_NOTIFY":
        raise NotImplementedByLabkit("seccomp profiles with SCMP_ACT_NOTIFY need a listener, which labkit doesn't have")
    if not isinstance(name, str) or name not in _ACTIONS:
        raise InvalidParameter(f"invalid seccomp action: {name!r}")
    if name not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        return _ACTIONS[name]
    return _ACTIONS[name] | _integer(errno.EPERM if errno_ret is None else errno_ret, "errnoRet", _MAX_ERRNO)


def _integer(value: object, name: str, maximum: int) -> int:
    if not isinstance(value, int) or not 0 <= value <= maximum:
        raise InvalidParameter(f"invalid {name} in the seccomp profile: {value!r}, expected 0 to {maximum}")
    return value


def _rule(rule: dict[str, Any]) -> Rule:
    names = listed(checked(rule, "a rule"), "names")
    if not all(isinstance(name, str) and name for name in names):
        raise InvalidParameter("empty string is not a valid syscall")
    conditions = tuple(_condition(argument) for argument in listed(rule, "args"))
    cases = [conditions] if conditions else []
    if len({condition.argument for condition in conditions}) < len(conditions):
        # Two conditions on one argument are alternatives for runc, not a conjunction (libseccomp can't express that).
        cases = [(condition,) for condition in conditions]
    return Rule(names, _action(rule.get("action"), rule.get("errnoRet")), cases)


def _condition(argument: dict[str, Any]) -> Condition:
    op = checked(argument, "an argument").get("op")
    if op not in _OPERATORS:
        raise InvalidParameter(f"invalid operator in the seccomp profile: {op!r}")
    value, value_two = (_integer(argument.get(name) or 0, name, (1 << 64) - 1) for name in ("value", "valueTwo"))
    return Condition(_integer(argument.get("index") or 0, "argument index", 5), op, value, value_two)


# From rules to ranges of numbers


def _fates(abi: str, rules: Iterable[Rule], default: int) -> dict[int, Fate]:
    """What happens to each call that the rules name. A rule without conditions beats those with, as in libseccomp."""
    table = syscalls(abi)
    always: dict[int, int] = {}
    cases: dict[int, list[tuple[tuple[Condition, ...], int]]] = {}
    for rule in rules:
        if rule.returns == default:
            continue  # redundant for runc, which so lets another rule for the same call win
        for name in rule.names:
            number = table.get(name)
            if number is None:
                pass  # unknown here
            elif rule.cases:
                cases.setdefault(number, []).extend((case, rule.returns) for case in rule.cases)
            else:
                always.setdefault(number, rule.returns)
            if abi == "i386" and name in MULTIPLEXED:
                call, which = MULTIPLEXED[name]
                cases.setdefault(table[call], []).extend(
                    (_multiplexed(case, which), rule.returns) for case in rule.cases or [()]
                )
    narrow = abi in _NARROW
    fates = {number: Fate(default, tuple(alternatives), narrow) for number, alternatives in cases.items()}
    return fates | {number: Fate(returns) for number, returns in always.items()}


def _multiplexed(case: tuple[Condition, ...], which: int) -> tuple[Condition, ...]:
    """A case for socketcall or ipc: the first argument says which call is meant."""
    return (Condition(0, "SCMP_CMP_EQ", which), *(condition for condition in case if condition.argument))


def _ranges(abis: list[str], rules: list[Rule], default: int, stub: bool) -> list[tuple[int, Fate]]:
    """Where each range of numbers begins, and its fate; sorted, from 0 on. `abis` share an audit architecture.

    `stub`: calls newer than all that the profile names get ENOSYS, for runc's reason: a C library takes that as "try
    the older call", and EPERM as a failure.
    """
    fates: dict[int, Fate] = {}
    starts = {0: Fate(bpf.RET_KILL_THREAD)}
    for abi in abis:
        table, own = syscalls(abi), _fates(abi, rules, default)
        starts[X32_SYSCALL_BIT if abi == "x32" else 0] = Fate(default)
        newest = max((table.get(name, 0) for rule in rules for name in rule.names), default=0)
        if stub and newest:
            starts[newest + 1] = Fate(_ENOSYS)
            own = {number: fate for number, fate in own.items() if number <= newest}
        fates |= own
    if abis == ["x86_64"]:  # x32 is another architecture; but -1 is the number of a call that a tracer has skipped
        starts |= {X32_SYSCALL_BIT: Fate(bpf.RET_KILL_THREAD), _LAST_NUMBER: Fate(default)}
    return _merge(fates, starts)


def _merge(fates: dict[int, Fate], starts: dict[int, Fate]) -> list[tuple[int, Fate]]:
    """Lay single calls over the ranges that `starts` begins, and join neighbours of the same fate."""
    ranges: list[tuple[int, Fate]] = []
    gap = starts[0]
    for number in sorted({*fates, *(number + 1 for number in fates), *starts}):
        gap = starts.get(number, gap)
        fate = fates.get(number, gap)
        if not ranges or ranges[-1][1] != fate:
            ranges.append((number, fate))
    return ranges


# From ranges to instructions


def _load(offset: int) -> Instruction:
    return Instruction(LD_W_ABS, 0, 0, offset)


def _branch(code: int, k: int, length: int) -> list[Instruction]:
    """Go on if the comparison is true, else skip `length` instructions."""
    if length <= bpf.SHORT_JUMP:
        return [Instruction(code, 0, length, k)]
    return [Instruction(code, 1, 0, k), Instruction(JA, 0, 0, length)]


def _search(ranges: list[tuple[int, Fate]]) -> list[Instruction]:
    """Binary search for the range of the number in the accumulator. Every path ends in a return."""
    if len(ranges) == 1:
        return _decide(ranges[0][1])
    middle = len(ranges) // 2
    upper = _search(ranges[middle:])
    return [*_branch(JGE, ranges[middle][0], len(upper)), *upper, *_search(ranges[:middle])]


def _decide(fate: Fate) -> list[Instruction]:
    cases = [step for conditions, returns in fate.cases for step in _case(conditions, returns, fate.narrow)]
    return [*cases, Instruction(RET, 0, 0, fate.returns)]


def _case(conditions: tuple[Condition, ...], returns: int, narrow: bool) -> list[Instruction]:
    """Return `returns` if all conditions hold, else go on behind."""
    comparisons = [_compare(condition, narrow) for condition in conditions]
    otherwise = sum(map(len, comparisons)) + 1
    program: list[Instruction] = []
    for comparison in comparisons:
        holds = len(program) + len(comparison)
        for code, k, if_true, if_false in comparison:
            following = len(program) + 1
            target = {_NEXT: following, _HOLDS: holds, _FAILS: otherwise}
            program.append(Instruction(code, target[if_true] - following, target[if_false] - following, k))
    return [*program, Instruction(RET, 0, 0, returns)]


_NEXT, _HOLDS, _FAILS = "next", "holds", "fails"

_Step = tuple[int, int, str, str]  # code, constant, where to go if true, if false


def _compare(condition: Condition, narrow: bool) -> list[_Step]:
    """A 64-bit comparison in 32-bit words, the high one first; `narrow`: the low one only."""
    argument, op, value, value_two = condition
    low = bpf.ARGUMENTS + 8 * argument
    words = [(low, 0)] if narrow else [(low + 4, 32), (low, 0)]
    if op in _ORDERED:
        return _order(op, value, words)
    mask = value if op == "SCMP_CMP_MASKED_EQ" else (1 << 64) - 1
    wanted = (value_two if op == "SCMP_CMP_MASKED_EQ" else value) & mask
    steps: list[_Step] = []
    for offset, shift in words:
        steps.append((LD_W_ABS, offset, _NEXT, _NEXT))
        part = mask >> shift & _WORD
        if part != _WORD:
            steps.append((AND_K, part, _NEXT, _NEXT))
        same, other = (_NEXT, _FAILS) if op != "SCMP_CMP_NE" else (_FAILS if shift == 0 else _NEXT, _HOLDS)
        steps.append((JEQ, wanted >> shift & _WORD, same, other))
    return steps


def _order(op: str, value: int, words: list[tuple[int, int]]) -> list[_Step]:
    """Greater (or equal), or its negation: decided by the high word unless that is equal."""
    code, negated = _ORDERED[op]
    if_true, if_false = (_FAILS, _HOLDS) if negated else (_HOLDS, _FAILS)
    steps: list[_Step] = []
    for offset, shift in words:
        steps.append((LD_W_ABS, offset, _NEXT, _NEXT))
        if shift:
            steps.append((JGT, value >> shift, if_true, _NEXT))
            steps.append((JEQ, value >> shift, _NEXT, if_false))
        else:
            steps.append((code, value & _WORD, if_true, if_false))
    return steps
