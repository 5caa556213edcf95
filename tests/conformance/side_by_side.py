"""The same commands to labkit and to dockerd: what each answered, what it shows of containers and networks after."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.daemon import Daemon

VARYING = (
    (r"\b[0-9a-f]{64}\b", "<id>"),
    (r"\b[0-9a-f]{12}\b", "<short id>"),
    (r"\b(docker|labkit)0\b", "<bridge>"),
    (r"\bbr-[0-9a-f]{12}\b|\blabkit-[0-9a-f]{8}\b", "<bridge>"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)", "<time>"),
    (r"\b(3[2-9]|[4-6]\d)\d{3}\b", "<random port>"),
)
"""What differs from run to run, and the names of bridges."""


_RANDOM_PORTS = 32768


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command did: exit status, and what it wrote, without what varies."""

    status: int
    out: str
    err: str


def masked(text: str) -> str:
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    return text


def told(engine: Daemon, line: str) -> Answer:
    """The answer to one line of words for docker; `sh:` before it: to a script in the container `a`."""
    if line.startswith("sh:"):
        name, _, script = line.removeprefix("sh:").partition(" ")
        words = ["exec", name or "a", "sh", "-c", script]
    else:
        words = shlex.split(line)
    done = engine.docker(*words, check=False)
    out = masked(done.stdout.decode())
    if words[0] == "diff":  # dockerd's order is that of a Go map
        out = "".join(sorted(out.splitlines(keepends=True)))
    return Answer(done.returncode, out, masked(done.stderr.decode()))


def shown(engine: Daemon) -> dict[str, Any]:
    """All containers and networks, by name, as the engine shows them."""
    containers = {name: engine.inspect(name) for name in engine.out("ps", "-a", "--format", "{{.Names}}").split()}
    networks = {
        name: engine.request("GET", f"/networks/{name}")[1]
        for name in engine.out("network", "ls", "--format", "{{.Name}}").split()
    }
    names = {found["Id"]: name for name, found in containers.items()}
    for container in containers.values():
        container["HostConfig"]["Links"] = sorted(container["HostConfig"]["Links"] or [])
    for network in networks.values():
        network["IPAM"]["Config"] = sorted(network["IPAM"]["Config"] or [], key=lambda one: str(one["Subnet"]))
        network["Containers"] = {names[key]: value for key, value in network["Containers"].items()}
    listed = {
        _own_name(one): sorted(one["Ports"], key=_port_order)
        for one in engine.request("GET", "/containers/json?all=1")[1]
    }
    parts = {"containers": containers, "networks": networks, "ports": listed}
    found: dict[str, Any] = _masked_all(parts)
    return found


def _own_name(container: dict[str, Any]) -> str:
    """dockerd lists a link's alias as one more name of the container at its end."""
    names: list[str] = container["Names"]
    return next(name for name in names if name.count("/") == 1)


def _port_order(port: dict[str, Any]) -> tuple[Any, ...]:
    return port["PrivatePort"], port["Type"], port.get("IP", "")


def _masked_all(value: Any) -> Any:
    if isinstance(value, dict):
        return {masked(key): _masked_all(field) for key, field in value.items()}
    if isinstance(value, list):
        return [_masked_all(item) for item in value]
    if isinstance(value, int) and value >= _RANDOM_PORTS:
        return "<number>"
    return masked(value) if isinstance(value, str) else value


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two objects of JSON differ: path, ours, theirs. Null, empty and absent are one."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from differences(ours.get(key), theirs.get(key), f"{path}/{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{path}/{number}")
    elif ours != theirs and (ours or theirs):
        yield path, ours, theirs
