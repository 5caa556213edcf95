"""The processes of a container as the host's ps(1) shows them (moby `daemon/top_unix.go`)."""

from __future__ import annotations

import asyncio
import shlex
from typing import TYPE_CHECKING, Any

from labkit.engine import pausing
from labkit.engine.container import Container
from labkit.errors import Conflict, InvalidParameter, LabkitError
from labkit.kernel import cgroups

if TYPE_CHECKING:
    from labkit.engine.engine import Engine


def pids(engine: Engine, container: Container) -> list[int]:
    """The container's processes, as the host numbers them."""
    path = engine.settings.cgroup(container.id, container.record.HostConfig.CgroupParent)
    return cgroups.cgroup_pids(engine.machine.cgroups.directory("pids", path))


async def top(engine: Engine, container: Container, arguments: str) -> dict[str, Any]:
    """`GET /containers/{id}/top`: titles and processes. Raises Conflict, and InvalidParameter for bad options."""
    pausing.check_not_restarting(container)
    if not container.run.running:
        raise Conflict(f"container {container.id} is not running")
    output = await _ps(shlex.split(arguments) or ["-ef"])
    engine.events.publish("container", "top", container.id, container.attributes())
    return select(output, set(pids(engine, container)))


async def _ps(arguments: list[str]) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            "ps", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise LabkitError("docker top needs the host's ps command: install procps") from error
    output, errors = await process.communicate()
    if process.returncode:
        why = errors.decode(errors="replace").strip().partition("\n")[0]  # the rest is ps's usage
        raise InvalidParameter(f"ps: {why}")
    return output.decode(errors="replace")


def select(output: str, wanted: set[int]) -> dict[str, Any]:
    """The lines of ps's output that tell of these processes."""
    titles, *lines = output.splitlines()
    names = titles.split()
    if "PID" not in names:
        raise InvalidParameter("Couldn't find PID field in ps output")
    place = names.index("PID")
    rows = [line.split(None, len(names) - 1) for line in lines]
    found = [row for row in rows if len(row) > place and row[place].isdigit() and int(row[place]) in wanted]
    return {"Titles": names, "Processes": found}
