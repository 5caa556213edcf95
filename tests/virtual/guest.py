"""What is tried in the virtual machine: containers on a kernel that has cgroup v2 only (cgroup-v2.rst).

Runs as its only program. Says one line of JSON a check: name, seconds, and what went wrong, or nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from labkit.kernel.cgroups import read_layout
from tests.support.daemon import PATIENCE, Daemon, UnixConnection

TREE = Path("/sys/fs/cgroup")
CHECKS: dict[str, Callable[[Guest], None]] = {}
Check = Callable[["Guest"], None]


class Guest(Daemon):
    """The daemon in the machine, asked over its socket: there is no docker command here."""

    def network_left(self) -> list[str]:
        links = os.listdir("/sys/class/net")
        return [f"link {name}" for name in links if name not in ("lo", "bonding_masters", "sit0", "tunl0", "ip6tnl0")]

    def must(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.request(method, path, body)
        assert status < 300, (method, path, status, answer)
        return answer

    def load(self, archive: bytes, name: str) -> None:
        connection = UnixConnection(str(self.socket))
        with contextlib.closing(connection):
            connection.request("POST", f"/images/create?fromSrc=-&repo={name}&tag=latest", archive)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            assert b"error" not in answer.read()

    def create(self, name: str, *command: str, **host: Any) -> list[str]:
        """Create a container; the warnings. `host` is its HostConfig; without a network unless that says so."""
        settings = {"NetworkMode": "none"} | host
        body = {"Image": "busybox", "Cmd": list(command), "StopTimeout": 0, "HostConfig": settings}
        if "PortBindings" in host:
            body["ExposedPorts"] = {port: {} for port in host["PortBindings"]}
        warnings: list[str] = self.must("POST", f"/containers/create?name={name}", body)["Warnings"]
        return warnings

    def start(self, name: str = "") -> None:
        """Start a container, or without a name the daemon."""
        if name:
            self.must("POST", f"/containers/{name}/start")
        else:
            super().start()

    def run_one(self, name: str, script: str, **host: Any) -> None:
        """Have a shell run a script in a new container."""
        self.create(name, "sh", "-c", script, **host)
        self.start(name)

    def wait(self, name: str) -> int:
        return int(self.must("POST", f"/containers/{name}/wait")["StatusCode"])

    def stdout(self, name: str) -> str:
        """The output of a container so far."""
        connection = UnixConnection(str(self.socket))
        with contextlib.closing(connection):
            connection.request("GET", f"/containers/{name}/logs?stdout=1&stderr=1")
            data = connection.getresponse().read()
        return unframe(data)

    def result(self, name: str, script: str, **host: Any) -> str:
        """The output of a script that succeeds in a container of its own."""
        self.run_one(name, script, **host)
        code = self.wait(name)
        assert code == 0, (code, self.stdout(name))
        return self.stdout(name).strip()

    def exec(self, name: str, *command: str) -> tuple[int, str]:
        body = {"AttachStdout": True, "AttachStderr": True, "Cmd": list(command)}
        identity = self.must("POST", f"/containers/{name}/exec", body)["Id"]
        connection = UnixConnection(str(self.socket))
        with contextlib.closing(connection):
            connection.request(
                "POST", f"/exec/{identity}/start", json.dumps({"Detach": False}), {"Content-Type": "application/json"}
            )
            data = connection.getresponse().read()
        return self.must("GET", f"/exec/{identity}/json")["ExitCode"], unframe(data)

    def group(self, name: str) -> Path:
        return TREE / self.cgroup / str(self.inspect(name)["Id"])

    def value(self, name: str, file: str) -> str:
        """The content of a file of a container's cgroup."""
        return (self.group(name) / file).read_text().strip()


def unframe(data: bytes) -> str:
    """The payloads of a multiplexed stream."""
    found = b""
    while data:
        size = int.from_bytes(data[4:8], "big")
        found, data = found + data[8 : 8 + size], data[8 + size :]
    return found.decode()


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def counts(group: Path, file: str) -> dict[str, int]:
    """A file of keys and numbers."""
    lines = (line.split() for line in (group / file).read_text().splitlines())
    return {key: int(value) for key, value in lines}


