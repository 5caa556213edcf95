"""`--link` on the default bridge: a name in /etc/hosts and variables in the environment (moby `daemon/links`).

In user-defined networks `--link` is an alias, which the name server knows of. A record has a link as `ID:ALIAS`, so
that it outlives a new name of the container at its end; clients see it as `/name:/own name/alias`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.engine.models import ContainerRecord
from labkit.errors import Conflict, InvalidParameter, NotFound
from labkit.network.publishing import parse_port

if TYPE_CHECKING:
    from labkit.engine.container import Container
    from labkit.engine.engine import Engine

_NOT_TOLD = ("HOME", "PATH")


def parse_link(text: str) -> tuple[str, str]:
    """Name and alias of `NAME[:ALIAS]`, or of a link as clients see it. Raises InvalidParameter."""
    name, _, alias = text.partition(":")
    name = name.lstrip("/")
    alias = alias.rsplit("/", 1)[-1] or name
    if not name or ":" in alias:
        raise InvalidParameter(f"bad format for links: {text}")
    return name, alias


def settle(engine: Engine, record: ContainerRecord) -> None:
    """Find the containers that a new one is to be linked to. Raises InvalidParameter in dockerd's words.

    On a user-defined network the endpoint has its links: they are names that need not be there yet.
    """
    if "bridge" not in record.Networks:
        record.HostConfig.Links = None
    settled = []
    for text in record.HostConfig.Links or ():
        name, alias = parse_link(text)
        try:
            settled.append(f"{engine.find(name).id}:{alias}")
        except NotFound as error:
            raise InvalidParameter(f"could not get container for {name}: {error}") from error
    record.HostConfig.Links = settled or None


def shown(engine: Engine, container: Container) -> list[str] | None:
    """HostConfig.Links for clients."""
    return [f"/{target.name}:{container.record.Name}/{alias}" for target, alias in _links(engine, container)] or None


def _links(engine: Engine, container: Container) -> list[tuple[Container, str]]:
    """What a container is linked to, with the alias; a link goes with the container at its end."""
    parsed = map(parse_link, container.record.HostConfig.Links or ())
    return [(engine.containers[identity], alias) for identity, alias in parsed if identity in engine.containers]


def _effective(engine: Engine, container: Container) -> list[tuple[Container, str]]:
    """The links that make names and variables: those of a container on the default bridge."""
    return _links(engine, container) if "bridge" in container.record.Networks else []


def hosts(engine: Engine, container: Container) -> list[tuple[str, str]]:
    """The lines for /etc/hosts. Raises Conflict if a container at the end of a link doesn't run."""
    found = []
    for target, alias in _effective(engine, container):
        endpoint = target.record.Networks.get("bridge")
        if not target.run.running:
            raise Conflict(f"Cannot link to a non running container: /{target.name} AS {container.record.Name}/{alias}")
        if endpoint and endpoint.IPAddress:
            names = dict.fromkeys((alias, target.record.Config.Hostname, target.name))
            found.append((endpoint.IPAddress, " ".join(names)))
    return found


def environment(engine: Engine, container: Container) -> list[str]:
    """The variables that tell a container's processes of its links."""
    found: list[str] = []
    for target, alias in _effective(engine, container):
        endpoint = target.record.Networks.get("bridge")
        if endpoint and endpoint.IPAddress:
            exposed = target.record.Config.ExposedPorts
            ports = [parse_port(port) for port in exposed] if isinstance(exposed, dict) else []
            found += variables(f"{container.record.Name}/{alias}", endpoint.IPAddress, ports, target.record.Config.Env)
    return found


def variables(name: str, address: str, ports: list[tuple[int, str]], told: list[str] | None) -> list[str]:
    """The variables of one link, `/own name/alias`: of each exposed port, of runs of ports, and those of the other end.

    >>> variables("/web/db", "172.17.0.2", [(5432, "tcp")], None)[:2]
    ['DB_PORT=tcp://172.17.0.2:5432', 'DB_PORT_5432_TCP=tcp://172.17.0.2:5432']
    """
    prefix = name.rpartition("/")[2].upper().replace("-", "_")
    ordered = sorted(ports, key=lambda port: (port[0], port[1] != "tcp"))
    found = [f"{prefix}_PORT={kind}://{address}:{port}" for port, kind in ordered[:1]]
    for run in _runs(ordered):
        for port, kind in run:
            one = f"{prefix}_PORT_{port}_{kind.upper()}"
            found += [f"{one}={kind}://{address}:{port}", f"{one}_ADDR={address}"]
            found += [f"{one}_PORT={port}", f"{one}_PROTO={kind}"]
        (first, kind), (last, _) = run[0], run[-1]
        if first != last:
            whole = f"{prefix}_PORT_{first}_{kind.upper()}"
            found += [f"{whole}_START={kind}://{address}:{first}", f"{whole}_PORT_START={first}"]
            found += [f"{whole}_END={kind}://{address}:{last}", f"{whole}_PORT_END={last}"]
    found.append(f"{prefix}_NAME={name}")
    entries = [entry.partition("=") for entry in told or ()]
    return found + [f"{prefix}_ENV_{key}={value}" for key, sign, value in entries if sign and key not in _NOT_TOLD]


def _runs(ports: list[tuple[int, str]]) -> list[list[tuple[int, str]]]:
    """Consecutive ports of one protocol together."""
    runs: list[list[tuple[int, str]]] = []
    for port, kind in ports:
        if runs and runs[-1][-1] == (port - 1, kind):
            runs[-1].append((port, kind))
        else:
            runs.append([(port, kind)])
    return runs


def linked(engine: Engine, target: Container) -> list[Container]:
    """The containers that run and are linked to this one."""
    return [
        other
        for other in engine.containers.values()
        if other.run.running and any(end is target for end, _ in _links(engine, other))
    ]
