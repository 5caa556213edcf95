"""The device filter, judged by an interpreter of eBPF, by a plain reading of the rules, and by the kernel."""

from __future__ import annotations

import errno
import os
import stat
import struct
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import InvalidParameter, KernelError
from labkit.kernel.device_filter import (
    ACCESS,
    TYPES,
    DeviceRule,
    attach,
    compile_device_program,
    load_device_program,
)

# What dockerd writes for a plain container (moby, oci/defaults.go), in short.
DOCKER = (
    DeviceRule(False, "a", -1, -1, "rwm"),
    DeviceRule(True, "c", -1, -1, "m"),
    DeviceRule(True, "b", -1, -1, "m"),
    *(DeviceRule(True, "c", 1, minor, "rwm") for minor in (3, 5, 7, 8, 9)),
    DeviceRule(True, "c", 5, 0, "rwm"),
    DeviceRule(True, "c", 136, None, "rwm"),
)


def interpret(program: bytes, kind: int, wanted: int, major: int, minor: int) -> bool:
    """Run the program on a struct bpf_cgroup_dev_ctx."""
    context = struct.pack("<III", wanted << 16 | kind, major, minor)
    steps, position, registers = list(struct.iter_unpack("<BBhI", program)), 0, [0] * 11
    while True:
        code, both, offset, constant = steps[position]
        register, source = both & 15, both >> 4
        position += 1
        if code == 0x61:
            assert source == 1
            registers[register] = int.from_bytes(context[offset : offset + 4], "little")
        elif code == 0xB4:
            registers[register] = constant
        elif code == 0xBC:
            registers[register] = registers[source]
        elif code == 0x54:
            registers[register] &= constant
        elif code == 0x74:
            registers[register] >>= constant
        elif code == 0x05:
            position += offset
        elif code == 0x95:
            return bool(registers[0])
        else:
            jumps = {0x56: registers[register] != constant, 0x46: bool(registers[register] & constant)}
            position += offset if jumps[code] else 0


def permitted(rules: tuple[DeviceRule, ...], kind: str, letter: str, major: int, minor: int) -> bool:
    """Whether one kind of access is allowed: the last rule that matches says."""
    for rule in reversed(rules):
        if rule.type == "a":
            return rule.allow
        numbers = all(want in (None, -1, have) for want, have in ((rule.major, major), (rule.minor, minor)))
        if rule.type == kind and numbers and letter in rule.access:
            return rule.allow
    return False


numbers = st.sampled_from([0, 1, 2, 0xFFFFFFFF])
rule = st.builds(
    DeviceRule,
    st.booleans(),
    st.sampled_from("bbbcccca"),
    numbers | st.sampled_from([-1, None]),
    numbers | st.sampled_from([-1, None]),
    st.sets(st.sampled_from("rwm"), min_size=1).map("".join),
)


@given(
    st.lists(rule, max_size=12).map(tuple),
    st.sampled_from("bc"),
    st.sets(st.sampled_from("rwm"), min_size=1),
    numbers,
    numbers,
)
def test_each_access_is_decided_by_the_last_rule(
    rules: tuple[DeviceRule, ...], kind: str, letters: set[str], major: int, minor: int
) -> None:
    wanted = sum(ACCESS[letter] for letter in letters)
    expected = all(permitted(rules, kind, letter, major, minor) for letter in letters)
    assert interpret(compile_device_program(rules), TYPES[kind], wanted, major, minor) == expected


def test_dockers_rules() -> None:
    program = compile_device_program(DOCKER)
    read, mknod = ACCESS["r"], ACCESS["m"]
    assert interpret(program, TYPES["c"], read, 1, 3)  # /dev/null
    assert not interpret(program, TYPES["c"], read, 1, 1)  # /dev/mem
    assert interpret(program, TYPES["c"], mknod, 1, 1)
    assert interpret(program, TYPES["c"], read, 136, 42)  # a pty
    assert not interpret(program, TYPES["b"], read, 8, 0)  # a disk
    assert not interpret(compile_device_program(()), TYPES["c"], read, 1, 3)


