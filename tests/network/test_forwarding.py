"""The host forwards, beside real other firewalls: dockerd on nf_tables and on the old interface, ufw, firewalld."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.kernel import nft_messages as nft
from labkit.kernel.host_settings import SetHostSysctl, read_sysctl, record_path
from labkit.kernel.netlink import HEADER, text_attribute
from labkit.kernel.nft_rules import INET, IPV4, IPV6
from labkit.kernel.nftables import InstallTable
from labkit.kernel.other_firewalls import AcceptForwarding, AcceptForwardingLegacy, chain_for
from labkit.network.forwarding import (
    Watch,
    admit_operations,
    concerns_us,
    enable_operations,
    forget_operations,
    is_needed,
    put_back_operations,
)
from labkit.plan import Context, Operation
from tests.support.daemon import busybox
from tests.support.dockerd import Dockerd
from tests.support.fixtures import busybox_archive
from tests.support.netlab import DEAF, Namespace, ask_all, bridge, cable, container

__all__ = ["busybox_archive"]
TABLE = "labkit"


@pytest.fixture
def host() -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.close()


def run(namespace: Namespace, operations: list[Operation]) -> list[Operation]:
    for operation in operations:
        namespace.run(lambda operation=operation: operation.run(Context()))  # type: ignore[misc]  # bound at once
    return operations


def admit(namespace: Namespace, table: str = TABLE) -> list[Operation]:
    return run(namespace, namespace.run(lambda: admit_operations(table)))


def forget(namespace: Namespace, table: str = TABLE) -> None:
    run(namespace, namespace.run(lambda: forget_operations(table)))


# The host's own settings


@pytest.mark.root
def test_forwarding_is_switched_on_if_need_be_and_put_back(host: Namespace, tmp_path: Path) -> None:
    folder = str(tmp_path / "records")

    def value() -> str:
        return host.run(lambda: read_sysctl("net/ipv4/ip_forward"))

    host.sysctl("net/ipv4/ip_forward", "0")
    assert len(run(host, host.run(lambda: enable_operations(False, folder)))) == 1
    assert value() == "1"
    assert host.run(lambda: enable_operations(False, folder)) == []
    # Killed here; the next daemon finds it on, and still knows what it was.
    run(host, host.run(lambda: put_back_operations(TABLE, folder)))
    assert value() == "0"
    assert os.listdir(folder) == []
    run(host, [SetHostSysctl("net/ipv4/ip_forward", "1", folder)])
    host.sysctl("net/ipv4/ip_forward", "0")  # someone else has decided
    run(host, host.run(lambda: put_back_operations(TABLE, folder)))
    assert (value(), os.listdir(folder)) == ("0", [])


@pytest.mark.root
def test_a_second_kill_does_not_hide_what_was_found(host: Namespace, tmp_path: Path) -> None:
    operation = SetHostSysctl("net/ipv4/ip_forward", "1", str(tmp_path))
    host.sysctl("net/ipv4/ip_forward", "0")
    run(host, [operation])
    Path(record_path(str(tmp_path), operation.key)).write_text("7", encoding="ascii")
    host.sysctl("net/ipv4/ip_forward", "0")
    run(host, [operation])
    assert Path(record_path(str(tmp_path), operation.key)).read_text(encoding="ascii") == "7"
    Path(record_path(str(tmp_path), operation.key)).write_text("", encoding="ascii")  # cut off: nothing was changed yet
    host.run(lambda: operation.undo(None, Context()))
    assert host.run(lambda: read_sysctl("net/ipv4/ip_forward")) == "1"


@pytest.mark.root
def test_forwarding_stays_while_another_daemon_needs_it(host: Namespace, tmp_path: Path) -> None:
    host.sysctl("net/ipv4/ip_forward", "0")
    run(
        host, [SetHostSysctl("net/ipv4/ip_forward", "1", str(tmp_path)), InstallTable(TABLE), InstallTable("labkit_0b")]
    )
    assert host.run(lambda: put_back_operations(TABLE, str(tmp_path))) == []
    host.command("nft delete table inet labkit_0b")
    assert len(host.run(lambda: put_back_operations(TABLE, str(tmp_path)))) == 1
    host.command("iptables-nft -N DOCKER-USER")
    assert host.run(lambda: is_needed(TABLE))
    host.command("iptables-nft -X DOCKER-USER; iptables-legacy -N DOCKER-USER")
    assert host.run(lambda: is_needed(TABLE))


@pytest.mark.root
def test_a_host_that_forwards_ipv6_goes_on_listening_to_routers(host: Namespace, tmp_path: Path) -> None:
    host.command("ip link add lan0 type bridge; ip link add labkit0 type bridge; ip link add still type bridge")
    host.sysctl("net/ipv6/conf/all/forwarding", "0")
    for link, listens in (("lan0", "1"), ("labkit0", "1"), ("still", "0")):
        host.sysctl(f"net/ipv6/conf/{link}/accept_ra", listens)
    keys = ["net/ipv6/conf/lan0/accept_ra", "net/ipv6/conf/all/forwarding"]
    done = run(host, host.run(lambda: enable_operations(True, str(tmp_path))))
    changed = [operation.key for operation in done if isinstance(operation, SetHostSysctl)]
    assert [key for key in changed if "ipv6" in key] == keys
    assert [host.run(lambda key=key: read_sysctl(key)) for key in keys] == ["2", "1"]  # type: ignore[misc]  # of a lambda with a default
    back = host.run(lambda: put_back_operations(TABLE, str(tmp_path)))
    assert "accept_ra" in back[-1].describe()
    run(host, back)
    assert [host.run(lambda key=key: read_sysctl(key)) for key in keys] == ["1", "0"]  # type: ignore[misc]  # of a lambda with a default


# Rules in other firewalls


@pytest.mark.root
@pytest.mark.parametrize("family", [IPV4, IPV6])
def test_iptables_reads_the_rules_and_the_shell_makes_the_same(host: Namespace, family: int) -> None:
    command = "ip6tables-nft" if family == IPV6 else "iptables-nft"
    host.command(f"{command} -P FORWARD DROP")
    before = host.command(f"{command} -S")
    operation = AcceptForwarding(family, "FORWARD", TABLE)
    run(host, [operation, operation])
    made = host.command(f"{command} -S FORWARD")
    assert made.splitlines() == [
        "-P FORWARD DROP",
        "-A FORWARD -i labkit+ -o docker+ -m comment --comment labkit -j RETURN",
        "-A FORWARD -i labkit+ -o br-+ -m comment --comment labkit -j RETURN",
        "-A FORWARD -i labkit+ -m comment --comment labkit -j ACCEPT",
        "-A FORWARD -o labkit+ -m comment --comment labkit -j ACCEPT",
    ]
    host.run(lambda: operation.undo("FORWARD", Context()))
    assert host.command(f"{command} -S") == before
    host.command(operation.shell())
    assert host.command(f"{command} -S FORWARD") == made
    forget(host)  # what iptables(8) made is known by another form of comment, and is not ours
    assert host.command(f"{command} -S FORWARD") == made


@pytest.mark.root
@pytest.mark.parametrize("family", [IPV4, IPV6])
def test_the_old_interface_is_used_where_it_is_in_use(host: Namespace, family: int) -> None:
    command = "ip6tables-legacy" if family == IPV6 else "iptables-legacy"
    assert admit(host) == []
    host.command(f"{command} -P FORWARD DROP")
    assert admit(host) == [AcceptForwardingLegacy(family, "FORWARD", TABLE)]
    assert admit(host) == []
    assert admit(host, "labkit_0b") == [AcceptForwardingLegacy(family, "FORWARD", "labkit_0b")]
    forget(host, "labkit_0b")
    assert host.command(f"{command} -S FORWARD").splitlines()[1:] == [
        "-A FORWARD -i labkit+ -o docker+ -m comment --comment labkit -j RETURN",
        "-A FORWARD -i labkit+ -o br-+ -m comment --comment labkit -j RETURN",
        "-A FORWARD -i labkit+ -m comment --comment labkit -j ACCEPT",
        "-A FORWARD -o labkit+ -m comment --comment labkit -j ACCEPT",
    ]
    forget(host)
    assert host.command(f"{command} -S FORWARD").splitlines() == ["-P FORWARD DROP"]


@pytest.mark.root
def test_each_daemon_has_rules_of_its_own(host: Namespace) -> None:
    host.command("iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER-USER")
    assert admit(host) == [AcceptForwarding(IPV4, "DOCKER-USER", TABLE)]
    admit(host, "labkit_0b")
    assert host.command("iptables-nft -S DOCKER-USER").count("labkit+") == 8
    forget(host)
    left = host.command("iptables-nft -S DOCKER-USER")
    assert (left.count("labkit+"), left.count("--comment labkit_0b")) == (4, 4)
    assert admit(host, "labkit_0b") == []


@pytest.mark.root
def test_no_other_firewall_is_no_change(host: Namespace) -> None:
    run(host, [InstallTable(TABLE)])
    before = host.command("nft list ruleset")
    assert admit(host) == []
    forget(host)
    assert host.command("nft list ruleset") == before
    assert host.run(lambda: Path("/proc/thread-self/net/ip_tables_names").read_text(encoding="ascii")) == ""


def test_the_chain_for_the_rules() -> None:
    assert chain_for({}) == ""
    assert chain_for({"INPUT": 1}) == ""
    assert chain_for({"FORWARD": 0, "INPUT": 1}) == "FORWARD"
    assert chain_for({"FORWARD": 0, "DOCKER-USER": -1}) == "DOCKER-USER"


def event(kind: int, family: int, table: str) -> bytes:
    body = struct.pack(">BBH", family, 0, 0) + text_attribute(1, table)
    return HEADER.pack(HEADER.size + len(body), nft.SUBSYSTEM << 8 | kind, 0, 0, 0) + body


def test_which_events_concern_us() -> None:
    assert concerns_us(event(3, IPV4, "filter"))
    assert concerns_us(event(12, INET, "labkit") + event(8, IPV6, "filter"))
    assert not concerns_us(event(12, INET, "labkit") + event(3, INET, "filter") + event(3, IPV4, "nat"))
    assert concerns_us(event(0, INET, "firewalld"))
    assert not concerns_us(event(6, IPV4, "filter"))  # a rule more takes nothing away


@given(st.binary(max_size=200))
def test_no_event_is_too_odd(events: bytes) -> None:
    concerns_us(events)


# A labkit-like bridge beside the real thing


class Site:
    """A LAN, and a host with one container whose port is published, as labkit leaves them."""

    def __init__(self, bridged: str = "1") -> None:
        self.host, self.lan = Namespace(), Namespace()
        cable(self.host, "lan0", self.lan, "eth0")
        self.host.command("ip address add 192.168.50.1/24 dev lan0")
        self.lan.command("ip address add 192.168.50.2/24 dev eth0; ip route add 172.30.0.0/24 via 192.168.50.1")
        self.lan.command("ip route add default via 192.168.50.1")
        self.lan.serve("lan", 80)
        self.host.sysctl("net/ipv4/ip_forward", "1")
        self.host.sysctl("net/bridge/bridge-nf-call-iptables", bridged)
        bridge(self.host, "labkit0", "172.30.0.1/24")
        self.one = container(self.host, "one", "labkit0", "172.30.0.2/24", gateways=("172.30.0.1",))
        self.two = container(self.host, "two", "labkit0", "172.30.0.3/24", gateways=("172.30.0.1",))
        install = InstallTable(TABLE, (("labkit0", False, True, True, False),), (("tcp", "", 8080, "172.30.0.2", 80),))
        run(self.host, [install])

    def answers(self) -> dict[str, str]:
        return ask_all(
            {
                "published": (self.lan, "192.168.50.1", 8080, "tcp"),
                "out": (self.one, "192.168.50.2", 80, "tcp"),
                "neighbour": (self.two, "172.30.0.2", 80, "tcp"),
                "own port": (self.one, "192.168.50.1", 8080, "tcp"),
                "straight": (self.lan, "172.30.0.2", 80, "tcp"),
            }
        )

    def close(self) -> None:
        for namespace in (self.host, self.lan, self.one, self.two):
            namespace.close()


GOOD = {
    "published": "one 192.168.50.2",
    "out": "lan 192.168.50.1",
    "neighbour": "one 172.30.0.3",
    "own port": "one 172.30.0.1",
    "straight": "",
}


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


# Its sockets have long paths of their own: the directory must be a short one (unix(7)).
class Beside(Dockerd):
    """dockerd in a namespace that is there, with the iptables that a folder of links names."""

    def __init__(self, root: Path, host: Namespace, variant: str) -> None:
        super().__init__(root)
        self.site, self.links = host, root / "links"
        self.links.mkdir()
        for name in ("iptables", "ip6tables"):
            (self.links / name).symlink_to(f"/usr/sbin/{name}-{variant}")

    def command(self) -> list[str]:
        dockerd = super().command()
        dockerd = dockerd[dockerd.index("dockerd") :]
        path = f"PATH={self.links}:{os.environ['PATH']}:/usr/sbin:/sbin"
        return ["nsenter", f"--net={self.site.path}", "env", path, *dockerd, "--bip", "172.20.0.1/16"]


@contextmanager
def running(engine: Beside) -> Iterator[None]:
    begin(engine)
    try:
        yield
    finally:
        end(engine)


def begin(engine: Beside) -> None:
    """dockerd has a policy of DROP if it was the one to switch forwarding on."""
    engine.site.sysctl("net/ipv4/ip_forward", "0")
    engine.start()


def end(engine: Beside) -> None:
    engine.remove_all()
    (engine.run / "netns").mkdir(exist_ok=True)  # it has none before its first container
    engine.stop()


def check_dockers_own(engine: Dockerd, site: Site) -> None:
    """A container of dockerd's is reached by its published port, reaches the LAN, and is not reached by ours."""
    engine.docker("import", str(busybox()), "busybox")
    engine.docker("run", "-d", "--name", "web", "-p", "9090:80", "busybox", "sleep", "1000")
    engine.docker("exec", "web", "sh", "-c", "echo 'docker here' > /index.html; httpd -p 80 -h /; httpd -p 81 -h /")
    address = json.loads(engine.docker("inspect", "web").stdout)[0]["NetworkSettings"]["IPAddress"]
    assert get(site.host, address, 80) == "docker here\n"
    assert get(site.lan, "192.168.50.1", 9090) == "docker here\n"
    assert engine.docker("exec", "web", "nc", "-w", "3", "192.168.50.2", "80").stdout == b"lan 192.168.50.1"
    assert (get(site.host, address, 81), get(site.one, address, 81)) == ("docker here\n", "")


