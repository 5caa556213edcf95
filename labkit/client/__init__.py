"""The Engine API client that the `labkit` command and the magics use. Standard library only, fast to import."""

from __future__ import annotations

from labkit.client.engine import Answer, Client

__all__ = ["Answer", "Client"]
