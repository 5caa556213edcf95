"""Which subnet a network gets, which address an endpoint."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import Forbidden, InvalidParameter, LabkitError
from labkit.network.addresses import Pool, choose_subnet, parse_network, pools_of, settle_subnets
from labkit.network.models import IPAM, IPAMConfig, NetworkRecord

IDENTITY = "0123456789abcdef" * 4


def network(*configs: IPAMConfig, ipv4: bool = True, ipv6: bool = False) -> NetworkRecord:
    return NetworkRecord(
        Name="n", Id=IDENTITY, Created="", EnableIPv4=ipv4, EnableIPv6=ipv6, IPAM=IPAM(Config=list(configs))
    )


def pool(subnet: str, gateway: str = "", ip_range: str = "", **auxiliary: str) -> Pool:
    first = str(parse_network(subnet).network_address + 1)
    config = IPAMConfig(Subnet=subnet, Gateway=gateway or first, IPRange=ip_range, AuxiliaryAddresses=auxiliary)
    return pools_of(network(config))[0]


def test_the_lowest_free_address_is_given_first() -> None:
    made = pool("10.0.0.0/29")
    assert [str(made.lease()) for _ in range(5)] == [f"10.0.0.{last}" for last in range(2, 7)]
    with pytest.raises(LabkitError, match="no available IPv4 addresses on this network's address pools: n"):
        made.lease("n")
    for last in (5, 3):
        made.release(ipaddress.ip_address(f"10.0.0.{last}"))
    assert [str(made.lease()) for _ in range(2)] == ["10.0.0.3", "10.0.0.5"]


def test_what_is_reserved_is_never_given() -> None:
    made = pool("10.0.0.0/28", "10.0.0.14", "10.0.0.4/30", router="10.0.0.5")
    assert [str(made.lease()) for _ in range(3)] == ["10.0.0.4", "10.0.0.6", "10.0.0.7"]
    assert str(made.take(ipaddress.ip_address("10.0.0.2"))) == "10.0.0.2"
    for text in ("10.0.0.14", "10.0.0.5", "10.0.0.0", "10.0.0.15", "10.0.0.2", "10.0.0.6"):
        with pytest.raises(Forbidden, match="Address already in use"):
            made.take(ipaddress.ip_address(text))
    with pytest.raises(InvalidParameter, match=r"no configured subnet contains IP address 10\.0\.1\.1"):
        made.take(ipaddress.ip_address("10.0.1.1"))


@given(st.lists(st.one_of(st.none(), st.integers(0, 15)), max_size=60))
def test_no_address_is_given_twice(steps: list[int | None]) -> None:
    """None: lease one; a number: take or give back that very address."""
    made = pool("10.0.0.0/28")
    held: set[ipaddress.IPv4Address | ipaddress.IPv6Address] = set()
    for step in steps:
        if step is None:
            try:
                address = made.lease()
            except LabkitError:
                assert len(held) == 13
                continue
            assert address not in held
            assert address == min({made.subnet[n] for n in range(2, 15)} - held)
            held.add(address)
        elif (wanted := made.subnet[step]) in held:
            made.release(wanted)
            held.discard(wanted)
        elif 1 < step < 15:
            held.add(made.take(wanted))
        else:
            with pytest.raises(Forbidden):
                made.take(wanted)
        assert made.leased == set(map(int, held))


def test_chosen_subnets_avoid_what_is_taken() -> None:
    taken = [parse_network("172.17.0.0/16"), parse_network("172.18.5.0/24"), parse_network("fd00::/64")]
    assert str(choose_subnet(4, IDENTITY, taken)) == "172.19.0.0/16"
    everything = [parse_network("172.16.0.0/12")]
    assert str(choose_subnet(4, IDENTITY, everything)) == "192.168.0.0/20"
    with pytest.raises(LabkitError, match="all predefined address pools have been fully subnetted"):
        choose_subnet(4, IDENTITY, [parse_network("0.0.0.0/0")])


def test_an_ipv6_subnet_is_a_unique_local_one() -> None:
    first = choose_subnet(6, IDENTITY, [])
    assert str(first) == "fd01:2345:6789:abcd::/64"
    assert first.subnet_of(ipaddress.IPv6Network("fd00::/8"))  # type: ignore[arg-type]  # of the 6th version, as asked
    assert choose_subnet(6, IDENTITY, [first]) != first


def test_subnets_that_nobody_chose() -> None:
    host = [parse_network("172.17.0.0/16")]
    assert settle_subnets(network(), [], host) == [IPAMConfig(Subnet="172.18.0.0/16", Gateway="172.18.0.1")]
    four, six = settle_subnets(network(ipv6=True), [], [])
    assert (four.Subnet, six.Subnet) == ("172.17.0.0/16", "fd01:2345:6789:abcd::/64")
    assert [one.Subnet for one in settle_subnets(network(ipv4=False, ipv6=True), [], [])] == [six.Subnet]


def test_a_chosen_subnet_may_be_one_of_the_hosts() -> None:
    asked = IPAMConfig(Subnet="10.0.0.0/24", IPRange="10.0.0.128/25", AuxiliaryAddresses={"a": "10.0.0.9"})
    settled = settle_subnets(network(asked), [], [parse_network("10.0.0.0/8")])
    assert settled == [
        IPAMConfig(
            Subnet="10.0.0.0/24", IPRange="10.0.0.128/25", Gateway="10.0.0.1", AuxiliaryAddresses={"a": "10.0.0.9"}
        )
    ]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"Subnet": "10.0.0.0/33"}, "invalid subnet 10.0.0.0/33"),
        ({"Subnet": "hello"}, "invalid subnet hello"),
        ({"Subnet": "10.0.0.7/24"}, "invalid subnet 10.0.0.7/24: it should be 10.0.0.0/24"),
        (
            {"Subnet": "10.0.0.0/24", "Gateway": "10.0.1.1"},
            "invalid gateway address 10.0.1.1: parent subnet is 10.0.0.0/24",
        ),
        (
            {"Subnet": "10.0.0.0/24", "IPRange": "10.1.0.0/25"},
            "invalid ip-range 10.1.0.0/25: parent subnet is 10.0.0.0/24",
        ),
        ({"Subnet": "10.0.0.0/24", "IPRange": "10.0.0.0/16"}, "invalid ip-range 10.0.0.0/16"),
        ({"Subnet": "10.0.0.0/24", "AuxiliaryAddresses": {"x": "10.9.0.1"}}, "invalid auxiliary address x 10.9.0.1"),
        ({"Gateway": "10.0.0.1"}, "a gateway or ip-range needs a --subnet"),
    ],
)
def test_subnets_that_are_none(config: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        settle_subnets(network(IPAMConfig(**config)), [], [])  # type: ignore[arg-type]  # by name, from a table
    assert words in str(caught.value)


def test_subnets_may_not_overlap() -> None:
    asked = IPAMConfig(Subnet="172.17.5.0/24")
    with pytest.raises(Forbidden, match="Pool overlaps with other one on this address space"):
        settle_subnets(network(asked), [parse_network("172.17.0.0/16")], [])
    with pytest.raises(Forbidden, match="Pool overlaps"):
        settle_subnets(network(asked, asked), [], [])
