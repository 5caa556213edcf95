"""A real `labkit daemon` in directories and a cgroup of its own, and the real `docker` command pointed at it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from labkit.kernel.cgroups import read_layout
from labkit.network.planning import table_name

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 30
"""Seconds after which what should have happened has not: a hang fails its test, and not the whole run."""


class Daemon:
    """One data root, exec root and cgroup; `start` and `kill` may alternate."""

    def __init__(self, root: Path, *flags: str) -> None:
        self.root = root
        self.flags = flags
        self.cgroup = f"lk-test-{uuid.uuid4().hex[:8]}"
        self.process: subprocess.Popen[bytes] | None = None
        self.config = root / "docker-config"
        self.config.mkdir(parents=True, exist_ok=True)

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def socket(self) -> Path:
        return self.run / "labkit.sock"

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    @property
    def log(self) -> Path:
        return self.root / "daemon.log"

    def command(self) -> list[str]:
        roots = ["--data-root", str(self.data), "--exec-root", str(self.run), "--cgroup-parent", self.cgroup]
        return [sys.executable, "-m", "labkit.cli.main", "daemon", *roots, *self.flags]

    def start(self) -> None:
        """Start it; returns when it listens."""
        ready, theirs = os.pipe()
        with open(self.log, "ab") as log, os.fdopen(ready, "rb") as said:
            self.process = subprocess.Popen(
                [*self.command(), "--ready-fd", str(theirs)], pass_fds=(theirs,), cwd=REPOSITORY, stdout=log, stderr=log
            )
            os.close(theirs)
            assert said.readline() == b"ready\n", self.log.read_text()

    def kill(self) -> None:
        """SIGKILL: what a crash is like."""
        assert self.process
        self.process.kill()
        self.process.wait(PATIENCE)
        self.process = None

    def stop(self) -> None:
        """SIGTERM, as the machine's shutdown sends it."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()
        self.process = None

    def docker(
        self, *arguments: str, check: bool = True, stdin: bytes | None = None, timeout: float = PATIENCE
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the docker command; `check` says that it must succeed."""
        done = subprocess.run(
            ["docker", *arguments],
            env=self.environment(),
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"docker {arguments}: {done.returncode}: {done.stderr.decode()}"
        return done

    def out(self, *arguments: str, stdin: bytes | None = None) -> str:
        """The output of a docker command that must succeed, as text."""
        return self.docker(*arguments, stdin=stdin).stdout.decode().rstrip("\n")

    def environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": self.host, "DOCKER_CONFIG": str(self.config), "DOCKER_CLI_HINTS": "false"}

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request to the Engine API: status and answer, decoded if it is JSON (None where there is none)."""
        connection = UnixConnection(str(self.socket))
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            data = answer.read()
        if "stream" in answer.headers.get("Content-Type", ""):
            return answer.status, data
        return answer.status, json.loads(data) if data else None

    def remove_all(self) -> None:
        """Remove all containers, running or not."""
        if found := self.out("ps", "-aq").split():
            self.docker("rm", "-f", *found)

    def inspect(self, reference: str) -> Any:
        status, found = self.request("GET", f"/containers/{reference}/json")
        assert status == 200, found
        return found

    def cgroups(self) -> list[Path]:
        """The directories of this daemon's cgroup, with the containers' below."""
        found: list[Path] = []
        for top in map(Path, read_layout().directories(self.cgroup)):
            if top.exists():
                found += [top, *(path for path in top.iterdir() if path.is_dir())]
        return found

    def left(self) -> list[str]:
        """What there is of this daemon on the machine, besides its data: nothing, after it has ended."""
        found = [f"cgroup {path}" for path in self.cgroups()]
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            found += [f"mount {line.split()[4]}" for line in file if f"{self.root}/" in line]
        found += [f"process {line}" for line in processes(str(self.root))]
        found += [f"file {path}" for path in self.exec_files()]
        return found + self.network_left()

    def network_left(self) -> list[str]:
        """Links that have the daemon's mark, and its nf_tables tables."""
        table = table_name(str(self.data))
        links = json.loads(self.on_host("ip", "-j", "link", "show"))
        found = [f"link {link['ifname']}" for link in links if link.get("ifalias", "").startswith(f"{table} ")]
        tables = self.on_host("nft", "list", "tables").splitlines()
        return found + [line for line in tables if line.split()[-1] == table]

    def on_host(self, *words: str) -> str:
        """The output of a command that must succeed, run in the network namespace of the daemon."""
        done = subprocess.run(self.in_network(words), capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def in_network(self, words: Sequence[str]) -> list[str]:
        """The words of a command for where the daemon's links are: here."""
        return list(words)

    def exec_files(self) -> list[str]:
        """The files of the exec root that belong to a container, or to something that listens."""
        kept = {"daemon.lock", "spawner.log"}
        # os.walk closes what it has opened, also when a directory goes meanwhile; Path.rglob doesn't (Python 3.11).
        return [
            os.path.join(folder, name) for folder, _, names in os.walk(self.run) for name in names if name not in kept
        ]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self.path)


def processes(word: str) -> list[str]:
    """The command lines in which a word occurs, each with its pid."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
            if word in line:
                found.append(f"{folder.name}: {line}")
    return found


Kind = TypeVar("Kind", bound=Daemon)


@contextlib.contextmanager
def running(root: Path, *flags: str) -> Iterator[Daemon]:
    """A daemon that runs, with the image `busybox`; ended after, leaving nothing."""
    with served(Daemon(root, *flags)) as daemon:
        yield daemon


@contextlib.contextmanager
def served(daemon: Kind) -> Iterator[Kind]:
    """`running` for a daemon of another kind."""
    daemon.start()
    try:
        daemon.docker("import", str(busybox()), "busybox")
        yield daemon
    finally:
        if daemon.process is None:
            daemon.start()  # it was killed: another one ends the spawner and the containers
        daemon.remove_all()
        daemon.stop()
    deadline = time.monotonic() + PATIENCE
    while (left := daemon.left()) and time.monotonic() < deadline:
        time.sleep(0.02)  # the spawner ends after the daemon has, and nobody is told of it
    assert left == [], left


_ARCHIVE: list[Path] = []


def busybox() -> Path:
    """A root filesystem with Debian's static busybox under all its names, as a tar archive."""
    return _ARCHIVE[0]


def make_busybox(folder: Path) -> None:
    """Make the archive that `busybox` gives; once a test session."""
    root = folder / "busybox"
    for name in ("bin", "etc", "tmp", "root", "proc", "sys", "dev"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nbob:x:1000:\nwheel:x:10:bob\n")
    program = root / "bin/busybox"
    program.write_bytes(Path("/bin/busybox").read_bytes())
    program.chmod(0o755)
    for name in subprocess.run([program, "--list"], capture_output=True, check=True, text=True).stdout.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    archive = folder / "busybox.tar"
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    _ARCHIVE[:] = [archive]
