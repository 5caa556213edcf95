"""What the options of a network may not be, in dockerd's words."""

from __future__ import annotations

import pytest

from labkit.errors import Forbidden, InvalidParameter, LabkitError
from labkit.network.addresses import settle_subnets
from labkit.network.checking import check_options, check_subnets
from labkit.network.models import IPAM, IPAMConfig, NetworkRecord

BRIDGE = "com.docker.network.bridge"
MTU = "com.docker.network.driver.mtu"


@pytest.mark.parametrize(
    ("driver", "options", "message"),
    [
        ("bridge", {MTU: "x"}, f'failed to parse {MTU} value: x (strconv.Atoi: parsing "x": invalid syntax)'),
        ("macvlan", {MTU: "-1"}, "invalid MTU number: -1"),
        ("bridge", {MTU: "65536"}, "invalid MTU number: 65536"),
        (
            "bridge",
            {f"{BRIDGE}.enable_icc": "yes"},
            f'failed to parse {BRIDGE}.enable_icc value: yes (strconv.ParseBool: parsing "yes": invalid syntax)',
        ),
        (
            "bridge",
            {f"{BRIDGE}.host_binding_ipv4": "::1"},
            f"failed to parse {BRIDGE}.host_binding_ipv4 value: ::1 (nil ip)",
        ),
        (
            "macvlan",
            {"macvlan_mode": "x"},
            "requested macvlan mode 'x' is not valid, 'bridge' mode is the macvlan driver default",
        ),
    ],
)
def test_options_that_can_not_be(driver: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_options(driver, options)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["a" * 16, "a/b", "a b", "a:b", ".", ".."])
def test_names_that_no_link_has(name: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid bridge name"):
        check_options("bridge", {f"{BRIDGE}.name": name})


def test_options_that_can_be() -> None:
    check_options("bridge", {})
    check_options("bridge", {MTU: "1400", f"{BRIDGE}.enable_icc": "F", f"{BRIDGE}.name": "a" * 15, "x": "y"})
    check_options("bridge", {MTU: "", f"{BRIDGE}.host_binding_ipv4": "127.0.0.1"})
    check_options("macvlan", {"macvlan_mode": "passthru", f"{BRIDGE}.enable_icc": "no bridge: nobody asks"})


def test_one_subnet_of_each_family() -> None:
    two, six = [IPAMConfig(Subnet="10.1.0.0/24"), IPAMConfig(Subnet="10.2.0.0/24")], IPAMConfig(Subnet="fd00::/64")
    with pytest.raises(Forbidden, match="bridge driver doesn't support multiple subnets"):
        check_subnets("bridge", two)
    check_subnets("bridge", [two[0], six])
    check_subnets("macvlan", two)
    check_subnets("bridge", None)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (IPAMConfig(Subnet="10.4.0.0/31"), "failed to allocate gateway (): No available addresses on this pool"),
        (IPAMConfig(Subnet="10.4.0.0/32"), "failed to allocate gateway (): No available addresses on this pool"),
        (IPAMConfig(Subnet="fd00::1/128"), "failed to allocate gateway (): No available addresses on this pool"),
        (
            IPAMConfig(Subnet="10.4.0.0/24", Gateway="10.4.0.0"),
            "failed to allocate gateway (10.4.0.0): Address already in use",
        ),
        (
            IPAMConfig(Subnet="10.4.0.0/24", Gateway="10.4.0.255"),
            "failed to allocate gateway (10.4.0.255): Address already in use",
        ),
        (
            IPAMConfig(Subnet="10.4.0.0/24", AuxiliaryAddresses={"a": "10.4.0.1"}),
            "failed to allocate secondary ip address (a:10.4.0.1): Address already in use",
        ),
        (
            IPAMConfig(Subnet="10.4.0.0/24", AuxiliaryAddresses={"a": "10.4.0.7", "b": "10.4.0.7"}),
            "failed to allocate secondary ip address (b:10.4.0.7): Address already in use",
        ),
    ],
)
def test_no_address_has_two_uses(config: IPAMConfig, message: str) -> None:
    record = NetworkRecord(Name="x", Id="0" * 64, Created="", IPAM=IPAM(Config=[config]), EnableIPv6=True)
    with pytest.raises(LabkitError) as caught:
        settle_subnets(record, (), ())
    assert str(caught.value) == message


def test_subnets_with_few_addresses() -> None:
    for text, gateway in (("10.4.0.0/30", "10.4.0.1"), ("fd00::/127", "fd00::1")):
        record = NetworkRecord(Name="x", Id="0" * 64, Created="", IPAM=IPAM(Config=[IPAMConfig(Subnet=text)]))
        assert settle_subnets(record, (), ())[0].Gateway == gateway
