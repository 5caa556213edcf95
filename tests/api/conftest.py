"""Fixtures of the API's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from ssl import SSLContext

import pytest

from labkit.api.http import Route
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
