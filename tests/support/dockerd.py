"""labkit's daemon and Debian's dockerd, each in a network namespace of its own, so that both choose alike."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.daemon import PATIENCE, Daemon, busybox, served

_MADE = ("veth", "bridge", "macvlan")


class Isolated(Daemon):
    """labkit's daemon in a network namespace that outlives it: nobody else makes links there."""

    @property
    def namespace(self) -> Path:
        return self.root / "netns"

    def command(self) -> list[str]:
        return self.in_network(super().command())

    def in_network(self, words: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net={self.namespace}", "--", *words]

    def network_left(self) -> list[str]:
        """All links but those that the kernel makes by itself."""
        links = json.loads(self.on_host("ip", "-j", "-d", "link", "show"))
        found = [link["ifname"] for link in links if link.get("linkinfo", {}).get("info_kind") in _MADE]
        return [f"link {name}" for name in found] + self.on_host("nft", "list", "tables").splitlines()

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """While this is entered the namespace exists, with a loopback."""
        self.namespace.touch()
        make = ["unshare", f"--net={self.namespace}", "ip", "link", "set", "lo", "up"]
        subprocess.run(make, check=True, timeout=PATIENCE)
        try:
            yield
        finally:
            subprocess.run(["umount", self.namespace], check=True, timeout=PATIENCE)

    def left(self) -> list[str]:
        return [what for what in super().left() if what != f"mount {self.namespace}"]

    @contextlib.contextmanager
    def listening(self, port: int) -> Iterator[None]:
        """While this is entered another program has a TCP port."""
        script = f"import socket; s = socket.create_server(('', {port})); print(flush=True); input()"
        words = self.in_network([sys.executable, "-c", script])
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
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
        return self.in_network(["dockerd", "-H", self.host, *roots, *self.flags])

    def start(self) -> None:
        process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr
        said = []
        for line in process.stderr:
            said.append(line.decode())
            if b"API listen on" in line:
                break
        else:
            raise AssertionError("".join(said))
        # What it says later fills no pipe.
        self.drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        process.stderr.close()
        self.process = process

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
    with engine.network():
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
    with daemon.network(), served(daemon):
        yield daemon
