"""The archive routes on a real daemon: bad input, clients that go, disks that are full, containers that play tricks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import os
import socket
import subprocess
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from labkit.api import archive as routes
from labkit.errors import InvalidParameter
from tests.support.archives import DIRECTORY, LINK, Member, archive, content, names
from tests.support.daemon import PATIENCE, Daemon, UnixConnection, running
from tests.support.fixtures import busybox_archive, daemon, shared_daemon

__all__ = ["busybox_archive", "daemon", "shared_daemon"]

root = pytest.mark.root
MiB = 1 << 20


class Answer:
    """Status, body and the decoded path stat of an answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.body = response.read()
        header = response.headers.get("X-Docker-Container-Path-Stat")
        self.stat: dict[str, Any] = json.loads(base64.b64decode(header)) if header else {}

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["message"])


def ask(daemon: Daemon, method: str, path: str, body: Any = None, box: str = "box", more: str = "") -> Answer:
    with contextlib.closing(UnixConnection(str(daemon.socket))) as connection:
        target = f"/containers/{box}/archive?path={quote(path, safe='')}{more}"
        headers = {"Content-Type": "application/x-tar"} if body is not None else {}
        connection.request(method, target, body, headers, encode_chunked=True)
        return Answer(connection.getresponse())


def create(daemon: Daemon, *words: str) -> None:
    daemon.docker("create", "--network", "none", "--name", "box", *words)


def run(daemon: Daemon, *words: str) -> None:
    create(daemon, *words)
    daemon.docker("start", "box")


