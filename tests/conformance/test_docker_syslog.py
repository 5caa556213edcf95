"""The log driver `syslog` with real servers: unix sockets beside dockerd, UDP, TCP and TLS; servers that go away."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import PATIENCE, Daemon, running
from tests.support.dockerd import Dockerd, dockerd

pytestmark = pytest.mark.root
SCRIPT = "echo out; usleep 50000; echo err >&2; usleep 50000; printf 'no end'"


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


def flags(address: str, *options: str) -> list[str]:
    words = ["--network", "none", "--log-driver", "syslog", "--log-opt", f"syslog-address={address}"]
    return words + [word for option in options for word in ("--log-opt", option)]


def masked(text: str) -> str:
    text = text.replace(socket.gethostname(), "<host>")
    text = re.sub(r"\b[0-9a-f]{12}\b", "<id>", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+(\.\d{6})?(Z|[+-]\d\d:\d\d)", r"<time\1>", text)
    text = re.sub(r"(?<=<time)\.\d{6}", ".micro", text)
    text = re.sub(r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d", "<stamp>", text)
    return re.sub(r"\[\d+\]|(?<= )\d{2,}(?= )", "<pid>", text)


@contextlib.contextmanager
def datagrams(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(PATIENCE)
        yield server
    path.unlink()


FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")


@pytest.mark.parametrize("form", FORMATS)
def test_messages_are_dockerds(daemon: Daemon, reference: Dockerd, tmp_path: Path, form: str) -> None:
    options = [f"syslog-format={form}", "syslog-facility=local3", "tag={{.Name}}/{{.DaemonName}}"]
    found = []
    for engine in (daemon, reference):
        with datagrams(tmp_path / "s") as server:
            words = flags(f"unixgram://{tmp_path}/s", *options)
            engine.docker("run", "--name", "sender", *words, "busybox", "sh", "-c", SCRIPT)
            found.append([masked(server.recv(10_000).decode()) for _ in range(3)])
            engine.remove_all()
    assert found[0] == found[1]
    assert "no end" in found[0][2]


def test_what_is_sent_can_be_read_back(engine: Daemon, tmp_path: Path) -> None:
    with datagrams(tmp_path / "s"):
        words = flags(f"unixgram://{tmp_path}/s")
        engine.docker("run", "--name", "kept", *words, "busybox", "sh", "-c", "echo out; echo err >&2")
        engine.docker("run", "--name", "lost", *words, "--log-opt", "cache-disabled=true", "busybox", "echo", "x")
        found = engine.docker("logs", "kept")
        done = engine.docker("logs", "lost", check=False)
    assert (found.stdout, found.stderr) == (b"out\n", b"err\n")
    assert done.stderr == b"Error response from daemon: configured logging driver does not support reading\n"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of `localhost` that vouches for itself, and its key."""
    folder = tmp_path_factory.mktemp("keys")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(
        [*command.split(), "-keyout", folder / "key", "-out", folder / "cert"], check=True, capture_output=True
    )
    return folder


LONG = "0123456789" * 7


