"""The process `labkit registry`: what it says, how it ends, what it survives, TLS, a full disk."""

from __future__ import annotations

import http.client
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from labkit.errors import InvalidParameter
from labkit.registry.server.documents import digest_of
from labkit.registry.server.main import parse_address
from tests.registry.server.clients import PATIENCE, Client
from tests.registry.server.processes import REPOSITORY, Process, certificate, run, running

DATA = bytes(range(256)) * 40_000


def test_greeting(tmp_path: Path) -> None:
    """Where it listens and stores; on loopback there is nothing to warn of."""
    process = Process(tmp_path / "registry")
    assert process.greeting == f"labkit registry listens on http://127.0.0.1:{process.port}\n"
    assert process.stop() == f"  images: {tmp_path}/registry, an OCI image layout for each repository\n"


def test_open_to_all(tmp_path: Path) -> None:
    """Beyond loopback without passwords it says who can do what; with passwords, that they can be read."""
    words = tmp_path / "htpasswd"
    words.write_bytes(b"ann:" + bcrypt.hashpw(b"x", bcrypt.gensalt(4)))
    for flags, warning in (
        ([], "can pull, push and delete (--htpasswd FILE asks for a password)"),
        (["--readonly"], "can pull (--htpasswd FILE asks for a password)"),
        (["--htpasswd", str(words)], "passwords can be read on the way"),
    ):
        said = Process(tmp_path / "registry", *flags, addr="0.0.0.0:0").stop()
        assert warning in said
        assert ("open to all" in said) == ("--htpasswd" not in flags)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_end(tmp_path: Path, number: signal.Signals) -> None:
    """Ends with status 0, though a client keeps its connection; the next one can begin at once."""
    for _ in range(2):
        process = Process(tmp_path / "registry")
        with Client(process.port) as client:
            client.send("GET", "/v2/")
            process.process.send_signal(number)
            process.process.communicate(timeout=PATIENCE)
            assert process.process.returncode == 0


def test_request_under_way_is_answered_before_the_end(tmp_path: Path) -> None:
    process = Process(tmp_path / "registry")
    path = f"/v2/a/blobs/uploads/?digest={digest_of(DATA)}"
    with socket.create_connection(("127.0.0.1", process.port), PATIENCE) as sock:
        sock.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA)}\r\n\r\n".encode() + DATA[:100])
        uploads = tmp_path / "registry/.uploads"
        while not any(path.stat().st_size == 100 for path in uploads.iterdir()):
            pass
        process.process.send_signal(signal.SIGTERM)
        sock.sendall(DATA[100:])
        assert sock.recv(1000).startswith(b"HTTP/1.1 201 ")
    process.process.communicate(timeout=PATIENCE)
    assert process.process.returncode == 0


def test_kill_during_an_upload(tmp_path: Path) -> None:
    """end-13: after SIGKILL a client finds out how much is here and goes on; nothing is half-visible."""
    process = Process(tmp_path / "registry")
    with Client(process.port) as client:
        client.push_image("a", "v1", DATA[:1000])
        place = client.send("POST", "/v2/a/blobs/uploads/").location
        client.send("PATCH", place, DATA[:500_000], Content_Range="0-499999")
    with socket.create_connection(("127.0.0.1", process.port), PATIENCE) as sock:
        head = f"PATCH {place} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA) - 500_000}\r\n\r\n"
        sock.sendall(head.encode() + DATA[500_000:900_000])
        while (tmp_path / "registry/.uploads" / place.rpartition("/")[2]).stat().st_size <= 500_000:
            pass
        process.kill()
    with running(tmp_path / "registry") as process, Client(process.port) as client:
        assert client.send("GET", f"/v2/a/blobs/{digest_of(DATA)}").status == 404
        assert client.tags("a") == ["v1"]
        reply = client.send("GET", place)
        here = int(reply.headers["Range"].partition("-")[2]) + 1
        assert 500_000 < here <= 900_000
        span = f"{here}-{len(DATA) - 1}"
        assert client.send("PATCH", place, DATA[here:], Content_Range=span).status == 202
        assert client.send("PUT", f"{place}?digest={digest_of(DATA)}").status == 201
        assert client.send("GET", f"/v2/a/blobs/{digest_of(DATA)}").body == DATA


