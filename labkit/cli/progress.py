"""The progress of pulls, pushes, loads and imports, drawn as docker draws it (moby `pkg/jsonmessage`).

On a terminal each layer has a line with a bar, which later messages overwrite; elsewhere bars are left out. A notebook
cell has a display of its own (`labkit.notebook.progress`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from labkit.cli.units import human_size
from labkit.client.terminal import terminal_size
from labkit.errors import LabkitError

if TYPE_CHECKING:
    from labkit.cli.session import Session
    from labkit.client.engine import Answer

Message = Mapping[str, Any]
_STDOUT = 1
_WIDE = 200  # columns where the terminal doesn't say


class ProgressDisplay(Protocol):
    """Where the messages of one progress stream go."""

    def show(self, message: Message) -> None: ...

    def end(self, failure: str = "") -> None:
        """No more messages will come; `failure` says why, if not because all is done."""


def show_progress(session: Session, answer: Answer, quiet: bool = False, stream: int = _STDOUT) -> None:
    """Shows a progress stream's messages as they come. LabkitError if one of them is an error."""
    if "json" not in answer.headers.get("content-type", "json"):
        for chunk in answer.chunks():
            session.streams.write(stream, chunk)
        return
    display = session.streams.progress(stream)
    try:
        for message in answer.messages():
            if problem := message.get("errorDetail") or message.get("error"):
                raise LabkitError(problem["message"] if isinstance(problem, dict) else str(problem))
            if not quiet and message.get("aux") is None:
                display.show(message)
    except BaseException as error:
        answer.close()  # the engine ends what nobody waits for any more
        display.end(str(error) or "interrupted")
        raise
    display.end()


class Lines:
    """Messages line by line, without bars: for files and pipes."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def show(self, message: Message) -> None:
        if not bar(message, _WIDE):
            self._write(line(message))

    def end(self, failure: str = "") -> None:
        """All has been written."""


class Bars:
    """A line for each layer, overwritten in place: for terminals (console_codes(4))."""

    def __init__(self, write: Callable[[str], None], descriptor: int = _STDOUT) -> None:
        self._write = write
        self._descriptor = descriptor
        self._rows: dict[str, int] = {}

    def show(self, message: Message) -> None:
        name = message.get("id", "")
        moving = "progressDetail" in message and "stream" not in message
        if not name or not moving:
            self._rows.clear()  # what stands above is finished: nothing may move over this line
            self._write(line(message))
            return
        begun = "" if name in self._rows else "\n"
        row = self._rows.setdefault(name, len(self._rows))
        up = len(self._rows) - row
        columns = (terminal_size(self._descriptor) or (0, _WIDE))[1]
        text = f"{name}: {message.get('status', '')} {bar(message, columns)}"
        self._write(f"{begun}\x1b[{up}A\x1b[2K\r{text}\r\x1b[{up}B")

    def end(self, failure: str = "") -> None:
        """The cursor stands below the last line already."""


def line(message: Message) -> str:
    """A message without a bar, on a line of its own."""
    if (stream := message.get("stream")) is not None:
        return str(stream)
    status = message.get("status", "")
    if not status:
        return ""
    return f"{message['id']}: {status}\n" if message.get("id") else f"{status}\n"


def bar(message: Message, columns: int) -> str:
    """How far a message says that its layer is: a bar where there is room, and bytes of bytes; "" if it doesn't."""
    detail = message.get("progressDetail") or {}
    current, total = detail.get("current") or 0, detail.get("total") or 0
    if current <= 0 and total <= 0:
        return ""
    done = human_size(current)
    if total <= 0:
        return f"{done:>8}"
    half_percents = min(50, current * 100 // total // 2)
    drawn = f"[{'=' * half_percents}>{' ' * (50 - half_percents)}] " if columns > 110 else ""
    return drawn + (f"{done:>8}" if current > total else f"{done:>8}/{human_size(total)}")
