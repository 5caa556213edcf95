"""The standard streams of a command that runs in a notebook cell: text as it comes, no input, no terminal."""

from __future__ import annotations

import codecs
import signal
import sys
import threading
from typing import TYPE_CHECKING, TextIO

from labkit.cli.grammar import StatusError
from labkit.cli.streams import STDERR, STDOUT, Streams

if TYPE_CHECKING:
    from labkit.cli.live import Live
    from labkit.cli.progress import ProgressDisplay

_NOBODY = (
    "Error: nobody can be asked here. Log in from a terminal (`labkit login`), or give -u and -p: what is written in a "
    "cell is stored with the notebook"
)


class CellStreams(Streams):
    """Writes to the cell's outputs. Interrupting the kernel sends SIGINT to the attached container."""

    has_terminal = False
    takes_archives = False
    displays = True
    asks = True  # in the cell
    patience = 2  # the second interrupt ends the cell, whatever the container does
    no_tty = (
        "the input device is not a TTY: a notebook cell has no terminal. Leave out -t, or start the container "
        "with -d and look at it with `%docker exec` and `%docker logs`"
    )

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {STDOUT: decoder("replace"), STDERR: decoder("replace")}
        self._last = STDOUT

    def write(self, stream: int, data: bytes | memoryview) -> None:
        self._put(stream, self._decoders[stream].decode(bytes(data)))

    def _put(self, stream: int, text: str) -> None:
        if stream != self._last:
            self._file(self._last).flush()  # what was written first is shown first
            self._last = stream
        if text:
            self._file(stream).write(text)

    @staticmethod
    def _file(stream: int) -> TextIO:
        # Looked up at each write: IPython and its tests exchange them.
        return sys.stdout if stream == STDOUT else sys.stderr

    def finish(self) -> None:
        """Writes what was kept of an incomplete character, and shows all."""
        for stream, decoder in self._decoders.items():
            self._put(stream, decoder.decode(b"", final=True))
        sys.stdout.flush()
        sys.stderr.flush()

    def show(self, value: object) -> None:
        from IPython.display import display

        self.finish()
        display(value)  # type: ignore[no-untyped-call]  # IPython has no types

    def progress(self, stream: int) -> ProgressDisplay:
        from labkit.notebook.progress import CellProgress, can_update

        return CellProgress(self) if can_update() else super().progress(stream)

    def live(self) -> Live:
        from labkit.notebook.progress import CellText, can_update

        return CellText() if can_update() else super().live()

    def ask(self, prompt: str, hidden: bool = False) -> str:
        """Asks in the cell, by the front end's own field: what is typed there is not part of the notebook."""
        from getpass import getpass

        from IPython.core.error import StdinNotImplementedError

        self.finish()
        try:
            return getpass(prompt) if hidden else input(prompt)
        except (StdinNotImplementedError, EOFError) as error:
            raise StatusError(_NOBODY) from error

    def signals(self) -> list[int]:
        # Only the main thread may catch signals, and only the interrupt is meant for what runs in a cell.
        return [signal.SIGINT] if threading.current_thread() is threading.main_thread() else []

    def lingers(self, container: str) -> str:
        return (
            f"\n{container[:12]} got SIGINT and still runs. The first process of a PID namespace only gets signals "
            "that it has a handler for (pid_namespaces(7)).\nInterrupt again to end this cell and leave the "
            f"container running; `%docker kill {container[:12]}` ends it.\n"
        )
