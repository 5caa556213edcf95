"""Published ports: Docker's words for what is asked, which ports of the host are chosen, and what the API shows."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import InvalidParameter, KernelError, LabkitError
from labkit.kernel.flows import ForgetFlows
from labkit.kernel.nftables import PublishPort, UnpublishPort
from labkit.kernel.ports import HoldPort, bound, is_free
from labkit.network.publishing import (
    Binding,
    Ports,
    Wanted,
    ephemeral_range,
    explained,
    parse,
    port_map,
    publish_operations,
    summary_ports,
    withdraw_operations,
)
from labkit.plan import Context, Execution

IPV4, IPV6 = "172.17.0.2", "fd00::2"


def ports(busy: set[int] = frozenset(), ephemeral: tuple[int, int] = (50000, 50003), ipv6: bool = True) -> Ports:  # type: ignore[assignment]  # read only
    """Ports of a host where other programs have some."""
    return Ports(lambda protocol, ip, port: port not in busy, lambda: ephemeral, lambda: ipv6)


def claim(
    allocated: Ports, *wanted: Wanted, ipv4: str = IPV4, ipv6: str = "", default: str = ""
) -> list[tuple[str, int, str]]:
    found = allocated.claim(wanted, "web", "0123", ipv4, ipv6, default)
    return [(binding.host_ip, binding.host_port, binding.ip) for binding in found]


def test_what_was_asked_for_in_the_order_in_which_it_is_chosen() -> None:
    asked = {
        "80/tcp": [{"HostIp": "", "HostPort": ""}, {"HostIp": "127.0.0.1", "HostPort": "8080"}],
        "53/UDP": [{"HostIp": "::1", "HostPort": "5300-5310"}, {"HostIp": "", "HostPort": "0"}],
        "443": [{"HostPort": "8443/tcp"}],
        "22/tcp": None,
        "23/tcp": [],
    }
    assert parse(asked, ["80/tcp", "22/tcp"]) == (
        Wanted(80, "tcp", "127.0.0.1", 8080, 8080),
        Wanted(443, "tcp", "", 8443, 8443),
        Wanted(53, "udp", "::1", 5300, 5310),
        Wanted(53, "udp"),
        Wanted(80, "tcp"),
    )


def test_publish_all_takes_what_is_exposed_and_not_bound() -> None:
    asked = {"80/tcp": [{"HostPort": "8080"}]}
    exposed = ["80/tcp", "443/tcp", "53/udp"]
    assert parse(asked, exposed, publish_all=True) == (
        Wanted(80, "tcp", "", 8080, 8080),
        Wanted(53, "udp"),
        Wanted(443, "tcp"),
    )
    assert parse(None, exposed) == ()


@pytest.mark.parametrize(
    ("port", "host_ip", "host_port", "message"),
    [
        ("http/tcp", "", "80", 'invalid port specification: "http"'),
        ("0/tcp", "", "80", 'invalid port specification: "0"'),
        ("65536/tcp", "", "80", 'invalid port specification: "65536"'),
        ("80-81/tcp", "", "80", 'invalid port specification: "80-81"'),
        ("", "", "80", 'invalid port specification: ""'),
        ("80/icmp", "", "80", "invalid transport protocol: icmp"),
        ("80/tcp", "", "http", 'invalid port specification: "http"'),
        ("80/tcp", "", "99999", 'invalid port specification: "99999"'),
        ("80/tcp", "", "90-80", 'invalid port specification: "90-80"'),
        ("80/tcp", "", "80-", 'invalid port specification: "80-"'),
        ("80/tcp", "", "-1", 'invalid port specification: "-1"'),
        ("80/tcp", "", "1-2-3", 'invalid port specification: "1-2-3"'),
        ("80/tcp", "", "\uff18", 'invalid port specification: "\uff18"'),  # a digit, but no ASCII one
        ("80/tcp", "localhost", "80", 'invalid port specification: invalid IP address "localhost"'),
    ],
)
def test_bad_specifications(port: str, host_ip: str, host_port: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse({port: [{"HostIp": host_ip, "HostPort": host_port}]}, [])
    assert str(caught.value) == message


@given(st.dictionaries(st.text(), st.lists(st.fixed_dictionaries({"HostIp": st.text(), "HostPort": st.text()}))))
def test_whatever_is_asked_is_understood_or_refused(asked: dict[str, list[dict[str, str]]]) -> None:
    try:
        found = parse(asked, [])
    except InvalidParameter:
        return
    assert all(0 <= want.first <= want.last <= 65535 and 0 < want.port <= 65535 for want in found)


@given(st.integers(1, 65535), st.sampled_from(["tcp", "udp", "sctp"]), st.integers(1, 65535), st.integers(0, 100))
def test_a_specification_is_understood_as_written(port: int, protocol: str, first: int, more: int) -> None:
    last = min(first + more, 65535)
    asked = {
        f"{port}/{protocol}": [{"HostIp": "10.0.0.1", "HostPort": f"{first}-{last}" if last > first else str(first)}]
    }
    assert parse(asked, []) == (Wanted(port, protocol, "10.0.0.1", first, last),)


@pytest.mark.parametrize(
    ("host_ip", "ipv4", "ipv6", "default", "listens", "expected"),
    [
        ("", IPV4, "", "", True, [("0.0.0.0", IPV4), ("::", IPV4)]),
        ("", IPV4, IPV6, "", True, [("0.0.0.0", IPV4), ("::", IPV6)]),
        ("", "", IPV6, "", True, [("::", IPV6)]),
        ("", IPV4, IPV6, "", False, [("0.0.0.0", IPV4)]),
        ("", IPV4, IPV6, "0.0.0.0", True, [("0.0.0.0", IPV4), ("::", IPV6)]),
        ("", IPV4, IPV6, "127.0.0.1", True, [("127.0.0.1", IPV4)]),
        ("10.0.0.1", IPV4, IPV6, "127.0.0.1", True, [("10.0.0.1", IPV4)]),
        ("0.0.0.0", IPV4, IPV6, "", True, [("0.0.0.0", IPV4)]),
        ("::", IPV4, IPV6, "", True, [("::", IPV6)]),
        ("::", IPV4, "", "", True, [("::", IPV4)]),
        ("::1", IPV4, IPV6, "", True, [("::1", IPV6)]),
        ("10.0.0.1", "", IPV6, "", True, []),
    ],
)
def test_addresses_of_the_host_and_the_container(
    host_ip: str, ipv4: str, ipv6: str, default: str, listens: bool, expected: list[tuple[str, str]]
) -> None:
    found = claim(ports(ipv6=listens), Wanted(80, "tcp", host_ip, 8080, 8080), ipv4=ipv4, ipv6=ipv6, default=default)
    assert found == [(host, 8080, ip) for host, ip in expected]


def test_random_ports_are_given_out_serially_and_around() -> None:
    allocated = ports(busy={50001}, ipv6=False)
    first = allocated.claim([Wanted(80, "tcp")], "a", "1", IPV4, "")
    assert [binding.host_port for binding in first] == [50000]
    assert claim(allocated, Wanted(80, "tcp")) == [("0.0.0.0", 50002, IPV4)]
    allocated.release(first)
    assert claim(allocated, Wanted(80, "tcp")) == [("0.0.0.0", 50003, IPV4)]  # what was given up comes last
    assert claim(allocated, Wanted(80, "tcp")) == [("0.0.0.0", 50000, IPV4)]
    assert claim(allocated, Wanted(80, "udp")) == [("0.0.0.0", 50000, IPV4)]
    with pytest.raises(LabkitError, match="all ports are allocated"):
        claim(allocated, Wanted(80, "tcp"))


def test_the_port_is_the_same_for_both_families() -> None:
    allocated = Ports(lambda protocol, ip, port: (ip, port) != ("::", 50000), lambda: (50000, 50009), lambda: True)
    assert claim(allocated, Wanted(80, "tcp")) == [("0.0.0.0", 50001, IPV4), ("::", 50001, IPV4)]


def test_of_a_range_the_first_that_is_free() -> None:
    allocated = ports(busy={8000})
    assert claim(allocated, Wanted(80, "tcp", "127.0.0.1", 8000, 8002)) == [("127.0.0.1", 8001, IPV4)]
    assert claim(allocated, Wanted(80, "tcp", "127.0.0.1", 8000, 8002)) == [("127.0.0.1", 8002, IPV4)]
    with pytest.raises(LabkitError, match="all ports are allocated"):
        claim(allocated, Wanted(80, "tcp", "127.0.0.1", 8000, 8002))


def test_a_conflict_is_dockers_error_and_leaves_nothing() -> None:
    allocated = ports()
    claim(allocated, Wanted(80, "tcp", "", 8080, 8080))
    with pytest.raises(LabkitError) as caught:
        claim(allocated, Wanted(81, "tcp", "", 8081, 8081), Wanted(80, "tcp", "", 8080, 8080))
    assert str(caught.value) == (
        "failed to set up container networking: "
        "driver failed programming external connectivity on endpoint web (0123): "
        "Bind for 0.0.0.0:8080 failed: port is already allocated"
    )
    assert caught.value.status == 500
    assert claim(allocated, Wanted(81, "tcp", "", 8081, 8081))  # nothing of the failed one is taken
    assert claim(allocated, Wanted(80, "tcp", "10.0.0.1", 8080, 8080))  # whether the host agrees, bind(2) says
    assert claim(allocated, Wanted(80, "udp", "", 8080, 8080))


def test_ports_of_running_containers_are_taken_again() -> None:
    allocated = ports()
    running = (Binding(80, "tcp", "0.0.0.0", 8080, IPV4),)
    allocated.reclaim(running)
    with pytest.raises(LabkitError, match="port is already allocated"):
        claim(allocated, Wanted(80, "tcp", "", 8080, 8080))
    allocated.release(running)
    assert claim(allocated, Wanted(80, "tcp", "", 8080, 8080))


@given(
    st.lists(
        st.builds(
            lambda port, protocol, first, more: Wanted(port, protocol, "", first, first and first + more),
            st.integers(1, 100),
            st.sampled_from(["tcp", "udp"]),
            st.sampled_from([0, 8000, 8001]),
            st.integers(0, 3),
        ),
        max_size=12,
    )
)
def test_no_port_is_given_out_twice(wanted: list[Wanted]) -> None:
    allocated = ports(busy={50001, 8002}, ephemeral=(50000, 50009))
    given_out: list[tuple[str, str, int]] = []
    for want in wanted:
        try:
            found = allocated.claim([want], "a", "1", IPV4, "")
        except LabkitError:
            continue
        assert all(not want.first or want.first <= binding.host_port <= want.last for binding in found)
        given_out += [(binding.protocol, binding.host_ip, binding.host_port) for binding in found]
    assert len(given_out) == len(set(given_out))


def test_the_kernel_says_what_random_ports_are() -> None:
    first, last = ephemeral_range()
    assert 1 <= first < last <= 65535


BINDINGS = (
    Binding(80, "tcp", "0.0.0.0", 8080, IPV4),
    Binding(80, "tcp", "::", 8080, IPV4),
    Binding(53, "udp", "127.0.0.1", 53, IPV4),
    Binding(53, "udp", "::", 53, IPV6),
)


def test_operations_that_publish() -> None:
    assert publish_operations("labkit", BINDINGS) == [
        HoldPort("tcp", "0.0.0.0", 8080, IPV4, 80),
        PublishPort("labkit", "tcp", "", 8080, IPV4, 80),
        HoldPort("tcp", "::", 8080, IPV4, 80),  # IPv6 to IPv4 is the proxy's
        HoldPort("udp", "127.0.0.1", 53, IPV4, 53),
        PublishPort("labkit", "udp", "127.0.0.1", 53, IPV4, 53),
        ForgetFlows("127.0.0.1", 53, IPV4, 53),
        HoldPort("udp", "::", 53, IPV6, 53),
        PublishPort("labkit", "udp", "", 53, IPV6, 53),
        ForgetFlows("", 53, IPV6, 53),
    ]
    assert all(isinstance(operation, HoldPort) for operation in publish_operations("labkit", BINDINGS, translate=False))
    assert withdraw_operations("labkit", BINDINGS) == [
        UnpublishPort("labkit", "tcp", "", 8080, IPV4, 80),
        UnpublishPort("labkit", "udp", "127.0.0.1", 53, IPV4, 53),
        ForgetFlows("127.0.0.1", 53, IPV4, 53),
        UnpublishPort("labkit", "udp", "", 53, IPV6, 53),
        ForgetFlows("", 53, IPV6, 53),
    ]


def test_what_the_api_shows() -> None:
    exposed = ["443/tcp", "80/tcp"]
    assert port_map(BINDINGS[:3], exposed) == {
        "443/tcp": None,
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
        "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}],
    }
    assert summary_ports(BINDINGS[:3], exposed) == [
        {"IP": "127.0.0.1", "PrivatePort": 53, "PublicPort": 53, "Type": "udp"},
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 443, "Type": "tcp"},
    ]
    assert (port_map((), []), summary_ports((), [])) == ({}, [])


@pytest.mark.parametrize(("protocol", "address"), [("tcp", "127.0.0.1"), ("udp", "127.0.0.1"), ("tcp", "::1")])
def test_a_held_port_is_nobody_elses(protocol: str, address: str) -> None:
    with bound(protocol, address, 0) as sock:
        port = sock.getsockname()[1]
    context = Context()
    execution = Execution(((0, HoldPort(protocol, address, port, IPV4, 80)),), context)
    execution.run_or_undo()
    shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    assert list(context.descriptors) == [f"port {shown}/{protocol}"]
    assert not is_free(protocol, address, port)
    with pytest.raises(KernelError) as caught:
        Execution(((0, HoldPort(protocol, address, port, "172.17.0.3", 80)),)).run_or_undo()
    assert str(explained(caught.value, "web", "0123")) == (
        "failed to set up container networking: "
        "driver failed programming external connectivity on endpoint web (0123): "
        f"failed to bind host port for {shown}:172.17.0.3:80/{protocol}: address already in use"
    )
    assert execution.undo() == []
    assert context.descriptors == {}
    assert is_free(protocol, address, port)


def test_a_port_of_a_foreign_address_cannot_be_held() -> None:
    with pytest.raises(KernelError) as caught:
        Execution(((0, HoldPort("tcp", "203.0.113.9", 8080, IPV4, 80)),)).run_or_undo()
    assert caught.value.hint == (
        "failed to bind host port for 203.0.113.9:8080:172.17.0.2:80/tcp: cannot assign requested address"
    )


def test_ipv6_ports_leave_ipv4_ones_alone() -> None:
    with bound("tcp", "0.0.0.0", 0) as four:
        four.listen()
        port = four.getsockname()[1]
        with bound("tcp", "::", port) as six:
            six.listen()
            assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


def test_no_descriptor_is_left_of_a_failure() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for address in ("203.0.113.9", "2001:db8::9"):
        assert not is_free("tcp", address, 80)
    assert len(os.listdir("/proc/self/fd")) == before
