"""`network create`, `ls`, `connect`, …: networks from outside (Engine API `NetworkCreate`, `NetworkList`, …)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from labkit.cli.endpoint_options import connect_settings, split
from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.references import short_id
from labkit.cli.session import Session
from labkit.cli.tables import Row, write_rows
from labkit.cli.units import go_instant
from labkit.client.engine import encode_filters
from labkit.errors import InvalidParameter, LabkitError, NotFound

_TABLE = "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}"
_RAW = "network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n"
_HEADERS = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Labels": "LABELS",
    "CreatedAt": "CREATED AT",
}
_Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network


def create(session: Session, given: Invocation) -> None:
    body: dict[str, Any] = {
        "Name": given.arguments[0],
        "Driver": given.text("driver", "bridge"),
        "Scope": given.text("scope"),
        "Internal": given.flag("internal"),
        "Attachable": given.flag("attachable"),
        "Ingress": given.flag("ingress"),
        "ConfigOnly": given.flag("config-only"),
        "ConfigFrom": {"Network": given.text("config-from")} if given.text("config-from") else None,
        "IPAM": {
            "Driver": given.text("ipam-driver", "default"),
            "Options": _pairs(given.all("ipam-opt")),
            "Config": _subnets(given),
        },
        "Options": _pairs(given.all("opt")),
        "Labels": _pairs(given.all("label")),
    }
    # An address family that nobody spoke of is for the engine to decide.
    body.update(
        {f: given.options[o] for o, f in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")) if o in given.options}
    )
    session.out(session.client.post("/networks/create", body=body)["Id"] + "\n")


def _pairs(texts: list[str]) -> dict[str, str]:
    return dict(text.partition("=")[::2] for text in texts)


def _subnets(given: Invocation) -> list[dict[str, Any]]:
    """IPAM.Config: ranges, gateways and other addresses, each with its subnet (docker/cli `consolidateIpam`)."""
    subnets, ranges, gateways = (split(given, option) for option in ("subnet", "ip-range", "gateway"))
    if len(subnets) < max(len(ranges), len(gateways)):
        raise InvalidParameter("every ip-range or gateway must have a corresponding subnet")
    found: dict[str, dict[str, Any]] = {}
    for text in subnets:
        if any(_has(text, other) or _has(other, text) for other in found):
            raise InvalidParameter("multiple overlapping subnet configuration is not supported")
        found[text] = {"Subnet": text}
    for text in ranges:
        _place(found, text, "IPRange", "range")
    for text in gateways:
        _place(found, text, "Gateway", "gateway")
    for name, text in _pairs(given.all("aux-address")).items():
        homes = [subnet for subnet in found if _has(subnet, text)]
        if not homes:
            raise InvalidParameter(f"no matching subnet for aux-address {text}")
        for subnet in homes:
            found[subnet].setdefault("AuxiliaryAddresses", {})[name] = text
    return list(found.values())


def _place(found: dict[str, dict[str, Any]], text: str, field: str, word: str) -> None:
    homes = [subnet for subnet in found if _has(subnet, text)]
    if not homes:
        raise InvalidParameter(f"no matching subnet for {word} {text}")
    for subnet in homes:
        if taken := found[subnet].get(field):
            ending = f"on the same subnet ({subnet})" if word == "range" else f"for the same subnet ({subnet})"
            raise InvalidParameter(f"cannot configure multiple {word}s ({text}, {taken}) {ending}")
        found[subnet][field] = text


def _has(subnet: str, text: str) -> bool:
    """Whether an address, or the address that a subnet begins with, is in the subnet."""
    whole = _parse(subnet, "invalid subnet: ")
    if "/" in text:
        return _parse(text).network_address in whole
    try:
        return ipaddress.ip_address(text) in whole
    except ValueError:
        return False  # as docker has it: what isn't an address is in no subnet


def _parse(text: str, prefix: str = "") -> _Subnet:
    try:
        if "/" not in text:
            raise ValueError(text)
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidParameter(f"{prefix}invalid CIDR address: {text}") from error


def ls(session: Session, given: Invocation) -> None:
    networks = session.client.get("/networks", {"filters": encode_filters(given.all("filter"))})
    networks.sort(key=lambda network: _natural(network["Name"]))
    rows = [_row(network, not given.flag("no-trunc")) for network in networks]
    session.out(
        write_rows(_template(given.text("format"), given.flag("quiet")), rows, _HEADERS, "*network.networkContext")
    )


def _template(format_: str, quiet: bool) -> str:
    if format_ == "raw":
        return "network_id: {{.ID}}" if quiet else _RAW
    if format_ in ("", "table"):
        return "{{.ID}}" if quiet else _TABLE
    return format_


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """net2 before net10."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.findall(r"\d+|\D+", name)]


def _row(network: Mapping[str, Any], truncate: bool) -> Row:
    labels: Mapping[str, str] = network.get("Labels") or {}
    return {
        "ID": short_id(network["Id"]) if truncate else network["Id"],
        "Name": network["Name"],
        "Driver": network["Driver"],
        "Scope": network["Scope"],
        "IPv4": _bool(network.get("EnableIPv4")),
        "IPv6": _bool(network.get("EnableIPv6")),
        "Internal": _bool(network.get("Internal")),
        "Labels": lambda: ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
        "Label": lambda name: labels.get(name, ""),
        "CreatedAt": lambda: go_instant(network["Created"]),
    }


def _bool(value: Any) -> str:
    return "true" if value else "false"


def connect(session: Session, given: Invocation) -> None:
    network, container = given.arguments
    body = {"Container": container, "EndpointConfig": connect_settings(given)}
    session.client.request("POST", f"/networks/{network}/connect", body=body).body()


def disconnect(session: Session, given: Invocation) -> None:
    network, container = given.arguments
    body = {"Container": container, "Force": given.flag("force")}
    session.client.request("POST", f"/networks/{network}/disconnect", body=body).body()


def rm(session: Session, given: Invocation) -> None:
    failed = False
    for name in given.arguments:
        try:
            session.client.request("DELETE", f"/networks/{name}").body()
        except LabkitError as error:
            if given.flag("force") and isinstance(error, NotFound):
                continue
            session.err(f"{error}\n")
            failed = True
        else:
            session.out(f"{name}\n")
    if failed:
        raise StatusError("exit status 1")
