"""Names of containers: who sees which."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import InvalidParameter
from labkit.network.directory import Directory, Member, Sight


def found(directory: Directory, sight: Sight, name: str) -> set[str] | None:
    """The addresses of a name, as text."""
    answer = directory.find(sight, name)
    if answer is None:
        return None
    ipv4 = {socket.inet_ntop(socket.AF_INET, address) for address in answer.ipv4}
    return ipv4 | {socket.inet_ntop(socket.AF_INET6, address) for address in answer.ipv6}


@pytest.fixture
def directory() -> Directory:
    made = Directory()
    made.join("n1", "Front", Member("e1", ("web", "www", "0123456789ab"), "10.1.0.2", "fd00::2"))
    made.join("n1", "Front", Member("e2", ("Web2", "www"), "10.1.0.3", primary="second"))
    made.join("n2", "back.office", Member("e3", ("db", "db.master", "www"), "10.2.0.2"))
    return made


BOTH = Sight(("n1", "n2"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web", {"10.1.0.2", "fd00::2"}),
        ("0123456789ab", {"10.1.0.2", "fd00::2"}),
        ("web2", {"10.1.0.3"}),
        ("web.front", {"10.1.0.2", "fd00::2"}),
        ("www", {"10.1.0.2", "10.1.0.3", "fd00::2"}),
        ("www.back.office", {"10.2.0.2"}),
        ("db.master", {"10.2.0.2"}),
        ("db.master.back.office", {"10.2.0.2"}),
        ("web.back.office", None),
        ("db.front", None),
        ("second", None),
        ("web.", None),
        (".web", None),
        ("", None),
        (".", None),
    ],
)
def test_names_with_and_without_their_network(directory: Directory, name: str, expected: set[str] | None) -> None:
    assert found(directory, BOTH, name) == expected


def test_the_first_network_that_has_a_name_answers(directory: Directory) -> None:
    assert found(directory, Sight(("n2", "n1")), "www") == {"10.2.0.2"}


def test_who_is_not_in_a_network_sees_nothing_of_it(directory: Directory) -> None:
    assert found(directory, Sight(("n1",)), "db") is None
    assert found(directory, Sight(("n1",)), "db.back.office") is None
    assert directory.name_of(Sight(("n1",)), "2.0.2.10.in-addr.arpa") == ""
    assert found(directory, Sight(()), "web") is None
    assert found(directory, Sight(("gone",)), "web") is None


def test_links_are_for_those_who_have_them(directory: Directory) -> None:
    linked = Sight(("n1",), links=(("Database", "web2"), ("web", "web2"), ("lost", "nobody")))
    assert found(directory, linked, "database") == {"10.1.0.3"}
    assert found(directory, linked, "database.front") == {"10.1.0.3"}
    assert found(directory, linked, "web") == {"10.1.0.3"}
    assert found(directory, linked, "lost") is None
    assert found(directory, Sight(("n1",)), "database") is None


def test_addresses_have_the_primary_name_and_the_network(directory: Directory) -> None:
    def name(address: str) -> str:
        return directory.name_of(BOTH, ipaddress.ip_address(address).reverse_pointer)

    assert name("10.1.0.2") == name("fd00::2") == "web.Front"
    assert name("10.1.0.3") == "second.Front"
    assert name("10.2.0.2") == "db.back.office"
    assert name("10.9.9.9") == ""


def test_who_leaves_is_forgotten(directory: Directory) -> None:
    assert found(directory, BOTH, "www") == {"10.1.0.2", "10.1.0.3", "fd00::2"}
    directory.leave("n1", "e1")
    directory.leave("n1", "e1")
    directory.leave("unknown", "e1")
    assert found(directory, BOTH, "www") == {"10.1.0.3"}
    assert found(directory, BOTH, "web") is None
    assert directory.name_of(BOTH, "2.0.1.10.in-addr.arpa") == ""
    directory.leave("n1", "e2")
    directory.leave("n2", "e3")
    assert directory.zones == {}


def test_joining_again_takes_the_place(directory: Directory) -> None:
    assert found(directory, BOTH, "web") == {"10.1.0.2", "fd00::2"}
    directory.join("n1", "Front", Member("e1", ("renamed",), "10.1.0.4"))
    assert found(directory, BOTH, "web") is None
    assert found(directory, BOTH, "renamed") == {"10.1.0.4"}
    assert directory.name_of(BOTH, "2.0.1.10.in-addr.arpa") == ""


def test_a_member_without_addresses_has_no_name() -> None:
    directory = Directory()
    directory.join("n1", "front", Member("e1", ("web",)))
    assert found(directory, Sight(("n1",)), "web") is None


@pytest.mark.parametrize("member", [Member("e", ("x",), "10.0.0.256"), Member("e", ("x",), "10.0.0.1/24", "")])
def test_what_is_no_address_is_refused(member: Member) -> None:
    with pytest.raises(InvalidParameter, match="is no address"):
        Directory().join("n1", "front", member)


NAMES = st.sampled_from(("a", "B", "c.d", "d"))
CHANGES = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(("n1", "n2")), st.lists(NAMES, max_size=3), st.booleans())
)


@given(CHANGES, st.sampled_from((("n1",), ("n2",), ("n1", "n2"))))
def test_what_is_found_is_what_a_search_of_all_members_finds(
    changes: list[tuple[int, str, list[str], bool]], networks: tuple[str, ...]
) -> None:
    directory, members = Directory(), dict[tuple[str, int], list[str]]()
    for number, network, names, joins in changes:
        if joins:
            directory.join(network, f"net-{network}", Member(f"e{number}", tuple(names), f"10.0.0.{number}"))
            members[network, number] = names
        else:
            directory.leave(network, f"e{number}")
            members.pop((network, number), None)
        for name in ("a", "b", "c.d", "d"):
            expected: set[str] | None = None
            for network in networks:
                here = {
                    f"10.0.0.{one}"
                    for (where, one), have in members.items()
                    if where == network and name in map(str.lower, have)
                }
                expected = expected or here or None
            assert found(directory, Sight(networks), name) == expected
    for network, number in list(members):
        directory.leave(network, f"e{number}")
    assert directory.zones == {}
