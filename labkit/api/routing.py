"""The table of routes: from method and path to the function that answers.

Patterns are written as in Docker's API definition, `/containers/{id}/start`, or as in dockerd's router
where a name may contain slashes: `/images/{name:.*}/json`. The table is compiled once: a dictionary for paths
without parameters, one regular expression a method for the others.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from labkit.api.messages import Answer, Request
from labkit.errors import InvalidParameter

API_VERSION = (1, 50)
MIN_API_VERSION = (1, 24)

_PARAMETER = re.compile(r"\{(\w+)(?::([^}]*))?\}")
_VERSIONED = re.compile(r"/v(\d{1,4})\.(\d{1,4})(/.*)", re.DOTALL)


@dataclass(frozen=True)
class Route:
    """One method and path, and what answers it.

    With `immediate`, `answer` is a plain function that gives a Response without waiting for anything; with `constant`,
    it gives the same one to each request.
    """

    method: str
    pattern: str
    answer: Callable[[Request], Awaitable[Answer] | Answer]
    immediate: bool = False
    constant: bool = False


class Router:
    """The routes of a server. Where two match, the earlier one wins, and one without parameters wins always."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._static: dict[tuple[str, str], Route] = {}
        self._dynamic: dict[str, list[Route]] = {}
        for route in routes:
            if "{" in route.pattern:
                self._dynamic.setdefault(route.method, []).append(route)
            else:
                self._static.setdefault((route.method, route.pattern), route)
        self._compiled = {method: _compile(listed) for method, listed in self._dynamic.items()}

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route for a path without version, with its parameters; None if there is none."""
        route = self._static.get((method, path))
        if route is not None:
            return route, {}
        pattern = self._compiled.get(method)
        match = pattern.fullmatch(path) if pattern else None
        if match is None or match.lastgroup is None:
            return None
        route = self._dynamic[method][int(match.lastgroup[1:])]
        first = match.re.groupindex[match.lastgroup]
        names = _PARAMETER.findall(route.pattern)
        return route, {name: match[first + 1 + index] for index, (name, _) in enumerate(names)}

    def immediate(self, method: str, path: str) -> Route | None:
        """The route of a path whose answer is given without waiting; only paths without parameters can be."""
        route = self._static.get((method, path))
        return route if route is not None and route.immediate else None


def _compile(routes: list[Route]) -> re.Pattern[str]:
    """One alternative a route, each a named group (`r0`, `r1`, …) around its parameters' groups."""
    return re.compile("|".join(f"(?P<r{index}>{_regex(route.pattern)})" for index, route in enumerate(routes)), re.S)


def _regex(pattern: str) -> str:
    parts, end = [], 0
    for match in _PARAMETER.finditer(pattern):
        parts += [re.escape(pattern[end : match.start()]), f"({match[2] or '[^/]+'})"]
        end = match.end()
    return "".join(parts) + re.escape(pattern[end:])


def split_version(path: str) -> tuple[tuple[int, int], str]:
    """A path's API version, and the path without it; an unversioned path means the newest."""
    match = _VERSIONED.fullmatch(path)
    return ((int(match[1]), int(match[2])), match[3]) if match else (API_VERSION, path)


def check_version(version: tuple[int, int]) -> None:
    """Refuse a client that is too new or too old, in dockerd's words."""
    if version > API_VERSION:
        raise InvalidParameter(
            f"client version {version[0]}.{version[1]} is too new. "
            f"Maximum supported API version is {API_VERSION[0]}.{API_VERSION[1]}"
        )
    if version < MIN_API_VERSION:
        raise InvalidParameter(
            f"client version {version[0]}.{version[1]} is too old. Minimum supported API version is "
            f"{MIN_API_VERSION[0]}.{MIN_API_VERSION[1]}, please upgrade your client to a newer version"
        )