def descriptors(daemon: Daemon) -> list[str]:
    """What the daemon has open that a copy could have left: mounts and files, by what they are."""
    assert daemon.process
    found = []
    for link in Path(f"/proc/{daemon.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(link))
    return sorted(one for one in found if not one.startswith(("socket:", "pipe:", "anon_inode:[event")))


def until(condition: Callable[[], bool]) -> None:
    """Wait for what the daemon does after its client has gone: the next answers tell."""
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it didn't come to be")


class Upload:
    """A PUT whose body is sent bit by bit."""

    def __init__(self, daemon: Daemon, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(daemon.socket))
        head = f"PUT /containers/box/archive?path={path} HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.sock.sendall(head.encode())

    def send(self, data: bytes) -> None:
        self.sock.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def answer(self) -> Answer:
        response = http.client.HTTPResponse(self.sock, method="PUT")
        response.begin()
        return Answer(response)


@root
@pytest.mark.parametrize("state", ["created", "running"])
def test_what_is_at_a_path(daemon: Daemon, state: str) -> None:
    create(daemon, "busybox", "sleep", "1000")
    if state == "running":
        daemon.docker("start", "box")
    found = ask(daemon, "HEAD", "/bin/awk")
    assert (found.status, found.body) == (200, b"")
    assert (found.stat["name"], found.stat["mode"], found.stat["linkTarget"]) == (
        "awk",
        1 << 27 | 0o777,
        "/bin/busybox",
    )
    assert ask(daemon, "HEAD", "/tmp/.").stat["name"] == "."
    assert ask(daemon, "HEAD", "/").stat["name"] == "/"
    assert ask(daemon, "GET", "etc/passwd").stat["size"] == len(
        content(ask(daemon, "GET", "etc/passwd").body, "passwd")
    )


@root
@pytest.mark.parametrize("state", ["created", "running"])
def test_requests_that_can_not_be_answered(daemon: Daemon, state: str) -> None:
    create(daemon, "busybox", "sleep", "1000")
    if state == "running":
        daemon.docker("start", "box")
    one = archive(Member("x"))
    bad = [
        ("GET", "", None, 400, "bad parameter: path cannot be empty"),
        ("PUT", "", one, 400, "bad parameter: path cannot be empty"),
        ("GET", "/a\0b", None, 400, "bad parameter: path must not contain a NUL"),
        ("GET", "/none/x", None, 404, "Could not find the file /none/x in container box"),
        ("PUT", "none", one, 404, "Could not find the file none in container box"),
        ("GET", "/etc/passwd/", None, 500, "lstat /etc/passwd/: not a directory"),
        ("GET", "/" + "n" * 300, None, 400, f"lstat /{'n' * 300}: file name too long"),
        ("PUT", "/etc/passwd", one, 400, "extraction point is not a directory"),
        ("PUT", "/tmp", b"x" * 600, 400, "archive/tar: invalid tar header"),
        ("PUT", "/tmp", one[:700], 400, "archive/tar: unexpected EOF"),
        ("PUT", "/tmp", archive(Member("../x")), 400, '"../x" is outside of "/tmp"'),
        ("PUT", "/tmp", archive(Member("x", b"Z")), 400, "unhandled tar header type 90"),
    ]
    before = descriptors(daemon)
    for method, path, body, status, message in bad:
        answer = ask(daemon, method, path, body)
        assert (answer.status, answer.message[: len(message)]) == (status, message)
    assert ask(daemon, "HEAD", "/none").status == 404
    assert ask(daemon, "GET", "/", box="nobody").message == "No such container: nobody"
    assert names(ask(daemon, "GET", "/tmp").body) == ["tmp"]
    assert descriptors(daemon) == before


@root
def test_what_may_replace_what(daemon: Daemon) -> None:
    create(daemon, "busybox", "true")
    assert ask(daemon, "PUT", "/tmp", archive(Member("d", DIRECTORY), Member("f"))).status == 200
    strict = "&noOverwriteDirNonDir=1"
    refused = ask(daemon, "PUT", "/tmp", archive(Member("d")), more=strict)
    assert (refused.status, refused.message) == (400, 'cannot overwrite directory "/tmp/d" with non-directory "/tmp"')
    assert ask(daemon, "PUT", "/tmp", archive(Member("d"), Member("f", DIRECTORY))).status == 200
    assert names(ask(daemon, "GET", "/tmp/.").body) == [".", "./d", "./f"]


@root
def test_a_client_that_goes_midway(daemon: Daemon) -> None:
    """Nothing half made stays, and the container can be started: nobody holds it any more."""
    create(daemon, "busybox", "sleep", "1000")
    before = descriptors(daemon)
    upload = Upload(daemon, "/tmp")
    upload.send(archive(Member("whole", data=b"1"), Member("half", data=b"x" * MiB))[: MiB // 2])
    until(lambda: len(descriptors(daemon)) > len(before))
    upload.sock.close()
    until(lambda: descriptors(daemon) == before)
    assert names(ask(daemon, "GET", "/tmp").body) == ["tmp", "tmp/whole"]
    with contextlib.closing(UnixConnection(str(daemon.socket))) as connection:
        connection.request("GET", "/containers/box/archive?path=/")
        assert len(connection.getresponse().read(1000)) == 1000
    until(lambda: descriptors(daemon) == before)
    daemon.docker("start", "box")


@root
def test_a_start_waits_for_a_copy_and_others_do_not(daemon: Daemon) -> None:
    create(daemon, "busybox", "cat", "/tmp/text")
    upload = Upload(daemon, "/tmp")
    data = archive(Member("text", data=b"copied"))
    upload.send(data[:700])
    with subprocess.Popen(
        ["docker", "start", "-a", "box"], env=daemon.environment(), stdout=subprocess.PIPE
    ) as starting:
        assert ask(daemon, "HEAD", "/", box=daemon.out("create", "busybox", "true")).status == 200
        assert daemon.inspect("box")["State"]["Status"] == "created"
        upload.send(data[700:] + b"")
        upload.sock.sendall(b"0\r\n\r\n")
        assert upload.answer().status == 200
        upload.sock.close()
        assert starting.communicate(timeout=PATIENCE)[0] == b"copied"


@root
def test_copies_of_many_idle_clients_do_not_use_up_threads(daemon: Daemon) -> None:
    run(daemon, "busybox", "sleep", "1000")
    uploads = [Upload(daemon, "/tmp") for _ in range(40)]
    for upload in uploads:
        upload.send(b"\0")
    assert ask(daemon, "PUT", "/tmp", archive(Member("x"))).status == 200
    daemon.docker("rm", "-f", "box")
    for upload in uploads:
        upload.sock.close()


@root
def test_a_container_that_ends_meanwhile(daemon: Daemon) -> None:
    run(daemon, "busybox", "sleep", "1000")
    upload = Upload(daemon, "/tmp")
    data = archive(Member("a", data=b"x" * MiB), Member("b", data=b"x" * MiB))
    upload.send(data[:MiB])
    daemon.docker("kill", "box")
    upload.send(data[MiB:])
    upload.sock.sendall(b"0\r\n\r\n")
    answer = upload.answer()
    upload.sock.close()
    assert answer.status == 409
    assert "has ended while files were copied into it" in answer.message


@root
def test_a_container_that_is_removed_meanwhile(daemon: Daemon) -> None:
    """Half an archive doesn't look like a whole one."""
    run(daemon, "busybox", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=64; exec sleep 1000")
    until(lambda: ask(daemon, "HEAD", "/big").stat.get("size") == 64 * MiB)
    with contextlib.closing(UnixConnection(str(daemon.socket))) as connection:
        connection.request("GET", "/containers/box/archive?path=/")
        response = connection.getresponse()
        response.read(1000)
        daemon.docker("rm", "-f", "box")
        with pytest.raises(http.client.IncompleteRead):
            response.read()


@root
def test_a_full_disk(daemon: Daemon) -> None:
    run(daemon, "--tmpfs", "/small:size=1m", "busybox", "sleep", "1000")
    before = descriptors(daemon)
    answer = ask(daemon, "PUT", "/small", archive(Member("fits", data=b"1"), Member("big", data=b"x" * 4 * MiB)))
    assert (answer.status, answer.message) == (500, "open /small/big: no space left on device")
    assert names(ask(daemon, "GET", "/small").body) == ["small", "small/fits"]
    assert descriptors(daemon) == before


@root
@pytest.mark.parametrize("state", ["created", "running"])
def test_memory_stays_flat(daemon: Daemon, state: str) -> None:
    create(daemon, "busybox", "sleep", "1000")
    if state == "running":
        daemon.docker("start", "box")
    size = 400 * MiB
    entry = tarfile.TarInfo("big")
    entry.size = size
    _reset_peak(daemon)
    begun = _memory(daemon, "VmRSS")

    def body() -> Iterator[bytes]:
        yield entry.tobuf()
        for _ in range(size // MiB):
            yield bytes(MiB)
        yield bytes(1024)

    assert ask(daemon, "PUT", "/tmp", body()).status == 200
    with contextlib.closing(UnixConnection(str(daemon.socket))) as connection:
        connection.request("GET", "/containers/box/archive?path=/tmp/big")
        response = connection.getresponse()
        got = 0
        while piece := response.read(MiB):
            got += len(piece)
    assert got == 512 + size + 1024
    assert _memory(daemon, "VmHWM") - begun < 48 * MiB


def _reset_peak(daemon: Daemon) -> None:
    assert daemon.process
    Path(f"/proc/{daemon.process.pid}/clear_refs").write_text("5")


def _memory(daemon: Daemon, name: str) -> int:
    """A line of /proc/PID/status, in bytes."""
    assert daemon.process
    lines = Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


@root
def test_a_container_that_swaps_its_paths(daemon: Daemon, tmp_path: Path) -> None:
    """A directory and a link to a path of the host change places: nothing comes from there, nothing gets there."""
    (tmp_path / "secret").write_text("SECRET")
    script = (
        f"mkdir -p /w/a {tmp_path}; echo inner > {tmp_path}/secret; echo plain > /w/a/secret; ln -s {tmp_path} /w/b; "
        "echo ready; while :; do mv /w/a /w/c; mv /w/b /w/a; mv /w/a /w/b; mv /w/c /w/a; done"
    )
    run(daemon, "busybox", "sh", "-c", script)
    until(lambda: daemon.out("logs", "box") == "ready")
    seen = set()
    for number in range(150):
        answer = ask(daemon, "GET", "/w/a/secret")
        seen.add(answer.status)
        assert b"SECRET" not in answer.body
        assert b"SECRET" not in ask(daemon, "GET", "/w").body
        ask(daemon, "PUT", "/w/a", archive(Member(f"f{number}", data=b"x"), Member("secret", data=b"new")))
    assert 200 in seen
    assert os.listdir(tmp_path) == ["secret"]
    assert (tmp_path / "secret").read_text() == "SECRET"


@root
def test_links_lead_nowhere_but_into_the_container(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("SECRET")
    for state in ("created", "running"):
        create(daemon, "busybox", "sleep", "1000")
        if state == "running":
            daemon.docker("start", "box")
        members = Member("out", LINK, link=str(tmp_path)), Member("up", LINK, link="../" * 20 + str(tmp_path)[1:])
        assert ask(daemon, "PUT", "/", archive(*members)).status == 200
        for path in ("/out/secret", "/up/secret", "/proc/1/root/../secret", f"/proc/self/cwd/{tmp_path}/secret"):
            assert ask(daemon, "GET", path).status in (404, 500)
        assert ask(daemon, "PUT", "/out", archive(Member("x"))).status == 404
        daemon.docker("rm", "-f", "box")
    assert os.listdir(tmp_path) == ["secret"]


@root
def test_a_daemon_that_is_killed_midway(tmp_path: Path) -> None:
    """The mount that it copied to was its own: the next daemon starts the container."""
    with running(tmp_path / "engine") as daemon:
        create(daemon, "busybox", "echo", "fine")
        upload = Upload(daemon, "/tmp")
        upload.send(archive(Member("half", data=b"x" * MiB))[: MiB // 2])
        until(lambda: any("half" in one for one in descriptors(daemon)))
        daemon.kill()
        upload.sock.close()
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            assert str(daemon.root) not in file.read()
        daemon.start()
        assert daemon.out("start", "-a", "box") == "fine"


def test_a_client_that_sends_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may not keep a container from being started for ever. One that runs isn't kept from anything."""
    monkeypatch.setattr(routes, "STALLED", 0.05)

    async def stalled() -> AsyncIterator[bytes]:
        yield b"some"
        await asyncio.sleep(0.2)
        yield b"more"

    async def read(running: bool) -> list[bytes]:
        container: Any = SimpleNamespace(run=SimpleNamespace(running=running), id="abc")
        return [chunk async for chunk in routes.patient(container, stalled())]

    assert asyncio.run(read(running=True)) == [b"some", b"more"]
    with pytest.raises(InvalidParameter, match=r"nothing more of the archive came for 0\.05 seconds"):
        asyncio.run(read(running=False))
