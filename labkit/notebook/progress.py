"""The progress of a pull or push in a cell: one output that is redrawn while it runs, and then says what came of it.

No widget: `display_data` and `update_display_data` of the Jupyter messaging protocol, so that it needs no extension, a
stored notebook keeps the last state, and another run of the cell ends in the same words.
"""

from __future__ import annotations

import html
import sys
import time
from collections import Counter
from typing import Any

from IPython.core.getipython import get_ipython
from IPython.display import display

from labkit.cli.live import Live
from labkit.cli.progress import Message, bar, line
from labkit.cli.streams import Streams
from labkit.cli.units import human_size

_INTERVAL = 0.1  # seconds between two states that differ in their numbers only
_COLUMNS = 120  # wide enough for a bar
_CAPTION = "Layers, and how far each is"


def can_update() -> bool:
    """Whether there is a front end that redraws outputs: IPython in a terminal would print each state anew."""
    return hasattr(get_ipython(), "kernel")


class CellProgress:
    """What a progress stream says: lines until there are layers, from then on one output."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._handle: Any = None  # IPython's DisplayHandle: IPython has no types
        self._layers: dict[str, Message] = {}
        self._sizes: dict[str, int] = {}
        self._said: list[str] = []
        self._shown = 0.0

    def show(self, message: Message) -> None:
        name, news = message.get("id", ""), True
        if name and "progressDetail" in message and "stream" not in message:
            news = self._layers.get(name, {}).get("status") != message.get("status")
            self._layers[name] = message
            self._sizes[name] = max(self._sizes.get(name, 0), (message["progressDetail"] or {}).get("total") or 0)
        elif not self._layers:
            self._streams.out(line(message))
            return
        else:
            self._said.append(line(message).rstrip("\n"))
        now = time.monotonic()
        if news or now - self._shown >= _INTERVAL:
            self._shown = now
            self._draw(self._state())

    def end(self, failure: str = "") -> None:
        """Leaves the summary; after a failure, how far each layer was."""
        if not self._layers:
            return
        self._draw(self._state(f"Ended before it was done: {failure}") if failure else self._summary())

    def _draw(self, data: dict[str, str]) -> None:
        if self._handle is not None:
            self._handle.update(data, raw=True)
            return
        sys.stdout.flush()  # what was said before stands above
        publish: Any = display
        self._handle = publish(data, raw=True, display_id=True)

    def _state(self, remark: str = "") -> dict[str, str]:
        """All layers with their bars."""
        lines = [f"{name}: {_told(message)}" for name, message in self._layers.items()]
        rows = "".join(_row(name, message) for name, message in self._layers.items())
        head = "".join(f'<th scope="col">{title}</th>' for title in ("Layer", "Status", "Progress"))
        table = f"<table><caption>{_CAPTION}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        said = [*self._said, *([remark] if remark else [])]
        return {
            "text/plain": "\n".join([*lines, *said]),
            "text/html": table + "".join(f"<p>{html.escape(text)}</p>" for text in said),
        }

    def _summary(self) -> dict[str, str]:
        """How many layers came to which end, and what was said of the whole."""
        ends = Counter(str(message.get("status", "")) for message in self._layers.values())
        told = ", ".join(f"{number} {end.lower()}" for end, number in ends.items())
        size = sum(self._sizes.values())
        count = f"{len(self._layers)} layer{'' if len(self._layers) == 1 else 's'}: {told}"
        said = [f"{count} ({human_size(size)})" if size else count, *self._said]
        return {"text/plain": "\n".join(said), "text/html": "<br>".join(map(html.escape, said))}


class CellText(Live):
    """A text that is replaced, in one output of the cell; the last one stays when the cell is interrupted."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        said = {"text/plain": text.rstrip("\n")}
        if self._handle is not None:
            self._handle.update(said, raw=True)
            return
        sys.stdout.flush()
        publish: Any = display
        self._handle = publish(said, raw=True, display_id=True)


def _told(message: Message) -> str:
    return f"{message.get('status', '')} {bar(message, _COLUMNS)}".rstrip()


def _row(name: str, message: Message) -> str:
    detail: dict[str, Any] = message.get("progressDetail") or {}
    current, total = detail.get("current") or 0, detail.get("total") or 0
    drawn = f'<progress max="{total}" value="{min(current, total)}"></progress> ' if total else ""
    numbers = html.escape(bar(message, 0).strip())
    status = html.escape(str(message.get("status", "")))
    return f'<tr><th scope="row">{html.escape(name)}</th><td>{status}</td><td>{drawn}{numbers}</td></tr>'
