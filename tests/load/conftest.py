"""The daemon for these tests."""

from __future__ import annotations

from tests.support.fixtures import busybox_archive, daemon, shared_daemon

__all__ = ["busybox_archive", "daemon", "shared_daemon"]
