"""`--publish` and `--expose`: port specifications as docker/go-connections `nat` reads them."""

from __future__ import annotations

from typing import Any

from labkit.cli.values import read_address, read_unsigned
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
        protocol, numbers = _protocol_and_port(text)
        try:
            first, last = _range(numbers)
        except ValueError as error:
            raise InvalidParameter(f"invalid range format for --expose: {text}, error: {error}") from error
        exposed.update({f"{number}/{protocol}": {} for number in range(first, last + 1)})
    return exposed, bindings


def _short_form(text: str) -> str:
    """`target=80,published=8080` as `8080:80/tcp`; other keys mean nothing to docker either."""
    if "=" not in text:
        return text
    fields = {"protocol": "tcp"}
    for item in text.split(","):
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise InvalidParameter(f"invalid publish opts format (should be name=value but got '{item}')")
        fields[key] = value
    return f"{fields.get('published', '')}:{fields.get('target', '')}/{fields['protocol']}"


def _bindings(text: str) -> list[tuple[str, dict[str, str]]]:
    """`[IP:][HOST_PORT:]PORT[/PROTOCOL]`, ports as numbers or ranges, IPv6 addresses in brackets."""
    address, host, rest = _three_parts(text)
    protocol, container = _protocol_and_port(rest)
    address = _address(address)
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
    if protocol.lower() not in _PROTOCOLS:
        raise InvalidParameter(f"invalid proto: {protocol}")
    found = []
    for offset in range(last - first + 1):
        # One container port with a range of host ports: the engine picks one of them.
        span = f"{host_first}-{host_last}" if host_last > host_first else str(host_first)
        number = "" if not host else span if first == last else str(host_first + offset)
        found.append((f"{first + offset}/{protocol.lower()}", {"HostIp": address, "HostPort": number}))
    return found


def _three_parts(text: str) -> tuple[str, str, str]:
    """What stands before the last two colons is the address, whatever it looks like."""
    address, host, container = ["", "", *text.rsplit(":", 2)][-3:]
    return address, host, container


def _address(text: str) -> str:
    bare = text
    if text.startswith("["):
        if not text.endswith("]"):
            raise InvalidParameter(f"invalid IP address {text}: address {text}:: missing ']' in address")
        bare = text[1:-1]
    if bare and not _is_address(bare):
        raise InvalidParameter(f"invalid IP address: {bare}")
    return bare


def _protocol_and_port(text: str) -> tuple[str, str]:
    """`53/udp` as protocol and port; TCP where none is named."""
    port, _, rest = text.partition("/")
    return (rest.partition("/")[0] or "tcp", port) if port else ("", "")


def _is_address(text: str) -> bool:
    try:
        read_address(text)
    except ValueError:
        return False
    return True


def _range(text: str) -> tuple[int, int]:
    """ValueError with go-connections' wording if it is no port or range of ports."""
    first, dash, last = text.partition("-")
    if not text:
        raise ValueError("empty string specified for ports")
    begin = read_unsigned(first, 16)
    end = read_unsigned(last, 16) if dash else begin
    if end < begin:
        raise ValueError(f"invalid range specified for port: {text}")
    return begin, end
