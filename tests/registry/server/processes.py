"""`labkit registry` as people start it: a process with a directory of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.registry.server.clients import PATIENCE

REPOSITORY = Path(__file__).parents[3]


class Process:
    """One registry; `kill` and a new one at the same root may follow each other."""

    def __init__(self, root: Path, *flags: str, addr: str = "127.0.0.1:0") -> None:
        self.root = root
        self.log = root.with_suffix(".log")
        command = [sys.executable, "-m", "labkit.cli.main", "registry", "--root", str(root), "--addr", addr, *flags]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=log, bufsize=0)
        assert self.process.stdout
        self.greeting = self.process.stdout.readline().decode()
        assert self.greeting.startswith("labkit registry listens on "), self.log.read_text()
        self.port = int(self.greeting.rpartition(":")[2])

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> str:
        """SIGTERM; returns the rest of what it said."""
        self.process.send_signal(signal.SIGTERM)
        said, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, self.log.read_text()
        return said.decode()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)


@contextmanager
def running(root: Path, *flags: str) -> Iterator[Process]:
    """A registry while the block runs."""
    found = Process(root, *flags)
    try:
        yield found
    finally:
        found.stop()


def run(*command: str | Path, **environment: str) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment or None)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that is its own authority, and its key."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1", "-out", cert, "-keyout", key,
    )  # fmt: skip
    return cert, key
