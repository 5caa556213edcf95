"""The engine for these tests."""

from __future__ import annotations

from tests.client.engines import engine, engine_host

__all__ = ["engine", "engine_host"]
