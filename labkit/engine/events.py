"""Events: what happened to containers, images, networks and volumes, as in `docker events` (moby `daemon/events`).

Each is encoded once, whoever listens. A listener that doesn't read misses events when too many wait for it, as with
dockerd, and costs no more memory than those.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import msgspec

KEPT = 256
"""How many past events `--since` can reach back to, as in dockerd."""
WAITING = 1024
"""How many events may wait for a listener, as in dockerd."""

Event = dict[str, Any]
Filters = Mapping[str, list[str]]


class Told(NamedTuple):
    """An event, and the line of JSON that it is sent as."""

    event: Event
    line: bytes


class Events:
    """The recent events, and the queues of those who listen."""

    def __init__(self) -> None:
        self.recent: deque[Told] = deque(maxlen=KEPT)
        self.listeners: set[asyncio.Queue[Told]] = set()

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
        if not event["from"]:  # only containers and images have these older fields, as with dockerd
            del event["from"]
        if kind not in ("container", "image"):
            del event["status"], event["id"]
        told = Told(event, msgspec.json.encode(event) + b"\n")
        self.recent.append(told)
        for queue in self.listeners:
            if not queue.full():
                queue.put_nowait(told)

    async def follow(self, since: int, until: int, filters: Filters) -> AsyncIterator[bytes]:
        """Past events from `since` on, then new ones until `until` (ns; 0: from now on, without end) as JSON lines."""
        queue: asyncio.Queue[Told] = asyncio.Queue(WAITING)
        self.listeners.add(queue)
        try:
            for event, line in list(self.recent) if since else ():
                if event["timeNano"] >= since and not (until and event["timeNano"] > until) and matches(event, filters):
                    yield line
            while fresh := await self._next(queue, until):
                if matches(fresh.event, filters):
                    yield fresh.line
        finally:
            self.listeners.discard(queue)

    @staticmethod
    async def _next(queue: asyncio.Queue[Told], until: int) -> Told | None:
        if not until:
            return await queue.get()
        left = (until - time.time_ns()) / 1e9
        try:
            return await asyncio.wait_for(queue.get(), left) if left > 0 else None
        except TimeoutError:
            return None


_BY_NAME = ("container", "daemon", "network", "volume", "plugin", "node", "service", "secret", "config")
_WITH_COMMAND = {"health_status", "exec_create", "exec_start"}


def matches(event: Event, filters: Filters) -> bool:
    """Whether an event passes the `filters` of `GET /events`, as moby's `daemon/events/filter.go` has them.

    Any value of a filter, all filters. Filters of objects go by the beginning of the actor's ID or name, whatever kind
    it is of; unknown ones count for nothing.
    """
    attributes, identity = event["Actor"]["Attributes"], event["Actor"]["ID"]
    for name, values in filters.items():
        if not values:
            continue
        if name == "type":
            passed = event["Type"] in values
        elif name == "event":
            passed = _is_action(event["Action"], values)
        elif name == "scope":
            passed = event["scope"] in values
        elif name == "image":
            passed = not _image_names(event).isdisjoint(values)
        elif name == "label":
            passed = all(_labelled(attributes, value) for value in values)
        elif name in _BY_NAME:
            passed = identity.startswith(tuple(values)) or attributes.get("name", "").startswith(tuple(values))
        else:
            passed = True
        if not passed:
            return False
    return True


def _is_action(action: str, values: list[str]) -> bool:
    """The whole action; its beginning, if one of those is asked for that go on with a command or a status."""
    return action.startswith(tuple(values)) if _WITH_COMMAND.intersection(values) else action in values


def _image_names(event: Event) -> set[str]:
    """What an image may be called by: the actor's ID, the image's name, both also without their tag."""
    attribute = "name" if event["Type"] == "image" else "image"
    names = {event["Actor"]["ID"], event["Actor"]["Attributes"].get(attribute, "")}
    return names | {_without_tag(name) for name in names}


def _without_tag(name: str) -> str:
    """A reference without its tag or digest: a colon that isn't a port's."""
    name = name.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name


def _labelled(attributes: dict[str, str], wanted: str) -> bool:
    name, sign, value = wanted.partition("=")
    return name in attributes and (not sign or attributes[name] == value)
