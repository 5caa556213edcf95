"""An engine to experiment with: a daemon beside the one that the notebook uses, to be killed and started again."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from tempfile import mkdtemp
from types import TracebackType
from typing import Self

import labkit
from labkit.errors import Unavailable

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(labkit.__file__)))
_PATIENCE = 30
_KEEPER = """import sys
sys.stdin.read()
from labkit.lab.engine import clear_away
clear_away(*sys.argv[1:])"""
"""Clears away what an engine had when nobody holds the other end of its stdin any more: the notebook is gone."""


class Engine:
    """A labkit daemon with directories and a cgroup of its own, until `end`, or until this process ends.

    `host` is what `docker -H` takes, `pid` the daemon's process. Usable in a `with` statement, too. Raises Unavailable
    if it doesn't start.
    """

    def __init__(self) -> None:
        self.root = mkdtemp(prefix="labkit-engine-")
        self._cgroup = f"labkit-lesson-{uuid.uuid4().hex[:8]}"
        self._process: subprocess.Popen[bytes] | None = None
        keeper = [sys.executable, "-P", "-c", _KEEPER, self.root, self._cgroup]
        self._keeper = subprocess.Popen(keeper, stdin=subprocess.PIPE, start_new_session=True, env=_environment())
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.end()

    def __repr__(self) -> str:
        return f"an engine at {self.host}" if self._process else "an engine that doesn't run"

    @property
    def host(self) -> str:
        return f"unix://{self.root}/run/labkit.sock"

    @property
    def pid(self) -> int:
        """The daemon's process; 0 while there is none."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start the daemon; returns when it answers. It takes over what one before it has left running."""
        self._process = _start(self.root, self._cgroup)

    def kill(self) -> None:
        """SIGKILL, as the kernel sends it when memory runs out: the daemon has no chance to put anything in order."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def end(self) -> None:
        """Stop its containers and the daemon, and remove all that they had. Ending it twice does no harm."""
        if not os.path.exists(self.root):
            return
        if self._process is None:
            self.start()  # one that was killed has left its containers running
        assert self._process
        _end(self.root, self._process)
        self._process = None
        assert self._keeper.stdin
        self._keeper.stdin.close()
        self._keeper.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": _ROOT}


def _start(root: str, cgroup: str) -> subprocess.Popen[bytes]:
    """A daemon that answers. Raises Unavailable."""
    ready, theirs = os.pipe()
    roots = ["--data-root", f"{root}/data", "--exec-root", f"{root}/run", "--cgroup-parent", cgroup]
    command = [sys.executable, "-P", "-m", "labkit.cli.main", "daemon", *roots, "--ready-fd", str(theirs)]
    with open(ready, "rb") as said, open(f"{root}/daemon.log", "ab") as log:
        process = subprocess.Popen(
            command, pass_fds=(theirs,), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, env=_environment(),
        )  # fmt: skip
        os.close(theirs)
        if said.readline() == b"ready\n":
            return process
    process.wait()
    with open(f"{root}/daemon.log", encoding="utf-8", errors="replace") as told:
        raise Unavailable(f"the engine did not start: {told.read()[-1000:]}")


def _end(root: str, process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    if status := process.wait(_PATIENCE):
        raise Unavailable(f"the engine did not end in order (exit status {status}): see {root}/daemon.log")
    shutil.rmtree(root)


def clear_away(root: str, cgroup: str) -> None:
    """End an engine whose notebook is gone, if it is there: a new daemon takes its containers over, and ends them."""
    if not os.path.exists(root):
        return
    pidfile = f"{root}/run/labkit.pid"
    if os.path.exists(pidfile):
        with open(pidfile, encoding="ascii") as file, suppress(ProcessLookupError):
            watched = os.pidfd_open(int(file.read()))
            signal.pidfd_send_signal(watched, signal.SIGKILL)
            select.select([watched], [], [], _PATIENCE)
            os.close(watched)
    _end(root, _start(root, cgroup))
