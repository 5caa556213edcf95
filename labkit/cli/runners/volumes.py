"""`volume create`, `ls`, `rm` (Engine API `Volume…`; docker/cli `cli/command/volume`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.session import Session
from labkit.cli.tables import Row, write_rows
from labkit.cli.units import human_size
from labkit.client.engine import encode_filters
from labkit.errors import LabkitError

_TABLE = "table {{.Driver}}\t{{.Name}}"
_RAW = "name: {{.Name}}\ndriver: {{.Driver}}\n"
_HEADERS = {
    "Name": "VOLUME NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "Mountpoint": "MOUNTPOINT",
    "Labels": "LABELS",
    "Links": "LINKS",
    "Size": "SIZE",
    "Availability": "AVAILABILITY",
    "Group": "GROUP",
    "Status": "STATUS",
}


def create(session: Session, given: Invocation) -> None:
    name = given.arguments[0] if given.arguments else ""
    body = {
        "Name": name,
        "Driver": given.text("driver"),
        "DriverOpts": _pairs(given.all("opt")),
        "Labels": _pairs(given.all("label")),
    }
    made = session.client.post("/volumes/create", body={key: value for key, value in body.items() if value})
    session.out(f"{made['Name']}\n")


def _pairs(texts: list[str]) -> dict[str, str]:
    return dict(text.partition("=")[::2] for text in texts)


def ls(session: Session, given: Invocation) -> None:
    found = session.client.get("/volumes", {"filters": encode_filters(given.all("filter"))})
    template, quiet = given.text("format"), given.flag("quiet")
    if template in ("", "table"):
        template = "{{.Name}}" if quiet else _TABLE
    elif template == "raw":
        template = "name: {{.Name}}" if quiet else _RAW
    volumes = sorted(found.get("Volumes") or (), key=_natural)
    session.out(write_rows(template, map(volume_row, volumes), _HEADERS, "*formatter.volumeContext"))


def _natural(volume: Mapping[str, Any]) -> list[tuple[int, int, str]]:
    """`v2` before `v10`: numbers within a name count as numbers."""
    parts = re.findall(r"\d+|\D+", volume["Name"])
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def volume_row(volume: Mapping[str, Any]) -> Row:
    """One volume of a list."""
    labels: dict[str, str] = volume.get("Labels") or {}
    used = volume.get("UsageData")
    return {
        "Name": volume["Name"],
        "Driver": volume["Driver"],
        "Scope": volume["Scope"],
        "Mountpoint": volume["Mountpoint"],
        "Labels": ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
        "Label": lambda name: labels.get(name, ""),
        "Links": "N/A" if used is None else str(used["RefCount"]),
        "Size": "N/A" if used is None else human_size(used["Size"]),
        "Availability": "N/A",
        "Group": "N/A",
        "Status": "N/A",
    }


def rm(session: Session, given: Invocation) -> None:
    failures = []
    for name in given.arguments:
        try:
            session.client.request("DELETE", f"/volumes/{name}", {"force": given.flag("force") or None}).body()
        except LabkitError as error:
            failures.append(str(error))
        else:
            session.out(f"{name}\n")
    if failures:
        raise StatusError("\n".join(failures))