def get(namespace: Namespace, address: str, port: int) -> str:
    """What a web server says at /; empty if none answers."""
    with namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(DEAF)
        try:
            sock.connect((address, port))
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with sock.makefile("rb") as answer:
                return answer.read().partition(b"\r\n\r\n")[2].decode()
        except OSError:
            return ""


async def heard(namespace: Namespace, until: Callable[[], bool]) -> None:
    """Do what labkit does when its watch calls, until something is so."""
    changed = asyncio.Event()
    watch = Watch(changed.set, namespace.path)
    watch.start()
    try:
        admit(namespace)
        while not until():
            async with asyncio.timeout(30):
                await changed.wait()
            changed.clear()
            admit(namespace)
    finally:
        watch.stop()


@pytest.mark.root
@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_beside_a_dockerd_that_was_there_first(
    site: Site, tmp_path_factory: pytest.TempPathFactory, variant: str
) -> None:
    assert site.answers() == GOOD
    engine = Beside(tmp_path_factory.mktemp("d"), site.host, variant)
    with running(engine):
        refused = site.answers()
        assert refused["published"] == refused["out"] == ""  # what the rules are for
        admit(site.host)
        assert site.answers() == GOOD
        check_dockers_own(engine, site)
        forget(site.host)
        rules = site.host.command(f"iptables-{variant} -S")
        assert "labkit" not in rules
        assert "DOCKER-USER" in rules