@pytest.mark.parametrize(
    "fields",
    [(True, "x", 1, 1, "r"), (True, "c", 1, 1, ""), (True, "c", 1, 1, "rx"), (True, "c", 1 << 32), (True, "b", 1, -2)],
)
def test_malformed_rules_are_refused(fields: tuple[bool, str, int, int, str]) -> None:
    with pytest.raises(InvalidParameter, match="invalid device"):
        DeviceRule(*fields)


# The kernel's own judgement


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of its own in the v2 tree, wherever that is mounted."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    root = next(Path(fields[4]) for fields in mounts if fields[fields.index("-") + 1] == "cgroup2")
    path = root / f"labkit-test-{uuid.uuid4().hex[:12]}"
    path.mkdir()
    yield path
    path.rmdir()


def constrain(cgroup: Path, *rules: DeviceRule) -> None:
    program = load_device_program(compile_device_program(rules))
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        attach(directory, program)
    finally:
        os.close(directory)
        os.close(program)


def inside(cgroup: Path, act: Callable[[], object]) -> str:
    """The errno of `act` in a child process within the cgroup, "" if it succeeds."""
    child = os.fork()
    if child == 0:
        status = 255
        try:
            (cgroup / "cgroup.procs").write_text("0")
            act()
            status = 0
        except OSError as error:
            status = error.errno or 255
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return errno.errorcode[status] if status else ""


def opening(path: str, flags: int) -> Callable[[], object]:
    return lambda: os.open(path, flags)


@pytest.mark.root
def test_the_kernel_enforces_the_rules(cgroup: Path, tmp_path: Path) -> None:
    constrain(
        cgroup,
        DeviceRule(False),
        DeviceRule(True, "c", 1, 5, "rwm"),  # /dev/zero
        DeviceRule(True, "c", 1, 3, "rwm"),
        DeviceRule(False, "c", 1, 3, "w"),  # /dev/null, to read only
    )

    def make(major: int, minor: int) -> Callable[[], object]:
        node = str(tmp_path / f"{major}-{minor}")
        return lambda: os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(major, minor))

    assert inside(cgroup, opening("/dev/zero", os.O_RDWR)) == ""
    assert inside(cgroup, opening("/dev/null", os.O_RDONLY)) == ""
    assert inside(cgroup, opening("/dev/null", os.O_WRONLY)) == "EPERM"
    assert inside(cgroup, opening("/dev/null", os.O_RDWR)) == "EPERM"
    assert inside(cgroup, opening("/dev/urandom", os.O_RDONLY)) == "EPERM"
    assert inside(cgroup, make(1, 5)) == ""
    assert inside(cgroup, make(1, 9)) == "EPERM"
    with open("/dev/urandom", "rb") as outside:  # not in the cgroup
        assert len(outside.read(1)) == 1


@pytest.mark.root
@pytest.mark.parametrize(
    "rules", [(), DOCKER, (DeviceRule(True),), (DeviceRule(True, "c", 1, 3, "r"), DeviceRule(False))]
)
def test_the_kernel_verifies_all_shapes(cgroup: Path, rules: tuple[DeviceRule, ...]) -> None:
    constrain(cgroup, *rules)
    allowed = rules in (DOCKER, (DeviceRule(True),))
    assert inside(cgroup, opening("/dev/null", os.O_RDONLY)) == ("" if allowed else "EPERM")


@pytest.mark.root
def test_filters_of_a_cgroup_and_of_one_below_both_count(cgroup: Path) -> None:
    constrain(cgroup, DeviceRule(True, "c", 1, 3))
    below = cgroup / "below"
    below.mkdir()
    try:
        constrain(below, DeviceRule(True))
        assert inside(below, opening("/dev/null", os.O_RDONLY)) == ""
        assert inside(below, opening("/dev/zero", os.O_RDONLY)) == "EPERM"
    finally:
        below.rmdir()


@pytest.mark.root
def test_a_program_that_the_kernel_refuses() -> None:
    with pytest.raises(KernelError) as raised:
        load_device_program(struct.pack("=BBhI", 0x05, 0, 7, 0))  # a jump out of the program
    assert raised.value.errno == errno.EINVAL
    assert "BPF_PROG_LOAD" in str(raised.value)
