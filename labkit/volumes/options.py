"""What the local driver takes: names, and the options `type`, `device` and `o` (moby `volume/local`).

With options a volume is a filesystem that is mounted at its directory while a container uses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from labkit.errors import InvalidParameter, NotFound
from labkit.kernel.constants import MS_BIND, MS_RDONLY
from labkit.kernel.mounts import OPPOSITES, OPTIONS, PROPAGATION, MakeReadOnly, Mount, SetPropagation
from labkit.plan import Operation
from labkit.volumes.models import LOCAL

_CHARACTERS = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_NAME = re.compile(f"{_CHARACTERS}+")
_NEEDS = {"device": ("type",), "type": ("device",), "o": ("device", "type")}
LONGEST = 255 - len(".removed") - 1
"""Bytes of a name: its directory is renamed before it is removed (NAME_MAX, limits.h)."""


def check_driver(driver: str) -> None:
    """Raises NotFound, in moby's words, for a driver that isn't there."""
    if driver not in ("", LOCAL):
        raise NotFound(f'error looking up volume plugin {driver}: plugin "{driver}" not found')


def check_name(name: str) -> None:
    """Raises InvalidParameter, in moby's words."""
    if len(name) == 1:
        raise InvalidParameter("volume name is too short, names should be at least two alphanumeric characters")
    if not _NAME.fullmatch(name):
        raise InvalidParameter(
            f'"{name}" includes invalid characters for a local volume name, only "{_CHARACTERS}" are allowed. '
            "If you intended to pass a host directory, use absolute path"
        )
    if len(name) > LONGEST:
        raise InvalidParameter(f"volume name is too long: {len(name)} characters, at most {LONGEST} are possible")


def check_options(options: Mapping[str, str]) -> None:
    """Raises InvalidParameter, in moby's words."""
    for name in options:
        if name not in (*_NEEDS, "size"):
            raise InvalidParameter(f'invalid option: "{name}"')
    if "size" in options:
        raise InvalidParameter("quota size requested but no quota support")
    for name, needed in _NEEDS.items():
        for other in needed:
            if name in options and other not in options:
                raise InvalidParameter(f'missing required option: "{other}"')


def mount_of(options: Mapping[str, str], target: str) -> list[Operation]:
    """The operations that mount a volume with these options at its directory."""
    flags = propagation = 0
    data = []
    for word in filter(None, options.get("o", "").split(",")):
        if word in PROPAGATION:
            propagation = PROPAGATION[word]
        elif word in OPTIONS:
            flags |= OPTIONS[word]
        elif word in OPPOSITES:
            flags &= ~OPTIONS[OPPOSITES[word]]
        elif word != "defaults":
            data.append(word)
    found: list[Operation] = [Mount(options["device"], target, options["type"], flags, ",".join(data))]
    if flags & MS_BIND and flags & MS_RDONLY:
        found.append(MakeReadOnly(target, mounted=True))  # mount(2): with MS_BIND other flags are ignored
    return [*found, *([SetPropagation(target, propagation)] if propagation else [])]