def until(true: Callable[[], bool]) -> None:
    """Wait for what the kernel tells nobody of."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def second_disk() -> tuple[int, int]:
    device = os.stat("/dev/vdb").st_rdev
    return os.major(device), os.minor(device)


@check
def the_kernel_has_v2_only(guest: Guest) -> None:
    layout = read_layout()
    assert (layout.version, layout.v1, layout.unified) == (2, (), str(TREE))
    info = guest.must("GET", "/info")
    assert (info["CgroupVersion"], info["CgroupDriver"]) == ("2", "cgroupfs")
    assert (info["MemoryLimit"], info["CpuCfsQuota"], info["CPUSet"], info["PidsLimit"]) == (True,) * 4


@check
def output_and_exit_code(guest: Guest) -> None:
    guest.run_one("plain", "echo out; echo err >&2; exit 7")
    assert guest.wait("plain") == 7
    assert sorted(guest.stdout("plain").split()) == ["err", "out"]
    assert not list(TREE.glob(f"{guest.cgroup}/*/"))


@check
def memory_that_runs_out(guest: Guest) -> None:
    limits = {"Memory": 32 << 20, "MemorySwap": 32 << 20, "MemoryReservation": 16 << 20}
    guest.create("eater", "sleep", "1000", **limits)
    guest.start("eater")
    assert guest.value("eater", "memory.max") == str(32 << 20)
    assert guest.value("eater", "memory.low") == str(16 << 20)
    assert guest.value("eater", "memory.swap.max") == "0"
    code, _ = guest.exec("eater", "tail", "/dev/zero")
    assert code == 137
    assert counts(guest.group("eater"), "memory.events")["oom_kill"] == 1
    assert guest.inspect("eater")["State"]["Running"] is True
    until(lambda: guest.inspect("eater")["State"]["OOMKilled"])  # told at the moment: it lives on
    guest.run_one("greedy", "exec tail /dev/zero", **limits)
    assert guest.wait("greedy") == 137
    assert guest.inspect("greedy")["State"]["OOMKilled"] is True


@check
def a_kill_that_was_no_want_of_memory(guest: Guest) -> None:
    guest.create("killed", "sleep", "1000", Memory=32 << 20)
    guest.start("killed")
    guest.must("POST", "/containers/killed/kill")
    assert guest.wait("killed") == 137
    assert guest.inspect("killed")["State"]["OOMKilled"] is False


@check
def a_fork_bomb(guest: Guest) -> None:
    guest.run_one("bomb", "f() { f | f & }; f; sleep 1000", PidsLimit=20)
    group = guest.group("bomb")
    until(lambda: counts(group, "pids.events")["max"] > 0)
    assert (group / "pids.max").read_text() == "20\n"
    assert int((group / "pids.current").read_text()) <= 20
    guest.must("GET", "/containers/json")
    guest.must("DELETE", "/containers/bomb?force=1")
    assert not group.exists()


@check
def cpu_time(guest: Guest) -> None:
    guest.run_one("busy", "while :; do :; done", NanoCpus=200_000_000)
    group = guest.group("busy")
    assert (group / "cpu.max").read_text() == "20000 100000\n"
    until(lambda: counts(group, "cpu.stat")["nr_throttled"] > 3)
    guest.must("POST", "/containers/busy/update", {"CpuShares": 2048, "Memory": 64 << 20, "MemorySwap": -1})
    assert guest.value("busy", "cpu.weight") == "79"
    assert guest.value("busy", "memory.max") == str(64 << 20)
    assert guest.value("busy", "memory.swap.max") == "max"


@check
def cpus(guest: Guest) -> None:
    said = guest.result("pinned", "grep Cpus_allowed_list /proc/self/status", CpusetCpus="1", CpusetMems="0")
    assert said.split()[-1] == "1"
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"CpusetCpus": "7"}}
    status, answer = guest.request("POST", "/containers/create", body)
    assert (status, "not available" in answer["message"]) == (400, True), answer


@check
def input_and_output(guest: Guest) -> None:
    numbers = "{}:{}".format(*second_disk())
    limits = {
        "BlkioWeight": 300,
        "BlkioDeviceReadBps": [{"Path": "/dev/vdb", "Rate": 1 << 20}],
        "BlkioDeviceWriteIOps": [{"Path": "/dev/vdb", "Rate": 50}],
        "Devices": [{"PathOnHost": "/dev/vdb", "PathInContainer": "/dev/slow", "CgroupPermissions": "r"}],
    }
    guest.run_one("slow", "sleep 1000", **limits)
    assert guest.value("slow", "io.max") == f"{numbers} rbps=1048576 wbps=max riops=max wiops=50"
    assert guest.value("slow", "io.weight").splitlines()[0] == "default 2930"
    began = time.monotonic()
    code, said = guest.exec("slow", "dd", "if=/dev/slow", "of=/dev/null", "bs=1M", "count=3", "iflag=direct")
    assert code == 0, said
    assert time.monotonic() - began > 1.5
    code, said = guest.exec("slow", "dd", "if=/dev/zero", "of=/dev/slow", "bs=1k", "count=1")
    assert code == 1, said
    assert "not permitted" in said


@check
def the_freezer(guest: Guest) -> None:
    guest.run_one("ticker", "while :; do echo tick; sleep 0.05; done")
    until(lambda: guest.stdout("ticker") != "")
    guest.must("POST", "/containers/ticker/pause")
    group = guest.group("ticker")
    until(lambda: counts(group, "cgroup.events")["frozen"] == 1)
    assert guest.inspect("ticker")["State"]["Status"] == "paused"
    before = guest.stdout("ticker")
    time.sleep(0.5)  # ten ticks that must not come
    assert guest.stdout("ticker") == before
    status, answer = guest.request("POST", "/containers/ticker/exec", {"Cmd": ["true"]})
    assert (status, "paused" in answer["message"]) == (409, True)
    guest.must("POST", "/containers/ticker/unpause")
    until(lambda: guest.stdout("ticker") != before)


@check
def devices(guest: Guest) -> None:
    major, minor = second_disk()
    disk = f"mknod /m b {major} {minor} && dd if=/m of=/dev/null count=1"
    tries = "mknod /m c 1 1; echo x >/dev/null && head -c 1 /dev/zero >/dev/null && head -c 1 /m"
    guest.run_one("plain-devices", tries)
    assert guest.wait("plain-devices") == 1
    assert "Operation not permitted" in guest.stdout("plain-devices")
    guest.result("all-devices", disk, Privileged=True)
    guest.result("ruled", disk, DeviceCgroupRules=[f"b {major}:* rm"])
    guest.run_one("other-rule", disk, DeviceCgroupRules=[f"b {major}:{minor + 1} rm"])
    assert guest.wait("other-rule") == 1


@check
def cgroup_namespaces(guest: Guest) -> None:
    assert guest.result("own-view", "cat /proc/self/cgroup") == "0::/"
    said = guest.result("hosts-view", "cat /proc/self/cgroup", CgroupnsMode="host")
    assert said == f"0::/{guest.cgroup}/{guest.inspect('hosts-view')['Id']}"
    seen = guest.result("mounted", "cat /sys/fs/cgroup/pids.max; mkdir /sys/fs/cgroup/x 2>&1 || true", PidsLimit=30)
    assert seen.splitlines()[0] == "30"
    assert "Read-only file system" in seen


@check
def execs_are_in_the_containers_cgroup(guest: Guest) -> None:
    guest.run_one("host", "sleep 1000", PidsLimit=30)
    assert guest.exec("host", "cat", "/proc/self/cgroup") == (0, "0::/\n")
    assert guest.exec("host", "sh", "-c", "exit 5")[0] == 5
    titles = guest.must("GET", "/containers/host/top")
    assert len(titles["Processes"]) == 1


@check
def statistics(guest: Guest) -> None:
    guest.run_one("counted", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000", Memory=64 << 20)
    found = guest.must("GET", "/containers/counted/stats?stream=0&one-shot=1")
    assert 0 < found["memory_stats"]["usage"] < 64 << 20
    assert found["memory_stats"]["limit"] == 64 << 20
    assert found["pids_stats"]["current"] == 1
    assert found["cpu_stats"]["cpu_usage"]["total_usage"] > 0


@check
def a_published_port(guest: Guest) -> None:
    ports = {"80/tcp": [{"HostPort": "8080"}]}
    guest.must("POST", "/networks/create", {"Name": "lab"})
    guest.create("web", "httpd", "-f", "-h", "/etc", NetworkMode="lab", PortBindings=ports)
    guest.start("web")
    address = guest.inspect("web")["NetworkSettings"]["Networks"]["lab"]["IPAddress"]
    for host, port in (("127.0.0.1", 8080), (address, 80)):
        connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", "/passwd")
            assert connection.getresponse().read() == b"root:x:0:0:root:/root:/bin/sh\n"
    said = guest.result("caller", "wget -q -O - http://web/passwd", NetworkMode="lab")
    assert said.startswith("root:x:0:0")
    guest.must("DELETE", "/containers/web?force=1")
    guest.must("DELETE", "/containers/caller")
    guest.must("DELETE", "/networks/lab")


@check
def what_v2_can_not_do_is_told(guest: Guest) -> None:
    warnings = guest.create("warned", "true", MemorySwappiness=10, OomKillDisable=True, Memory=32 << 20)
    assert len(warnings) == 2, warnings
    assert guest.inspect("warned")["HostConfig"]["OomKillDisable"] is None


@check
def a_container_outlives_its_daemon(guest: Guest) -> None:
    guest.run_one("survivor", "sleep 1; echo late; exit 4", PidsLimit=30)
    guest.run_one("sleeper", "sleep 1000")
    pid = guest.inspect("sleeper")["State"]["Pid"]
    guest.must("POST", "/containers/sleeper/pause")
    guest.kill()
    guest.start()
    state = guest.inspect("sleeper")["State"]
    assert (state["Pid"], state["Paused"]) == (pid, True)
    guest.must("POST", "/containers/sleeper/unpause")
    assert guest.wait("survivor") == 4
    assert guest.stdout("survivor") == "late\n"


@check
def stopped_in_order(guest: Guest) -> None:
    guest.run_one("polite", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done")
    until(lambda: "up" in guest.stdout("polite"))
    group = guest.group("polite")
    guest.must("POST", "/containers/polite/stop?t=20")
    assert guest.inspect("polite")["State"]["ExitCode"] == 3
    assert guest.stdout("polite") == "up\nbye\n"
    assert not group.exists()


@check
def nothing_is_left(guest: Guest) -> None:
    guest.run_one("last", "sleep 1000")
    guest.stop()
    assert guest.left() == []
    assert not (TREE / guest.cgroup).exists()


def archive() -> bytes:
    """A root filesystem with busybox under all its names."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("etc", "tmp", "proc", "sys", "dev"):
            tar.addfile(_entry(name, tarfile.DIRTYPE, 0o755))
        tar.add("/bin/busybox", "bin/busybox")
        for name in os.listdir("/bin"):
            if name != "busybox":
                entry = _entry(f"bin/{name}", tarfile.SYMTYPE, 0o777)
                entry.linkname = "busybox"
                tar.addfile(entry)
        tar.add("/etc/passwd", "etc/passwd")
    return file.getvalue()


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry


def tried(guest: Guest) -> Iterator[tuple[str, float, str]]:
    """Each check's name, seconds, and what went wrong; the containers of one are gone before the next."""
    for name, function in CHECKS.items():
        began, wrong = time.monotonic(), ""
        try:
            function(guest)
        except Exception:  # noqa: BLE001  what it was is the report
            wrong = traceback.format_exc()
        if guest.process:
            for one in guest.must("GET", "/containers/json?all=1"):
                guest.must("DELETE", f"/containers/{one['Id']}?force=1")
        yield name, time.monotonic() - began, wrong


def main() -> None:
    guest = Guest(Path("/var/lib/lab"))
    guest.start()
    guest.load(archive(), "busybox")
    for told in tried(guest):
        print(json.dumps(told), flush=True)
    if guest.process:
        guest.stop()
    print(json.dumps(["log", 0, guest.log.read_text()]), flush=True)


if __name__ == "__main__":
    try:
        main()
    except BaseException:  # what it was is the report
        print(json.dumps(["machine", 0, traceback.format_exc()]), flush=True)
        raise
    finally:
        subprocess.run(["sync"], check=True)
        sys.stdout.flush()
