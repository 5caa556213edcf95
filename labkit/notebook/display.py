"""How the Docker SDK's objects look in a notebook: containers, images and lists of them as tables.

The text/plain twin says the same as the HTML. A table has a caption and header cells with a scope, no script,
and no colour of its own, so that it reads in the dark theme, aloud, and in print.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from labkit.cli.references import short_id
from labkit.cli.runners.containers import display_ports
from labkit.cli.tabwriter import align
from labkit.cli.units import ago, human_size

Record = dict[str, str]
CONTAINER = ("docker.models.containers", "Container")
IMAGE = ("docker.models.images", "Image")


def container_record(container: Any) -> Record:
    """A container's row, out of what its SDK object already holds."""
    attributes: Mapping[str, Any] = container.attrs
    if "Names" in attributes:  # of a sparse list
        return {
            "Name": ", ".join(name.lstrip("/") for name in attributes["Names"]),
            "Container ID": short_id(attributes["Id"]),
            "Image": attributes.get("Image", ""),
            "Command": attributes.get("Command", ""),
            "Created": ago(attributes["Created"]),
            "Status": attributes.get("Status", ""),
            "Ports": display_ports(attributes.get("Ports") or []),
        }
    return {
        "Name": attributes.get("Name", "").lstrip("/"),
        "Container ID": short_id(attributes["Id"]),
        "Image": attributes["Config"]["Image"],
        "Command": " ".join([attributes.get("Path", ""), *(attributes.get("Args") or ())]),
        "Created": _since(attributes["Created"]),
        "Status": _status(attributes["State"]),
        "Ports": display_ports(_ports((attributes.get("NetworkSettings") or {}).get("Ports") or {})),
    }


def _status(state: Mapping[str, Any]) -> str:
    name = str(state.get("Status", ""))
    if name == "running":
        return f"running, process {state.get('Pid')} on the host"
    return f"exited with {state.get('ExitCode')}" if name == "exited" else name


def _ports(published: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The port map of an inspected container in the form that a listed one has."""
    ports: list[dict[str, Any]] = []
    for port, bindings in published.items():
        number, _, protocol = port.partition("/")
        private = {"PrivatePort": int(number), "Type": protocol}
        ports += [
            {**private, "IP": binding["HostIp"], "PublicPort": int(binding["HostPort"])} for binding in bindings or ()
        ] or [private]
    return ports


def image_record(image: Any) -> Record:
    """An image's row, out of what its SDK object already holds."""
    attributes: Mapping[str, Any] = image.attrs
    config = attributes.get("Config") or {}
    command = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
    return {
        "Tags": ", ".join(attributes.get("RepoTags") or ()) or "<none>",
        "Image ID": short_id(attributes["Id"]),
        "Created": _since(attributes.get("Created", "")),
        "Size": human_size(attributes.get("Size") or 0, 3),
        "Command": " ".join(command),
    }


def _since(created: str | int) -> str:
    if isinstance(created, int):
        return ago(created)
    from datetime import datetime

    return ago(datetime.fromisoformat(created[:19] + "+00:00").timestamp()) if created[:4] > "0001" else ""


_RECORDS: dict[tuple[str, str], tuple[str, Callable[[Any], Record]]] = {
    CONTAINER: ("Container", container_record),
    IMAGE: ("Image", image_record),
}


def _kind(value: Any) -> tuple[str, str]:
    return type(value).__module__, type(value).__name__


def records(values: Any) -> tuple[str, list[Record]] | None:
    """(caption, rows) of an SDK object or a list of one kind of them; None for anything else."""
    several = isinstance(values, list)
    members: Sequence[Any] = values if several else [values]
    kinds = {_kind(member) for member in members}
    if len(kinds) != 1 or (kind := kinds.pop()) not in _RECORDS:
        return None
    title, read = _RECORDS[kind]
    counted = f"{len(members)} {title.lower()}{'' if len(members) == 1 else 's'}"
    return (counted if several else title), [read(member) for member in members]


def as_text(values: Any) -> str | None:
    """The table for text/plain."""
    found = records(values)
    if found is None:
        return None
    _, rows = found
    lines = ["\t".join(name.upper() for name in rows[0]), *("\t".join(row.values()) for row in rows)]
    return "\n".join(line.rstrip() for line in align("\n".join(lines)).split("\n"))


def as_html(values: Any) -> str | None:
    """The table for text/html."""
    found = records(values)
    if found is None:
        return None
    caption, rows = found
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in rows[0])
    body = "".join(f"<tr>{_cells(list(row.values()))}</tr>" for row in rows)
    return (
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cells(values: list[str]) -> str:
    first, *others = (html.escape(value) for value in values)
    return f'<th scope="row">{first}</th>' + "".join(f"<td>{value}</td>" for value in others)


def register(shell: Any) -> None:
    """Adds the tables to a shell's formatters; once is enough, twice does no harm."""
    formatters = shell.display_formatter.formatters
    for module, name in _RECORDS:
        formatters["text/html"].for_type_by_name(module, name, as_html)
        formatters["text/plain"].for_type_by_name(module, name, _print_text)
    formatters["text/html"].for_type(list, as_html)
    plain = formatters["text/plain"]
    before = plain.for_type(list)
    if not getattr(before, "labkit", False):
        plain.for_type(list, _ListPrinter(before))


def unregister(shell: Any) -> None:
    """Takes the tables out again."""
    formatters = shell.display_formatter.formatters
    for mime in ("text/html", "text/plain"):
        for module, name in _RECORDS:
            formatters[mime].deferred_printers.pop((module, name), None)
            for known in [known for known in formatters[mime].type_printers if _named(known) == (module, name)]:
                formatters[mime].pop(known)
    formatters["text/html"].pop(list, None)
    printer = formatters["text/plain"].for_type(list)
    if getattr(printer, "labkit", False):
        formatters["text/plain"].for_type(list, printer.before)


def _named(known: type) -> tuple[str, str]:
    return known.__module__, known.__name__


def _is_whole(printer: Any) -> bool:
    """Whether the value is what is displayed, and not a member of something: there is no room for a table then."""
    return len(printer.stack) == 1


def _print_text(value: Any, printer: Any, _cycle: bool) -> None:
    printer.text((as_text(value) if _is_whole(printer) else None) or repr(value))


class _ListPrinter:
    """Prints lists of SDK objects as tables and leaves all other lists to the printer that was there before."""

    labkit = True

    def __init__(self, before: Any) -> None:
        self.before = before

    def __call__(self, value: list[Any], printer: Any, cycle: bool) -> None:
        text = as_text(value) if value and not cycle and _is_whole(printer) else None
        if text is None:
            self.before(value, printer, cycle)
        else:
            printer.text(text)
