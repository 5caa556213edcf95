"""`docker pull`, `push` and `run` of what is in a registry, with the real docker command and Debian's registry."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.images.tars import member, tar
from tests.registry.images import Honest
from tests.support.daemon import PATIENCE, Daemon
from tests.support.registries import Asked, Registry, Scripted, scripted

pytestmark = pytest.mark.root
RUN = ("run", "--rm", "--network", "none")


@pytest.fixture
def name(daemon: Daemon, registry: Registry) -> Iterator[str]:
    """A repository with busybox in it, which this daemon has pushed and doesn't have any more."""
    made = f"{registry.host}/lesson/{uuid.uuid4().hex[:8]}"
    daemon.docker("tag", "busybox", made)
    daemon.docker("push", made)
    daemon.docker("rmi", made)
    yield made
    for line in daemon.out("images", "--format", "{{.Repository}}:{{.Tag}}", made).split():
        daemon.docker("rmi", line)


@pytest.fixture
def script() -> Iterator[Callable[[Callable[[Asked], None]], Scripted]]:
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(scripted(answer))


def test_run_pulls_what_is_missing(daemon: Daemon, name: str) -> None:
    done = daemon.docker(*RUN, name, "echo", "pulled")
    assert done.stdout == b"pulled\n"
    said = done.stderr.decode()
    assert said.startswith(f"Unable to find image '{name}:latest' locally\nlatest: Pulling from lesson/")
    assert re.search(r"Digest: sha256:[0-9a-f]{64}\nStatus: Downloaded newer image for " + name + ":latest\n$", said)
    assert daemon.docker(*RUN, name, "true").stderr == b""


def test_what_pull_says(daemon: Daemon, name: str) -> None:
    """busybox is here under another name: nothing but its documents is downloaded, and the name is new."""
    lines = daemon.out("pull", name).split("\n")
    assert lines[0] == "Using default tag: latest"
    assert lines[1] == f"latest: Pulling from {name.partition('/')[2]}"
    assert lines[2].endswith(": Already exists")
    digest = lines[-3].removeprefix("Digest: ")
    assert lines[-2:] == [f"Status: Downloaded newer image for {name}:latest", f"{name}:latest"]
    assert daemon.out("pull", name).split("\n")[-2] == f"Status: Image is up to date for {name}:latest"
    assert json.loads(daemon.out("inspect", name))[0]["RepoDigests"][-1] == f"{name}@{digest}"
    daemon.docker("rmi", f"{name}:latest")
    assert daemon.out("pull", f"{name}@{digest}").split("\n")[-2:] == [
        f"Status: Downloaded newer image for {name}@{digest}",
        f"{name}@{digest}",
    ]
    assert daemon.docker(*RUN, f"{name}@{digest}", "echo", "by digest").stdout == b"by digest\n"
    daemon.docker("rmi", f"{name}@{digest}")


def test_all_tags(daemon: Daemon, name: str) -> None:
    for tag in ("one", "two"):
        daemon.docker("tag", "busybox", f"{name}:{tag}")
    daemon.docker("push", "-a", name)
    daemon.docker("rmi", f"{name}:one", f"{name}:two")
    said = daemon.out("pull", "-a", name)
    assert said.endswith(f"Status: Downloaded newer image for {name}\n{name}")
    assert set(daemon.out("images", "--format", "{{.Tag}}", name).split()) == {"latest", "one", "two"}


def test_events(daemon: Daemon, name: str) -> None:
    daemon.docker("pull", name)
    daemon.docker("push", name)
    moments = ("--since", "60s", "--until", f"{time.time():.9f}")  # a duration would be cut to whole seconds
    told = daemon.out("events", *moments, "--filter", "type=image", "--format", "json")
    events = [json.loads(line) for line in told.split("\n")]
    found = [
        (event["Action"], event["Actor"]["Attributes"]["name"])
        for event in events
        if event["Actor"]["ID"].startswith(name)
    ]
    assert found == [("push", name), ("pull", name), ("push", name)]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("pull", "{host}/nothing:x"), "manifest for {host}/nothing:x not found: manifest unknown: manifest unknown"),
        (("push", "{host}/nothing:x"), "An image does not exist locally with the tag: {host}/nothing"),
        (("pull", "{host}/Bad"), "invalid reference format: repository name (Bad) must be lowercase"),
        (("pull", "--platform", "linux/s390x/x/y", "{host}/nothing"), "invalid platform"),
        (("pull", "127.0.0.1:1/x"), "connect: connection refused"),
    ],
)
def test_what_goes_wrong(daemon: Daemon, registry: Registry, command: tuple[str, ...], expected: str) -> None:
    done = daemon.docker(*(part.format(host=registry.host) for part in command), check=False)
    assert done.returncode == 1
    assert expected.format(host=registry.host) in done.stderr.decode()


class Still(Honest):
    """A registry that keeps still when asked for its manifest, or else for its layer, until the client hangs up."""

    def __init__(self, at_once: bool) -> None:
        super().__init__([tar(member("file", b"data"))])
        self.at_once = at_once
        self.asked_for, self.gone = threading.Event(), threading.Event()

    def answer(self, asked: Asked) -> None:
        if self.at_once:
            self.keep_still(asked)
        else:
            super().answer(asked)

    def blob(self, asked: Asked, data: bytes) -> None:
        if data == self.config:
            super().blob(asked, data)
        else:
            self.keep_still(asked)

    def keep_still(self, asked: Asked) -> None:
        self.asked_for.set()
        if asked.connection.recv(1) == b"":
            self.gone.set()
        asked.end()


@pytest.mark.parametrize("at_once", [True, False])
def test_interrupted(daemon: Daemon, script: Callable[[Callable[[Asked], None]], Scripted], at_once: bool) -> None:
    """A client that goes ends its pull, before and while layers come: the daemon hangs up on the registry."""
    still = Still(at_once)
    server = script(still.answer)
    client = subprocess.Popen(
        ["docker", "pull", f"{server.host}/slow"],
        env=daemon.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert still.asked_for.wait(PATIENCE)
    os.kill(client.pid, signal.SIGINT)
    assert client.communicate(timeout=PATIENCE)[0]
    assert still.gone.wait(PATIENCE)
