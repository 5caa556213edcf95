"""Fixtures of the API's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from ssl import SSLContext

import pytest

from labkit.api import hub, images
from labkit.api.http import Route
from tests.api.images import Api, FakeEngine
from tests.api.serving import Serve, Served


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[Served] = []

    def start(*routes: Route, tls: SSLContext | None = None) -> Served:
        started.append(Served(list(routes), tmp_path / "docker.sock", tls))
        return started[-1]

    yield start
    for served in started:
        served.close()


@pytest.fixture
def api(serve: Serve, tmp_path: Path) -> Iterator[Api]:
    engine = FakeEngine(tmp_path / "images")
    yield Api(serve(*images.routes(engine), *hub.routes(engine)), engine)
    engine.images.close()
    assert os.listdir(tmp_path / "images/tmp") == []
