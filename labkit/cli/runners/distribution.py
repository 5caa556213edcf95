"""`pull`, `push` and `search`: images between the engine and registries (Engine API `ImageCreate`, `ImagePush`,
`ImageSearch`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from labkit.cli.authorizing import registry_headers
from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.naming import Name, read_name
from labkit.cli.progress import show_progress
from labkit.cli.references import ellipsis, familiar
from labkit.cli.runners.accounts import note
from labkit.cli.session import Session
from labkit.cli.tables import Row, write_rows
from labkit.client.engine import encode_filters
from labkit.templates.quoting import go_quote

_PLATFORM_NOTE = """Using --platform pushes only the specified platform manifest of a multi-platform image index.
Other components, like attestations, will not be included.
To push the complete multi-platform image, remove the --platform flag.
"""
_FOUND = "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}"
_FOUND_HEADERS = {"Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL"}
_SYSTEMS = frozenset(("darwin", "freebsd", "linux", "netbsd", "openbsd", "solaris", "wasip1", "windows"))


def pull(session: Session, given: Invocation) -> None:
    name = _wanted(session, given)
    query = {
        "fromImage": name.repository,
        "tag": name.digest or name.tag or None,
        "platform": given.text("platform") or None,
    }
    headers = registry_headers(session, name.repository)
    answer = session.client.request("POST", "/images/create", query, headers=headers)
    show_progress(session, answer, given.flag("quiet"))
    session.out(f"{name}\n")


def _wanted(session: Session, given: Invocation) -> Name:
    """What is to be pulled or pushed: one tag, or all of them."""
    name = read_name(given.arguments[0])
    if given.flag("all-tags"):
        if not name.is_bare:
            raise StatusError("tag can't be used with --all-tags/-a")
        return name
    if name.is_bare and not given.flag("quiet"):
        session.out("Using default tag: latest\n")
    return name.tagged()


def push(session: Session, given: Invocation) -> None:
    platform = given.text("platform")
    query: dict[str, str | None] = {"platform": _platform(session, platform) if platform else None}
    if platform:
        session.out(note(_PLATFORM_NOTE, session.streams.stdout_is_terminal))
    name = _wanted(session, given)
    if name.digest:
        raise StatusError("cannot push a digest reference")
    # A request without credentials carries the header too: dockerd wants it there.
    headers = registry_headers(session, name.repository) or {"X-Registry-Auth": "e30="}
    path = f"/images/{familiar(name.repository)}/push"
    answer = session.client.request("POST", path, query | {"tag": name.tag or None}, headers=headers)
    show_progress(session, answer, given.flag("quiet"))
    if given.flag("quiet"):
        session.out(f"{name}\n")


def _platform(session: Session, text: str) -> str:
    """`os[/arch[/variant]]` as the JSON that the API takes. StatusError in the words of containerd's reader."""
    parts = text.lower().split("/")
    problem = ""
    if len(parts) > 3:
        problem = "cannot parse platform specifier"
    elif bad := next((part for part in parts if not re.fullmatch(r"[a-z0-9_.-]+", part)), None):
        problem = f"{go_quote(bad)} is an invalid component of the platform specifier"
    if problem:
        session.err(f"Invalid platform {text}")
        raise StatusError(f"{go_quote(text)}: {problem}: invalid argument")
    if len(parts) == 1 and parts[0] not in _SYSTEMS:
        parts.insert(0, "linux")
    return json.dumps(dict(zip(("os", "architecture", "variant"), parts, strict=False)))


def search(session: Session, given: Invocation) -> None:
    term = given.arguments[0]
    query = {
        "term": term,
        "limit": given.number("limit") or None,
        "filters": encode_filters(given.all("filter")),
    }
    found = session.client.request("GET", "/images/search", query, headers=registry_headers(session, term)).json()
    template = given.text("format") or _FOUND
    rows = _found_rows(found, not given.flag("no-trunc"), ("true", "false") if "json" in template else ("[OK]", ""))
    session.out(
        write_rows(_FOUND if template == "table" else template, rows, _FOUND_HEADERS, "*registry.searchContext")
    )


def _found_rows(found: list[Mapping[str, Any]], truncate: bool, truth: tuple[str, str]) -> Iterator[Row]:
    for result in found:
        description = result["description"].replace("\n", " ").replace("\r", " ")
        yield {
            "Description": ellipsis(description, 45) if truncate else description,
            "IsOfficial": truth[0] if result["is_official"] else truth[1],
            "Name": result["name"],
            "StarCount": str(result["star_count"]),
        }
