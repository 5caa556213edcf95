"""`ps`, `top`, `port`: what there is to know of containers, as tables (Engine API `ContainerList`, `ContainerTop`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.references import ellipsis, familiar, short_id, split_name
from labkit.cli.session import Session
from labkit.cli.tables import Row, write_rows
from labkit.cli.tabwriter import align
from labkit.cli.units import ago, go_time, human_size
from labkit.client.engine import encode_filters
from labkit.templates.quoting import go_quote

_TABLE = (
    "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"  # as docker/cli's
)
_RAW = """container_id: {{.ID}}
image: {{.Image}}
command: {{.Command}}
created_at: {{.CreatedAt}}
state: {{- pad .State 1 0}}
status: {{- pad .Status 1 0}}
names: {{.Names}}
labels: {{- pad .Labels 1 0}}
ports: {{- pad .Ports 1 0}}
"""
HEADERS = {
    "ID": "CONTAINER ID",
    "Names": "NAMES",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Ports": "PORTS",
    "State": "STATE",
    "Status": "STATUS",
    "Size": "SIZE",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
    "Platform": "PLATFORM",
}


def ps(session: Session, given: Invocation) -> None:
    format_ = given.text("format")
    if format_ and given.flag("quiet"):
        session.err("WARNING: Ignoring custom format, because both --format and --quiet are set.\n")
    shows_size = ".Size" in format_ or "json ." in format_
    size = given.flag("size") or (shows_size and not given.flag("quiet") and "size" not in given.options)
    last = given.number("last")
    limit = 1 if given.flag("latest") and last in (None, -1) else last
    query = {
        "all": given.flag("all"),
        "limit": limit if limit is not None and limit > 0 else None,
        "size": size,
        "filters": encode_filters(given.all("filter")),
    }
    containers = session.client.get("/containers/json", query)
    template = _template(format_, given.flag("quiet"), size)
    truncate = not given.flag("no-trunc")
    rows = (container_row(container, truncate) for container in containers)
    session.out(write_rows(template, rows, HEADERS, "*formatter.ContainerContext"))


def _template(format_: str, quiet: bool, size: bool) -> str:
    if format_ == "raw":
        return "container_id: {{.ID}}" if quiet else _RAW + ("size: {{.Size}}\n" if size else "")
    if quiet:
        return "{{.ID}}"
    if format_ in ("", "table"):
        return _TABLE + ("\t{{.Size}}" if size else "")
    return format_


def container_row(container: Mapping[str, Any], truncate: bool) -> Row:
    """One container of the list as `ps` shows it; values that cost something are computed when asked for."""
    mounts = container.get("Mounts") or []
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    labels: Mapping[str, str] = container.get("Labels") or {}
    identity = container["Id"]
    command = container.get("Command") or ""
    return {
        "ID": short_id(identity) if truncate else identity,
        "Names": lambda: _names(container.get("Names") or [], truncate),
        "Image": lambda: _image(container, truncate),
        "Command": lambda: go_quote(ellipsis(command, 20) if truncate else command),
        "CreatedAt": lambda: go_time(container["Created"]),
        "RunningFor": lambda: ago(container["Created"]),
        "Ports": lambda: display_ports(container.get("Ports") or []),
        "State": container.get("State", ""),
        "Status": container.get("Status", ""),
        "Size": lambda: _size(container),
        "Labels": lambda: ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
        "Label": lambda name: labels.get(name, ""),
        "Mounts": lambda: ",".join(_mount(mount, truncate) for mount in mounts),
        "LocalVolumes": lambda: str(sum(mount.get("Driver") == "local" for mount in mounts)),
        "Networks": lambda: ",".join(networks),
        "Platform": None,
    }


def _names(names: Sequence[str], truncate: bool) -> str:
    bare = [name.removeprefix("/") for name in names]
    if truncate:  # names of legacy links contain slashes
        return next((name for name in bare if "/" not in name), "")
    return ",".join(bare)


def _image(container: Mapping[str, Any], truncate: bool) -> str:
    image = str(container.get("Image") or "")
    if not image:
        return "<no image>"
    if not truncate:
        return image
    if short_id(container.get("ImageID", "")) == short_id(image):
        return short_id(image)
    name, tag, _ = split_name(image)
    return familiar(name) + (f":{tag}" if tag else "")


def _size(container: Mapping[str, Any]) -> str:
    written = human_size(container.get("SizeRw") or 0, 3)
    whole = container.get("SizeRootFs") or 0
    return f"{written} (virtual {human_size(whole, 3)})" if whole else written


def _mount(mount: Mapping[str, Any], truncate: bool) -> str:
    name = str(mount.get("Name") or mount.get("Source") or "")
    return ellipsis(name, 15) if truncate else name


def display_ports(ports: Sequence[Mapping[str, Any]]) -> str:
    """`0.0.0.0:80->80/tcp, 9000-9002/tcp`: runs of ports together, then those published under another number."""
    ordered = sorted(
        ports, key=lambda p: (p["PrivatePort"], p.get("IP") or "", p.get("PublicPort") or 0, p.get("Type") or "")
    )
    runs: dict[tuple[str, str], tuple[int, int]] = {}
    finished: list[str] = []
    mapped: list[str] = []
    for port in ordered:
        number, address, kind = port["PrivatePort"], port.get("IP") or "", port.get("Type") or "tcp"
        if address and port.get("PublicPort") != number:
            mapped.append(f"{_host_port(address, str(port.get('PublicPort')))}->{number}/{kind}")
            continue
        first, last = runs.get((address, kind), (number, number - 1))
        if number != last + 1:
            finished.append(_port_run(address, kind, first, last))
            first = number
        runs[address, kind] = (first, number)
    finished += [_port_run(address, kind, first, last) for (address, kind), (first, last) in runs.items()]
    return ", ".join(finished + mapped)


def _port_run(address: str, kind: str, first: int, last: int) -> str:
    run = str(first) if first == last else f"{first}-{last}"
    return f"{_host_port(address, run)}->{run}/{kind}" if address else f"{run}/{kind}"


def _host_port(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def top(session: Session, given: Invocation) -> None:
    container, *ps_options = given.arguments
    answer = session.client.get(f"/containers/{container}/top", {"ps_args": " ".join(ps_options) or None})
    lines = ["\t".join(row) for row in [answer["Titles"], *(answer["Processes"] or [])]]
    session.out(align("\n".join(lines) + "\n", 20, 3))


def port(session: Session, given: Invocation) -> None:
    name, *wanted = given.arguments
    published = session.client.get(f"/containers/{name}/json")["NetworkSettings"].get("Ports") or {}
    if wanted:
        number, _, kind = wanted[0].partition("/")
        bindings = published.get(f"{number}/{kind or 'tcp'}")
        if not bindings:
            raise StatusError(f"Error: No public port '{wanted[0]}' published for {name}")
        lines = [_host_port(binding["HostIp"], binding["HostPort"]) for binding in bindings]
    else:
        lines = [
            f"{port} -> {_host_port(binding['HostIp'], binding['HostPort'])}"
            for port in sorted(published, key=lambda port: (int(port.partition("/")[0]), port))
            for binding in published[port] or ()
        ]
    session.out("".join(line + "\n" for line in lines))
