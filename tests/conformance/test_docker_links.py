"""IPv6 and macvlan with the docker command: real packets between containers, their host and another machine.

The other machine is a network namespace at the end of a cable from the daemon's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.dockerd import Isolated, isolated
from tests.support.netlab import Namespace

pytestmark = pytest.mark.root
PAGE = ("busybox", "httpd", "-f", "-h", "/etc")
SLEEP = ("busybox", "sleep", "1000")
FETCH = "curl -sS -g -m 5 http://{}/passwd"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, busybox_archive: None) -> Iterator[Isolated]:
    with isolated(tmp_path_factory.mktemp("links")) as daemon:
        yield daemon


@pytest.fixture
def host(shared: Isolated) -> Iterator[Isolated]:
    yield shared
    shared.remove_all()
    shared.docker("network", "prune", "-f")


@pytest.fixture
def outside(host: Isolated) -> Iterator[Namespace]:
    """Another machine: 10.99.0.2 and fd99::2, with the daemon's at .1; it has a route to nothing else."""
    machine = Namespace()
    host.on_host(*f"ip link add up0 type veth peer name out0 netns {machine.path}".split())
    host.on_host("ip", "address", "add", "10.99.0.1/24", "dev", "up0")
    host.on_host("ip", "address", "add", "fd99::1/64", "dev", "up0", "nodad")
    host.on_host("ip", "link", "set", "up0", "up")
    machine.command("ip address add 10.99.0.2/24 dev out0; ip address add fd99::2/64 dev out0 nodad")
    machine.command("ip link set out0 up")
    yield machine
    host.on_host("ip", "link", "delete", "up0")
    machine.close()


def endpoint(daemon: Daemon, name: str, network: str) -> Any:
    return daemon.inspect(name)["NetworkSettings"]["Networks"][network]


def run(daemon: Daemon, name: str, *words: str) -> str:
    return daemon.out("run", "-d", "--name", name, *words)


def page_inside(daemon: Daemon, name: str, address: str, port: int = 80) -> str:
    """The page at an address, asked for by a container; without the headers."""
    script = f"printf 'GET /passwd HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} {port}"
    return daemon.out("exec", name, "sh", "-c", script).partition("\r\n\r\n")[2]


def fetched(text: str) -> bool:
    return text.startswith("root:")


def test_addresses_of_both_families(host: Isolated) -> None:
    host.docker("network", "create", "--ipv6", "six")
    run(host, "one", "--network", "six", *PAGE)
    run(host, "two", "--network", "six", *SLEEP)
    found = endpoint(host, "one", "six")
    assert found["GlobalIPv6Address"].startswith("fd")  # unique local addresses: RFC 4193
    assert found["GlobalIPv6PrefixLen"] == 64
    for target in (found["GlobalIPv6Address"], found["IPAddress"], "one"):
        assert fetched(page_inside(host, "two", target)), target
    assert found["IPv6Gateway"] in host.out("exec", "one", "ip", "-6", "route")


def test_ip6_is_kept_and_not_given_twice(host: Isolated) -> None:
    host.docker("network", "create", "--ipv6", "--subnet", "fd00:77::/64", "six")
    run(host, "fixed", "--network", "six", "--ip6", "fd00:77::2", *SLEEP)
    run(host, "next", "--network", "six", *SLEEP)
    assert endpoint(host, "fixed", "six")["GlobalIPv6Address"] == "fd00:77::2"
    assert endpoint(host, "next", "six")["GlobalIPv6Address"] == "fd00:77::3"
    host.docker("restart", "-t", "0", "fixed")
    assert endpoint(host, "fixed", "six")["GlobalIPv6Address"] == "fd00:77::2"
    refused = host.docker("run", "--rm", "--network", "six", "--ip6", "fd00:77::3", "busybox", "true", check=False)
    assert b"Address already in use" in refused.stderr


def test_no_ipv6_where_there_is_none(host: Isolated) -> None:
    host.docker("network", "create", "four")
    run(host, "plain", "--network", "four", *SLEEP)
    assert host.out("exec", "plain", "cat", "/proc/sys/net/ipv6/conf/eth0/disable_ipv6") == "1"
    host.docker("network", "create", "--ipv6", "--ipv4=false", "only")
    run(host, "alone", "--network", "only", *SLEEP)
    assert endpoint(host, "alone", "only")["IPAddress"] == ""
    assert "inet 1" not in host.out("exec", "alone", "ip", "address", "show", "eth0")
    run(host, "other", "--network", "only", *PAGE)
    assert fetched(page_inside(host, "alone", "other"))


def test_link_local_addresses(host: Isolated) -> None:
    """With the prefix lengths of dockerd, in a network without IPv6 too, and of a network that is joined later."""
    host.docker("network", "create", "four")
    host.docker("network", "create", "later")
    run(host, "one", "--network", "four", "--link-local-ip", "169.254.3.4", "--link-local-ip", "fe80::77", *SLEEP)
    shown = host.out("exec", "one", "ip", "address", "show", "eth0")
    assert "inet 169.254.3.4/16" in shown
    assert "inet6 fe80::77/64" in shown
    host.docker("network", "connect", "--link-local-ip", "169.254.8.8", "later", "one")
    assert "inet 169.254.8.8/16" in host.out("exec", "one", "ip", "address", "show", "eth1")
    assert host.inspect("one")["NetworkSettings"]["Networks"]["later"]["IPAMConfig"]["LinkLocalIPs"] == ["169.254.8.8"]
    for wrong in ("nosuch", "10.1.2.3", "fe80::1%eth0"):
        flags = ("--network", "four", "--link-local-ip", wrong)
        refused = host.docker("create", *flags, "busybox", "true", check=False)
        assert f"invalid link-local IP address: {wrong}" in refused.stderr.decode()


