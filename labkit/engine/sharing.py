"""Namespaces that containers share: `--pid container:ID` and `--ipc container:ID` (moby `daemon/oci_linux.go`).

Whose a network is shared is settled with the endpoints, see `labkit.engine.endpoints`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.engine import spec
from labkit.engine.models import HostConfig
from labkit.errors import Conflict, InvalidParameter, NotFound

if TYPE_CHECKING:
    from labkit.engine.container import Container
    from labkit.engine.engine import Engine

_SHAREABLE = ("shareable", "container:")


def settle(engine: Engine, host: HostConfig) -> None:
    """Write whose namespaces a new container joins as IDs. Raises InvalidParameter for one that isn't there."""
    for field in ("PidMode", "IpcMode"):
        if reference := _reference(getattr(host, field)):
            setattr(host, field, f"container:{_find(engine, reference).id}")


def namespaces(engine: Engine, host: HostConfig) -> tuple[dict[str, str], str]:
    """The paths of the namespaces that a container is about to join, by kind; the path of the shared /dev/shm.

    Raises InvalidParameter for a container that isn't there or doesn't share, Conflict for one that doesn't run.
    """
    found, shm = {}, ""
    if reference := _reference(host.PidMode):
        found["pid"] = f"/proc/{_running(engine, reference).run.pid}/ns/pid"
    if reference := _reference(host.IpcMode):
        giver = _running(engine, reference)
        if not giver.record.HostConfig.IpcMode.startswith(_SHAREABLE):
            raise InvalidParameter(
                f"container {giver.id}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
            )
        found["ipc"], shm = f"/proc/{giver.run.pid}/ns/ipc", f"/proc/{giver.run.pid}/root/dev/shm"
    return found, shm


def may_trace(engine: Engine, container: Container) -> bool:
    """Whether a process that sees those of a container may trace them: capabilities(7), CAP_SYS_PTRACE.

    Containers that share a pid namespace are taken together, whichever it is.
    """
    if any(run.body.Privileged for run in container.execs.values()):
        return True
    shared = [other for other in engine.containers.values() if _reference(other.record.HostConfig.PidMode)]
    return any("CAP_SYS_PTRACE" in spec.wanted_capabilities(one.record.HostConfig) for one in (container, *shared))


def _reference(mode: str) -> str:
    return mode.removeprefix("container:") if mode.startswith("container:") else ""


def _running(engine: Engine, reference: str) -> Container:
    found = _find(engine, reference)
    if not found.run.running:
        raise Conflict(f"container {found.id} is not running")
    return found


def _find(engine: Engine, reference: str) -> Container:
    try:
        return engine.find(reference)
    except NotFound as error:  # `docker run` would take a 404 for a missing image, and pull
        raise InvalidParameter(str(error)) from error