@pytest.mark.root
def test_beside_a_dockerd_that_starts_later(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    engine = Beside(tmp_path_factory.mktemp("d"), site.host, "nft")

    async def scenario() -> None:
        starting = asyncio.create_task(asyncio.to_thread(begin, engine))
        await heard(site.host, lambda: "labkit+" in rules_of_docker(site.host))
        await starting

    try:
        asyncio.run(scenario())
        admit(site.host)
        assert site.answers() == GOOD
        check_dockers_own(engine, site)
    finally:
        end(engine)
    assert site.answers() == GOOD  # dockerd leaves its rules, and the policy
    assert site.host.run(lambda: is_needed(TABLE))


def rules_of_docker(host: Namespace) -> str:
    listed = host.command("iptables-nft -S")
    return "\n".join(line for line in listed.splitlines() if line.startswith("-A DOCKER-USER"))


@pytest.mark.root
def test_beside_ufw(site: Site) -> None:
    """ufw's chains as its init makes them: routed packets are dropped unless a rule lets them."""
    site.host.command(
        "iptables-nft -N ufw-before-forward; iptables-nft -A FORWARD -j ufw-before-forward;"
        "iptables-nft -P FORWARD DROP;"
        "iptables-nft -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    )
    assert site.answers()["published"] == ""
    assert admit(site.host) == [AcceptForwarding(IPV4, "FORWARD", TABLE)]
    assert site.answers() == GOOD
    forget(site.host)
    assert site.answers()["published"] == ""
