"""Containers as `docker ps` shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.engine import views
from labkit.engine.clock import parse_rfc3339
from labkit.engine.container import Container
from labkit.engine.container_filters import Filter
from labkit.engine.models import State
from labkit.engine.settings import Settings
from labkit.errors import InvalidParameter
from tests.engine.records import IDENTITY, IMAGE, record

STARTED = "2026-11-24T12:00:00Z"
START = parse_rfc3339(STARTED) / 1e9
Make = Callable[..., Container]
MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("path", "args", "text"), [("sh", [], "sh"), ("sh", ["-c", "a b"], "sh -c 'a b'"), ("/x", ["", "y"], "/x  y")]
)
def test_command(path: str, args: list[str], text: str) -> None:
    assert views.command(path, args) == text


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes containers with this state and body."""
    made: list[Container] = []

    def container(state: dict[str, Any] | None = None, **body: Any) -> Container:
        asked = record(**body)
        asked.State = State(**state or {})
        asked.Created = STARTED
        (tmp_path / "containers" / asked.Id).mkdir(parents=True, exist_ok=True)
        made.append(Container(asked, Settings(str(tmp_path), str(tmp_path))))
        return made[-1]

    yield container
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({}, "Created"),
        ({"Status": "running", "Running": True, "StartedAt": STARTED}, "Up 2 minutes"),
        ({"Status": "paused", "Running": True, "Paused": True, "StartedAt": STARTED}, "Up 2 minutes (Paused)"),
        ({"Status": "exited", "ExitCode": 3, "FinishedAt": STARTED}, "Exited (3) 2 minutes ago"),
        ({"Status": "dead", "Dead": True}, "Dead"),
    ],
)
def test_status(make: Make, state: dict[str, Any], text: str) -> None:
    assert views.status(make(state), START + 120) == text


@pytest.mark.parametrize(
    ("asked", "tags", "shown"),
    [
        ("alpine", {"alpine:latest": IMAGE}, "alpine"),
        ("alpine:3", {"alpine:3": IMAGE}, "alpine:3"),
        ("alpine", {"alpine:latest": "sha256:other"}, IMAGE),
        ("alpine", {}, IMAGE),
        ("localhost:5000/a", {"localhost:5000/a:latest": IMAGE}, "localhost:5000/a"),
        ("eeee", {}, "eeee"),
        (IMAGE, {}, IMAGE),
        ("alpine@sha256:1", {}, "alpine@sha256:1"),
    ],
)
def test_the_name_of_an_image_is_shown_while_it_means_that_image(
    make: Make, asked: str, tags: dict[str, str], shown: str
) -> None:
    assert views.image_name(make(Image=asked), tags) == shown


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ({}, True), ({"id": ["0123"]}, True), ({"id": ["123"]}, False), ({"name": ["bo"]}, True),
        ({"name": ["^box$"]}, True), ({"name": ["/box"]}, True), ({"name": ["^bo$"]}, False),
        ({"name": ["other", "box"]}, True), ({"status": ["exited"]}, True), ({"status": ["running"]}, False),
        ({"exited": ["3"]}, True), ({"exited": ["0"]}, False), ({"label": ["a"]}, True), ({"label": ["a=b"]}, True),
        ({"label": ["a=c"]}, False), ({"label": ["a", "x"]}, False), ({"network": ["bridge"]}, True),
        ({"network": ["host"]}, False), ({"health": ["none"]}, True), ({"ancestor": ["alpine"]}, True),
        ({"volume": ["x"]}, False), ({"name": ["box"], "status": ["running"]}, False), ({"name": []}, True),
        ({"before": ["x"]}, True), ({"since": ["x"]}, False),
        ({"name": ["^/?b"]}, True), ({"name": ["^/box$"]}, True), ({"name": ["^o"]}, False), ({"name": ["("]}, False),
        ({"isolation": ["x"]}, True), ({"is-task": ["false"]}, True), ({"is-task": ["true"]}, False),
        ({"publish": ["80"]}, False), ({"expose": ["80-90/udp"]}, False),
    ],
)  # fmt: skip
def test_filters(make: Make, filters: dict[str, list[str]], passes: bool) -> None:
    container = make({"Status": "exited", "ExitCode": 3, "StartedAt": STARTED}, Labels={"a": "b"})
    chosen = Filter(filters, {"before": START + 1, "since": START + 1}, {IMAGE})
    assert chosen.passes(container) is passes


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"colour": ["red"]}, "invalid filter 'colour'"),
        ({"status": ["gone"]}, "invalid filter 'status=gone'"),
        ({"is-task": ["x"]}, r"invalid filter 'is-task=\[x\]'"),
        ({"exited": ["x"]}, 'strconv.Atoi: parsing "x": invalid'),
        ({"exited": ["9" * 5000]}, "strconv.Atoi: .*: invalid"),
        ({"publish": ["9" * 5000]}, "value out of range"),
        ({"expose": ["x"]}, "error while looking up for expose x: "),
        ({"publish": ["1:2"]}, "should not contain ':': 1:2"),
        ({"publish": ["90-80"]}, "error while looking up for publish 90-80: invalid range"),
    ],
)
def test_filters_that_are_none(filters: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        Filter(filters, {}, set())


def test_one_filter_looks_at_stopped_containers_too() -> None:
    assert Filter({"status": ["exited"]}, {}, set()).all_states
    assert not Filter({"status": [], "name": ["x"], "exited": ["0"]}, {}, set()).all_states


def test_a_summary_is_made_anew_when_it_has_changed(make: Make) -> None:
    container, summaries = make({"Status": "running", "Running": True, "StartedAt": STARTED}), views.Summaries()
    tags = {f"{container.record.Config.Image}:latest": container.record.Image}
    first = summaries.get(container, tags, START + 120)
    assert summaries.get(container, tags, START + 121) is first
    assert b'"Status":"Up 3 minutes"' in bytes(summaries.get(container, tags, START + 180))
    container.record.Name = "/other"
    container.save()
    assert b'"Names":["/other"]' in bytes(summaries.get(container, tags, START + 180))
    named = f'"Image":"{container.record.Config.Image}"'.encode()
    assert named in bytes(summaries.get(container, tags, START + 180))
    assert named not in bytes(summaries.get(container, dict.fromkeys(tags, "sha256:other"), START + 180))


def test_inspect_tells_what_is_hidden_unless_nothing_is(make: Make) -> None:
    view = views.inspect(make(), size=False)
    assert (view["Id"], view["Name"], view["Path"], view["Args"]) == (IDENTITY, "/box", "sh", [])
    assert "/proc/kcore" in view["HostConfig"].MaskedPaths
    assert views.inspect(make(HostConfig={"Privileged": True}), size=False)["HostConfig"].MaskedPaths is None
