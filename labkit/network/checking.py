"""The options of a network, checked before anything is made (moby `libnetwork/drivers/bridge`, `drivers/macvlan`).

Pure. Options that nobody knows are let pass, as dockerd lets them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from labkit.errors import Forbidden, InvalidParameter
from labkit.kernel.links import MACVLAN_MODES
from labkit.network.models import IPAMConfig

_PREFIX = "com.docker.network"
_MTU = f"{_PREFIX}.driver.mtu"
_HOST_IP = f"{_PREFIX}.bridge.host_binding_ipv4"
_BRIDGE = f"{_PREFIX}.bridge.name"
_SWITCHES = (f"{_PREFIX}.bridge.enable_icc", f"{_PREFIX}.bridge.enable_ip_masquerade")
_BOOLEANS = ("1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False")  # Go's ParseBool
_MOST_MTU = 65535
_LONGEST_NAME = 15  # IFNAMSIZ, without the NUL at its end


def check_options(driver: str, options: Mapping[str, str]) -> None:
    """Raises InvalidParameter in dockerd's words for a value that can't be."""
    _check_mtu(options.get(_MTU, "0") or "0")
    if driver == "macvlan":
        mode = options.get("macvlan_mode", "bridge") or "bridge"
        if mode not in MACVLAN_MODES:
            raise InvalidParameter(
                f"requested macvlan mode '{mode}' is not valid, 'bridge' mode is the macvlan driver default"
            )
        return
    for name in _SWITCHES:
        if (value := options.get(name, "true")) not in _BOOLEANS:
            raise _unreadable(name, value, f'strconv.ParseBool: parsing "{value}": invalid syntax')
    if (address := options.get(_HOST_IP, "")) and not _is_ipv4(address):
        raise _unreadable(_HOST_IP, address, "nil ip")
    bridge = options.get(_BRIDGE, "")
    if len(bridge) > _LONGEST_NAME or bridge in (".", "..") or re.search(r"[/:\s]", bridge):
        raise InvalidParameter(
            f"invalid bridge name {bridge!r}: a link's name has at most {_LONGEST_NAME} bytes, no slash, colon or blank"
        )


def _check_mtu(text: str) -> None:
    if not re.fullmatch(r"[+-]?\d+", text):
        raise _unreadable(_MTU, text, f'strconv.Atoi: parsing "{text}": invalid syntax')
    if not 0 <= int(text) <= _MOST_MTU:
        raise InvalidParameter(f"invalid MTU number: {text}")


def _unreadable(name: str, value: str, why: str) -> InvalidParameter:
    return InvalidParameter(f"failed to parse {name} value: {value} ({why})")


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def is_link_local(text: str) -> bool:
    """Whether it is a link-local address, of either family, without a zone."""
    try:
        return "%" not in text and ipaddress.ip_address(text).is_link_local
    except ValueError:
        return False


def check_subnets(driver: str, configs: list[IPAMConfig] | None) -> None:
    """A bridge has one subnet of each family. Raises Forbidden in dockerd's words."""
    versions = [":" in config.Subnet for config in configs or () if config.Subnet]
    if driver == "bridge" and len(set(versions)) < len(versions):
        raise Forbidden("bridge driver doesn't support multiple subnets")
