"""Finds the engine: the host that was asked for, else labkit's own daemon, which is started if none answers.

The `docker` command looks at -H and DOCKER_HOST in the same way; the embedded default is labkit's. The daemon
says on a pipe (`--ready-fd`) that it listens, so nobody polls; flock(2) keeps two starters from starting two.
"""

from __future__ import annotations

import fcntl
import os
import sys
from typing import TYPE_CHECKING

from labkit.client.engine import Client
from labkit.client.transport import Connection, connect
from labkit.errors import Unavailable

if TYPE_CHECKING:
    from labkit.client.tls import Security

_LOG_TAIL = 2000  # bytes of the daemon's log that explain a failed start


def default_socket() -> str:
    """The path of labkit's own socket: the system's for root, else the user's."""
    if os.geteuid() == 0:
        return "/run/labkit/labkit.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or os.path.expanduser("~/.labkit")
    return os.path.join(runtime, "labkit", "labkit.sock")


def chosen_host(option: str = "") -> str:
    """The host that was asked for: -H, LABKIT_HOST or DOCKER_HOST; empty if none was."""
    return option or os.environ.get("LABKIT_HOST", "") or os.environ.get("DOCKER_HOST", "")


def locate(option: str = "", security: Security | None = None) -> Client:
    """A client of the engine to use. Starts labkit's daemon if no host was asked for and none answers.

    Unavailable, with the daemon's own reason, if it doesn't come up.
    """
    if host := chosen_host(option):
        return Client(host, security)
    path = default_socket()
    client = Client(f"unix://{path}")
    if not _answers(client):
        _start_once(client, path)
    return client


def _answers(client: Client) -> bool:
    """Whether something listens; the connection is kept for the first request."""
    if not os.path.exists(client.address.target):
        return False
    try:
        client.adopt(Connection(connect(client.address), client.host))
    except Unavailable as error:
        if isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError):
            return False
        raise
    return True


def _start_once(client: Client, path: str) -> None:
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, mode=0o711, exist_ok=True)
        lock = os.open(os.path.join(directory, "start.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(
            f"no labkit daemon runs, and none can be started: {error.filename}: {error.strerror}"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _answers(client):
            _start(path, os.path.join(directory, "daemon.log"))
            client.adopt(Connection(connect(client.address), client.host))
    finally:
        os.close(lock)


def _start(path: str, log: str) -> None:
    """Starts the daemon in a session of its own and returns once it listens."""
    read, write = os.pipe()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    began = os.fstat(output).st_size
    try:
        process = _spawn(path, output, write)
    finally:
        os.close(write)
        os.close(output)
    with open(read, "rb") as pipe:
        if pipe.readline() == b"ready\n":
            return
    _, status = os.waitpid(process, 0)
    raise Unavailable(
        f"the labkit daemon did not start (exit status {os.waitstatus_to_exitcode(status)}): "
        f"{_tail(log, began) or 'it said no reason'}\nIts log is {log}."
    )


def _spawn(path: str, output: int, ready: int) -> int:
    # -P: the directory that the user happens to be in is no place to import a daemon from.
    argv = [sys.executable, "-P", "-m", "labkit.cli.main", "daemon", "-H", f"unix://{path}", "--ready-fd", "3"]
    return os.posix_spawn(
        sys.executable,
        argv,
        {name: value for name, value in os.environ.items() if name not in ("LABKIT_HOST", "DOCKER_HOST")},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
            (os.POSIX_SPAWN_DUP2, ready, 3),
        ],
        setsid=True,
        setsigdef=_DEFAULTED,
    )


# What a notebook kernel or a shell may ignore or catch, the daemon starts with as usual (signal(7)).
_DEFAULTED = (1, 2, 3, 13, 15)  # HUP, INT, QUIT, PIPE, TERM


def _tail(log: str, began: int) -> str:
    with open(log, "rb") as file:
        file.seek(began)
        lines = file.read()[-_LOG_TAIL:].decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""
