"""The runtimes that a daemon knows: labkit's own, runc and crun if they are there, those of `--add-runtime`.

moby `daemon/runtime_unix.go`.
"""

from __future__ import annotations

import os
import shutil

from labkit.engine.models import ContainerRecord, HostConfig
from labkit.engine.settings import Settings
from labkit.errors import InvalidParameter

OWN = "labkit"
USUAL = ("runc", "crun")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def known(settings: Settings) -> dict[str, str]:
    """Names and programs; the program of labkit's own is empty. Docker's long name of runc is one too."""
    found = {name: path for name in USUAL if (path := shutil.which(name, path=_PATH))}
    if "runc" in found:
        found["io.containerd.runc.v2"] = found["runc"]
    return {OWN: "", **found, **dict(settings.runtimes)}


def parse(texts: list[str]) -> tuple[tuple[str, str], ...]:
    """Flags such as `name=/path/of/program`. Raises InvalidParameter in dockerd's words."""
    found = []
    for text in texts:
        name, sign, path = text.partition("=")
        if not sign or not name or not path:
            raise InvalidParameter(f"invalid runtime argument: {text}")
        if name in (OWN, *USUAL):
            raise InvalidParameter(f"runtime name '{name}' is reserved")
        found.append((name.strip(), path.strip()))
    return tuple(found)


def check(settings: Settings) -> None:
    """Raises InvalidParameter if the default runtime isn't known."""
    if settings.default_runtime not in known(settings):
        raise InvalidParameter(f"specified default runtime '{settings.default_runtime}' does not exist")


def settle(settings: Settings, host: HostConfig) -> None:
    """Choose the runtime of a new container, if nobody did. Raises InvalidParameter for one that isn't known."""
    host.Runtime = host.Runtime or settings.default_runtime
    if host.Runtime != OWN and host.Runtime not in known(settings):
        raise InvalidParameter(f"unknown or invalid runtime name: {host.Runtime}")


def program_of(record: ContainerRecord, settings: Settings) -> str:
    """The program of a container's runtime; empty for labkit's own. Raises InvalidParameter."""
    host = record.HostConfig
    if host.Runtime in ("", OWN):
        return ""
    program = known(settings).get(host.Runtime, "")
    if not program or not os.access(program, os.X_OK):
        raise InvalidParameter(f"unknown or invalid runtime name: {host.Runtime}")
    return program
