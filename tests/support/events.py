"""What the engine tells of containers, while a test waits for it: no polling."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import uuid
from collections.abc import Iterator
from typing import Any

from tests.support.daemon import PATIENCE, Daemon


class Told:
    """The events of one engine from `begun` on, in their order."""

    def __init__(self, lines: subprocess.Popen[bytes]) -> None:
        self.lines = lines
        self.seen: list[dict[str, Any]] = []

    def until(self, action: str, name: str = "", count: int = 1) -> dict[str, Any]:
        """Wait for (the `count`th further) event with this action, of a container of this name; returns it."""
        assert self.lines.stdout
        while line := self.lines.stdout.readline():
            event = json.loads(line)
            self.seen.append(event)
            if event["Action"] == action and name in ("", event["Actor"]["Attributes"].get("name")):
                count -= 1
                if not count:
                    return dict(event)
        raise AssertionError(f"no {action} of {name or 'any container'} in {PATIENCE} s, but: {self.actions()}")

    def skip(self, word: str) -> None:
        """Pass over what is told before something with this word in it."""
        assert self.lines.stdout
        while word not in (line := self.lines.stdout.readline().decode()):
            assert line, f"nothing is told of {word}"

    def actions(self) -> list[str]:
        """What has been told of containers so far."""
        return [event["Action"] for event in self.seen if event["Type"] == "container"]


@contextlib.contextmanager
def events(daemon: Daemon) -> Iterator[Told]:
    """Listen to an engine. What is waited for and doesn't come in time fails the test."""
    words = ["docker", "events", "--since", "1", "--format", "{{json .}}"]
    with subprocess.Popen(words, env=daemon.environment(), stdout=subprocess.PIPE) as lines:
        alarm = threading.Timer(PATIENCE, lines.kill)
        alarm.start()
        try:
            told = Told(lines)
            mark = f"mark-{uuid.uuid4().hex}"
            daemon.docker("tag", "busybox", mark)
            told.skip(mark)
            daemon.docker("rmi", mark)
            yield told
        finally:
            alarm.cancel()
            lines.kill()
