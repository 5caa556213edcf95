"""Fixtures of the image tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.images.store import ImageStore
from tests.images.stores import assert_whole


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = ImageStore(tmp_path / "store")
    yield opened
    opened.close()
    assert_whole(tmp_path / "store")
