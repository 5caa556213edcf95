"""Terminals, attach, exec and logs with the real docker command: every byte, in order, to everyone who asked."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.terminal import terminal
from tests.support.daemon import PATIENCE, Daemon

pytestmark = pytest.mark.root
DETACHED = ("run", "-d", "--network", "none", "--name")
NOISE = (
    'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); echo "line $i: $$ the quick brown fox jumps over the lazy dog"; done'
)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_run_on_a_terminal(daemon: Daemon) -> None:
    flags = ("run", "-it", "--rm", "--network", "none", "--name", "term", "busybox", "sh")
    with terminal(daemon, *flags, rows=33, columns=99) as term:
        term.expect("# ")
        term.type("stty size; tty; echo $TERM\n")
        term.expect("33 99\r\n/dev/pts/0\r\nxterm\r\n")
        term.expect("# ")
        term.resize(40, 120)
        term.process.send_signal(signal.SIGWINCH)
        deadline = time.monotonic() + PATIENCE
        size = ""
        while "40 120" not in size:  # it takes its way through the client and two requests
            assert time.monotonic() < deadline, "the terminal was never resized"
            term.type("stty size\n")
            size = term.expect("# ")
        # The program says itself that it is there: a ^C while the shell is still about to start one is lost.
        term.type("sh -c 'echo ready; exec sleep 1000'\n")
        term.expect("\r\nready\r\n")
        term.type("\x03")
        term.expect("# ")
        term.type("echo status $?\n")
        term.expect("\r\nstatus 130\r\n")
        term.type("exit 5\n")
        assert term.end() == 5


def test_exec_on_a_terminal(daemon: Daemon) -> None:
    daemon.docker(*DETACHED, "host", "busybox", "sleep", "1000")
    with terminal(daemon, "exec", "-it", "-e", "TERM=vt220", "-w", "/tmp", "host", "sh", rows=20, columns=70) as term:
        term.expect("# ")
        term.type("stty size; pwd; echo $TERM; tty\n")
        term.expect("20 70\r\n/tmp\r\nvt220\r\n/dev/pts/0\r\n")
        term.type("exit 6\n")
        assert term.end() == 6


def test_detach_and_attach_again(daemon: Daemon) -> None:
    with terminal(daemon, "run", "-it", "--network", "none", "--name", "stay", "busybox", "sh") as term:
        term.expect("# ")
        term.type("x=kept\n")
        term.expect("# ")
        term.type("\x10\x11")
        assert term.end() == 0
    assert daemon.inspect("stay")["State"]["Running"] is True
    with terminal(daemon, "attach", "--detach-keys", "ctrl-a,d", "stay") as term:
        term.type("echo $x\n")
        term.expect("kept\r\n")
        term.type("\x01d")
        assert term.end() in (0, 1)
    assert daemon.inspect("stay")["State"]["Running"] is True


def test_exec_detaches_too(daemon: Daemon) -> None:
    daemon.docker(*DETACHED, "host", "busybox", "sleep", "1000")
    with terminal(daemon, "exec", "-it", "host", "sh") as term:
        term.expect("# ")
        term.type("\x10\x11")
        assert term.end() in (0, 1)
    assert "sh" in daemon.out("top", "host", "-eo", "pid,comm")


def test_exec(daemon: Daemon) -> None:
    daemon.docker(*DETACHED, "host", "-e", "A=1", "--user", "bob", "busybox", "sleep", "1000")
    done = daemon.docker("exec", "host", "sh", "-c", "echo out; echo err >&2; id -un; exit 4", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (4, b"out\nbob\n", b"err\n")
    assert daemon.out("exec", "-e", "B=2", "-u", "0", "host", "sh", "-c", "echo $A $B $HOME; id -u") == "1 2 /root\n0"
    data = bytes(range(256)) * 4000
    assert daemon.docker("exec", "-i", "host", "cat", stdin=data).stdout == data


def test_exec_is_in_the_containers_namespaces_and_cgroups(daemon: Daemon) -> None:
    daemon.docker(*DETACHED, "host", "busybox", "sleep", "1000")
    script = "for n in net mnt pid uts ipc cgroup; do readlink /proc/$1/ns/$n; done; cat /proc/$1/cgroup"
    found = [daemon.out("exec", "host", "sh", "-c", script, "sh", of) for of in ("1", "self")]
    assert found[0] == found[1]
    assert len(found[0].split("\n")) > 6


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("nosuch", 127, 'exec: "nosuch": executable file not found in $PATH: unknown'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied: unknown'),
    ],
)
def test_exec_of_what_can_not_run(daemon: Daemon, command: str, status: int, message: str) -> None:
    daemon.docker(*DETACHED, "host", "busybox", "sleep", "1000")
    done = daemon.docker("exec", "host", command, check=False)
    assert done.returncode == status
    assert message in (done.stdout + done.stderr).decode()


def test_exec_where_nothing_runs(daemon: Daemon) -> None:
    daemon.docker("create", "--name", "still", "busybox", "true")
    identity = daemon.inspect("still")["Id"]
    done = daemon.docker("exec", "still", "true", check=False)
    assert (done.returncode, f"container {identity} is not running" in done.stderr.decode()) == (1, True)


def test_two_clients_see_the_same(daemon: Daemon) -> None:
    daemon.docker("run", "-di", "--network", "none", "--name", "two", "busybox", "sh", "-c", f"read go; {NOISE}")
    first = subprocess.Popen(
        ["docker", "attach", "--no-stdin", "two"], env=daemon.environment(), stdout=subprocess.PIPE
    )
    second = subprocess.Popen(
        ["docker", "attach", "two"], env=daemon.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    wait_for_events(daemon, "two", "attach", 2)
    assert second.stdin
    second.stdin.write(b"go\n")
    second.stdin.flush()
    with ThreadPoolExecutor() as pool:  # at once: the engine goes at the pace of the slowest
        reading = [pool.submit(client.communicate, timeout=PATIENCE) for client in (first, second)]
    one, other = (read.result()[0] for read in reading)
    assert one.count(b"\n") == 300_000
    assert sha(one) == sha(other) == sha(daemon.docker("logs", "two").stdout)


def wait_for_events(daemon: Daemon, container: str, action: str, count: int) -> None:
    """Wait until an event has happened so many times to this container; the shared daemon remembers others'."""
    with subprocess.Popen(
        ["docker", "events", "--since", "1", "--filter", f"event={action}", "--filter", f"container={container}"],
        env=daemon.environment(),
        stdout=subprocess.PIPE,
    ) as events:
        assert events.stdout
        for _ in range(count):
            assert events.stdout.readline()
        events.kill()


