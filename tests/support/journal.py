"""Debian's systemd-journald in a mount namespace of its own, and engines that find it there."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tests.support.daemon import PATIENCE, served
from tests.support.dockerd import Dockerd, Isolated

JOURNALD = "/lib/systemd/systemd-journald"
_SETUP = f"""
mount --make-rprivate / &&
mount -t tmpfs tmpfs /run/systemd && mount -t tmpfs tmpfs /run/log && mkdir -p /run/systemd/journald.conf.d &&
printf '[Journal]\\nStorage=volatile\\nAudit=no\\nReadKMsg=no\\nRateLimitBurst=0\\n' \\
    > /run/systemd/journald.conf.d/test.conf &&
exec {JOURNALD}
"""


@contextlib.contextmanager
def journald(folder: Path) -> Iterator[str]:
    """While this is entered a journal is kept; the path of the mount namespace in which it is."""
    told = str(folder / "ready")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.settimeout(PATIENCE)
        ready.bind(told)
        environment = os.environ | {"NOTIFY_SOCKET": told}
        with subprocess.Popen(["unshare", "--mount", "sh", "-c", _SETUP], env=environment) as process:
            try:
                while b"READY=1" not in ready.recv(4096):
                    continue
                yield f"/proc/{process.pid}/ns/mnt"
            finally:
                process.terminate()


class Journaled(Isolated):
    """labkit's daemon where a journal is."""

    mounts = ""

    def in_network(self, words: Sequence[str]) -> list[str]:
        return [*super().in_network([]), "nsenter", f"--mount={self.mounts}", "--", *words]


class JournaledDockerd(Journaled, Dockerd):
    """dockerd likewise."""

    def left(self) -> list[str]:
        return []  # it keeps its bridge


Kind = TypeVar("Kind", bound=Journaled)


@contextlib.contextmanager
def journaled(engine: Kind, mounts: str) -> Iterator[Kind]:
    """An engine that runs where the journal is."""
    engine.mounts = mounts
    with engine.network(), served(engine):
        yield engine
