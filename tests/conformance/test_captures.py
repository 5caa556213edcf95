"""Packets of real containers: through the API, the command, a lesson; and read by tcpdump."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import LabkitError
from labkit.explain import captures
from labkit.explain.packets import Packet
from labkit.lab import Capture
from tests.support.daemon import PATIENCE, REPOSITORY, Daemon, UnixConnection

pytestmark = pytest.mark.root
SERVE = "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www"


@pytest.fixture
def pair(daemon: Daemon) -> Iterator[Daemon]:
    """`web` serves a page to `app`, in a network with names."""
    daemon.docker("network", "create", "--subnet", "10.97.5.0/24", "front")
    daemon.docker("run", "-d", "--name", "web", "--network", "front", "busybox", "sh", "-c", SERVE)
    daemon.docker("run", "-d", "--name", "app", "--network", "front", "busybox", "sleep", "1000")
    yield daemon
    daemon.remove_all()
    daemon.docker("network", "rm", "front")


def fetch(daemon: Daemon) -> None:
    """`app` looks `web` up and gets its page."""
    assert daemon.out("exec", "app", "wget", "-qO-", "http://web/") == "hello"


class Reading:
    """A capture through the API; `wait` returns the file when it has ended."""

    def __init__(self, daemon: Daemon, query: str) -> None:
        self.connection = UnixConnection(str(daemon.socket))
        self.connection.request("GET", f"/labkit/containers/app/capture?{query}")
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200
        assert self.answer.getheader("content-type") == "application/vnd.tcpdump.pcap"
        self.file = self.answer.read1()
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        self.file += self.answer.read()

    def wait(self) -> bytes:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self.connection.close()
        return self.file


def captured(daemon: Daemon, query: str) -> tuple[list[Packet], bytes]:
    """What passes while a page is fetched."""
    reading = Reading(daemon, f"name=one&{query}")
    fetch(daemon)
    assert daemon.request("DELETE", "/labkit/captures/one") == (204, None)
    file = reading.wait()
    return list(captures.read([file])), file


def tcpdump(file: bytes) -> list[str]:
    done = subprocess.run(["tcpdump", "-nr", "-"], input=file, capture_output=True, check=True)
    return done.stdout.decode().splitlines()


def test_a_page_from_the_question_to_the_end(pair: Daemon) -> None:
    found, file = captured(pair, "link=any")
    told = [(packet.protocol, packet.what) for packet in found]
    wanted = [
        ("DNS", "A? web"),
        ("DNS", "A web → 10.97.5.2"),
        ("TCP", "SYN"),
        ("TCP", "SYN ACK"),
        ("HTTP", "GET / HTTP/1.1"),
        ("HTTP", "HTTP/1.1 200 OK"),
    ]
    places = [told.index(one) for one in wanted]
    assert places == sorted(places)
    assert len(told) == len(set(map(id, found))) == len(tcpdump(file))
    assert found[places[0]].link == 1
    assert found[places[2]].link > 1
    assert [packet.time for packet in found] == sorted(packet.time for packet in found)


def test_one_link_and_one_port_as_tcpdump_reads_them(pair: Daemon) -> None:
    found, file = captured(pair, "link=eth0&port=80")
    assert {packet.source.split(":")[0] for packet in found} == {"10.97.5.2", "10.97.5.3"}
    lines = tcpdump(file)
    assert len(lines) == len(found)
    assert "Flags [S]" in lines[0]
    assert any("GET / HTTP/1.1" in line for line in lines)


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_one_protocol(pair: Daemon, protocol: str) -> None:
    found, _ = captured(pair, f"protocol={protocol}")
    assert {packet.protocol for packet in found} == ({"DNS"} if protocol == "udp" else {"TCP", "HTTP"})


def test_it_ends_with_its_count_its_time_and_its_container(pair: Daemon) -> None:
    counted = Reading(pair, "port=80&count=3")
    timed = Reading(pair, "seconds=1")
    whole = Reading(pair, "link=eth0")
    fetch(pair)
    assert [packet.what for packet in captures.read([counted.wait()])] == ["SYN", "SYN ACK", "ACK"]
    assert len(list(captures.read([timed.wait()]))) > 10
    pair.docker("kill", "app")
    assert len(list(captures.read([whole.wait()]))) > 5


def test_after_it_no_socket_keeps_the_network_namespace(pair: Daemon) -> None:
    table = Path(f"/proc/{pair.inspect('app')['State']['Pid']}/net/packet")  # the packet sockets there

    def sockets() -> int:
        return len(table.read_text().splitlines()) - 1

    reading = Reading(pair, "name=one")
    assert sockets() == 1
    pair.request("DELETE", "/labkit/captures/one")
    reading.wait()
    assert sockets() == 0
    gone = UnixConnection(str(pair.socket))
    gone.request("GET", "/labkit/containers/app/capture?name=left")
    assert gone.getresponse().read1()
    gone.close()
    while pair.request("DELETE", "/labkit/captures/left")[0] != 404:
        fetch(pair)
    assert sockets() == 0


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("link=eth7", 404, "No such link: eth7: container app has any, lo, eth0"),
        ("link=" + "x" * 40, 404, "No such link: "),
        ("port=70000", 400, "invalid port 70000: it must be between 1 and 65535"),
        ("port=x", 400, 'invalid value for port: parsing "x": invalid syntax'),
        ("protocol=sctp", 400, "invalid protocol sctp: it must be one of arp, icmp, tcp, udp"),
        ("protocol=icmp&port=80", 400, "packets of icmp have no ports: leave out the port or the protocol"),
        ("count=-1", 400, "count and seconds can't be negative"),
    ],
)
def test_what_cannot_be_captured(pair: Daemon, query: str, status: int, message: str) -> None:
    found, answer = pair.request("GET", f"/labkit/containers/app/capture?{query}")
    assert found == status
    assert answer["message"].startswith(message)


def test_names_of_captures_and_containers(pair: Daemon) -> None:
    assert pair.request("GET", "/labkit/containers/nobody/capture")[0] == 404
    assert pair.request("DELETE", "/labkit/captures/none") == (404, {"message": "No such capture: none"})
    pair.docker("create", "--name", "created", "busybox", "true")
    assert pair.request("GET", "/labkit/containers/created/capture")[0] == 409
    reading = Reading(pair, "name=one")
    assert pair.request("GET", "/labkit/containers/app/capture?name=one")[0] == 409
    assert pair.request("DELETE", "/labkit/captures/one")[0] == 204
    reading.wait()


@contextlib.contextmanager
def command(daemon: Daemon, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """`labkit capture`, when it has begun."""
    argv = [sys.executable, "-m", "labkit.cli.main", "capture", *words]
    env = daemon.environment()
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY, env=env, bufsize=0
    ) as running:
        assert running.stderr
        assert running.stderr.readline().startswith(b"capturing on ")
        yield running


def test_the_command_prints_lines(pair: Daemon) -> None:
    with command(pair, "--port", "80", "-c", "4", "app") as running:
        fetch(pair)
        out, err = running.communicate(timeout=PATIENCE)
    assert (running.returncode, err) == (0, b"4 packets captured\n")
    lines = out.decode().splitlines()
    assert [line.split(" TCP: ")[-1] for line in lines[:3]] == ["SYN", "SYN ACK", "ACK"]
    assert lines[3].endswith("> 10.97.5.2:80 HTTP: GET / HTTP/1.1")


def test_the_command_writes_until_it_is_interrupted(pair: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "app.pcap"
    with command(pair, "-i", "eth0", "-w", str(path), "app") as running:
        while len(list(captures.read([path.read_bytes()]))) < 10:
            fetch(pair)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=PATIENCE)
    assert (running.returncode, out) == (0, b"")
    assert err == f"{len(tcpdump(path.read_bytes()))} packets captured\n".encode()


def test_the_command_writes_to_a_pipe(pair: Daemon) -> None:
    with command(pair, "-w", "-", "-c", "5", "--port", "80", "app") as running:
        fetch(pair)
        out, err = running.communicate(timeout=PATIENCE)
    assert (running.returncode, err) == (0, b"5 packets captured\n")
    assert len(tcpdump(out)) == 5


def test_the_command_says_what_is_wrong(pair: Daemon, tmp_path: Path) -> None:
    def said(*words: str) -> str:
        argv = [sys.executable, "-m", "labkit.cli.main", "capture", *words]
        done = subprocess.run(argv, capture_output=True, cwd=REPOSITORY, env=pair.environment(), timeout=PATIENCE)
        assert done.returncode == 1
        return done.stderr.decode()

    assert said("nobody") == "Error response from daemon: No such container: nobody\n"
    assert (
        said("-w", str(tmp_path / "no/such"), "app") == f"can't write {tmp_path}/no/such: No such file or directory\n"
    )
    assert "No such link: eth7" in said("-i", "eth7", "app")


def test_a_lesson_sees_what_its_commands_sent(pair: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", pair.host)
    with Capture("app", protocol="tcp", times=False) as seen:
        fetch(pair)
    rows = seen.table.rows()
    assert rows[:4] == [
        ("From", "To", "Protocol", "What"),
        ("app", "web:80", "TCP", "SYN"),
        ("web:80", "app", "TCP", "SYN ACK"),
        ("app", "web:80", "TCP", "ACK"),
    ]
    assert ("app", "web:80", "HTTP", "GET / HTTP/1.1") in rows
    assert "<table>" in seen._repr_html_()
    assert "SYN ACK" in repr(seen)
    with Capture("app") as again:
        pair.docker("kill", "app")
    assert isinstance(again.packets, list)
    with pytest.raises(LabkitError, match="is not running"), Capture("app"):
        pass


def test_in_a_cell_it_is_a_table(pair: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.cli.session import Session, invoke
    from labkit.notebook.cell import CellStreams

    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    monkeypatch.setenv("DOCKER_HOST", pair.host)
    session = Session("docker", CellStreams())
    ended = threading.Event()

    def fetch_until_ended() -> None:
        while not ended.is_set():
            fetch(pair)

    fetching = threading.Thread(target=fetch_until_ended)
    fetching.start()
    try:
        assert invoke(session, ["capture", "--port", "80", "-c", "3", "--no-times", "app"]) == 0
    finally:
        ended.set()
        fetching.join()
        session.close()
    titles, *rows = shown[0].rows()
    assert titles == ("From", "To", "Protocol", "What")
    assert [set(row[:2]) for row in rows] == [{"app", "web:80"}] * 3
