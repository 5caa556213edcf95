"""`--runtime runc` and `crun`: all that a container is with labkit's own runtime it is with another one's, too."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, processes, running
from tests.support.dockerd import Isolated, isolated

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Isolated]:
    with isolated(tmp_path_factory.mktemp("engine")) as found:
        yield found


@pytest.fixture(params=["runc", "crun", "labkit"])
def runtime(request: pytest.FixtureRequest, engine: Isolated) -> Iterator[str]:
    yield request.param
    engine.remove_all()
    assert not any(path.is_dir() for path in (engine.run / "runtimes").glob("*"))
    assert [path.name for path in engine.cgroups() if path.name != engine.cgroup] == []


def run(engine: Daemon, runtime: str, *words: str, stdin: bytes | None = None) -> tuple[int, str, str]:
    done = engine.docker("run", "--rm", "--runtime", runtime, *words, check=False, stdin=stdin)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_output_input_and_status(engine: Isolated, runtime: str) -> None:
    script = "cat; echo err >&2; exit 7"
    assert run(engine, runtime, "-i", "busybox", "sh", "-c", script, stdin=b"typed") == (7, "typed", "err\n")
    engine.docker("run", "-d", "--runtime", runtime, "--name", "one", "busybox", "sleep", "1000")
    engine.docker("kill", "one")
    assert engine.out("wait", "one") == "137"


def test_what_was_asked_for_holds(engine: Isolated, runtime: str) -> None:
    flags = ("-u", "bob", "-h", "box", "-w", "/tmp", "-e", "A=1", "-m", "64m", "--cap-drop", "ALL", "--pids-limit", "9")
    script = (
        "id -u; hostname; pwd; echo $A; grep CapBnd /proc/self/status; cat /sys/fs/cgroup/pids/pids.max "
        "/sys/fs/cgroup/memory/memory.limit_in_bytes; cat /proc/1/comm; touch /etc/x"
    )
    status, out, _ = run(engine, runtime, *flags, "busybox", "sh", "-c", script)
    assert out.split() == ["1000", "box", "/tmp", "1", "CapBnd:", "0" * 16, "9", str(64 << 20), "sh"]
    assert status == 1


def test_networks_and_names(engine: Isolated, runtime: str) -> None:
    engine.docker("network", "create", "net")
    engine.docker("run", "-d", "--runtime", runtime, "--network", "net", "--name", "server", "busybox", "sleep", "1000")
    status, out, _ = run(engine, runtime, "--network", "net", "busybox", "ping", "-c1", "server")
    assert (status, "1 packets received" in out) == (0, True)
    shared = run(engine, runtime, "--network", "container:server", "busybox", "hostname", "-i")
    assert engine.inspect("server")["NetworkSettings"]["Networks"]["net"]["IPAddress"] in shared[1]
    engine.remove_all()
    engine.docker("network", "rm", "net")


def test_volumes_stay(engine: Isolated, runtime: str) -> None:
    run(engine, runtime, "-v", "kept:/v", "busybox", "sh", "-c", "echo here > /v/file")
    assert run(engine, runtime, "-v", "kept:/v:ro", "busybox", "cat", "/v/file")[1] == "here\n"
    engine.docker("volume", "rm", "kept")


def test_a_file_that_may_only_be_read(engine: Isolated, runtime: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("read\n")
    status, out, _ = run(engine, runtime, "-v", f"{tmp_path}/file:/f:ro", "busybox", "sh", "-c", "cat /f; echo x > /f")
    assert (status, out) == (1, "read\n")


def test_a_part_of_a_volume(engine: Isolated, runtime: str) -> None:
    """A directory, a file, and one to which a container has put a link that leads out."""
    script = "mkdir -p /v/a/b; echo deep > /v/a/b/file; ln -s /etc /v/out"
    run(engine, runtime, "-v", "parts:/v", "busybox", "sh", "-c", script)

    def shown(subpath: str, script: str, *more: str) -> tuple[int, str, str]:
        mount = ",".join(("type=volume,src=parts,dst=/part", f"volume-subpath={subpath}", *more))
        return run(engine, runtime, "--mount", mount, "busybox", "sh", "-c", script)

    assert shown("a", "cat /part/b/file; echo new > /part/new")[:2] == (0, "deep\n")
    assert shown("a/b/file", "cat /part", "readonly")[:2] == (0, "deep\n")
    assert shown("a", "touch /part/x", "ro")[0] == 1
    assert shown("out", "ls /part")[0] == 125
    engine.docker("volume", "rm", "parts")


def test_shared_memory_of_another_container(engine: Isolated, runtime: str) -> None:
    engine.docker(
        "run", "-d", "--runtime", runtime, "--ipc", "shareable", "--name", "giver", "busybox", "sleep", "1000"
    )
    engine.docker("exec", "giver", "sh", "-c", "echo shared > /dev/shm/note")
    script = "cat /dev/shm/note; readlink /proc/self/ns/ipc"
    status, out, _ = run(engine, runtime, "--ipc", "container:giver", "busybox", "sh", "-c", script)
    assert (status, out.split()) == (0, ["shared", engine.out("exec", "giver", "readlink", "/proc/self/ns/ipc")])


def test_a_terminal(engine: Isolated, runtime: str) -> None:
    status, out, err = run(engine, runtime, "-t", "busybox", "sh", "-c", "test -t 0 && tty; stty size")
    assert (status, out.split()[:1], err) == (0, ["/dev/pts/0"], "")


def test_exec_logs_pause_and_stop(engine: Isolated, runtime: str) -> None:
    script = "trap 'echo ending; exit 3' TERM; echo begun; while :; do sleep 0.1; done"
    engine.docker("run", "-d", "--runtime", runtime, "--name", "one", "busybox", "sh", "-c", script)
    found = engine.inspect("one")
    assert found["HostConfig"]["Runtime"] == runtime
    assert Path(f"/proc/{found['State']['Pid']}/comm").read_text() == "sh\n"
    assert engine.out("exec", "one", "sh", "-c", "cat /proc/1/comm; hostname").split() == ["sh", found["Id"][:12]]
    engine.docker("pause", "one")
    assert engine.inspect("one")["State"]["Paused"] is True
    engine.docker("unpause", "one")
    assert engine.docker("exec", "one", "sh", "-c", "exit 5", check=False).returncode == 5
    engine.docker("stop", "one")
    assert engine.inspect("one")["State"]["ExitCode"] == 3
    assert engine.out("logs", "one").split() == ["begun", "ending"]
    engine.docker("start", "one")
    engine.docker("rm", "-f", "one")


@pytest.mark.parametrize(("program", "status"), [("nonesuch", 127), ("/etc/passwd", 126)])
def test_what_can_not_be_started(engine: Isolated, runtime: str, program: str, status: int) -> None:
    code, _, err = run(engine, runtime, "busybox", program)
    known = status if runtime != "crun" else 125  # docker doesn't know how crun says it
    assert (code, "failed to create task for container" in err) == (known, True), err


def test_the_kernel_ends_what_takes_too_much_memory(engine: Isolated, runtime: str) -> None:
    words = ("-m", "16m", "--name", "greedy", "busybox", "sh", "-c", "head -c 64m /dev/zero | tail")
    engine.docker("run", "--runtime", runtime, *words, check=False)
    assert engine.inspect("greedy")["State"]["OOMKilled"] is True


@pytest.mark.parametrize("name", ["runc", "crun"])
def test_a_killed_daemon_loses_nothing(tmp_path: Path, name: str) -> None:
    with running(tmp_path) as daemon:
        daemon.docker(
            "run", "-d", "--runtime", name, "--name", "one", "busybox", "sh", "-c", "sleep 1; echo on; exit 4"
        )
        daemon.kill()
        daemon.start()
        assert daemon.out("wait", "one") == "4"
        assert daemon.out("logs", "one") == "on"
        daemon.docker("run", "-d", "--runtime", name, "--name", "two", "busybox", "sleep", "1000")
        spawner = next(line for line in processes(f"{daemon.run}") if "labkit.runtime.spawner" in line)
        os.kill(int(spawner.split(":")[0]), signal.SIGKILL)
        assert daemon.out("wait", "two") == "137"


def test_runtimes_by_flag(tmp_path: Path) -> None:
    flags = ("--add-runtime", "mine=/usr/sbin/runc", "--default-runtime", "mine")
    with running(tmp_path, *flags) as daemon:
        assert daemon.out("run", "--name", "one", "busybox", "echo", "by mine") == "by mine"
        assert daemon.inspect("one")["HostConfig"]["Runtime"] == "mine"
        info = json.loads(daemon.out("info", "--format", "{{json .}}"))
        assert info["DefaultRuntime"] == "mine"
        assert {"labkit", "runc", "crun", "mine"} <= set(info["Runtimes"])


def test_orphans_are_buried(engine: Isolated) -> None:
    """Once another runtime was used, what ends in a pid namespace of the host's is left to the spawner."""
    run(engine, "runc", "busybox", "true")
    script = "(sleep 0.1 & exec sleep 0.1) & sleep 1000"
    engine.docker("run", "-d", "--pid", "host", "--name", "one", "busybox", "sh", "-c", script)
    run(engine, "labkit", "busybox", "sleep", "0.5")
    spawner = next(line for line in processes(f"{engine.run}") if "labkit.runtime.spawner" in line).split(":")[0]
    engine.remove_all()
    children = Path(f"/proc/{spawner}/task/{spawner}/children").read_text().split()
    states = {child: Path(f"/proc/{child}/stat").read_text().rsplit(")")[1].split()[0] for child in children}
    assert "Z" not in states.values()
