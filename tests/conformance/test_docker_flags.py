"""The flags of `docker run` and `create`, each on the real kernel, beside Debian's dockerd: what the container finds in
/proc, cgroupfs and its mounts, and what is refused or warned of, in which words.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.side_by_side import Answer, masked
from tests.support.daemon import Daemon
from tests.support.dockerd import dockerd, isolated

pytestmark = pytest.mark.root
CGROUP = "/sys/fs/cgroup"

SAME = f"""
-m 64m busybox cat {CGROUP}/memory/memory.limit_in_bytes {CGROUP}/memory/memory.memsw.limit_in_bytes
-m 64m --memory-swap 96m busybox cat {CGROUP}/memory/memory.memsw.limit_in_bytes
-m 64m --memory-swap -1 busybox cat {CGROUP}/memory/memory.memsw.limit_in_bytes
-m 64m --memory-swap 32m busybox true
-m 5m busybox true
--memory-swap 64m busybox true
--memory-reservation 32m busybox cat {CGROUP}/memory/memory.soft_limit_in_bytes
--memory-swappiness 0 busybox cat {CGROUP}/memory/memory.swappiness
--memory-swappiness 42 busybox cat {CGROUP}/memory/memory.swappiness
--memory-swappiness 101 busybox true
-m 64m --oom-kill-disable busybox grep disable {CGROUP}/memory/memory.oom_control
--oom-kill-disable busybox grep disable {CGROUP}/memory/memory.oom_control
--oom-score-adj 500 busybox cat /proc/self/oom_score_adj
--oom-score-adj 5000 busybox true
--cpus 0.5 busybox cat {CGROUP}/cpu/cpu.cfs_quota_us {CGROUP}/cpu/cpu.cfs_period_us
--cpus 0.5 --cpu-period 1000 busybox true
-c 99 busybox cat {CGROUP}/cpu/cpu.shares
--cpu-period 50000 --cpu-quota 20000 busybox cat {CGROUP}/cpu/cpu.cfs_quota_us {CGROUP}/cpu/cpu.cfs_period_us
--cpu-period 5 busybox true
--cpu-quota 5 busybox true
--cpu-rt-period 5000 --cpu-rt-runtime 9000 busybox true
--cpuset-cpus 0 --cpuset-mems 0 busybox cat {CGROUP}/cpuset/cpuset.cpus {CGROUP}/cpuset/cpuset.mems
--cpuset-cpus 4000 busybox true
--cpuset-mems 1000 busybox true
--cpuset-cpus x busybox true
--pids-limit 30 busybox cat {CGROUP}/pids/pids.max
--pids-limit -1 busybox cat {CGROUP}/pids/pids.max
--blkio-weight 300 busybox true
--blkio-weight 3 busybox true
--blkio-weight-device /dev/loop0:300 busybox true
--device-read-bps /dev/loop0:1mb busybox cat {CGROUP}/blkio/blkio.throttle.read_bps_device
--device-write-bps /dev/loop0:2mb busybox cat {CGROUP}/blkio/blkio.throttle.write_bps_device
--device-read-iops /dev/loop0:100 busybox cat {CGROUP}/blkio/blkio.throttle.read_iops_device
--device-write-iops /dev/loop0:200 busybox cat {CGROUP}/blkio/blkio.throttle.write_iops_device
--device-read-bps /dev/nonesuch:1mb busybox true
--ulimit nofile=100:200 --ulimit core=0 busybox sh -c 'ulimit -n; ulimit -Hn; ulimit -c'
--ulimit foo=1 busybox true
--shm-size 10m busybox sh -c 'df /dev/shm | tail -1'
--device /dev/fuse busybox ls -l /dev/fuse
--device /dev/fuse:/dev/mine:r busybox sh -c 'ls -l /dev/mine; grep "10:229" {CGROUP}/devices/devices.list'
--device /dev/net busybox ls -l /dev/net/tun
--device /dev/nonesuch busybox true
--device /etc/passwd busybox true
--device-cgroup-rule 'c 42:* rmw' busybox grep 42 {CGROUP}/devices/devices.list
--device-cgroup-rule 'x 42:* rmw' busybox true
--gpus all busybox true
--gpus 'device=0,"capabilities=utility,compute"' busybox true
--cap-add SYS_ADMIN --cap-drop CHOWN busybox grep Cap /proc/self/status
--cap-drop ALL --cap-add NET_RAW busybox grep Cap /proc/self/status
--cap-add FLY busybox true
--user 1000 --cap-add NET_ADMIN busybox grep Cap /proc/self/status
--security-opt no-new-privileges busybox grep NoNew /proc/self/status
--security-opt no-new-privileges=false busybox grep NoNew /proc/self/status
--security-opt no-new-privileges:maybe busybox true
--security-opt seccomp=unconfined busybox grep Seccomp: /proc/self/status
--security-opt seccomp=/etc/passwd busybox true
--security-opt apparmor=foo busybox true
--security-opt label=type:foo busybox true
--security-opt foo busybox true
--security-opt foo=bar busybox true
--security-opt systempaths=unconfined busybox sh -c 'ls /sys/firmware | wc -l; grep -c "/proc/sys " /proc/mounts'
--read-only busybox touch /x
--read-only --tmpfs /t:size=1m,mode=700 busybox sh -c 'touch /t/x; ls -ld /t | cut -c1-10; df /t | tail -1'
--userns host busybox true
--userns foo busybox true
--sysctl net.ipv4.ip_forward=0 --sysctl kernel.msgmax=9000 busybox cat /proc/sys/net/ipv4/ip_forward \
/proc/sys/kernel/msgmax
--entrypoint echo busybox hello
--entrypoint '' busybox echo hi
-w /a/b busybox pwd
-w rel busybox pwd
-w /etc/passwd busybox pwd
-h box --domainname ex.com busybox sh -c 'hostname; cat /proc/sys/kernel/domainname /etc/hostname'
--stop-signal SIGFOO busybox true
-u bob --group-add 10 busybox id
-u bob:wheel busybox id
-u 1234:99 busybox id
-u nobody2 busybox id
--pid host busybox sh -c 'test -e /proc/2/comm && echo yes'
--pid foo busybox true
--ipc none busybox ls /dev/shm
--pid container:none busybox true
--ipc container:none busybox true
--pid container:giver busybox ps -o comm
--pid container:stopped busybox true
--ipc container:giver busybox sh -c 'cat /dev/shm/file'
--network container:giver --pid container:giver --ipc container:giver busybox ps -o comm
--uts host busybox hostname
--uts host -h foo busybox hostname
--uts container:giver busybox true
--cgroupns foo busybox true
--cgroupns private busybox grep -c ':/$' /proc/self/cgroup
--cgroup-parent /lk-test-parent/sub busybox cat {CGROUP}/cpuset/cpuset.cpus
--storage-opt size=1G busybox true
--isolation default busybox true
--platform linux/amd64 busybox echo ok
--stop-timeout 3 busybox true
-e =x busybox env
-l a=b -l c busybox true
"""
"""Flags after `docker run --rm`, of which both engines make the same: output, messages, exit status."""

SECTIONS = "failed to create shim task: OCI runtime create failed: "
OURS: list[tuple[str, str, str]] = [
    ("--cpus 900 busybox true", "range of CPUs is from 0.01 to ", "28 has a small r"),
    ("--kernel-memory 64m busybox true", "", "28 ignores it from API 1.42 on"),
    ("--ipc foo busybox true", "docker: Error response from daemon: invalid IPC mode: foo", "28 has a small i"),
    ("--cpu-rt-runtime 9000 busybox true", f"{SECTIONS}WriteCgroup: ", "labkit says which call failed"),
    ("--sysctl kernel.msgmax=1 --ipc host busybox true", 'sysctl "kernel.msgmax" is not allowed in the hosts ipc',
     "refused at create; with dockerd, runc does at the start"),
    ("--sysctl net.foo=1 --network host busybox true", 'sysctl "net.foo" not allowed in host network namespace', "so"),
    ("--sysctl net.nonesuch=1 busybox true", f"{SECTIONS}WriteSysctl: ", "labkit says which call failed"),
    ("--group-add nogrp busybox id", "unable to find group nogrp: no matching entries in group file", "28's words"),
    ("--storage-opt foo=1G busybox true", "unknown option foo", "28 has a small u"),
    ("--isolation hyperv busybox true", "invalid isolation 'hyperv' on linux", "28's words"),
    ("--runtime nonesuch busybox true", "unknown or invalid runtime name: nonesuch", "28's words"),
    ("--annotation a=b busybox true", "", "an API that 20.10 does not have"),
    ("--ipc container:private busybox true", "non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
     "28 has no prefix"),
    ("--ipc container:stopped busybox true", "docker: Error response from daemon: container <id> is not running", "so"),
    ("--platform linux/arm64 --pull never busybox true",
     "its platform (linux/amd64) does not match the specified platform (linux/arm64)", "28's words"),
    ("--privileged busybox sh -c 'grep Cap /proc/self/status | sort -u'", "",
     "Debian's runc fails where the host lacks any capability"),
]  # fmt: skip
"""Flags of which Debian's dockerd makes something else: what our message has in it, and why."""


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Daemon]]:
    """Both, each with a container that shares, one that doesn't, and one that has never run."""
    with isolated(tmp_path_factory.mktemp("labkit")) as ours, dockerd(tmp_path_factory.mktemp("dockerd")) as theirs:
        for engine in (ours, theirs):
            script = "echo shared > /dev/shm/file; exec sleep 1000"
            engine.docker("run", "-d", "--name", "giver", "--ipc", "shareable", "busybox", "sh", "-c", script)
            engine.docker("run", "-d", "--name", "private", "busybox", "sleep", "1000")
            engine.docker("create", "--name", "stopped", "busybox", "true")
        yield ours, theirs
    for parent in Path(CGROUP).glob("*/lk-test-parent"):  # dockerd leaves it
        (parent / "sub").rmdir()
        parent.rmdir()