def test_two_at_one_root(tmp_path: Path) -> None:
    with running(tmp_path / "registry"):
        done = command("--root", str(tmp_path / "registry"), "--addr", "127.0.0.1:0")
    assert done.returncode == 1
    assert "in use by another process" in done.stderr


def command(*flags: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "labkit.cli.main", "registry", *flags]
    return subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_what_it_refuses_to_begin_with(tmp_path: Path) -> None:
    """Each with exit status 1, one line that says what is wrong, and no trace."""
    root = ["--root", str(tmp_path / "registry")]
    (tmp_path / "words").write_text("ann:$apr1$x")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for flags, message in (
            (["--addr", f"127.0.0.1:{taken.getsockname()[1]}"], "Address already in use"),
            (["--addr", "5000"], "invalid address '5000'"),
            (["--addr", "no.such.host.invalid:5000"], "can't listen on no.such.host.invalid:5000"),
            (["--htpasswd", str(tmp_path / "words")], "htpasswd line 1"),
            (["--tls-cert", "x"], "both --tls-cert and --tls-key"),
            (["--tls-cert", "/none", "--tls-key", "/none"], "can't use /none and /none"),
            (["--log-level", "loud"], "invalid log level"),
        ):
            done = command(*root, *flags)
            assert (done.returncode, message in done.stderr) == (1, True), done.stderr
            assert "Traceback" not in done.stderr
            assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:5000", ("127.0.0.1", 5000)), (":80", ("0.0.0.0", 80)), ("[::1]:0", ("::1", 0)), ("[::]:1", ("::", 1))],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host:65536", "host:-1", "host:²"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(InvalidParameter, match="HOST:PORT is needed"):
        parse_address(text)


def test_ipv6(tmp_path: Path) -> None:
    process = Process(tmp_path / "registry", addr="[::1]:0")
    assert process.greeting == f"labkit registry listens on http://[::1]:{process.port}\n"
    connection = http.client.HTTPConnection("::1", process.port, timeout=PATIENCE)
    connection.request("GET", "/v2/")
    with connection.getresponse() as answer:
        assert answer.status == 200
    connection.close()
    process.stop()


def test_tls(tmp_path: Path) -> None:
    """Blobs too, without sendfile(2); a client that never shakes hands, or speaks plainly, harms none."""
    cert, key = certificate(tmp_path)
    context = ssl.create_default_context(cafile=str(cert))
    with running(tmp_path / "registry", "--tls-cert", str(cert), "--tls-key", str(key)) as process:
        assert process.greeting.startswith("labkit registry listens on https://")
        with socket.create_connection(("127.0.0.1", process.port), PATIENCE) as silent, Client(process.port) as client:
            silent.send(b"\x16")
            client.connection.close()
            client.connection = http.client.HTTPSConnection(
                "127.0.0.1", process.port, timeout=PATIENCE, context=context
            )
            digest = client.push_blob("a", DATA)
            assert client.send("GET", f"/v2/a/blobs/{digest}").body == DATA
            assert client.send("GET", f"/v2/a/blobs/{digest}", Range="bytes=5-9").body == DATA[5:10]
        with Client(process.port) as plain, pytest.raises((http.client.BadStatusLine, ConnectionError)):
            plain.send("GET", "/v2/")
    assert "Traceback" not in process.log.read_text()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 4 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=4m", "labkit-test", path)
    yield path
    run("umount", path)


@pytest.mark.root
def test_full_disk(tmp_path: Path, small_disk: Path) -> None:
    """500 that says so; the space is given back, and what fits can be pushed."""
    process = Process(small_disk / "registry")
    with Client(process.port) as client:
        reply = client.send("POST", f"/v2/a/blobs/uploads/?digest={digest_of(DATA)}", DATA)
        assert (reply.status, reply.code) == (500, "UNKNOWN")
        assert "no space left on device" in reply.json["errors"][0]["message"]
        place = client.send("POST", "/v2/a/blobs/uploads/").location
        assert client.send("PATCH", place, DATA).status == 500
        assert client.send("GET", place).status == 404
        client.push_image("a", "v1", DATA[: 3 << 20])
        assert client.tags("a") == ["v1"]
    process.stop()
