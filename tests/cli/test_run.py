"""`run`, `attach`, `logs` and the rest as processes: streams, statuses, signals."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from labkit.client import Client

pytestmark = pytest.mark.root

LABKIT = [sys.executable, "-m", "labkit.cli.main"]
RUN = [*LABKIT, "run", "--rm", "--network", "none"]


def labkit(*words: str, stdin: bytes = b"", status: int = 0) -> bytes:
    done = subprocess.run([*LABKIT, *words], input=stdin, capture_output=True, timeout=60)
    assert done.returncode == status, done.stderr
    return done.stdout


def state(host: str, container: str) -> dict[str, object]:
    client = Client(host)
    try:
        result: dict[str, object] = client.get(f"/containers/{container}/json")["State"]
        return result
    finally:
        client.close()


def test_standard_input_reaches_the_container_and_ends(engine: str) -> None:
    data = os.urandom(3_000_000)
    assert labkit("run", "--rm", "-i", "--network", "none", "labbb", "cat", stdin=data) == data


def test_output_is_seen_when_it_is_written(engine: str) -> None:
    with subprocess.Popen([*RUN, "-i", "labbb", "sh", "-c", "echo first; read x"], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"  # though the container hasn't ended
        process.communicate(b"\n")
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_are_forwarded(engine: str, number: signal.Signals) -> None:
    script = "trap 'exit 11' INT TERM USR1; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen([*RUN, "labbb", "sh", "-c", script], stdout=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(30) == 11


def test_the_third_interrupt_ends_a_command_whose_container_goes_on(engine: str) -> None:
    with subprocess.Popen(
        [*LABKIT, "run", "--name", "deaf", "--network", "none", "labbb", "sh", "-c", "echo ready; sleep 99"],
        stdout=-1,
        stderr=-1,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        client = Client(engine)
        for _ in range(3):
            # The event says that the signal has been forwarded: the next one is another.
            events = client.request("GET", "/events", {"filters": '{"event":["kill"]}'})
            lines = events.lines()
            process.send_signal(signal.SIGINT)
            next(lines)
            events.close()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors == b"got 3 SIGTERM/SIGINTs, forcefully exiting\n"
    assert state(engine, "deaf")["Running"] is True


def test_a_reader_that_leaves_ends_the_command_quietly(engine: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{' '.join(RUN)} labbb yes | head -1"], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("y\n", "")


def test_start_attach_and_logs_give_what_was_written(engine: str) -> None:
    container = (
        labkit("create", "--network", "none", "labbb", "sh", "-c", "echo out; echo err >&2; exit 4").strip().decode()
    )
    done = subprocess.run([*LABKIT, "start", "-a", container], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (4, b"out\n", b"err\n")
    logs = subprocess.run([*LABKIT, "logs", "-f", container], capture_output=True, timeout=60)
    assert (logs.returncode, logs.stdout, logs.stderr) == (0, b"out\n", b"err\n")


def test_attach_takes_the_exit_status(engine: str) -> None:
    labkit(
        "run", "-d", "-i", "--name", "waits", "--network", "none", "labbb", "sh", "-c", "read x; echo got $x; exit 6"
    )
    with subprocess.Popen([*LABKIT, "attach", "waits"], stdin=-1, stdout=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"it\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"got it\n"
    assert process.returncode == 6


def test_exec_gives_streams_and_status(engine: str) -> None:
    labkit("run", "-d", "--name", "box", "--network", "none", "labbb", "sleep", "99")
    assert labkit("exec", "-i", "box", "sh", "-c", "cat; exit 9", stdin=b"hello", status=9) == b"hello"


def test_one_action_on_several_containers(engine: str) -> None:
    for name in ("one", "two"):
        labkit("run", "-d", "--name", name, "--network", "none", "labbb", "sleep", "99")
    done = subprocess.run(
        [*LABKIT, "stop", "-t", "0", "one", "nosuch", "two"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "one\ntwo\n")
    assert done.stderr == "Error response from daemon: No such container: nosuch\n"
    assert not state(engine, "one")["Running"]
    assert not state(engine, "two")["Running"]
    assert labkit("rm", "one", "two") == b"one\ntwo\n"


def test_the_cidfile_holds_the_id_and_is_not_overwritten(engine: str, tmp_path: Path) -> None:
    file = tmp_path / "id"
    container = labkit("create", "--cidfile", str(file), "labbb").strip()
    assert file.read_bytes() == container
    labkit("create", "--cidfile", str(file), "labbb", status=1)
    file.unlink()
    labkit("create", "--cidfile", str(file), "--name", "a b", "labbb", status=1)
    assert not file.exists()


def test_images_go_out_and_in(engine: str, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    labkit("save", "-o", str(archive), "labbb")
    with tarfile.open(archive) as tar:
        assert "manifest.json" in tar.getnames()
    piped = labkit("save", "labbb")
    with tarfile.open(fileobj=io.BytesIO(piped)) as tar:
        assert "manifest.json" in tar.getnames()
    labkit("tag", "labbb", "other:v1")
    assert labkit("images", "--format", "{{.Repository}}:{{.Tag}}", "other") == b"other:v1\n"
    assert labkit("rmi", "other:v1") == b"Untagged: other:v1\n"
    assert b"Loaded image: labbb:latest" in labkit("load", "-i", str(archive))
    assert b"Loaded image: labbb:latest" in labkit("load", stdin=piped)


def test_a_failed_save_leaves_no_file(engine: str, tmp_path: Path) -> None:
    labkit("save", "-o", str(tmp_path / "x.tar"), "nosuch", status=1)
    labkit("save", "-o", str(tmp_path / "no" / "x.tar"), "labbb", status=1)
    assert list(tmp_path.iterdir()) == []


def test_events_are_told(engine: str) -> None:
    container = labkit("create", "--name", "seen", "labbb").strip().decode()
    filters = ["-f", f"container={container}", "--since", "1h", "--until=-1s"]
    assert labkit("events", *filters, "--format", "{{.Action}} {{.Actor.Attributes.name}}") == b"create seen\n"
    assert b" container create " in labkit("events", *filters)


def test_interrupting_logs_ends_with_130(engine: str) -> None:
    labkit("run", "-d", "--name", "talks", "--network", "none", "labbb", "sh", "-c", "echo hi; sleep 99")
    with subprocess.Popen([*LABKIT, "logs", "-f", "talks"], stdout=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"hi\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
