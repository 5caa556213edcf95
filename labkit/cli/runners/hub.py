"""`labkit hub`: `build` asks the daemon; the others work on the hub's store of this machine.

What they need is imported by name, late, as for `labkit registry`.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.progress import show_progress
from labkit.cli.session import Session
from labkit.cli.tables import write_rows
from labkit.cli.units import human_size
from labkit.client.engine import Query

_COLUMNS = "table {{.Repository}}\t{{.Tags}}\t{{.Digest}}\t{{.Size}}"
_TITLES = {"Repository": "REPOSITORY", "Tags": "TAGS", "Digest": "DIGEST", "Size": "SIZE"}


def _hub() -> ModuleType:
    return import_module("labkit.registry.hub.command")


def _root(given: Invocation) -> dict[str, str]:
    return {"root": given.text("root")} if given.text("root") else {}


def build(session: Session, given: Invocation) -> None:
    if bool(given.arguments) == given.flag("all"):
        raise StatusError("name the images to build, or --all of them (`labkit hub build --help` lists the names)")
    into = given.text("into")
    query: Query = {
        "name": given.arguments or None,
        "all": given.flag("all") or None,
        "mirror": given.all("mirror") or None,
        "into": os.path.abspath(into) if into else None,
    }
    show_progress(session, session.client.request("POST", "/labkit/hub/build", query))


def serve(session: Session, given: Invocation) -> int:
    words = {name: given.text(name.replace("_", "-")) for name in ("addr", "root", "address_file")}
    return int(_hub().serve(**{name: text for name, text in words.items() if text}))


def ls(session: Session, given: Invocation) -> None:
    rows = [
        {
            "Repository": image.name,
            "Tags": ", ".join(image.tags),
            "Digest": image.digest.removeprefix("sha256:")[:12],
            "Size": human_size(image.size),
        }
        for image in _hub().ls(**_root(given))
    ]
    session.out(write_rows(_COLUMNS, rows, _TITLES, "*hub.Image"))


def export(session: Session, given: Invocation) -> None:
    file = given.arguments[0]
    count, size = _hub().export(file, **_root(given))
    session.out(f"{file}: {count} names, {human_size(size)}\n")


def import_(session: Session, given: Invocation) -> None:
    for name in _hub().import_(given.arguments[0], **_root(given)):
        session.out(f"In the hub: {name}\n")
