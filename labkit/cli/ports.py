"""`--publish` and `--expose`: port specifications as docker/go-connections `nat` reads them."""

from __future__ import annotations

from typing import Any

from labkit.cli.values import read_csv
from labkit.errors import InvalidParameter

_PROTOCOLS = ("tcp", "udp", "sctp")


def published(publish: list[str], expose: list[str]) -> tuple[dict[str, Any], dict[str, list[dict[str, str]]]]:
    """(ExposedPorts, PortBindings). InvalidParameter in Docker's words for a specification that isn't one."""
    exposed: dict[str, Any] = {}
    bindings: dict[str, list[dict[str, str]]] = {}
    for text in publish:
        for port, binding in _bindings(_short_form(text)):
            exposed[port] = {}
            bindings.setdefault(port, []).append(binding)
    for text in expose:
        if ":" in text:
            raise InvalidParameter(f"invalid port format for --expose: {text}")
        numbers, _, protocol = text.partition("/")
        try:
            first, last = _range(numbers)
        except ValueError as error:
            raise InvalidParameter(f"invalid range format for --expose: {text}, error: {error}") from error
        exposed.update({f"{number}/{_protocol(protocol)}": {} for number in range(first, last + 1)})
    return exposed, bindings


def _short_form(text: str) -> str:
    """`target=80,published=8080` as `8080:80/tcp`."""
    if "=" not in text:
        return text
    fields = dict(item.partition("=")[::2] for item in read_csv(text))
    unknown = fields.keys() - {"target", "published", "protocol", "mode"}
    if unknown or not fields.get("target"):
        raise InvalidParameter(f"invalid publish opts format (should be name=value but got '{text}')")
    return f"{fields.get('published', '')}:{fields['target']}/{fields.get('protocol', 'tcp')}"


def _bindings(text: str) -> list[tuple[str, dict[str, str]]]:
    """`[IP:][HOST_PORT:]PORT[/PROTOCOL]`, ports as numbers or ranges, IPv6 addresses in brackets."""
    rest, _, protocol = text.partition("/")
    address, host, container = _three_parts(rest)
    if not container:
        raise InvalidParameter(f"no port specified: {text}<empty>")
    try:
        first, last = _range(container)
    except ValueError as error:
        raise InvalidParameter(f"invalid containerPort: {container}") from error
    try:
        host_first, host_last = _range(host) if host else (0, -1)
    except ValueError as error:
        raise InvalidParameter(f"invalid hostPort: {host}") from error
    if host and host_last - host_first != last - first and first != last:
        raise InvalidParameter(f"invalid ranges specified for container and host Ports: {container} and {host}")
    found = []
    for offset in range(last - first + 1):
        # One container port with a range of host ports: the engine picks one of them.
        number = host if host and first == last else str(host_first + offset) if host else ""
        binding = {"HostIp": address, "HostPort": number}
        found.append((f"{first + offset}/{_protocol(protocol)}", binding))
    return found


def _three_parts(text: str) -> tuple[str, str, str]:
    parts = text.rsplit(":", 2)
    if len(parts) == 1:
        return "", "", parts[0]
    if len(parts) == 2:
        return "", parts[0], parts[1]
    address = parts[0].strip("[]")
    if not _is_address(address):
        raise InvalidParameter(f"invalid IP address: {parts[0]}")
    return address, parts[1], parts[2]


def _is_address(text: str) -> bool:
    import socket

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text.partition("%")[0])
        except OSError:
            continue
        return True
    return False


def _range(text: str) -> tuple[int, int]:
    """ValueError with go-connections' wording if it is no port or range of ports."""
    first, dash, last = text.partition("-")
    if not text:
        raise ValueError("empty string specified for ports")
    for number in (first, last) if dash else (first,):
        if not number.isdigit() or int(number) > 65535:
            raise ValueError(f'strconv.ParseUint: parsing "{number}": invalid syntax')
    if dash and int(last) < int(first):
        raise ValueError(f"invalid range specified for port: {text}")
    return int(first), int(last if dash else first)


def _protocol(text: str) -> str:
    if text and text.lower() not in _PROTOCOLS:
        raise InvalidParameter(f"invalid proto: {text}")
    return text.lower() or "tcp"