@pytest.mark.parametrize("ipv6", [True, False], ids=["a container with IPv6", "a container without"])
def test_published_ports(host: Isolated, outside: Namespace, ipv6: bool) -> None:
    host.docker("network", "create", *(["--ipv6"] if ipv6 else []), "web")
    run(host, "server", "--network", "web", "-p", "8080:80", "-p", "[::1]:8081:80", "-p", "[fd99::1]:8082:80", *PAGE)
    for address in ("127.0.0.1:8080", "[::1]:8080", "10.99.0.1:8080", "[fd99::1]:8080", "[::1]:8081", "[fd99::1]:8082"):
        assert fetched(host.on_host(*FETCH.format(address).split())), address
    for address in ("10.99.0.1:8080", "[fd99::1]:8080", "[fd99::1]:8082"):
        assert fetched(outside.command(FETCH.format(address))), address
    for address in ("10.99.0.1:8082", "[fd99::1]:8081"):
        assert outside.command(f"{FETCH.format(address)} || echo refused").endswith("refused\n"), address
    run(host, "client", "--network", "web", *SLEEP)
    for address in ("10.99.0.1", *(["fd99::1"] if ipv6 else [])):
        assert fetched(page_inside(host, "client", address, 8080)), address
    ports = host.out("port", "server").splitlines()
    assert set(ports) == {
        "80/tcp -> 0.0.0.0:8080",
        "80/tcp -> [::]:8080",
        "80/tcp -> [::1]:8081",
        "80/tcp -> [fd99::1]:8082",
    }


def test_what_a_container_sends_out_is_masqueraded(host: Isolated, outside: Namespace) -> None:
    outside.serve("outside", 7000)
    host.docker("network", "create", "--ipv6", "web")
    run(host, "client", "--network", "web", *SLEEP)
    for address in ("10.99.0.2", "fd99::2"):
        said = host.out("exec", "client", "sh", "-c", f"nc -w 3 {address} 7000 < /dev/null")
        assert said == f"outside {address[:-1]}1"


def test_a_container_of_a_macvlan_network_is_a_machine_of_its_own(host: Isolated, outside: Namespace) -> None:
    addresses = ("--subnet", "10.99.0.0/24", "--gateway", "10.99.0.2", "--ip-range", "10.99.0.128/25")
    host.docker("network", "create", "-d", "macvlan", "-o", "parent=up0", *addresses, "wire")
    run(host, "one", "--network", "wire", *PAGE)
    run(host, "two", "--network", "wire", "--ip", "10.99.0.200", "--mac-address", "92:d0:c6:0a:29:33", *PAGE)
    found = endpoint(host, "one", "wire")
    assert (found["IPAddress"], found["Gateway"]) == ("10.99.0.128", "10.99.0.2")
    for address in ("10.99.0.128", "10.99.0.200"):
        assert fetched(outside.command(FETCH.format(address)))
    neighbours = outside.command("ip neighbour show dev out0")
    assert f"10.99.0.128 lladdr {found['MacAddress']}" in neighbours
    assert "10.99.0.200 lladdr 92:d0:c6:0a:29:33" in neighbours
    assert fetched(page_inside(host, "one", "two"))
    outside.serve("gateway", 7000)
    outside.command("ip address add 192.0.2.1/32 dev lo")
    assert host.out("exec", "one", "sh", "-c", "nc -w 3 192.0.2.1 7000 < /dev/null") == "gateway 10.99.0.128"
    host.docker("rm", "-f", "one", "two")
    assert outside.command(f"{FETCH.format('10.99.0.128')} 2>/dev/null || echo gone").endswith("gone\n")


def test_macvlan_comes_and_goes_while_a_container_runs(host: Isolated, outside: Namespace) -> None:
    host.docker("network", "create", "-d", "macvlan", "-o", "parent=up0", "--subnet", "10.99.0.0/24", "wire")
    run(host, "box", *PAGE)
    host.docker("network", "connect", "--ip", "10.99.0.50", "wire", "box")
    assert fetched(outside.command(FETCH.format("10.99.0.50")))
    host.kill()
    host.start()
    assert fetched(outside.command(FETCH.format("10.99.0.50")))
    host.docker("network", "disconnect", "wire", "box")
    assert host.out("exec", "box", "ls", "/sys/class/net").split() == ["eth0", "lo"]


def test_macvlan_without_its_parent(host: Isolated) -> None:
    for options, reason in (((), "parent"), (("-o", "parent=nosuch0"), "nosuch0")):
        refused = host.docker("network", "create", "-d", "macvlan", *options, "wire", check=False)
        assert refused.returncode == 1
        assert reason in refused.stderr.decode()
    host.on_host("ip", "link", "add", "gone7", "type", "veth", "peer", "gone8")
    host.docker("network", "create", "-d", "macvlan", "-o", "parent=gone7", "--subnet", "10.98.0.0/24", "wire")
    host.on_host("ip", "link", "delete", "gone7")
    refused = host.docker("run", "--rm", "--network", "wire", "busybox", "true", check=False)
    assert refused.returncode == 125
    assert b"gone7" in refused.stderr
    assert host.request("GET", "/networks/wire")[1]["Containers"] == {}
    host.docker("network", "rm", "wire")


def test_the_two_ends_of_a_test_are_there(outside: Namespace, host: Isolated) -> None:
    """The other machine is reached only by the cable: without it, nothing above could have been answered."""
    assert outside.command("busybox ping -c 1 -W 2 10.99.0.1 > /dev/null && echo yes") == "yes\n"
    host.on_host("ip", "link", "set", "up0", "down")
    assert outside.command("busybox ping -c 1 -W 1 10.99.0.1 > /dev/null || echo no") == "no\n"