class Server:
    """A TCP server that takes one connection after the other, and keeps what came."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.tls = tls
        self.data = b""
        self.connection: socket.socket | None = None
        self.came = threading.Condition()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the socket is closed at the end
            while True:
                plain, _ = self.sock.accept()
                with contextlib.suppress(OSError), self._wrapped(plain) as connection:
                    self.connection = connection
                    while more := connection.recv(1 << 16):
                        with self.came:
                            self.data += more
                            self.came.notify_all()

    def _wrapped(self, plain: socket.socket) -> socket.socket:
        return self.tls.wrap_socket(plain, server_side=True) if self.tls else plain

    def until(self, end: bytes) -> bytes:
        with self.came:
            assert self.came.wait_for(lambda: self.data.endswith(end), PATIENCE), self.data
        return self.data

    def close(self) -> None:
        """Be gone: no connection is taken any more, and the one that there is ends."""
        for sock in filter(None, (self.sock, self.connection)):
            with contextlib.suppress(OSError):  # the other end, or a test, has closed it
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_tcp(daemon: Daemon, server: Server) -> None:
    daemon.docker("run", *flags(f"tcp://127.0.0.1:{server.port}", "tag=t"), "busybox", "sh", "-c", SCRIPT)
    lines = server.until(b"no end\n").decode().splitlines()
    assert [masked(line) for line in lines] == [
        "<30><stamp> t<pid>: out", "<27><stamp> t<pid>: err", "<30><stamp> t<pid>: no end",
    ]  # fmt: skip


def test_udp(daemon: Daemon) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(PATIENCE)
        address = f"udp://127.0.0.1:{server.getsockname()[1]}"
        daemon.docker("run", *flags(address, "tag=t"), "busybox", "echo", "hi")
        assert masked(server.recv(1000).decode()) == "<30><stamp> t<pid>: hi\n"


def test_tls(daemon: Daemon, keys: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "cert", keys / "key")
    server = Server(context)
    address = f"tcp+tls://localhost:{server.port}"
    try:
        words = flags(address, f"syslog-tls-ca-cert={keys}/cert", "syslog-format=rfc5424", "tag=t")
        daemon.docker("run", *words, "busybox", "echo", "one")
        length, _, rest = server.until(b"one\n").partition(b" ")
        assert int(length) == len(rest)
        daemon.docker("run", *flags(address, "syslog-tls-skip-verify=1"), "busybox", "echo", "two")
        server.until(b"two\n")
        done = daemon.docker("run", "--name", "bad", *flags(address), "busybox", "echo", "three", check=False)
        assert done.returncode == 125
        assert b"failed to initialize logging driver: tls: failed to verify certificate" in done.stderr
    finally:
        server.close()


def test_a_server_that_goes_away_does_not_hold_the_container(daemon: Daemon, server: Server) -> None:
    words = flags(f"tcp://127.0.0.1:{server.port}")
    script = "while read x; do echo $x; done"
    daemon.docker("run", "-di", "--name", "lives", *words, "busybox", "sh", "-c", script)
    stdin = Path(f"/proc/{daemon.inspect('lives')['State']['Pid']}/fd/0")
    with stdin.open("wb", buffering=0) as typed:
        typed.write(b"first\n")
        server.until(b"first\n")
        server.close()
        for number in range(2000):
            typed.write(b"%d\n" % number)
        deadline = time.monotonic() + PATIENCE
        while daemon.out("logs", "--tail", "1", "lives") != "1999":
            assert time.monotonic() < deadline
    daemon.docker("stop", "-t", "0", "lives")
    server.sock = socket.create_server(("127.0.0.1", 0))


def test_a_server_that_does_not_read_makes_the_container_wait(daemon: Daemon) -> None:
    """As much as the sockets and pipes hold, and no more; in non-blocking mode the container goes on."""
    script = f"yes {LONG} | head -n 40000; echo end"
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"tcp://127.0.0.1:{deaf.getsockname()[1]}"
        daemon.docker(
            "run", "-d", "--name", "goes", *flags(address, "mode=non-blocking"), "busybox", "sh", "-c", script
        )
        assert daemon.docker("wait", "goes").stdout == b"0\n"
        assert daemon.out("logs", "--tail", "1", "goes") == "end"
        daemon.docker("run", "-d", "--name", "waits", *flags(address), "busybox", "sh", "-c", script + "; sleep 1000")
        seen = -1
        while (now := len(daemon.docker("logs", "waits").stdout)) != seen:
            seen = now
            time.sleep(0.3)  # it is to stand still
        assert 0 < seen < 40_000 * len(LONG)
        daemon.docker("rm", "-f", "waits")


def test_a_crash_loses_nothing(tmp_path: Path, busybox_archive: None) -> None:
    """What was under way may be sent twice; nothing is left out, and the copy has everything once."""
    got: list[bytes] = []
    with running(tmp_path) as own, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "s"))
        server.settimeout(PATIENCE)

        def receive() -> None:
            while not got or b"line 20000\n" not in got[-1]:
                got.append(server.recv(1000))

        thread = threading.Thread(target=receive)
        thread.start()
        script = 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo "line $i"; done'
        own.docker("run", "-d", "--name", "one", *flags(f"unixgram://{tmp_path}/s"), "busybox", "sh", "-c", script)
        for pause in (0.05, 0.1, 0.02, 0.2):
            time.sleep(pause)  # the moment is the test
            own.kill()
            own.start()
        assert own.out("wait", "one") == "0"
        thread.join(PATIENCE)
        assert own.out("logs", "one").splitlines() == [f"line {number}" for number in range(1, 20_001)]
    lines = [data.partition(b"]: ")[2] for data in got]
    assert list(dict.fromkeys(lines)) == [b"line %d\n" % number for number in range(1, 20_001)]
    os.unlink(tmp_path / "s")
