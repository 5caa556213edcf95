"""`--init`: a small program as PID 1 that passes signals on and reaps (moby `daemon/oci_linux.go`).

As with dockerd it is one of the host's, mounted into the container. It must be statically linked: the container's
libraries are not the host's.
"""

from __future__ import annotations

import shutil
from typing import Any

from labkit.engine.models import HostConfig
from labkit.errors import LabkitError

Spec = dict[str, Any]
INSIDE = "/sbin/docker-init"
PROGRAMS = ("docker-init", "tini-static", "catatonit")
"""Any of these will do: each takes `-- COMMAND ARGS`."""


def find(host: HostConfig) -> str:
    """The path of the init that a container shall get; empty if it shall get none.

    One in another's process namespace gets none, as in dockerd: there is an init already. Raises LabkitError if this
    machine has no such program.
    """
    if host.Init is not True or host.PidMode:
        return ""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        raise LabkitError(
            'exec: "docker-init": executable file not found in $PATH: --init needs it (or tini-static, or catatonit) '
            "on this machine: apt-get install tini, or catatonit"
        )
    return found


def put_before(spec: Spec, path: str) -> Spec:
    """The spec with the init at `path` as its first process; as it is if that is empty."""
    if not path:
        return spec
    process = {**spec["process"], "args": [INSIDE, "--", *spec["process"]["args"]]}
    mount = {"destination": INSIDE, "type": "bind", "source": path, "options": ["bind", "ro"]}
    return {**spec, "process": process, "mounts": [*spec["mounts"], mount]}
