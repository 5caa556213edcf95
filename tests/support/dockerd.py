"""Debian's dockerd and labkit's daemon, each in a network namespace of its own, so that both choose alike."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.daemon import PATIENCE, Daemon, busybox

_ALONE = ("unshare", "-n", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
"""The words that give a command a network namespace of its own, with a loopback."""


class Isolated(Daemon):
    """labkit's daemon in a network namespace of its own."""

    def command(self) -> list[str]:
        return [*_ALONE, *super().command()]

    def on_host(self, *words: str) -> str:
        """The output of a command that must succeed, run where the daemon's bridges are."""
        assert self.process
        enter = ["nsenter", "-t", str(self.process.pid), "-n", "--"]
        done = subprocess.run([*enter, *words], capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def listening(self, port: int) -> Iterator[None]:
        """While this is entered another program has a TCP port where the daemon's bridges are."""
        assert self.process
        script = f"import socket; s = socket.create_server(('', {port})); print(flush=True); input()"
        enter = ["nsenter", "-t", str(self.process.pid), "-n", "--", sys.executable, "-c", script]
        with subprocess.Popen(enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
            assert program.stdin
            assert program.stdout
            assert program.stdout.readline() == b"\n"
            yield
            program.communicate(b"\n", PATIENCE)


class Dockerd(Isolated):
    """dockerd in directories of its own, driven like labkit's daemon."""

    @property
    def socket(self) -> Path:
        return self.root / "docker.sock"

    def command(self) -> list[str]:
        roots = ["--data-root", str(self.data), "--exec-root", str(self.run), "--pidfile", str(self.root / "pid")]
        return [*_ALONE, "dockerd", "-H", self.host, *roots, *self.flags]

    def start(self) -> None:
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        said = []
        for line in self.process.stderr:
            said.append(line)
            if "API listen on" in line:
                break
        else:
            raise AssertionError("".join(said))
        # What it says later fills no pipe.
        self.drain = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)
        self.process.stderr.close()

    def stop(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        self.drain.wait(PATIENCE)
        self.process = None
        for namespace in (self.run / "netns").iterdir():  # dockerd keeps the one of the host mounted there
            subprocess.run(["umount", namespace], check=True, timeout=PATIENCE)


@contextlib.contextmanager
def dockerd(root: Path) -> Iterator[Dockerd]:
    """dockerd that runs, with the image `busybox`, its bridge and its packet filter."""
    engine = Dockerd(root)
    engine.start()
    try:
        engine.docker("import", str(busybox()), "busybox")
        yield engine
    finally:
        engine.remove_all()
        engine.stop()


@contextlib.contextmanager
def isolated(root: Path) -> Iterator[Isolated]:
    """labkit's daemon that runs likewise."""
    daemon = Isolated(root)
    daemon.start()
    try:
        daemon.docker("import", str(busybox()), "busybox")
        yield daemon
    finally:
        daemon.remove_all()
        daemon.stop()
    assert daemon.left() == []
