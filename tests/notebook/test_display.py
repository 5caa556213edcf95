"""SDK objects as tables: HTML that says what the text says, lists of anything else left alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import docker
import pytest
from IPython.core.interactiveshell import InteractiveShell

import labkit
from labkit.notebook.display import as_html, as_text, register, unregister

pytestmark = pytest.mark.root


class Cells(HTMLParser):
    """The texts and scopes of a table's cells, and its caption."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scopes: list[str | None] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.scopes += [value for name, value in attrs if name == "scope"]
        assert {name for name, _ in attrs} <= {"scope"}  # no script, no style, no colour

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def sdk(engine: str) -> Iterator[docker.DockerClient]:
    client = labkit.connect()
    yield client
    client.close()


@pytest.fixture
def shell() -> Iterator[Any]:
    shell = InteractiveShell()  # type: ignore[no-untyped-call]  # IPython has no types
    register(shell)
    yield shell
    unregister(shell)


def shown(shell: Any, value: Any) -> dict[str, str]:
    bundle: dict[str, str] = shell.display_formatter.format(value)[0]
    return bundle


def test_a_container_and_its_text_twin(sdk: docker.DockerClient, shell: Any) -> None:
    container = sdk.containers.create("labbb", ["sleep", "<9>"], name="a-b", network_mode="none")
    bundle = shown(shell, container)
    table = Cells(bundle["text/html"])
    assert table.tags.count("caption") == 1
    assert table.scopes == ["col"] * 7 + ["row"]
    assert table.texts[0] == "Container"
    assert table.texts[8:12] == ["a-b", container.short_id, "labbb", "sleep <9>"]
    heading, row = bundle["text/plain"].split("\n")
    assert heading.split() == ["NAME", "CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS"]
    columns = re.split(" {3,}", row.strip())
    assert columns[:4] == ["a-b", container.short_id, "labbb", "sleep <9>"]
    assert re.fullmatch(r"(Less than a|\d+) seconds? ago", columns[4])
    assert columns[5] == "created"


def test_lists_of_containers_and_images(sdk: docker.DockerClient, shell: Any) -> None:
    for name in ("one", "two"):
        sdk.containers.create("labbb", "true", name=name, network_mode="none")
    containers = shown(shell, sdk.containers.list(all=True))
    assert Cells(containers["text/html"]).texts[0] == "2 containers"
    assert len(containers["text/plain"].split("\n")) == 3
    sparse = shown(shell, sdk.containers.list(all=True, sparse=True))
    assert Cells(sparse["text/html"]).texts[0] == "2 containers"
    images = shown(shell, sdk.images.list())
    assert "labbb:latest" in images["text/plain"]
    assert Cells(images["text/html"]).scopes[:1] == ["col"]
    assert Cells(shown(shell, sdk.images.get("labbb"))["text/html"]).texts[0] == "Image"


def test_running_and_exited_are_said_in_words(sdk: docker.DockerClient) -> None:
    container = sdk.containers.run("labbb", ["sleep", "99"], detach=True, network_mode="none")
    container.reload()
    assert f"running, process {container.attrs['State']['Pid']} on the host" in str(as_text(container))
    container.kill()
    container.wait()
    container.reload()
    assert "exited with 137" in str(as_text(container))


@pytest.mark.parametrize("value", [[1, 2], [], ["x"], [[]], {"a": 1}])
def test_other_values_look_as_ever(shell: Any, value: object) -> None:
    assert shown(shell, value) == {"text/plain": repr(value)}
    assert (as_text(value), as_html(value)) == (None, None)


def test_a_mixed_list_is_left_alone(sdk: docker.DockerClient, shell: Any) -> None:
    mixed = [sdk.images.get("labbb"), 1]
    assert shown(shell, mixed) == {"text/plain": repr(mixed)}


def test_unregistering_takes_the_tables_away(sdk: docker.DockerClient) -> None:
    shell: Any = InteractiveShell()  # type: ignore[no-untyped-call]  # IPython has no types
    register(shell)
    register(shell)
    image = sdk.images.get("labbb")
    assert "text/html" in shown(shell, image)
    unregister(shell)
    assert shown(shell, [image]) == {"text/plain": repr([image])}
    assert shown(shell, image) == {"text/plain": repr(image)}
    assert shown(shell, [1]) == {"text/plain": "[1]"}
