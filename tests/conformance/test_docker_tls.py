"""The Engine API over TCP with certificates on both sides: the docker command, its contexts, the SDK, labkit's own."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from docker.tls import TLSConfig

from tests.support.daemon import PATIENCE, REPOSITORY, Daemon, running, served
from tests.support.keys import Keys, make_authority, make_keys

pytestmark = pytest.mark.root
LABKIT = [sys.executable, "-m", "labkit.cli.main"]


@dataclass(frozen=True)
class Secured:
    """A daemon that listens on TCP too, the keys of a client that it knows, and of one of another authority."""

    daemon: Daemon
    port: int
    client: Keys
    stranger: Keys

    @property
    def host(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def words(self, keys: Keys | None = None) -> list[str]:
        return ["-H", self.host, "--tlsverify", *(keys or self.client).flags()]

    def run(
        self, program: list[str], *words: str, stdin: bytes = b"", keys: Keys | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """One command of `docker` or `labkit` over TLS."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("DOCKER", "LABKIT"))}
        environment |= {"DOCKER_CONFIG": str(self.daemon.config), "DOCKER_CLI_HINTS": "false"}
        command = [*program, *self.words(keys), *words]
        return subprocess.run(
            command, input=stdin, env=environment, cwd=REPOSITORY, capture_output=True, timeout=PATIENCE, check=False
        )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    authority, other = make_authority(folder / "ca"), make_authority(folder / "other")
    server = make_keys(authority, folder / "server", "server")
    client, stranger = make_keys(authority, folder / "client", "me"), make_keys(other, folder / "stranger", "me")
    (stranger.folder / "ca.pem").write_bytes(authority.authority.read_bytes())
    port = free_port()
    root = tmp_path_factory.mktemp("engine")
    hosts = ("-H", f"unix://{root}/run/labkit.sock", "-H", f"tcp://127.0.0.1:{port}", "--tlsverify", *server.flags())
    with running(root, *hosts) as daemon:
        yield Secured(daemon, port, client, stranger)


@pytest.fixture(params=[["docker"], LABKIT], ids=["docker", "labkit"])
def program(request: pytest.FixtureRequest) -> list[str]:
    found: list[str] = request.param
    return found


def test_a_command(secured: Secured, program: list[str]) -> None:
    done = secured.run(program, "run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_the_end_of_the_input_is_not_that_of_the_output(secured: Secured, program: list[str]) -> None:
    """Half-close: what the container says after its input has ended arrives whole."""
    script = "wc -c; sleep 0.3; seq 100000"
    done = secured.run(program, "run", "--rm", "-i", "busybox", "sh", "-c", script, stdin=b"x" * 3_000_000)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"3000000\n" + b"".join(b"%d\n" % number for number in range(1, 100001))


def test_large_streams_both_ways(secured: Secured, program: list[str]) -> None:
    data = os.urandom(1 << 20) * 8
    done = secured.run(program, "run", "--rm", "-i", "busybox", "cat", stdin=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data


def test_exec_logs_and_events(secured: Secured, program: list[str]) -> None:
    name = f"tls-{program[0].rsplit('/')[-1]}"
    assert (
        secured.run(program, "run", "-d", "--name", name, "busybox", "sh", "-c", "echo log; sleep 100").returncode == 0
    )
    done = secured.run(program, "exec", "-i", name, "sh", "-c", "cat; exit 3", stdin=b"typed")
    assert (done.returncode, done.stdout) == (3, b"typed")
    assert secured.run(program, "logs", name).stdout == b"log\n"
    events = secured.run(
        program, "events", "--since", "1h", "--until", str(int(time.time()) + 1), "--filter", f"container={name}"
    )
    assert b" start " in events.stdout
    assert secured.run(program, "rm", "-f", name).returncode == 0


@pytest.mark.parametrize("who", ["stranger", "nobody", "plain"])
def test_others_are_refused(secured: Secured, who: str) -> None:
    if who == "stranger":
        done = secured.run(["docker"], "version", keys=secured.stranger)
        assert (done.returncode, b"tls" in done.stderr) == (1, True), done.stderr
        ours = secured.run(LABKIT, "ps", keys=secured.stranger)
        assert (ours.returncode, b"error during connect" in ours.stderr) == (1, True), ours.stderr
        return
    with socket.create_connection(("127.0.0.1", secured.port), timeout=PATIENCE) as sock:
        if who == "plain":
            sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" not in sock.recv(1000)
            return
        context = ssl.create_default_context(cafile=str(secured.client.authority))
        with context.wrap_socket(sock, server_hostname="server") as client, pytest.raises(ssl.SSLError):
            client.recv(1)  # with TLS 1.3 the refusal comes after the client's side of the handshake


def test_a_connection_that_never_speaks_keeps_nobody_waiting(secured: Secured) -> None:
    with socket.create_connection(("127.0.0.1", secured.port)):
        assert secured.run(["docker"], "ps").returncode == 0


def test_contexts_of_the_docker_command(secured: Secured) -> None:
    daemon, keys = secured.daemon, secured.client
    files = f"host={secured.host},ca={keys.authority},cert={keys.certificate},key={keys.key}"
    environment = {key: value for key, value in daemon.environment().items() if key != "DOCKER_HOST"}

    def run(*words: str) -> str:
        done = subprocess.run(["docker", *words], env=environment, capture_output=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    run("context", "create", "lab", "--docker", files)
    assert run("--context", "lab", "run", "--rm", "busybox", "echo", "there") == "there\n"
    run("context", "rm", "lab")


def test_the_sdk(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # requests would prefer it to the session's authority
        monkeypatch.delenv(name, raising=False)
    keys = secured.client
    pair = (str(keys.certificate), str(keys.key))
    config = TLSConfig(client_cert=pair, ca_cert=str(keys.authority), verify=True)
    with contextlib.closing(docker.DockerClient(base_url=secured.host, tls=config)) as client:
        assert client.containers.run("busybox", ["echo", "sdk"], remove=True) == b"sdk\n"


def started(*flags: str) -> subprocess.CompletedProcess[bytes]:
    """A daemon that is expected not to start."""
    return subprocess.run(
        [*LABKIT, "daemon", *flags], cwd=REPOSITORY, capture_output=True, timeout=PATIENCE, check=False
    )


def test_no_daemon_for_everybody_by_mistake(tmp_path: Path) -> None:
    roots = ("--data-root", str(tmp_path / "data"), "--exec-root", str(tmp_path / "run"))
    done = started(*roots, "-H", "tcp://127.0.0.1:0")
    assert (done.returncode, b"everyone who reaches this address would be root" in done.stderr) == (1, True)
    done = started(*roots, "-H", "tcp://127.0.0.1:0", "--tlsverify", "--tlscert", "/nonesuch")
    assert (done.returncode, b"could not load X509 key pair" in done.stderr) == (1, True)
    assert not (tmp_path / "data").exists()


def test_one_that_insists_is_warned(tmp_path: Path) -> None:
    port = free_port()
    daemon = Daemon(
        tmp_path, "-H", f"unix://{tmp_path}/run/labkit.sock", "-H", f"tcp://127.0.0.1:{port}", "--tls=false"
    )
    with served(daemon):
        assert "gives root access on this machine" in daemon.log.read_text()
        environment = daemon.environment() | {"DOCKER_HOST": f"tcp://127.0.0.1:{port}"}
        words = ["docker", "run", "--rm", "-i", "busybox", "cat"]
        done = subprocess.run(words, input=b"plain", env=environment, capture_output=True, timeout=PATIENCE, check=True)
        assert done.stdout == b"plain"
