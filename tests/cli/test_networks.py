"""What `network create` makes of subnets, ranges and gateways, and the lists of networks."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.cli.commands import BY_NAME
from labkit.cli.endpoint_options import connect_settings, is_mac, read_network
from labkit.cli.grammar import parse
from labkit.cli.runners.networks import _natural, _subnets
from labkit.cli.units import go_instant
from labkit.errors import InvalidParameter


def subnets(*words: str) -> list[dict[str, Any]]:
    return _subnets(parse("labkit", BY_NAME["network", "create"], ("network", "create"), [*words, "lab"]))


def test_each_address_goes_to_its_subnet() -> None:
    words = (
        "--subnet",
        "10.1.0.0/16,fd00::/64",
        "--subnet",
        "10.2.0.0/16",
        "--gateway",
        "10.2.0.9",
        "--gateway=fd00::9",
    )
    assert subnets(
        *words, "--ip-range", "10.1.5.0/24", "--aux-address", "a=10.1.0.7", "--aux-address", "b=fd00::7"
    ) == [
        {"Subnet": "10.1.0.0/16", "IPRange": "10.1.5.0/24", "AuxiliaryAddresses": {"a": "10.1.0.7"}},
        {"Subnet": "fd00::/64", "Gateway": "fd00::9", "AuxiliaryAddresses": {"b": "fd00::7"}},
        {"Subnet": "10.2.0.0/16", "Gateway": "10.2.0.9"},
    ]
    assert subnets() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--gateway 10.1.0.1", "every ip-range or gateway must have a corresponding subnet"),
        ("--subnet 10.1.0.0/16 --subnet 10.1.2.0/24", "multiple overlapping subnet configuration is not supported"),
        ("--subnet 10.1.2.0/24 --subnet 10.1.0.0/16", "multiple overlapping subnet configuration is not supported"),
        ("--subnet 10.1.0.0/16 --gateway 10.2.0.1", "no matching subnet for gateway 10.2.0.1"),
        ("--subnet 10.1.0.0/16 --ip-range fd00::/80", "no matching subnet for range fd00::/80"),
        ("--subnet 10.1.0.0/16 --aux-address a=x", "no matching subnet for aux-address x"),
        ("--subnet 10.1.0.0 --gateway 10.1.0.1", "invalid subnet: invalid CIDR address: 10.1.0.0"),
        ("--subnet 10.1.0.0/16 --ip-range x/24", "invalid CIDR address: x/24"),
        (
            "--subnet 10.1.0.0/16,10.2.0.0/16 --gateway 10.1.0.1,10.1.0.2",
            "cannot configure multiple gateways (10.1.0.2, 10.1.0.1) for the same subnet (10.1.0.0/16)",
        ),
        (
            "--subnet 10.1.0.0/16,10.2.0.0/16 --ip-range 10.1.0.0/24,10.1.1.0/24",
            "cannot configure multiple ranges (10.1.1.0/24, 10.1.0.0/24) on the same subnet (10.1.0.0/16)",
        ),
    ],
)
def test_what_fits_no_subnet(words: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        subnets(*words.split())
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("lab", {"Target": "lab"}),
        ("container:x", {"Target": "container:x"}),
        ("name=Lab,alias=a,alias=b", {"Target": "lab", "Aliases": ["a", "b"]}),
        (
            "name=x,ip=10.0.0.5,ip6=fd00::5,link-local-ip=fe80::1,gw-priority=-3",
            {
                "Target": "x",
                "IPAMConfig": {"IPv4Address": "10.0.0.5", "IPv6Address": "fd00::5", "LinkLocalIPs": ["fe80::1"]},
                "GwPriority": -3,
            },
        ),
        ("name=x,driver-opt=a=b,mac-address=02:00:00:00:00:01",
         {"Target": "x", "DriverOpts": {"a": "b"}, "MacAddress": "02:00:00:00:00:01"}),
    ],
)  # fmt: skip
def test_networks_are_read_in_both_forms(text: str, network: dict[str, Any]) -> None:
    assert read_network(text) == network


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("92:d0:c6:0a:29:33", True), ("92-D0-C6-0A-29-33", True), ("92d0.c60a.2933", True),
        ("02:00:5e:10:00:00:00:01", True),
        ("92:d0:c6:0a:29", False), ("92:d0:c6:0a:29-33", False), ("92:d0:c6:0a:29:3g", False), ("", False),
        ("92d0c60a2933", False),
    ],
)  # fmt: skip
def test_hardware_addresses_are_gos(text: str, valid: bool) -> None:
    assert is_mac(text) is valid


def test_connect_settings() -> None:
    words = ["--alias", "a,b", "--alias", "c", "--ip", "10.0.0.5", "--link", "x:y", "--driver-opt", "k=v", "lab", "web"]
    given = parse("labkit", BY_NAME["network", "connect"], ("network", "connect"), words)
    assert connect_settings(given) == {
        "IPAMConfig": {"IPv4Address": "10.0.0.5"},
        "Links": ["x:y"],
        "Aliases": ["a", "b", "c"],
        "DriverOpts": {"k": "v"},
        "GwPriority": 0,
    }


def test_names_are_sorted_as_people_count() -> None:
    assert sorted(["net10", "net2", "bridge", "net"], key=_natural) == ["bridge", "net", "net2", "net10"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-24T17:34:00.123456789Z", "2026-11-24 17:34:00.123456789 +0000 UTC"),
        ("2026-11-24T17:34:00.120Z", "2026-11-24 17:34:00.12 +0000 UTC"),
        ("2026-11-24T17:34:00Z", "2026-11-24 17:34:00 +0000 UTC"),
        ("2026-11-24T17:34:00.5+01:00", "2026-11-24 17:34:00.5 +0100 +0100"),
        ("x", "x"),
    ],
)
def test_instants_are_shown_as_go_shows_them(text: str, shown: str) -> None:
    assert go_instant(text) == shown
