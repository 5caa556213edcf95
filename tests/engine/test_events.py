"""Events: which pass the filters, and what a listener hears."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from labkit.engine.events import KEPT, WAITING, Events, matches

EVENT: dict[str, Any] = {
    "Type": "container", "Action": "exec_create: sh -c true", "scope": "local",
    "Actor": {"ID": "abcdef", "Attributes": {"name": "box", "image": "alpine:3.20", "colour": "red"}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ({}, True), ({"type": ["container"]}, True), ({"type": ["image", "container"]}, True),
        ({"type": ["image"]}, False), ({"event": ["exec_create"]}, True), ({"event": ["exec"]}, False),
        ({"event": ["exec", "exec_start"]}, True), ({"event": ["exec_create: sh -c true"]}, True),
        ({"container": ["abc"]}, True), ({"container": ["box"]}, True), ({"container": ["x", "bo"]}, True),
        ({"container": ["ox"]}, False), ({"image": ["alpine"]}, True), ({"image": ["alpine:3.20"]}, True),
        ({"image": ["alp"]}, False), ({"image": ["abcdef"]}, True), ({"label": ["colour"]}, True),
        ({"label": ["colour=red"]}, True), ({"label": ["colour=blue"]}, False),
        ({"label": ["colour", "shape"]}, False), ({"scope": ["local"]}, True), ({"scope": ["swarm"]}, False),
        ({"daemon": ["x"]}, False), ({"volume": ["x"]}, False), ({"volume": ["box"]}, True), ({"type": []}, True),
        ({"nosuch": ["x"]}, True),
        ({"type": ["container"], "label": ["colour=blue"]}, False),
    ],
)  # fmt: skip
def test_filters(filters: dict[str, list[str]], passes: bool) -> None:
    assert matches(EVENT, filters) is passes


async def heard(events: Events, since: int, until: int, filters: dict[str, list[str]] | None = None) -> list[str]:
    return [json.loads(line)["Action"] async for line in events.follow(since, until, filters or {})]


def test_the_past_between_two_times() -> None:
    events = Events()
    for action in ("create", "start", "die"):
        events.publish("container", action, "abc", {"name": "box", "image": "alpine"})
    first, second, third = (event["timeNano"] for event, _ in events.recent)
    assert first < second < third
    assert asyncio.run(heard(events, first, third)) == ["create", "start", "die"]
    assert asyncio.run(heard(events, second, second)) == ["start"]
    assert asyncio.run(heard(events, third + 1, third + 2)) == []
    assert asyncio.run(heard(events, 0, third)) == []  # without `since`, the past is not told
    assert asyncio.run(heard(events, first, third, {"event": ["die"]})) == ["die"]
    assert not events.listeners


def test_what_happens_while_listening_until_the_time_comes() -> None:
    async def main() -> list[str]:
        events = Events()
        listening = asyncio.create_task(heard(events, 0, time.time_ns() + 200_000_000, {"type": ["image"]}))
        while not events.listeners:
            await asyncio.sleep(0)
        events.publish("image", "pull", "alpine", {})
        events.publish("container", "start", "abc", {})
        events.publish("image", "delete", "alpine", {})
        return await listening

    assert asyncio.run(main()) == ["pull", "delete"]


def test_a_listener_that_goes_is_forgotten() -> None:
    async def main() -> None:
        events = Events()
        following = events.follow(0, 0, {})
        waiting = asyncio.ensure_future(anext(following))
        while not events.listeners:
            await asyncio.sleep(0)
        events.publish("container", "start", "abc", {"image": "alpine"})
        event = json.loads(await waiting)
        assert isinstance(following, AsyncGenerator)
        await following.aclose()
        assert (event["status"], event["id"], event["from"], event["Actor"]["ID"]) == ("start", "abc", "alpine", "abc")
        assert event["time"] == event["timeNano"] // 10**9
        assert not events.listeners

    asyncio.run(main())


def test_only_the_last_events_are_kept() -> None:
    events = Events()
    for number in range(KEPT + 5):
        events.publish("image", str(number), "x", {})
    assert [event["Action"] for event, _ in events.recent] == [str(number) for number in range(5, KEPT + 5)]
    assert "from" not in events.recent[0].event


@pytest.mark.parametrize(
    ("name", "asked", "passes"),
    [
        ("reg:5000/a/b:1", "reg:5000/a/b", True), ("reg:5000/a/b", "reg:5000/a/b", True), ("reg:5000/a", "reg", False),
        ("a@sha256:00", "a", True), ("a:1", "a:2", False),
    ],
)  # fmt: skip
def test_images_go_by_their_names_without_a_tag(name: str, asked: str, passes: bool) -> None:
    event = {
        "Type": "image",
        "Action": "tag",
        "scope": "local",
        "Actor": {"ID": "sha256:1", "Attributes": {"name": name}},
    }
    assert matches(event, {"image": [asked]}) is passes


def test_a_listener_that_does_not_read_misses_events_and_keeps_none_of_them() -> None:
    async def main() -> None:
        events = Events()
        slow, fast = events.follow(0, 0, {}), events.follow(0, 0, {})
        waiting = [asyncio.ensure_future(anext(one)) for one in (slow, fast)]
        while len(events.listeners) < 2:
            await asyncio.sleep(0)
        heard = []
        for number in range(3 * WAITING):
            events.publish("image", str(number), "x", {})
            heard.append(await waiting[1])
            waiting[1] = asyncio.ensure_future(anext(fast))
            await asyncio.sleep(0)
        first = await waiting[0]
        assert json.loads(first)["Action"] == "0"
        assert first is heard[0]  # the same bytes to all
        assert max(queue.qsize() for queue in events.listeners) <= WAITING
        assert [json.loads(line)["Action"] for line in heard] == [str(number) for number in range(3 * WAITING)]
        waiting[1].cancel()
        for one in (slow, fast):
            assert isinstance(one, AsyncGenerator)
            await asyncio.sleep(0)
            await one.aclose()

    asyncio.run(main())
