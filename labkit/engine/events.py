"""Events: what happened to containers and images, as `docker events` shows it (moby `daemon/events`)."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec

KEPT = 256
"""How many past events `--since` can reach back to, as in dockerd."""

Event = dict[str, Any]


class Events:
    """The recent events, and the queues of those who listen."""

    def __init__(self) -> None:
        self.recent: deque[Event] = deque(maxlen=KEPT)
        self.listeners: set[asyncio.Queue[Event]] = set()

    def publish(self, kind: str, action: str, identity: str, attributes: dict[str, str]) -> None:
        """Tell that `action` happened to an object of a kind (`container`, `image`)."""
        now = time.time_ns()
        event: Event = {
            "status": action,
            "id": identity,
            "from": attributes.get("image", "") if kind == "container" else "",
            "Type": kind,
            "Action": action,
            "Actor": {"ID": identity, "Attributes": attributes},
            "scope": "local",
            "time": now // 10**9,
            "timeNano": now,
        }
        if kind != "container":  # only containers and images have these older fields, as with dockerd
            del event["from"]
        if kind not in ("container", "image"):
            del event["status"], event["id"]
        self.recent.append(event)
        for queue in self.listeners:
            queue.put_nowait(event)

    async def follow(self, since: int, until: int, filters: dict[str, list[str]]) -> AsyncIterator[bytes]:
        """Past events from `since` on, then new ones until `until` (ns; 0: from now on, without end) as JSON lines."""
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self.listeners.add(queue)
        try:
            for event in list(self.recent) if since else ():
                if event["timeNano"] >= since and not (until and event["timeNano"] > until) and matches(event, filters):
                    yield msgspec.json.encode(event) + b"\n"
            while fresh := await self._next(queue, until):
                if matches(fresh, filters):
                    yield msgspec.json.encode(fresh) + b"\n"
        finally:
            self.listeners.discard(queue)

    @staticmethod
    async def _next(queue: asyncio.Queue[Event], until: int) -> Event | None:
        if not until:
            return await queue.get()
        left = (until - time.time_ns()) / 1e9
        try:
            return await asyncio.wait_for(queue.get(), left) if left > 0 else None
        except TimeoutError:
            return None


def matches(event: Event, filters: dict[str, list[str]]) -> bool:
    """Whether an event passes the `filters` of `GET /events`: any value of a filter, all filters."""
    attributes = event["Actor"]["Attributes"]
    for name, values in filters.items():
        if name == "type":
            passed = event["Type"] in values
        elif name == "event":
            passed = any(event["Action"] == value or event["Action"].startswith(f"{value}:") for value in values)
        elif name in ("container", "image", "volume"):
            passed = event["Type"] == name and _names(event, values)
        elif name == "label":
            passed = all(_labelled(attributes, value) for value in values)
        elif name in ("scope", "daemon"):
            passed = name == "daemon" or event["scope"] in values
        else:
            passed = False
        if values and not passed:
            return False
    return True


def _names(event: Event, values: list[str]) -> bool:
    identity, name = event["Actor"]["ID"], event["Actor"]["Attributes"].get("name", "")
    return any(identity.startswith(value) or name == value.lstrip("/") for value in values)


def _labelled(attributes: dict[str, str], wanted: str) -> bool:
    name, sign, value = wanted.partition("=")
    return name in attributes and (not sign or attributes[name] == value)
