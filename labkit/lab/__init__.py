"""The teaching side: a process and a registry to experiment with, and the proof that nothing is left behind.

The operations are those of `labkit.kernel`, the same that the engine runs; here a learner runs them one by one.
"""

from __future__ import annotations

from labkit.lab.capturing import Capture
from labkit.lab.child import Child
from labkit.lab.engine import Engine
from labkit.lab.names import Names
from labkit.lab.registry import Registry
from labkit.lab.snapshot import Difference, Snapshot

__all__ = ["Capture", "Child", "Difference", "Engine", "Names", "Registry", "Snapshot"]
