"""Records as `docker create` makes them, for what is computed from them."""

from __future__ import annotations

from typing import Any

import msgspec

from labkit.engine import creation
from labkit.engine.models import ContainerRecord, CreateBody
from labkit.network.models import Endpoint

IDENTITY = "0123456789ab" + "c" * 52
IMAGE = "sha256:" + "e" * 64


def record(image_config: dict[str, Any] | None = None, **body: Any) -> ContainerRecord:
    """The record of a container that was asked for with this body; its command is `sh` unless the body says so."""
    asked = msgspec.convert({"Image": "alpine", "Cmd": ["sh"]} | body, CreateBody)
    made = creation.make_record(IDENTITY, "box", asked, IMAGE, image_config or {})
    mode = made.HostConfig.NetworkMode
    made.Networks = {"bridge" if mode == "default" else mode: Endpoint()}
    return made


def host_record(**host: Any) -> ContainerRecord:
    """The same with these fields of HostConfig."""
    return record(HostConfig=host)