def run(engine: Daemon, line: str) -> Answer:
    done = engine.docker("run", "--rm", *shlex.split(line), check=False)
    return Answer(done.returncode, *(masked(text.decode()) for text in (done.stdout, done.stderr)))


def plain(answer: Answer) -> Answer:
    """Without what a newer dockerd and runc say besides."""
    text = answer.err.replace("failed to create task for container: ", "").replace("runc create failed: ", "")
    return Answer(answer.status, answer.out, text)


@pytest.mark.parametrize("line", [line for line in SAME.strip().splitlines() if line])
def test_both_make_the_same_of_a_flag(engines: tuple[Daemon, Daemon], line: str) -> None:
    ours, theirs = (plain(run(engine, line)) for engine in engines)
    assert ours == theirs


@pytest.mark.parametrize(("line", "message", "reason"), OURS)
def test_where_they_differ_labkit_does_as_docker_28(
    engines: tuple[Daemon, Daemon], line: str, message: str, reason: str
) -> None:
    ours, theirs = (run(engine, line) for engine in engines)
    assert message in ours.err
    assert bool(message) == bool(ours.err), ours.err
    assert plain(ours) != plain(theirs), f"no longer: {reason}"


def test_privileged_gives_all_there_is(engines: tuple[Daemon, Daemon]) -> None:
    ours, _ = engines
    host = re.findall(r"Cap(?:Bnd):\t(\w+)", Path("/proc/self/status").read_text())
    script = (
        f"grep CapEff /proc/self/status; cat {CGROUP}/devices/devices.list; grep ' /sys ' /proc/mounts; ls /dev/fuse"
    )
    found = run(ours, f"--privileged busybox sh -c {shlex.quote(script)}").out
    assert found.splitlines()[:2] == [f"CapEff:\t{host[0]}", "a *:* rwm"]
    assert "/sys sysfs rw," in found
    assert "/dev/fuse" in found