def test_much_output_is_whole_in_attach_and_logs(daemon: Daemon) -> None:
    script = "yes 'sixty-four bytes of text in every line, and of these very many.' | head -c 52428800"
    expected = (b"sixty-four bytes of text in every line, and of these very many.\n" * 1_000_000)[:52_428_800]
    done = daemon.docker("run", "--network", "none", "--name", "much", "busybox", "sh", "-c", script, timeout=60)
    assert sha(done.stdout) == sha(expected)
    assert sha(daemon.docker("logs", "much", timeout=60).stdout) == sha(expected)


def test_binary_output_is_whole_in_attach(daemon: Daemon) -> None:
    data = bytes(range(256)) * 40_000
    done = daemon.docker("run", "--rm", "-i", "--network", "none", "busybox", "cat", stdin=data)
    assert sha(done.stdout) == sha(data)


def test_a_slow_client_holds_the_container_and_loses_nothing(daemon: Daemon) -> None:
    command = ["docker", "run", "--network", "none", "--name", "slow", "busybox", "sh", "-c", "yes | head -c 20000000"]
    with subprocess.Popen(command, env=daemon.environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout
        total = len(process.stdout.read(10))
        time.sleep(1)  # time for an engine that doesn't hold the container to lose what it can't pass on
        total += len(process.stdout.read())
    assert total == 20_000_000


def test_a_client_that_goes_does_not_hold_the_container(daemon: Daemon) -> None:
    daemon.docker(
        "run", "-d", "--network", "none", "--name", "free", "busybox", "sh", "-c", "sleep 1; yes | head -c 9000000"
    )
    client = subprocess.Popen(["docker", "attach", "free"], env=daemon.environment(), stdout=subprocess.PIPE)
    assert client.stdout
    client.stdout.read(1000)
    client.kill()
    client.wait(PATIENCE)
    client.stdout.close()
    assert daemon.out("wait", "free") == "0"
    assert len(daemon.docker("logs", "free").stdout) == 9_000_000


def test_a_client_that_stopped_reading_does_not_keep_a_container_alive(daemon: Daemon) -> None:
    daemon.docker(*DETACHED, "noisy", "busybox", "yes")
    command = ["docker", "attach", "noisy"]
    with subprocess.Popen(command, env=daemon.environment(), stdout=subprocess.PIPE) as client:
        assert client.stdout
        client.stdout.read(10)
        time.sleep(1)  # all buffers fill up
        daemon.docker("stop", "-t", "0", "noisy", timeout=15)
        assert daemon.inspect("noisy")["State"]["ExitCode"] == 137
        daemon.docker("rm", "noisy", timeout=15)
        client.kill()


def test_logs(daemon: Daemon) -> None:
    script = "for i in 1 2 3 4 5; do echo out$i; echo err$i >&2; done; printf unfinished"
    daemon.docker("run", "--network", "none", "--name", "log", "busybox", "sh", "-c", script)
    done = daemon.docker("logs", "log")
    assert done.stdout == b"out1\nout2\nout3\nout4\nout5\nunfinished"
    assert done.stderr == b"err1\nerr2\nerr3\nerr4\nerr5\n"
    assert daemon.out("logs", "--tail", "1", "log") == "unfinished"
    assert daemon.docker("logs", "--tail", "0", "log").stdout == b""
    assert daemon.docker("logs", "--tail", "all", "log").stdout == done.stdout
    stamped = daemon.out("logs", "-t", "log").split("\n")
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z (out\d|unfinished)", line) for line in stamped)
    assert daemon.docker("logs", "--since", "1h", "log").stdout == done.stdout
    assert daemon.docker("logs", "--until", "1h", "log").stdout == b""
    assert daemon.out("logs", "--tail", "nonsense", "log") == daemon.out("logs", "log")  # as dockerd has it


def test_since_and_until_cut_between_lines(daemon: Daemon) -> None:
    script = "echo early; sleep 0.3; echo middle; sleep 0.3; echo late"
    daemon.docker("run", "--network", "none", "--name", "cut", "busybox", "sh", "-c", script)
    times = [line.split()[0] for line in daemon.out("logs", "-t", "cut").split("\n")]
    assert daemon.out("logs", "--since", times[1], "cut") == "middle\nlate"
    assert daemon.out("logs", "--until", times[1], "cut") == "early\nmiddle"


def test_following(daemon: Daemon) -> None:
    daemon.docker(
        "run", "-di", "--network", "none", "--name", "follow", "busybox", "sh", "-c", "echo a; read x; echo $x; exit 3"
    )
    with subprocess.Popen(["docker", "logs", "-f", "follow"], env=daemon.environment(), stdout=subprocess.PIPE) as logs:
        assert logs.stdout
        assert logs.stdout.readline() == b"a\n"
        daemon.docker("attach", "follow", stdin=b"typed\n", check=False)
        assert logs.stdout.read() == b"typed\n"
        assert logs.wait(PATIENCE) == 0


def test_no_log_driver(daemon: Daemon) -> None:
    done = daemon.docker(
        "run", "--network", "none", "--log-driver", "none", "--name", "nolog", "busybox", "echo", "seen"
    )
    assert done.stdout == b"seen\n"
    refused = daemon.docker("logs", "nolog", check=False)
    assert (refused.returncode, b"configured logging driver does not support reading" in refused.stderr) == (1, True)


def test_a_terminals_log_is_raw(daemon: Daemon) -> None:
    daemon.docker("run", "-dt", "--network", "none", "--name", "raw", "busybox", "sh", "-c", "echo one; echo two >&2")
    daemon.docker("wait", "raw")
    assert daemon.docker("logs", "raw").stdout == b"one\r\ntwo\r\n"
