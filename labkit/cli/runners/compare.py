"""`image diff`, `image waste`: labkit's own commands about what is in images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labkit.cli.grammar import Invocation
from labkit.cli.references import ellipsis, short_id
from labkit.cli.session import Session
from labkit.cli.tables import Row, write_rows
from labkit.cli.units import human_size
from labkit.client.engine import Query

_DIFF = "table {{.Layer}}\t{{.Change}}\t{{.Path}}\t{{.Size}}\t{{.What}}"
_DIFF_HEADERS = {
    "Layer": "LAYER",
    "LayerID": "LAYER ID",
    "Step": "CREATED BY",
    "Change": "CHANGE",
    "Path": "PATH",
    "Size": "SIZE",
    "What": "WHAT",
}
_WASTE = "table {{.Count}}\t{{.Wasted}}\t{{.Path}}"
_WASTE_HEADERS = {"Count": "COPIES", "Wasted": "WASTED", "Path": "PATH"}
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def diff(session: Session, given: Invocation) -> None:
    first, second = given.arguments
    query: Query = {"a": first, "b": second, "text": given.all("text"), "unified": given.flag("unified")}
    found = session.client.get("/labkit/images/diff", query)
    template = given.text("format") or "table"
    rows = sorted((_diff_row(change, found) for change in found["Changes"]), key=lambda row: str(row["Layer"]).zfill(4))
    session.out(write_rows(_DIFF if template == "table" else template, rows, _DIFF_HEADERS, "*labkit.change"))
    if template == "table":
        session.out(_summary(found, first, second))
    session.out("".join(f"\n{text}" for text in found["Texts"].values()))


def _diff_row(change: Mapping[str, Any], found: Mapping[str, Any]) -> Row:
    number, after = change["Layer"], found["After"]
    return {
        "Layer": str(number + 1) if number >= 0 else "-",
        "LayerID": short_id(after["Layers"][number]) if number >= 0 else "",
        "Step": ellipsis(after["Steps"][number], 45) if number >= 0 else "",
        "Change": _SIGNS[change["Change"]],
        "Path": "/" + change["Path"] + ("/" if change["FileKind"] == "d" else ""),
        "Size": lambda: _size(change),
        "What": ", ".join(_what(change, what) for what in change["What"]),
    }


def _size(change: Mapping[str, Any]) -> str:
    before, after = change["SizeBefore"], change["Size"]
    if change["FileKind"] != "f":
        return ""
    if change["Change"] == "changed" and before != after:
        return f"{human_size(before, 3)} -> {human_size(after, 3)}"
    return human_size(before if change["Change"] == "removed" else after, 3)


def _what(change: Mapping[str, Any], what: str) -> str:
    key = {"mode": "Mode", "owner": "Owner"}.get(what)
    return f"{what} {change[f'{key}Before']} -> {change[key]}" if key else what


def _summary(found: Mapping[str, Any], first: str, second: str) -> str:
    """`2 of 3 layers of app:2 are also in app:1. Added: 3B in 1 file, …`"""
    common, total = found["CommonLayers"], len(found["After"]["Layers"])
    counted = []
    for change in ("added", "removed", "changed"):
        files = [one for one in found["Changes"] if one["Change"] == change]
        size = sum(one["SizeBefore" if change == "removed" else "Size"] for one in files)
        counted.append(f"{len(files)} {change} ({human_size(size, 3)})")
    return f"\n{common} of the {total} layers of {second} are those of {first}. {', '.join(counted)}.\n"


def waste(session: Session, given: Invocation) -> None:
    found = session.client.get("/labkit/images/waste", {"image": given.arguments[0]})
    template = given.text("format") or "table"
    if template == "table":
        share = found["Wasted"] / found["Size"] if found["Size"] else 0
        session.out(
            f"Efficiency: {found['Efficiency']:.1%}\n"
            f"Wasted:     {human_size(found['Wasted'])} of {human_size(found['Size'])} ({share:.1%})\n\n"
        )
    rows = (
        {"Count": str(one["Count"]), "Wasted": human_size(one["Wasted"], 3), "Path": "/" + one["Path"]}
        for one in found["Files"]
    )
    session.out(write_rows(_WASTE if template == "table" else template, rows, _WASTE_HEADERS, "*labkit.wastedFile"))
