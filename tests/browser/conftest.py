"""The image for these tests."""

from __future__ import annotations

from tests.support.fixtures import busybox_archive

__all__ = ["busybox_archive"]
