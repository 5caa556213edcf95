"""A process's standard streams: the pipes for it, and the same descriptors when the spawner hands them (back).

The names are those under which the spawner keeps them: `stdin` (to write), `stdout` and `stderr` (to read),
`terminal` (a pseudoterminal's master), and for each output `NAME-staged` and `NAME-stage`, the two ends of its
stage (`labkit.kernel.pipes`).
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field

from labkit.errors import LabkitError
from labkit.kernel import pipes


@dataclass(slots=True)
class Pipes:
    """Descriptors for a process that is about to start: its own ends, and those that daemon and spawner keep."""

    child: dict[str, int] = field(default_factory=dict)
    keep: dict[str, int] = field(default_factory=dict)

    def close(self) -> None:
        for fd in (*self.child.values(), *self.keep.values()):
            os.close(fd)
        self.child, self.keep = {}, {}


def make_pipes(terminal: bool, stdin: bool, outputs: tuple[str, ...] = ("stdout", "stderr")) -> Pipes:
    """The pipes for a process. With a terminal, only the stage of its one output: the terminal itself comes later."""
    made = Pipes()
    try:
        for name in ("stdout",) if terminal else outputs:
            made.keep[f"{name}-staged"], made.keep[f"{name}-stage"] = pipes.make_pipe()
            if not terminal:
                made.keep[name], made.child[name] = pipes.make_pipe()
        if stdin and not terminal:
            made.child["stdin"], made.keep["stdin"] = pipes.make_pipe()
    except (LabkitError, OSError):  # no descriptor is left: those that were had go back
        made.close()
        raise
    return made


def outputs(descriptors: dict[str, int]) -> dict[str, int]:
    """The descriptors that output is read from, by stream: a terminal's master counts as stdout."""
    if "terminal" in descriptors:
        return {"stdout": descriptors["terminal"]}
    return {name: descriptors[name] for name in ("stdout", "stderr") if name in descriptors}


async def writable(fd: int) -> None:
    """Wait until a pipe or socket has room, or its other end is gone. It may be closed here meanwhile."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    watched = os.dup(fd)
    loop.add_writer(watched, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(watched)
        os.close(watched)