def test_a_process_in_anothers_pid_namespace_has_no_life_of_its_own_there(engines: tuple[Daemon, Daemon]) -> None:
    """It ends with the one whose namespace it is, as the kernel wants it; what it leaves the engine ends."""
    script = "sleep 77 & sleep 99"
    for engine in engines:
        engine.docker("run", "-d", "--name", "owner", "busybox", "sleep", "1000")
        engine.docker("run", "-d", "--name", "guest", "--pid", "container:owner", "busybox", "sh", "-c", script)
        assert "sleep 77" in engine.out("exec", "owner", "ps")
        assert "sleep 1000" in engine.out("exec", "guest", "ps")
        engine.docker("rm", "-f", "guest")
        assert "sleep 77" not in engine.out("exec", "owner", "ps")
        engine.docker("run", "-d", "--name", "guest", "--pid", "container:owner", "busybox", "sleep", "99")
        engine.docker("kill", "owner")
        assert engine.out("wait", "guest") == "137"
        engine.docker("rm", "owner", "guest")


def test_shared_memory_is_one(engines: tuple[Daemon, Daemon]) -> None:
    for engine in engines:
        run(engine, "--ipc container:giver busybox sh -c 'echo back > /dev/shm/answer'")
        assert engine.out("exec", "giver", "cat", "/dev/shm/answer") == "back"


def test_a_configuration_is_shown_as_dockerd_shows_it(engines: tuple[Daemon, Daemon]) -> None:
    shown = []
    for engine in engines:
        flags = ("-m", "64m", "--pid", "container:giver", "--device-read-bps", "/dev/loop0:5", "--ulimit", "core=1")
        engine.docker("create", "--name", "shown", *flags, "--device", "/dev/fuse", "busybox", "true")
        found = engine.inspect("shown")["HostConfig"]
        assert found.pop("PidMode") == f"container:{engine.inspect('giver')['Id']}"
        for field in ("Runtime", "NetworkMode", "MaskedPaths", "KernelMemory", "KernelMemoryTCP"):
            found.pop(field, None)  # 20.10 has other names and other paths
        shown.append({name: value for name, value in found.items() if value not in (None, [], {}, "")})
        engine.docker("rm", "shown")
    assert shown[0] == shown[1]
