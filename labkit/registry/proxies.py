"""Which proxy a request goes through: HTTP_PROXY, HTTPS_PROXY and NO_PROXY as Go's httpproxy package reads them.

dockerd does it so too; unlike urllib's, this NO_PROXY knows networks and ports, and loopback never needs to be named.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


def proxy_for(url: str, environment: Mapping[str, str]) -> str:
    """The URL of the proxy for a URL; empty where it is to be reached directly."""
    parts = urlsplit(url)
    name = f"{parts.scheme}_proxy"
    proxy = environment.get(name.upper()) or environment.get(name) or ""
    if not proxy or is_exempt(parts.hostname or "", parts.port or _PORTS[parts.scheme], environment):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def is_exempt(host: str, port: int, environment: Mapping[str, str]) -> bool:
    """Whether loopback or NO_PROXY exempts this host from the proxy."""
    address = _address(host)
    if host == "localhost" or (address and address.is_loopback):
        return True
    rules = (environment.get("NO_PROXY") or environment.get("no_proxy") or "").lower().split(",")
    return any(_matches(rule.strip(), host.rstrip(".").lower(), port, address) for rule in rules if rule.strip())


def _matches(rule: str, host: str, port: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    """One entry of NO_PROXY: `*`, a network, or host[:port]; a host's name stands for those below it too."""
    if rule == "*":
        return True
    if "/" in rule:
        try:
            return address is not None and address in ipaddress.ip_network(rule, strict=False)
        except ValueError:
            return False
    name, wanted_port = rule, ""
    if _address(rule) is None and ":" in rule:
        name, _, wanted_port = rule.rpartition(":")
    if wanted_port and wanted_port != str(port):
        return False
    if address is not None:
        return _address(name.strip("[]")) == address
    name = name.removeprefix("*")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
