"""`inspect`: objects as the engine describes them, whole or through a template (docker/cli inspector)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.session import Session
from labkit.errors import LabkitError, NotFound
from labkit.templates.parsing import TemplateError, parse
from labkit.templates.rendering import execute

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_PATHS = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
}


def inspect(session: Session, given: Invocation) -> None:
    kind = given.text("type")
    if kind and kind not in _PATHS:
        raise StatusError(f'"{kind}" is not a valid value for --type')
    _inspect(session, given, lambda name: _find(session, name, [kind] if kind else list(_PATHS), given.flag("size")))


def inspect_containers(session: Session, given: Invocation) -> None:
    _inspect(session, given, lambda name: _fetch(session, "container", name, given.flag("size")))


def inspect_images(session: Session, given: Invocation) -> None:
    _inspect(session, given, lambda name: _fetch(session, "image", name, False))


def inspect_networks(session: Session, given: Invocation) -> None:
    _inspect(session, given, lambda name: _fetch(session, "network", name, False))


def inspect_volumes(session: Session, given: Invocation) -> None:
    _inspect(session, given, lambda name: _fetch(session, "volume", name, False), "volume.Volume")


def _fetch(session: Session, kind: str, name: str, size: bool) -> bytes:
    query = {"size": size} if kind == "container" else {}
    return session.client.request("GET", _PATHS[kind].format(name), query).body()


def _find(session: Session, name: str, kinds: list[str], size: bool) -> bytes:
    for kind in kinds:
        try:
            return _fetch(session, kind, name, size)
        except NotFound:
            if len(kinds) == 1:
                raise
    raise NotFound(f"Error: No such object: {name}")


def _inspect(session: Session, given: Invocation, fetch: Callable[[str], bytes], kind: str = "") -> None:
    """`kind` is what Docker calls the objects' type where a template can't use them."""
    template = given.text("format")
    try:
        tree = parse(template)
    except TemplateError as error:
        raise StatusError(f"template parsing error: {error}", 64) from error
    whole = template in ("", "json")
    found: list[str] = []
    failures: list[str] = []
    for name in given.arguments:
        try:
            text = fetch(name).decode().strip()
            found.append(text if whole else _execute(tree, json.loads(text), template, kind))
        except LabkitError as error:
            failures.append(str(error))
    session.out(_list(found, template) if whole else "".join(found) or "\n")
    if failures:
        raise StatusError("\n".join(failures))


def _execute(tree: Any, value: Any, template: str, kind: str) -> str:
    try:
        return execute(tree, value, kind, template) + "\n"
    except TemplateError as error:
        raise StatusError(f"template parsing error: {error}") from error


def _list(found: list[str], template: str) -> str:
    if not found:
        return "[]\n"
    text = f"[{','.join(found)}]"
    return ("".join(_TOKEN.findall(text)) if template == "json" else indent_json(text)) + "\n"


def indent_json(text: str, indent: str = "    ") -> str:
    """JSON laid out as Go's json.Indent does: numbers and escapes stay as the engine wrote them."""
    out: list[str] = []
    depth = 0
    previous = ""
    for token in _TOKEN.findall(text):
        closing = token in ("}", "]")
        if closing:
            depth -= 1
        empty = closing and previous in ("{", "[")
        if previous and not empty and (closing or previous in ("{", "[", ",")):
            out.append("\n" + indent * depth)
        out.append(": " if token == ":" else token)
        depth += token in ("{", "[")
        previous = token
    return "".join(out)
