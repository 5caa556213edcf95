"""The `filters` of `GET /containers/json` (moby `daemon/list.go`, `ContainerList` in the Engine API)."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from labkit.engine.clock import parse_rfc3339
from labkit.engine.container import Container
from labkit.engine.health_checks import status_of
from labkit.engine.views import shown_ports
from labkit.errors import InvalidParameter

HEALTH = ("starting", "healthy", "unhealthy", "none")
STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
_TRUE, _FALSE = ("1", "true"), ("0", "false")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
Port = tuple[int, str]


class Filter:
    """What a container must be: any value of one filter, all filters. Raises InvalidParameter for what is none."""

    KNOWN = frozenset(
        ("ancestor", "before", "exited", "health", "id", "is-task", "isolation", "label", "name", "network", "publish",
         "expose", "since", "status", "volume")
    )  # fmt: skip

    def __init__(self, filters: dict[str, list[str]], bounds: dict[str, float], images: set[str]) -> None:
        """`bounds` are the creation times of `before` and `since`, `images` the IDs that `ancestor` names."""
        if unknown := set(filters) - self.KNOWN:
            raise InvalidParameter(f"invalid filter '{sorted(unknown)[0]}'")
        _check_words("status", filters, STATES, "invalid filter 'status={}'")
        _check_words("health", filters, HEALTH, "unrecognized filter value for health: {}")
        _check_words("is-task", filters, (*_TRUE, *_FALSE), "invalid filter 'is-task=[{}]'")
        self.exited = {_exit_code(value) for value in filters.get("exited", ())}
        self.published, self.exposed = (
            frozenset(port for value in filters.get(name, ()) for port in _ports(name, value))
            for name in ("publish", "expose")
        )
        # isolation is about Windows: dockerd takes every value elsewhere.
        self.filters = {name: values for name, values in filters.items() if values and name != "isolation"}
        self.bounds = bounds
        self.images = images

    @property
    def all_states(self) -> bool:
        """One filter looks at stopped containers too, without `all`."""
        return "status" in self.filters

    def passes(self, container: Container) -> bool:
        ports = {"publish", "expose"} & set(self.filters)
        others = (pair for pair in self.filters.items() if pair[0] not in ports)
        return (not ports or self._has_port(container)) and all(
            self._test(name, values, container) for name, values in others
        )

    def _has_port(self, container: Container) -> bool:
        """Of `publish` and `expose` any port of either is enough."""
        return any(
            (port.get("PublicPort"), port["Type"]) in self.published
            or (port["PrivatePort"], port["Type"]) in self.exposed
            for port in shown_ports(container)
        )

    def _test(self, name: str, values: list[str], container: Container) -> bool:
        if name == "label":
            return all(_labelled(container.record.Config.Labels or {}, value) for value in values)
        if name == "exited":
            state = container.record.State
            return not state.Running and parse_rfc3339(state.StartedAt) > 0 and state.ExitCode in self.exited
        if name in ("before", "since"):
            created = parse_rfc3339(container.record.Created) / 1e9
            return created < self.bounds[name] if name == "before" else created > self.bounds[name]
        if name == "ancestor":
            return container.record.Image in self.images
        return any(_SIMPLE[name](container, value) for value in values)


def _check_words(name: str, filters: dict[str, list[str]], known: tuple[str, ...], message: str) -> None:
    for value in filters.get(name, ()):
        if value not in known:
            raise InvalidParameter(message.format(value))


def _exit_code(value: str) -> int:
    if not _INTEGER.fullmatch(value):
        raise InvalidParameter(f'strconv.Atoi: parsing "{value}": invalid syntax')
    return int(value)


def _ports(name: str, value: str) -> list[Port]:
    """`80`, `80/udp` or `80-90/tcp`, in dockerd's words if it is none of them."""
    if ":" in value:
        raise InvalidParameter(f"filter for '{name}' should not contain ':': {value}")
    text, _, protocol = value.partition("/")
    first, _, last = text.partition("-")
    failed = f"error while looking up for {name} {value}"
    begin, end = (_port_number(failed, port) for port in (first, last or first))
    if end < begin:
        raise InvalidParameter(f"{failed}: invalid range specified for port: {text}")
    return [(port, protocol.lower() or "tcp") for port in range(begin, end + 1)]


def _port_number(failed: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidParameter(f'{failed}: strconv.ParseUint: parsing "{text}": invalid syntax')
    if len(text) > 5 or int(text) > 65535:
        raise InvalidParameter(f'{failed}: strconv.ParseUint: parsing "{text}": value out of range')
    return int(text)


def _named(container: Container, value: str) -> bool:
    """A name is matched as a regular expression, with its slash and without."""
    pattern = _pattern(value)
    return value in (container.name, f"/{container.name}") or bool(
        pattern and (pattern.search(f"/{container.name}") or pattern.search(container.name))
    )


@lru_cache(maxsize=64)
def _pattern(value: str) -> re.Pattern[str] | None:
    """None for what is no expression: as with dockerd nothing matches it then."""
    try:
        return re.compile(value)
    except re.error:
        return None


def _labelled(labels: dict[str, str], wanted: str) -> bool:
    key, sign, value = wanted.partition("=")
    return key in labels and (not sign or labels[key] == value)


def _in_network(container: Container, value: str) -> bool:
    return any(value in (name, endpoint.NetworkID) for name, endpoint in container.record.Networks.items())


def _has_volume(container: Container, value: str) -> bool:
    return any(
        value in (point.Name or point.Source, point.Destination) for point in container.record.MountPoints.values()
    )


_SIMPLE: dict[str, Callable[[Container, str], bool]] = {
    "id": lambda container, value: container.id.startswith(value),
    "name": _named,
    "status": lambda container, value: container.record.State.Status == value,
    "health": lambda container, value: value == status_of(container.record.State),
    "network": _in_network,
    "volume": _has_volume,
    "is-task": lambda _, value: value in _FALSE,  # no container is a task of a cluster
}
