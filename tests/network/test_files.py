"""The files by which a container knows names: /etc/hosts, /etc/resolv.conf."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.errors import InvalidParameter
from labkit.network.files import FALLBACK, Resolver, extra_hosts, hosts, parse_resolver

PRESENT = "# a comment\nnameserver 1.1.1.1\nnameserver 2.2.2.2\n\nsearch a b\noptions ndots:1\n"
FOUND = Resolver(("1.1.1.1", "2.2.2.2"), ("a", "b"), ("ndots:1",))


def test_hosts() -> None:
    text = hosts([("172.17.0.2", "web"), ("fd00::2", "web")])
    assert text.startswith("127.0.0.1\tlocalhost\n")
    assert text.splitlines()[-2:] == ["172.17.0.2\tweb", "fd00::2\tweb"]


def test_extra_hosts() -> None:
    entries = ["a:1.2.3.4", "b:::1", "c=[fe80::1]", "d:[::2]", "e:host-gateway"]
    assert extra_hosts(entries, ["172.17.0.1", "fd00::1"]) == [
        ("1.2.3.4", "a"), ("::1", "b"), ("fe80::1", "c"), ("::2", "d"), ("172.17.0.1", "e"), ("fd00::1", "e"),
    ]  # fmt: skip


@pytest.mark.parametrize("entry", ["a", ":1.2.3.4", "a:", "a=", ""])
def test_extra_hosts_that_are_none(entry: str) -> None:
    with pytest.raises(InvalidParameter, match="bad format for add-host"):
        extra_hosts([entry], [])


def test_an_address_that_is_none() -> None:
    with pytest.raises(InvalidParameter, match=r'invalid IP address in add-host: "1\.2\.3"'):
        extra_hosts(["a:1.2.3"], [])


def test_what_a_resolver_file_says() -> None:
    assert parse_resolver(PRESENT) == FOUND
    assert parse_resolver("search one\nsearch two\nnameserver\noptions a\noptions b\n") == Resolver(
        (), ("two",), ("a", "b")
    )


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, FOUND),
        ({"servers": ["9.9.9.9"]}, Resolver(("9.9.9.9",), ("a", "b"), ("ndots:1",))),
        ({"search": ["c", "d"]}, Resolver(("1.1.1.1", "2.2.2.2"), ("c", "d"), ("ndots:1",))),
        ({"search": ["."]}, Resolver(("1.1.1.1", "2.2.2.2"), (), ("ndots:1",))),
        ({"options": ["x", "y"]}, Resolver(("1.1.1.1", "2.2.2.2"), ("a", "b"), ("x", "y"))),
    ],
)
def test_what_dns_options_change(asked: dict[str, Any], found: Resolver) -> None:
    assert FOUND.overridden(asked.get("servers", ()), asked.get("search", ()), asked.get("options", ())) == found


def test_a_server_at_a_loopback_address_is_out_of_a_containers_reach() -> None:
    assert Resolver(("127.0.0.53", "1.1.1.1", "::1", "nonsense")).reachable().servers == ("1.1.1.1",)
    assert Resolver(("127.0.0.53",)).reachable().servers == FALLBACK


def test_behind_a_name_server_of_its_own() -> None:
    assert Resolver(("1.1.1.1",), ("a",), ("edns0",)).behind_names() == Resolver(
        ("127.0.0.11",), ("a",), ("edns0", "ndots:0")
    )
    assert FOUND.behind_names().options == ("ndots:1",)


def test_a_resolver_as_text() -> None:
    assert parse_resolver(FOUND.text()) == FOUND
    assert FOUND.text().endswith("nameserver 1.1.1.1\nnameserver 2.2.2.2\nsearch a b\noptions ndots:1\n")
