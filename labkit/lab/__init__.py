"""The teaching side: a process to try the kernel's operations in, and the proof that nothing is left behind.

The operations are those of `labkit.kernel`, the same that the engine runs; here a learner runs them one by one.
"""

from __future__ import annotations

from labkit.lab.child import Child
from labkit.lab.snapshot import Difference, Snapshot

__all__ = ["Child", "Difference", "Snapshot"]
