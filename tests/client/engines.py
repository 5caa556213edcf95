"""The engine that the tests of client, command and notebook talk to: labkit's own daemon, in a directory of its own.

LABKIT_TEST_ENGINE=docker runs the same tests against Debian's dockerd, to compare.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labkit.client import Client
from tests.support.daemon import Daemon

IMAGE = "labbb:latest"
BUSYBOX = "/bin/busybox"


def busybox_archive() -> bytes:
    """A root filesystem of Debian's static busybox, as `import` takes it."""
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(member)
        archive.add(os.path.realpath(BUSYBOX), "bin/busybox")
        for applet in applets:
            if applet != "busybox":
                member = tarfile.TarInfo(f"bin/{applet}")
                member.type, member.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(member)
        passwd = b"root:x:0:0:root:/root:/bin/sh\n"
        member = tarfile.TarInfo("etc/passwd")
        member.size = len(passwd)
        archive.addfile(member, io.BytesIO(passwd))
    return buffer.getvalue()


@contextmanager
def labkit_daemon(directory: Path) -> Iterator[str]:
    """labkit's daemon with everything it keeps below `directory`; it leaves nothing else behind."""
    daemon = Daemon(directory)
    daemon.start()
    try:
        yield daemon.host
    finally:
        remove_containers(daemon.host)
        daemon.stop()
    assert daemon.left() == []


@contextmanager
def docker_daemon(directory: Path) -> Iterator[str]:
    """Debian's dockerd, in a network namespace of its own, without bridge or packet filter."""
    host = f"unix://{directory}/docker.sock"
    argv = ["unshare", "-n", "--", "dockerd", "-H", host, "--data-root", str(directory / "data")]
    argv += ["--exec-root", str(directory / "exec"), "--pidfile", str(directory / "pid")]
    argv += ["--bridge", "none", "--iptables=false"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "API listen on" in line:
            break
    try:
        yield host
    finally:
        remove_containers(host)
        process.terminate()
        process.wait(30)
        process.stderr.close()


def remove_containers(host: str) -> None:
    client = Client(host)
    for container in client.get("/containers/json", {"all": True}):
        client.request("DELETE", f"/containers/{container['Id']}", {"force": True, "v": True}).body()
    client.post("/networks/prune")
    for volume in client.get("/volumes")["Volumes"] or ():
        client.request("DELETE", f"/volumes/{volume['Name']}").body()
    client.close()


@pytest.fixture(scope="session")
def engine_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The host of an engine that has IMAGE."""
    directory = tmp_path_factory.mktemp("engine")
    daemon = docker_daemon if os.environ.get("LABKIT_TEST_ENGINE") == "docker" else labkit_daemon
    with daemon(directory) as host:
        client = Client(host)
        query = {"fromSrc": "-", "repo": "labbb", "tag": "latest", "changes": ['CMD ["sh"]']}
        client.request("POST", "/images/create", query, busybox_archive()).body()
        client.close()
        yield host


@pytest.fixture
def engine(engine_host: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The engine, chosen in the environment; a test's containers are removed after it."""
    monkeypatch.setenv("DOCKER_HOST", engine_host)
    monkeypatch.delenv("LABKIT_HOST", raising=False)
    yield engine_host
    remove_containers(engine_host)
