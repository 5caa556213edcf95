"""Wait: until a container runs no more, ends next, or is gone (moby `daemon/wait.go`, `container/state.go`)."""

from __future__ import annotations

from labkit.engine.container import Container
from labkit.errors import InvalidParameter

CONDITIONS = ("", "not-running", "next-exit", "removed")


async def wait(container: Container, condition: str) -> tuple[int, str]:
    """Wait for a condition of `POST /containers/{id}/wait`: the exit status, and what kept it from starting, if so.

    A container that waits for its restart counts as running; each end of a run is one that `next-exit` waits for.
    """
    if condition not in CONDITIONS:
        raise InvalidParameter(f'invalid condition: "{condition}"')
    run = container.run
    if condition == "removed":
        await container.removed.wait()
        return container.record.State.ExitCode, ""  # as dockerd: the removal went well, whatever the start did
    if condition == "next-exit" or container.record.State.Running:
        await run.exited.wait()
        return run.code or 0, container.record.State.Error
    return container.record.State.ExitCode, container.record.State.Error
