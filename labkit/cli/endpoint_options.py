"""The options that connect a container to networks, as the Engine API's EndpointSettings.

`run`, `create` and `network connect` share them (docker/cli `opts/network.go`, `command/container/opts.go`).
Messages are docker/cli's.
"""

from __future__ import annotations

import re
from typing import Any

from labkit.cli.grammar import Invocation
from labkit.cli.values import read_csv
from labkit.errors import InvalidParameter
from labkit.templates.quoting import go_quote

_LONG_FORM = re.compile(r"\w+=\w+(,\w+=\w+)*")
_IPAM = {"ip": "IPv4Address", "ip6": "IPv6Address", "link-local-ip": "LinkLocalIPs"}
_ONCE = (  # option, field, what the long form of --network calls it
    ("network-alias", "Aliases", "alias"),
    ("ip", "IPv4Address", "IPv4 address"),
    ("ip6", "IPv6Address", "IPv6 address"),
    ("mac-address", "MacAddress", "MAC address"),
    ("link-local-ip", "LinkLocalIPs", "link-local IP addresses"),
)
_MAC = re.compile(r"[0-9a-f]{2}([:-])[0-9a-f]{2}(\1[0-9a-f]{2})*|[0-9a-f]{4}(\.[0-9a-f]{4})+", re.IGNORECASE)
_MAC_DIGITS = (12, 16, 40)  # Ethernet, EUI-64, InfiniBand


def read_network(text: str) -> dict[str, Any]:
    """`lab`, or `name=lab,alias=web,ip=10.0.0.5,driver-opt=k=v`, as endpoint settings with the network as `Target`.

    Raises ValueError. The long form is read in lower case, as docker reads it.
    """
    if not _LONG_FORM.search(text):
        return {"Target": text}
    endpoint: dict[str, Any] = {"Target": ""}
    for field in read_csv(text):
        key, equals, value = (part.strip() for part in field.lower().partition("="))
        if not equals or not key:
            raise ValueError(f"invalid field {field}")
        _add(endpoint, key, value)
    if not endpoint["Target"]:
        raise ValueError("network name/id is not specified")
    return endpoint


def _add(endpoint: dict[str, Any], key: str, value: str) -> None:
    if key == "name":
        endpoint["Target"] = value
    elif key == "mac-address":
        endpoint["MacAddress"] = value
    elif key == "alias":
        endpoint.setdefault("Aliases", []).append(value)
    elif key in ("ip", "ip6"):
        endpoint.setdefault("IPAMConfig", {})[_IPAM[key]] = value
    elif key == "link-local-ip":
        endpoint.setdefault("IPAMConfig", {}).setdefault("LinkLocalIPs", []).append(value)
    elif key == "driver-opt":
        name, equals, setting = value.partition("=")
        if not equals or not name:
            raise ValueError("invalid key value pair format in driver options")
        endpoint.setdefault("DriverOpts", {})[name.strip()] = setting.strip()
    elif key == "gw-priority":
        if not re.fullmatch(r"[+-]?\d+", value):
            raise ValueError(f"invalid gw-priority ({value}): invalid syntax")
        endpoint["GwPriority"] = int(value)
    else:
        raise ValueError(f"invalid field key {key}")


def endpoints_config(given: Invocation) -> tuple[str, dict[str, Any]]:
    """NetworkMode and EndpointsConfig of `run` and `create`. `--ip` and the like mean the first network."""
    networks: list[dict[str, Any]] = given.all("network") or [{"Target": "default"}]
    first = networks[0] = _with_options(networks[0], given)
    settings: dict[str, Any] = {}
    for network in networks:
        endpoint = _checked(network)
        if network["Target"] in settings:
            raise InvalidParameter(f"network {go_quote(network['Target'])} is specified multiple times")
        settings[network["Target"]] = endpoint
    if len({_is_user_defined(network["Target"]) for network in networks}) > 1:
        raise InvalidParameter(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        )
    return first["Target"], settings


def _with_options(network: dict[str, Any], given: Invocation) -> dict[str, Any]:
    """The first network with the options that don't name one. Raises InvalidParameter if both say the same thing."""
    ipam = dict(network.get("IPAMConfig", {}))
    found = {**network, "IPAMConfig": ipam}
    for option, field, called in _ONCE:
        place = ipam if option in _IPAM else found
        value = given.options.get(option)
        if value and place.get(field):
            raise InvalidParameter(f"conflicting options: cannot specify both --{option} and per-network {called}")
        if value:
            place[field] = value
    if given.all("link") and _is_user_defined(network["Target"]):
        found["Links"] = given.all("link")
    return {key: value for key, value in found.items() if value}


def _checked(network: dict[str, Any]) -> dict[str, Any]:
    target = network.get("Target", "")
    if not target.strip():
        raise InvalidParameter("no name set for network")
    if network.get("Aliases") and not _is_user_defined(target):
        raise InvalidParameter("network-scoped aliases are only supported for user-defined networks")
    if (address := network.get("MacAddress")) and not is_mac(address):
        raise InvalidParameter(f"{address} is not a valid mac address")
    return {key: value for key, value in network.items() if key != "Target"}


def _is_user_defined(network: str) -> bool:
    return network not in ("", "default", "bridge", "host", "none") and not network.startswith("container:")


def is_mac(text: str) -> bool:
    """Whether it is a hardware address as Go's net.ParseMAC takes it."""
    text = text.strip()
    return bool(_MAC.fullmatch(text)) and len(re.sub("[:.-]", "", text)) in _MAC_DIGITS


def connect_settings(given: Invocation) -> dict[str, Any]:
    """The EndpointConfig of `network connect`. Raises InvalidParameter."""
    ipam = {
        "IPv4Address": given.text("ip"),
        "IPv6Address": given.text("ip6"),
        "LinkLocalIPs": split(given, "link-local-ip"),
    }
    endpoint: dict[str, Any] = {
        "IPAMConfig": {key: value for key, value in ipam.items() if value},
        "Links": given.all("link") or None,
        "Aliases": split(given, "alias") or None,
        "DriverOpts": _driver_options(split(given, "driver-opt")) or None,
        "GwPriority": given.number("gw-priority") or 0,
    }
    return endpoint


def split(given: Invocation, option: str) -> list[str]:
    """The values of an option that may be given several times and with commas (pflag StringSlice)."""
    return [value for text in given.all(option) for value in read_csv(text)]


def _driver_options(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidParameter("invalid key/value pair format in driver options")
        found[name.strip()] = value.strip()
    return found
