"""An engine to experiment with: a daemon beside the one that the notebook uses, to be killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from tempfile import mkdtemp
from types import TracebackType
from typing import Self

import labkit
from labkit.errors import Unavailable

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(labkit.__file__)))
_PATIENCE = 30


class Engine:
    """A labkit daemon with directories and a cgroup of its own, until `end`. Usable in a `with` statement, too.

    `host` is what `docker -H` takes, `pid` the daemon's process. Raises Unavailable if it doesn't start.
    """

    def __init__(self) -> None:
        self.root = mkdtemp(prefix="labkit-engine-")
        self._cgroup = f"labkit-lesson-{uuid.uuid4().hex[:8]}"
        self._process: subprocess.Popen[bytes] | None = None
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
        ready, theirs = os.pipe()
        roots = ["--data-root", f"{self.root}/data", "--exec-root", f"{self.root}/run", "--cgroup-parent", self._cgroup]
        command = [sys.executable, "-P", "-m", "labkit.cli.main", "daemon", *roots, "--ready-fd", str(theirs)]
        with open(ready, "rb") as said, open(f"{self.root}/daemon.log", "ab") as log:
            self._process = subprocess.Popen(
                command, pass_fds=(theirs,), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env={**os.environ, "PYTHONPATH": _ROOT},
            )  # fmt: skip
            os.close(theirs)
            if said.readline() != b"ready\n":
                self._process.wait()
                self._process = None
                with open(f"{self.root}/daemon.log", encoding="utf-8", errors="replace") as told:
                    raise Unavailable(f"the engine did not start: {told.read()[-1000:]}")

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
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(_PATIENCE)
        self._process = None
        if status:
            raise Unavailable(f"the engine did not end in order (exit status {status}): see {self.root}/daemon.log")
        shutil.rmtree(self.root)
