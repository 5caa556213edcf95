"""Events, info, version and top beside dockerd's: the same commands, events with their attributes, fields."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.side_by_side import masked
from tests.support.daemon import PATIENCE, Daemon, UnixConnection
from tests.support.dockerd import Dockerd, Isolated, dockerd, isolated

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    with dockerd(tmp_path_factory.mktemp("dockerd")) as engine:
        yield engine


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Isolated]:
    with isolated(tmp_path_factory.mktemp("labkit")) as engine:
        yield engine


SCENARIO = """
network create lab --label net=1
volume create data --label vol=1
create --name web --label a=b --network lab -v data:/d busybox sh -c "trap 'exit 3' TERM; while :; do sleep 1; done"
start web
network disconnect lab web
network connect lab web
exec web true
top web
pause web
unpause web
rename web box
cp box:/etc/passwd -
update --cpu-shares 512 box
export box -o {folder}/box.tar
commit box made:1
tag made:1 made:2
save made:1 -o {folder}/made.tar
kill --signal USR2 box
stop box
restart -t 0 box
kill box
rm box
rmi made:2 made:1
network rm lab
volume rm data
container prune -f
volume prune -f
network prune -f
image prune -f
"""
PERMITTED_ATTRIBUTES = {
    "execDuration": "dockerd says how long a container ran since 23",
}


def told(engine: Daemon, scenario: str) -> list[str]:
    """The events of some commands, each as a line, without what varies."""
    since = engine.out("info", "--format", "{{.SystemTime}}")
    for line in scenario.strip().splitlines():
        engine.docker(*shlex.split(line))
    until = engine.out("info", "--format", "{{.SystemTime}}")
    lines = engine.out("events", "--since", since, "--until", until, "--format", "{{json .}}").splitlines()
    return [shown(json.loads(line)) for line in lines]


def shown(event: dict[str, Any]) -> str:
    attributes = {
        name: value for name, value in event["Actor"]["Attributes"].items() if name not in PERMITTED_ATTRIBUTES
    }
    older = "".join(f" {name}" for name in ("status", "id", "from") if name in event)
    text = masked(f"{event['Type']} {event['Action']} {sorted(attributes.items())}{older} {event['scope']}")
    return text.replace("sha256:<id>", "<image>")


THEIRS_TOO = {
    "network disconnect": "dockerd tells of `network disconnect` twice",
    "volume create": "dockerd 20.10 tells of a volume that is there already, when a container is made with it",
    "volume mount": "dockerd mounts volumes once more for cp, also where the container runs and has them mounted",
    "volume unmount": "likewise",
}
"""Events that dockerd tells more often, and why."""


def test_events_are_those_of_dockerd(ours: Isolated, reference: Dockerd, tmp_path: Path) -> None:
    mine, theirs = (Counter(told(engine, SCENARIO.format(folder=tmp_path))) for engine in (ours, reference))
    assert list(mine - theirs) == []
    assert {" ".join(line.split()[:2]) for line in theirs - mine} <= THEIRS_TOO.keys()


def test_filters_of_the_docker_command(ours: Isolated) -> None:
    since = ours.out("info", "--format", "{{.SystemTime}}")
    ours.docker("run", "--rm", "--network", "none", "--name", "first", "--label", "a=b", "busybox", "true")
    ours.docker("run", "--rm", "--network", "none", "--name", "second", "busybox", "true")
    until = ours.out("info", "--format", "{{.SystemTime}}")

    def actions(*filters: str) -> list[str]:
        words = [word for one in filters for word in ("--filter", one)]
        form = "{{.Action}}"
        return ours.out("events", "--since", since, "--until", until, "--format", form, *words).split()

    life = ["create", "attach", "start", "die", "destroy"]
    assert [one for one in actions("container=first") if one in life] == life
    assert actions("container=fir", "event=start") == ["start"]
    assert actions("label=a=b", "event=die", "event=create") == ["create", "die"]
    assert len(actions("image=busybox", "event=start")) == 2
    assert actions("image=busy") == []
    assert actions("type=image") == []
    assert actions("scope=swarm") == []


def follow(engine: Daemon) -> tuple[UnixConnection, Any]:
    connection = UnixConnection(str(engine.socket))
    connection.request("GET", "/events")
    return connection, connection.getresponse()


def test_a_hundred_followers(ours: Isolated) -> None:
    with ThreadPoolExecutor(100) as pool:
        streams = list(pool.map(lambda _: follow(ours), range(100)))
        for number in range(10):
            ours.docker("volume", "create", f"v{number}")
        lines = list(pool.map(lambda stream: [stream[1].readline() for _ in range(10)], streams))
    for connection, _ in streams:
        connection.close()
    for number in range(10):
        ours.docker("volume", "rm", f"v{number}")
    assert all(found == lines[0] for found in lines)
    assert [json.loads(line)["Actor"]["ID"] for line in lines[0]] == [f"v{number}" for number in range(10)]


OURS_ALONE = {
    "CDISpecDirs", "FirewallBackend", "Containerd", "DiscoveredDevices",
}  # fmt: skip
"""Fields of /info that dockerd 20.10 doesn't know, and labkit does: those of Docker 28."""
THEIRS_ALONE = {
    "/KernelMemory": "gone since 23",
    "/KernelMemoryTCP": "never here: cgroup v1 only, gone from Docker's documentation",
    "/ClusterAdvertise": "gone since 23",
    "/ClusterStore": "gone since 23",
    "/DriverStatus": "names what only dockerd's own driver has",
    "/RegistryConfig/AllowNondistributableArtifactsCIDRs": "gone since 28",
    "/RegistryConfig/AllowNondistributableArtifactsHostnames": "gone since 28",
    "/Plugins/Log": "labkit has fewer drivers",
    "/Plugins/Network": "no swarm: no overlay, ipvlan",
}


def fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The path of each field, and the kind of its value."""
    if isinstance(value, dict):
        for key, field in value.items():
            yield f"{path}/{key}", type(field).__name__
            if key not in ("Runtimes", "IndexConfigs", "Details"):
                yield from fields(field, f"{path}/{key}")


def test_fields_of_info(ours: Isolated, reference: Dockerd) -> None:
    mine, theirs = (dict(fields(engine.request("GET", "/info")[1])) for engine in (ours, reference))
    missing = {path: kind for path, kind in theirs.items() if path not in mine}
    assert missing.keys() <= THEIRS_ALONE.keys()
    assert {path.strip("/") for path in mine.keys() - theirs.keys()} <= OURS_ALONE
    other = {path: (mine[path], kind) for path, kind in theirs.items() if path in mine and mine[path] != kind}
    assert {path: kinds for path, kinds in other.items() if "NoneType" not in kinds} == {}


SAME = (
    "Containers", "ContainersRunning", "ContainersPaused", "ContainersStopped", "MemoryLimit", "SwapLimit",
    "CpuCfsPeriod", "CpuCfsQuota", "CPUShares", "CPUSet", "PidsLimit", "OomKillDisable", "LoggingDriver",
    "CgroupDriver", "CgroupVersion", "KernelVersion", "OperatingSystem", "OSVersion", "OSType", "Architecture",
    "IndexServerAddress", "NCPU", "MemTotal", "Name", "LiveRestoreEnabled", "Isolation", "ExperimentalBuild",
    "IPv4Forwarding", "Debug", "Labels", "Driver",
    "HttpProxy", "HttpsProxy", "NoProxy",
)  # fmt: skip


OTHERWISE_SINCE_28 = {
    "BridgeNfIptables": "false", "BridgeNfIp6tables": "false", "SecurityOptions": "profile=builtin",
}  # fmt: skip
"""Fields whose values in 20.10 are others."""


def test_values_of_info(ours: Isolated, reference: Dockerd) -> None:
    mine, theirs = (engine.request("GET", "/info")[1] for engine in (ours, reference))
    assert {name: mine[name] for name in SAME} == {name: theirs[name] for name in SAME}


def test_fields_of_version(ours: Isolated, reference: Dockerd) -> None:
    mine, theirs = (dict(fields(engine.request("GET", "/version")[1])) for engine in (ours, reference))
    assert theirs.keys() - mine.keys() == set()


def test_top_is_that_of_dockerd(ours: Isolated, reference: Dockerd) -> None:
    found = []
    for engine in (ours, reference):
        engine.docker(
            "run", "-d", "--network", "none", "--name", "tops", "busybox", "sh", "-c", "sleep 1000 & sleep 1000"
        )
        answers = [
            engine.docker("top", "tops", *words, check=False)
            for words in ((), ("-o", "pid,comm"), ("aux",), ("-o", "comm"), ("--nosuch",))
        ]
        told = [(one.returncode, len(one.stdout.split(b"\n")), one.stdout.split(b"\n")[0].split()) for one in answers]
        found.append((told, answers[3].stderr))
        engine.remove_all()
    assert found[0] == found[1]


def test_events_of_images(ours: Isolated, reference: Dockerd, tmp_path: Path) -> None:
    archive = tmp_path / "root.tar"
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("file")
        member.size = 2
        tar.addfile(member, io.BytesIO(b"hi"))
    scenario = f"""
import -c 'LABEL a=b' {archive} brought:1
save brought:1 -o {tmp_path}/saved.tar
rmi brought:1
load -i {tmp_path}/saved.tar
rmi brought:1
"""
    found = [told(engine, scenario) for engine in (ours, reference)]
    assert "\n".join(found[0]) == "\n".join(found[1])


def test_a_slow_follower_does_not_hold_others_up(ours: Isolated) -> None:
    """A client that never reads, beside one that does."""
    stuck = subprocess.Popen(["docker", "events"], env=ours.environment(), stdout=subprocess.PIPE)
    try:
        connection, answer = follow(ours)
        for number in range(50):
            ours.request("POST", "/volumes/create", {"Name": f"v{number}", "Labels": {"long": "x" * 10_000}})
            assert json.loads(answer.readline())["Actor"]["ID"] == f"v{number}"
            ours.request("DELETE", f"/volumes/v{number}")
            assert json.loads(answer.readline())["Action"] == "destroy"
        connection.close()
    finally:
        stuck.kill()
        stuck.communicate(timeout=PATIENCE)
