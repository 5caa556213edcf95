"""Log drivers and `docker logs` with the real docker command, beside dockerd: options, files, what is read back."""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.side_by_side import masked
from tests.support.daemon import PATIENCE, Daemon, running
from tests.support.dockerd import Dockerd, dockerd

pytestmark = pytest.mark.root
COUNT = 'i=0; while [ $i -lt {last} ]; do i=$((i+1)); echo "line $i of output"; done'
SMALL = ("--log-opt", "max-size=2k", "--log-opt", "max-file=4")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    with dockerd(tmp_path_factory.mktemp("dockerd")) as engine:
        yield engine


@pytest.fixture(params=["labkit", "dockerd"])
def engine(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Each of the two, for what both must do."""
    found: Daemon = request.getfixturevalue("daemon" if request.param == "labkit" else "reference")
    yield found
    found.remove_all()


def run(engine: Daemon, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return engine.docker("run", "--network", "none", *words, check=check)


def folder(engine: Daemon, name: str) -> Path:
    return engine.data / "containers" / str(engine.inspect(name)["Id"])


def log_files(engine: Daemon, name: str) -> dict[str, int]:
    """The files of a json-file log, by what follows their name, and how many lines they have."""
    place = folder(engine, name)
    stem = f"{engine.inspect(name)['Id']}-json.log"
    found = {}
    for path in sorted(place.glob(f"{stem}*")):
        data = path.read_bytes()
        lines = gzip.decompress(data) if path.suffix == ".gz" else data
        found[path.name.removeprefix(stem)] = lines.count(b"\n")
    return found


OPTIONS = """
--log-driver foo
--log-opt x=y
--log-opt max-size=abc
--log-opt max-size=0
--log-opt max-size=-1
--log-opt max-file=2
--log-opt max-file=0 --log-opt max-size=1k
--log-opt max-file=x --log-opt max-size=1k
--log-opt compress=x --log-opt max-size=1k
--log-opt compress=true --log-opt max-size=1k
--log-opt compress=true
--log-opt mode=foo
--log-opt mode=non-blocking --log-opt max-buffer-size=x
--log-opt mode=non-blocking --log-opt max-buffer-size=2m
--log-opt max-buffer-size=1m
--log-opt labels-regex=(
--log-opt env-regex=(
--log-opt tag={{.Foo}}
--log-opt tag={{
--log-driver local --log-opt labels=a
--log-driver local --log-opt max-size=0
--log-driver local --log-opt max-size=-1
--log-driver local --log-opt max-file=0
--log-driver local --log-opt max-file=x
--log-driver local --log-opt compress=q
--log-driver local --log-opt max-file=1
--log-driver local --log-opt max-file=1 --log-opt compress=false
--log-driver none --log-opt x=y
--log-driver syslog --log-opt x=y
--log-driver syslog --log-opt syslog-address=foo
--log-driver syslog --log-opt syslog-address=tcp://127.0.0.1:1
--log-driver syslog --log-opt syslog-address=http://127.0.0.1:1
--log-driver syslog --log-opt syslog-address=unix:///nosuch
--log-driver syslog --log-opt syslog-facility=foo
--log-driver syslog --log-opt syslog-facility=99
--log-driver syslog --log-opt syslog-format=foo
--log-driver syslog
--log-driver syslog --log-opt syslog-address=tcp+tls://127.0.0.1:1
--log-driver syslog --log-opt syslog-address=tcp+tls://127.0.0.1:1 --log-opt syslog-tls-ca-cert=/nosuch
--log-driver syslog --log-opt syslog-address=udp://127.0.0.1 --log-opt cache-disabled=foo
--log-driver syslog --log-opt syslog-address=udp://127.0.0.1 --log-opt cache-foo=foo
--log-driver journald
--log-driver journald --log-opt x=y
--log-opt cache-disabled=true
"""
PERMITTED = {
    # dockerd asks its plugins, of which labkit has none; and 20.10 checks options one after the other in any order.
    "--log-driver foo",
}
SINCE_23 = "failed to create task for container: "


@pytest.mark.parametrize("words", OPTIONS.strip().splitlines())
def test_options_are_refused_in_dockerds_words(daemon: Daemon, reference: Dockerd, words: str) -> None:
    answers = []
    for engine in (daemon, reference):
        done = run(engine, "--rm", *words.split(), "busybox", "true", check=False)
        answers.append((done.returncode, masked(done.stderr.decode()).replace(SINCE_23, "")))
    if words in PERMITTED:
        assert answers[0][0] == 125
    else:
        assert answers[0] == answers[1]


@pytest.mark.parametrize("config", [{"Type": "foo"}, {"Type": "json-file", "Config": {"x": "y"}}])
def test_a_create_request_is_refused(engine: Daemon, config: dict[str, Any]) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"LogConfig": config}}
    assert engine.request("POST", "/containers/create", body)[0] == 400


def test_the_default_is_filled_in(engine: Daemon) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"LogConfig": {"Config": {"max-size": "1k"}}}}
    identity = engine.request("POST", "/containers/create", body)[1]["Id"]
    found = engine.inspect(identity)
    assert found["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1k"}}
    assert found["LogPath"] == ""
    engine.docker("start", identity)
    assert engine.inspect(identity)["LogPath"] == str(folder(engine, identity) / f"{identity}-json.log")


@pytest.mark.parametrize("compress", ["false", "true"])
def test_files_are_those_of_dockerd(daemon: Daemon, reference: Dockerd, compress: str) -> None:
    """The same output leaves the same files, entry by entry: times have lengths that differ, so sizes nearly."""
    flags = ("--name", "rot", *SMALL, "--log-opt", f"compress={compress}", "busybox", "sh", "-c")
    found, read = [], []
    for engine in (daemon, reference):
        run(engine, *flags, COUNT.format(last=150))
        if engine is reference:
            wait_for(lambda: compress == "false" or not list(folder(reference, "rot").glob("*.log.[0-9]")))
        found.append(log_files(engine, "rot"))
        read.append(engine.out("logs", "rot").splitlines())
        engine.remove_all()
    assert found[0].keys() == found[1].keys()
    for lines in read:
        assert lines == [f"line {number} of output" for number in range(151 - len(lines), 151)]
        assert len(lines) > 60


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # the files tell nobody that they have rotated


@pytest.mark.parametrize("driver", [SMALL, (*SMALL, "--log-opt", "compress=true"), ("--log-driver", "local", *SMALL)])
@pytest.mark.parametrize("tail", [0, 1, 10, 50, 100, 1000])
def test_tail_reaches_over_files(daemon: Daemon, driver: tuple[str, ...], tail: int) -> None:
    run(daemon, "--name", "rot", *driver, "busybox", "sh", "-c", COUNT.format(last=200))
    everything = daemon.out("logs", "rot").splitlines()
    assert everything[-1] == "line 200 of output"
    assert len(everything) > 50
    found = daemon.out("logs", "--tail", str(tail), "rot").splitlines()
    assert found == everything[max(0, len(everything) - tail) :]


def test_attributes_and_details(engine: Daemon) -> None:
    flags = (
        "--label", "com.a=x y", "--label", "com.b=<&>", "--label", "other=1", "-e", "ONE=1", "-e", "TWO=é=2", "-e",
        "NOT=3", "--log-opt", "labels=other,nosuch", "--log-opt", "labels-regex=^com", "--log-opt", "env=ONE",
        "--log-opt", "env-regex=^TW", "--log-opt", "tag={{.Name}}/{{.ImageName}}/{{index .ContainerLabels \"other\"}}",
    )  # fmt: skip
    run(engine, "--name", "attrs", *flags, "busybox", "echo", "hello")
    line = json.loads(Path(engine.inspect("attrs")["LogPath"]).read_text())
    assert line["attrs"] == {
        "com.a": "x y", "com.b": "<&>", "other": "1", "ONE": "1", "TWO": "é=2", "tag": "attrs/busybox/1",
    }  # fmt: skip
    assert engine.out("logs", "--details", "attrs") == (
        "ONE=1,TWO=%C3%A9%3D2,com.a=x+y,com.b=%3C%26%3E,other=1,tag=attrs%2Fbusybox%2F1 hello"
    )
    both = engine.out("logs", "--details", "-t", "attrs")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ONE=1,", both)
    assert engine.out("logs", "attrs") == "hello"


def test_details_without_attributes(engine: Daemon) -> None:
    run(engine, "--name", "plain", "busybox", "echo", "hello")
    assert engine.docker("logs", "--details", "plain").stdout == b" hello\n"


def test_the_raw_line_is_dockerds(daemon: Daemon, reference: Dockerd) -> None:
    flags = ("--name", "raw", "--label", "a=<\u2028>", "--log-opt", "labels=a", "busybox", "printf", "a<b>\\tc\\\\\\n")
    lines = []
    for engine in (daemon, reference):
        run(engine, *flags)
        lines.append(masked(Path(engine.inspect("raw")["LogPath"]).read_text()))
        engine.remove_all()
    assert json.loads(lines[0]) == json.loads(lines[1])
    assert lines[0].split('"attrs"')[1] == lines[1].split('"attrs"')[1]


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_dockerds_files_can_be_read(daemon: Daemon, reference: Dockerd, driver: str) -> None:
    """What dockerd has written, in the place of what labkit has written; and the other way round."""
    script = "echo out; echo err >&2; echo next; printf 'no end'"
    if driver == "json-file":  # with local, dockerd 20.10 loses the end of a line that was in pieces
        script += "; head -c 40000 /dev/zero | tr '\\0' x; echo"
    name = "container.log" if driver == "local" else "*-json.log"
    read, paths = [], []
    for engine in (daemon, reference):
        run(engine, "--name", "moved", "--log-driver", driver, "busybox", "sh", "-c", script)
        paths.append(next(folder(engine, "moved").rglob(name)))
        done = engine.docker("logs", "moved")
        read.append((done.stdout, done.stderr))
    assert read[0] == read[1]
    ours, theirs = (path.read_bytes() for path in paths)
    paths[0].write_bytes(theirs)
    paths[1].write_bytes(ours)
    for engine in (daemon, reference):
        done = engine.docker("logs", "moved")
        assert (done.stdout, done.stderr) == read[0]
    reference.remove_all()


@pytest.mark.parametrize("driver", [SMALL, (*SMALL, "--log-opt", "compress=true"), ("--log-driver", "local", *SMALL)])
def test_following_across_rotation(daemon: Daemon, driver: tuple[str, ...]) -> None:
    """A client that reads as fast as the container writes sees every line, though few are kept."""
    script = 'i=0; while read x; do for j in 1 2 3 4 5 6 7 8 9 10; do i=$((i+1)); echo "line $i"; done; done'
    run(daemon, "-di", "--name", "follow", *driver, "busybox", "sh", "-c", script)
    stdin = Path(f"/proc/{daemon.inspect('follow')['State']['Pid']}/fd/0")
    with subprocess.Popen(
        ["docker", "logs", "-f", "follow"], env=daemon.environment(), stdout=subprocess.PIPE
    ) as client:
        assert client.stdout
        with stdin.open("wb", buffering=0) as typed:
            for turn in range(60):
                typed.write(b"\n")
                for number in range(turn * 10 + 1, turn * 10 + 11):
                    assert client.stdout.readline() == b"line %d\n" % number
        daemon.docker("stop", "-t", "0", "follow")
        assert client.stdout.read() == b""
        assert client.wait(PATIENCE) == 0
    kept = daemon.out("logs", "follow").splitlines()
    assert 0 < len(kept) < 600
    assert kept[-1] == "line 600"


def test_a_slow_follower_goes_on_with_what_is_left(daemon: Daemon) -> None:
    """A client that doesn't read costs no memory; it misses what was removed meanwhile, and gets all that is there."""
    run(
        daemon,
        "-d",
        "--name",
        "slow",
        *SMALL,
        "busybox",
        "sh",
        "-c",
        f"{COUNT.format(last=100_000)}; read x < /dev/zero",
    )
    with subprocess.Popen(["docker", "logs", "-f", "slow"], env=daemon.environment(), stdout=subprocess.PIPE) as client:
        wait_for(lambda: daemon.out("logs", "--tail", "1", "slow") == "line 100000 of output")
        assert daemon.process
        memory = Path(f"/proc/{daemon.process.pid}/status").read_text()
        assert int(re.findall(r"VmRSS:\s+(\d+)", memory)[0]) < 150_000
        assert client.stdout
        numbers = []
        for line in client.stdout:
            numbers.append(int(line.split()[1]))
            if numbers[-1] == 100_000:
                break
        daemon.docker("kill", "slow")
    assert numbers == sorted(set(numbers))


def test_following_ends_with_the_container_and_not_before(engine: Daemon) -> None:
    run(engine, "-di", "--name", "again", "busybox", "sh", "-c", "echo begin; read x; echo end")
    with subprocess.Popen(
        ["docker", "logs", "-f", "again"], env=engine.environment(), stdout=subprocess.PIPE
    ) as client:
        assert client.stdout
        assert client.stdout.readline() == b"begin\n"
        engine.docker("restart", "-t", "0", "again")
        assert client.stdout.read() == b""
        assert client.wait(PATIENCE) == 0
    assert engine.out("logs", "again").splitlines() == ["begin", "begin"]


def test_since_and_until(engine: Daemon) -> None:
    run(engine, "--name", "when", "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; usleep 20000; done")
    stamps = [line.split()[0] for line in engine.out("logs", "-t", "when").splitlines()]
    assert engine.out("logs", "--since", stamps[1], "when").split() == ["2", "3"]
    assert engine.out("logs", "--until", stamps[1], "when").split() == ["1", "2"]
    assert engine.out("logs", "--since", stamps[1], "--until", stamps[1], "when") == "2"
    assert engine.out("logs", "--since", "1h", "when").split() == ["1", "2", "3"]
    assert engine.out("logs", "--until", "1h", "when") == ""
    assert engine.out("logs", "--tail", "2", "--until", stamps[1], "when") == "2"


def test_nothing_is_kept(engine: Daemon) -> None:
    run(engine, "--name", "nolog", "--log-driver", "none", "busybox", "echo", "seen")
    done = engine.docker("logs", "nolog", check=False)
    assert done.returncode == 1
    assert done.stderr == b"Error response from daemon: configured logging driver does not support reading\n"


def test_the_daemons_own_defaults(tmp_path: Path, busybox_archive: None) -> None:
    flags = ("--log-driver", "local", "--log-opt", "max-size=3k", "--log-opt", "max-file=3")
    with running(tmp_path, *flags) as own:
        run(own, "--name", "la", "busybox", "sh", "-c", COUNT.format(last=300))
        run(own, "--name", "lb", "--log-opt", "max-file=2", "busybox", "true")
        run(own, "--name", "lc", "--log-driver", "json-file", "busybox", "true")
        found = {name: own.inspect(name)["HostConfig"]["LogConfig"] for name in ("la", "lb", "lc")}
        assert own.out("info", "--format", "{{.LoggingDriver}}") == "local"
        assert sorted(path.name for path in (folder(own, "la") / "local-logs").iterdir()) == [
            "container.log", "container.log.1.gz", "container.log.2.gz",
        ]  # fmt: skip
        assert own.out("logs", "--tail", "1", "la") == "line 300 of output"
    assert found == {
        "la": {"Type": "local", "Config": {"max-size": "3k", "max-file": "3"}},
        "lb": {"Type": "local", "Config": {"max-size": "3k", "max-file": "2"}},
        "lc": {"Type": "json-file", "Config": {}},
    }


def test_a_daemon_with_wrong_defaults_does_not_start(tmp_path: Path) -> None:
    own = Daemon(tmp_path, "--log-opt", "x=y")
    done = subprocess.run(own.command(), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert "unknown log opt 'x' for json-file log driver" in done.stderr


@pytest.mark.parametrize(
    "driver",
    [
        ("--log-opt", "max-size=30k", "--log-opt", "max-file=300"),
        ("--log-opt", "max-size=30k", "--log-opt", "max-file=300", "--log-opt", "compress=true"),
        ("--log-driver", "local", "--log-opt", "max-size=20k", "--log-opt", "max-file=300"),
    ],
)
def test_sigkill_at_any_moment_loses_and_doubles_nothing(
    tmp_path: Path, busybox_archive: None, driver: tuple[str, ...]
) -> None:
    script = 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo "out $i"; echo "err $i" >&2; done'
    with running(tmp_path) as own:
        run(own, "-d", "--name", "one", *driver, "busybox", "sh", "-c", script)
        for _ in range(8):
            time.sleep(random.uniform(0, 0.15))  # the moment is the test
            own.kill()
            own.start()
        assert own.out("wait", "one") == "0"
        found = own.docker("logs", "one")
        assert found.stdout.decode().splitlines() == [f"out {number}" for number in range(1, 20_001)]
        assert found.stderr.decode().splitlines() == [f"err {number}" for number in range(1, 20_001)]
        assert not list(folder(own, "one").rglob("*.tmp"))
