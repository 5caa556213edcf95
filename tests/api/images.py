"""A server with the image routes, on an engine that has nothing but images, and a client of it."""

from __future__ import annotations

import http.client
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

from labkit.engine.settings import Settings
from labkit.engine.traces import Traces
from labkit.images.removal import ContainerUse
from labkit.images.store import ImageStore
from tests.api.serving import Served


class FakeEngine:
    """Just what image routes need."""

    def __init__(self, root: Path) -> None:
        self.images = ImageStore(root)
        self.settings = Settings(str(root.parent), str(root.parent), "")
        self.traces = Traces()
        self.events = SimpleNamespace(publish=self._publish)
        self.published: list[tuple[str, str, str, str]] = []
        self.uses: dict[str, list[ContainerUse]] = {}

    def _publish(self, kind: str, action: str, identity: str, attributes: dict[str, str]) -> None:
        self.published.append((kind, action, identity, attributes.get("name", "")))

    def containers_using(self, image: str) -> list[ContainerUse]:
        return self.uses.get(image, [])


class Api:
    """A client on a server with the image routes."""

    def __init__(self, served: Served, engine: FakeEngine) -> None:
        self.served = served
        self.engine = engine

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("docker")
        connection.sock = self.served.connect()
        url = f"{path}?{urlencode(query, doseq=True)}" if query else path
        connection.request(method, url, body, {"Content-Type": "application/x-tar"}, encode_chunked=True)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, data

    def json(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        status, data = self.call(method, path, body, **query)
        assert status == 200, data
        return json.loads(data)

    def lines(self, method: str, path: str, body: Any = None, **query: Any) -> list[dict[str, Any]]:
        status, data = self.call(method, path, body, **query)
        assert status == 200, data
        return [json.loads(line) for line in data.splitlines()]

    def error(self, status: int, method: str, path: str, body: Any = None, **query: Any) -> str:
        found, data = self.call(method, path, body, **query)
        assert found == status, data
        return str(json.loads(data)["message"])

    def docker(self, *arguments: str, stdin: bytes | None = None, fails: bool = False) -> str:
        command = ["docker", "-H", f"unix://{self.served.path}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True)
        assert (done.returncode != 0) is fails, done.stderr
        return (done.stderr if fails else done.stdout).decode()
