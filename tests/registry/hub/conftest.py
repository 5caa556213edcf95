"""Hubs with real images: of busybox in a moment, of Debian packages once for all tests."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from labkit.registry.hub.building import Made, build
from tests.support.fixtures import busybox_archive

__all__ = ["busybox_archive"]


def say(name: str, line: str) -> None:
    print(f"{name}: {line}")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A hub with busybox and what stands on it."""
    root = tmp_path / "hub"
    build(root, ["busybox", "alpine"], (), say)
    return root


@pytest.fixture(scope="session")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[Path, list[Made]], ...]:
    """Two hubs that were built at the same time from the same mirror, and know nothing of each other."""
    roots = [tmp_path_factory.mktemp(f"hub{number}") for number in range(2)]
    made: dict[Path, list[Made]] = {}

    def work(root: Path) -> None:
        made[root] = build(root, ["busybox", "debian", "nginx"], (), say)

    threads = [threading.Thread(target=work, args=(root,)) for root in roots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tuple((root, made[root]) for root in roots)


@pytest.fixture(scope="session")
def big(twice: tuple[tuple[Path, list[Made]], ...]) -> Path:
    """A hub with busybox, debian and nginx; it is not to be changed."""
    return twice[0][0]
