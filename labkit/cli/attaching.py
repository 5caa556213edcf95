"""A container's streams joined to the session's: the terminal in raw mode, its size followed, signals forwarded.

`run`, `attach`, `start -a` and `exec` share it, as they share docker/cli's hijackedIOStreamer.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from labkit.cli.grammar import StatusError
from labkit.cli.session import Session
from labkit.client.engine import Answer
from labkit.client.signals import SignalPipe, signal_name
from labkit.client.streams import AttachedStream, Attachment, parse_detach_keys
from labkit.client.terminal import raw_mode, terminal_size
from labkit.errors import Conflict, NotFound

_DETACH_KEYS = "ctrl-p,ctrl-q"


class Attached(NamedTuple):
    """What to attach to: a container and the streams wanted of it."""

    container: str
    streams: Mapping[str, bool]
    tty: bool
    detach_keys: str = ""
    proxy: bool = True
    logs: bool = False


@contextmanager
def attach(session: Session, wanted: Attached) -> Iterator[AttachedStream]:
    """An attached stream, ready to be pumped; the terminal and the signals are as before once it is left."""
    keys = wanted.detach_keys or _DETACH_KEYS
    query = {"stream": True, "logs": wanted.logs, "detachKeys": wanted.detach_keys or None, **wanted.streams}
    sequence = parse_detach_keys(keys)
    answer = session.client.hijack(f"/containers/{wanted.container}/attach", query)
    path = f"/containers/{wanted.container}"
    with join(session, answer, wanted.streams["stdin"], wanted.tty, sequence, path, wanted.proxy) as stream:
        yield stream


@contextmanager
def join(
    session: Session, answer: Answer, stdin: bool, tty: bool, detach_keys: bytes, path: str, proxy: bool
) -> Iterator[AttachedStream]:
    """Joins a hijacked connection to the session. `path` is where the object is resized and, if `proxy`, signalled."""
    streams = session.streams
    controls_terminal = tty and stdin and streams.stdin_is_terminal
    with ExitStack() as stack:
        signals = stack.enter_context(SignalPipe(_wanted_signals(session, tty, proxy)))
        arrivals = _Arrivals(session, path, tty, proxy)
        if controls_terminal and streams.stdin is not None:
            stack.enter_context(raw_mode(streams.stdin))
        attachment = Attachment(
            streams.write,
            streams.stdin if stdin else None,
            tty,
            detach_keys if controls_terminal else b"",
            signals,
            arrivals.take,
            arrivals.lingers,
        )
        try:
            yield AttachedStream(answer, attachment)
        finally:
            answer.close()


def _wanted_signals(session: Session, tty: bool, proxy: bool) -> list[int]:
    wanted = session.streams.signals() if proxy else []
    return [*wanted, signal.SIGWINCH] if tty and session.streams.stdout_is_terminal and not proxy else wanted


class _Arrivals:
    """What is done with signals that arrive while a stream is attached."""

    def __init__(self, session: Session, path: str, tty: bool, proxy: bool) -> None:
        self._session = session
        self._path = path
        self._tty = tty
        self._proxy = proxy

    def take(self, number: int) -> None:
        if number == signal.SIGWINCH and self._tty:
            resize(self._session, self._path)
        elif self._proxy:
            self._forward(number)

    def _forward(self, number: int) -> None:
        try:
            self._session.client.post(f"{self._path}/kill", {"signal": signal_name(number)})
        except (NotFound, Conflict):
            return  # it has just ended; its exit status is on its way
        if number in (signal.SIGINT, signal.SIGTERM):
            streams = self._session.streams
            streams.interrupts += 1
            if streams.interrupts >= streams.patience:
                raise StatusError(f"got {streams.interrupts} SIGTERM/SIGINTs, forcefully exiting")

    def lingers(self) -> None:
        """The container has not ended on the signals it was sent."""
        self._session.err(self._session.streams.lingers(self._path.rpartition("/")[2]))


def resize(session: Session, path: str) -> None:
    """Gives the container's tty the terminal's size."""
    size = terminal_size(1) if session.streams.stdout_is_terminal else None
    if size:
        try:
            session.client.post(f"{path}/resize", {"h": size[0], "w": size[1]})
        except (NotFound, Conflict):
            return  # not running yet, or no more


def exit_status(session: Session, waiting: Answer) -> int:
    """The container's exit status off a `wait` that was begun before it ran."""
    result = waiting.json()
    if problem := result.get("Error"):
        session.err(f"Error waiting for container: {problem.get('Message', '')}\n")
        return 125
    return int(result["StatusCode"])
