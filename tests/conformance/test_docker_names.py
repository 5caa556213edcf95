"""Names in user-defined networks, with the real docker command: what containers find at 127.0.0.11, and what not."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit.kernel.netlink import open_in
from tests.network import wire
from tests.network.resolvers import Resolver, resolver
from tests.support.daemon import PATIENCE, Daemon, running
from tests.support.dockerd import dockerd, isolated

pytestmark = pytest.mark.root
NAMESERVER = ("127.0.0.11", 53)
ON_HOST = "127.53.5.1"
"""Where tests have a resolver on the host: port 53 of an address of its own on the loopback link."""
Start = Callable[..., str]


@pytest.fixture
def start(daemon: Daemon) -> Iterator[Start]:
    """Start a container with a name in a network, made if need be; returns its ID. Networks are removed afterwards."""
    made: list[str] = []

    def starting(name: str, network: str, *flags: str, options: tuple[str, ...] = ()) -> str:
        if network not in made:
            daemon.docker("network", "create", *options, network)
            made.append(network)
        return daemon.out("run", "-d", "--name", name, "--network", network, *flags, "busybox", "sleep", "1000")

    yield starting
    daemon.remove_all()
    for network in made:
        daemon.docker("network", "rm", network)


@pytest.fixture
def on_host() -> Iterator[Resolver]:
    """A resolver on the host that knows names below `corp.example`, many addresses of one of them, and no other."""

    def answer(query: bytes, stream: bool) -> list[bytes]:
        name, kind, _ = wire.read(query).question or ("", 0, 0)
        if not name.lower().endswith("corp.example"):
            return [wire.respond(query, code=3)]
        count = 100 if name.startswith("many.") else 1
        records = [wire.record(name, wire.A, bytes([192, 0, 2, i + 1])) for i in range(count)] if kind == wire.A else []
        fitting = records if stream else records[:8]
        return [wire.respond(query, tuple(fitting), flags=0x8180 | (0x200 if len(fitting) < len(records) else 0))]

    with resolver(answer, host=ON_HOST, port=53) as found:
        yield found


def ask(
    daemon: Daemon, container: str, name: str, kind: int = wire.A, stream: bool = False, size: int = 0
) -> wire.Answer:
    """What the container's name server answers, asked from within the container's network namespace."""
    netns = f"/proc/{daemon.inspect(container)['State']['Pid']}/ns/net"
    query = wire.query(name, kind, size=size)
    with open_in(netns, socket.AF_INET, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(NAMESERVER)
        if not stream:
            sock.send(query)
            return wire.read(sock.recv(65535))
        sock.sendall(len(query).to_bytes(2) + query)
        with sock.makefile("rb") as reader:
            return wire.read(reader.read(int.from_bytes(reader.read(2))))


def address(daemon: Daemon, container: str, network: str, family: str = "IPAddress") -> str:
    return str(daemon.inspect(container)["NetworkSettings"]["Networks"][network][family])


def pointer(text: str) -> str:
    return ipaddress.ip_address(text).reverse_pointer


def test_names_aliases_and_ids(daemon: Daemon, start: Start) -> None:
    identity = start("web", "front", "--network-alias", "www", "--network-alias", "w.x")
    start("app", "front")
    web = address(daemon, "web", "front")
    for name in ("web", "WEB", "web.front", "www", "w.x", "w.x.front", identity[:12], f"{identity[:12]}.front"):
        for stream in (False, True):
            found = ask(daemon, "app", name, stream=stream)
            assert (found.code, found.contents) == (0, {web}), name
    missing = ask(daemon, "app", "web", wire.AAAA)
    assert (missing.code, missing.answers) == (0, [])
    assert ask(daemon, "app", pointer(web), wire.PTR).contents == {"web.front"}
    assert ask(daemon, "web", "web").contents == {web}


def test_the_c_library_understands_it(daemon: Daemon, start: Start) -> None:
    start("web", "front")
    start("app", "front")
    web = address(daemon, "web", "front")
    assert f"PING web ({web})" in daemon.out("exec", "app", "ping", "-c", "1", "web")
    assert f"Address: {web}" in daemon.out("exec", "app", "nslookup", "web.front")
    assert "nameserver 127.0.0.11" in daemon.out("exec", "app", "cat", "/etc/resolv.conf")


def test_one_name_for_several_is_spread(daemon: Daemon, start: Start) -> None:
    for name in ("one", "two", "three"):
        start(name, "front", "--network-alias", "pool")
    addresses = {address(daemon, name, "front") for name in ("one", "two", "three")}
    answers = [ask(daemon, "one", "pool") for _ in range(60)]
    assert all(found.contents == addresses for found in answers)
    assert {found.answers[0][3] for found in answers} == addresses


def test_ipv6(daemon: Daemon, start: Start) -> None:
    start("web", "six", options=("--ipv6", "--subnet", "fd00:51ab:1::/64"))
    start("app", "six")
    web = address(daemon, "web", "six", "GlobalIPv6Address")
    assert ask(daemon, "app", "web", wire.AAAA).contents == {web}
    assert ask(daemon, "app", "web").contents == {address(daemon, "web", "six")}
    assert ask(daemon, "app", pointer(web), wire.PTR).contents == {"web.six"}


def test_nothing_leaks_between_networks(daemon: Daemon, start: Start, on_host: Resolver) -> None:
    start("web", "front")
    start("spy", "back", "--dns", ON_HOST)
    start("both", "back", "--dns", ON_HOST)
    daemon.docker("network", "connect", "front", "both")
    web, spy = address(daemon, "web", "front"), address(daemon, "spy", "back")
    for name, kind in (("web", wire.A), ("web.front", wire.A), ("web", wire.AAAA), (pointer(web), wire.PTR)):
        assert (ask(daemon, "spy", name, kind).code, ask(daemon, "both", name, kind).code) == (3, 0), name
    assert ask(daemon, "both", "both").contents == {address(daemon, "both", "back")}
    assert ask(daemon, "both", "both.front").contents == {address(daemon, "both", "front")}
    assert ask(daemon, "both", pointer(spy), wire.PTR).contents == {"spy.back"}


def test_the_default_bridge_has_no_names(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "web", "busybox", "sleep", "1000")
    daemon.docker("run", "-d", "--name", "app", "--dns", "192.0.2.53", "busybox", "sleep", "1000")
    assert "nameserver 192.0.2.53" in daemon.out("exec", "app", "cat", "/etc/resolv.conf")
    with pytest.raises(ConnectionRefusedError):
        ask(daemon, "app", "web", stream=True)


def test_connect_and_disconnect_while_running(daemon: Daemon, start: Start, on_host: Resolver) -> None:
    start("web", "front")
    start("app", "back", "--dns", ON_HOST)
    assert ask(daemon, "app", "web").code == 3
    daemon.docker("network", "connect", "--alias", "late", "back", "web")
    assert ask(daemon, "app", "late").contents == ask(daemon, "app", "web").contents == {address(daemon, "web", "back")}
    daemon.docker("network", "connect", "front", "app")
    assert ask(daemon, "app", "web.front").contents == {address(daemon, "web", "front")}
    daemon.docker("network", "disconnect", "back", "web")
    assert ask(daemon, "app", "late").code == 3
    assert ask(daemon, "app", "web").contents == {address(daemon, "web", "front")}
    daemon.docker("network", "disconnect", "front", "app")
    assert ask(daemon, "app", "web").code == 3


def test_from_the_default_bridge_into_a_network(daemon: Daemon, start: Start) -> None:
    start("web", "front")
    daemon.docker("run", "-d", "--name", "app", "busybox", "sleep", "1000")
    daemon.docker("network", "connect", "front", "app")
    assert ask(daemon, "app", "web").contents == {address(daemon, "web", "front")}
    assert f"PING web ({address(daemon, 'web', 'front')})" in daemon.out("exec", "app", "ping", "-c", "1", "web")


def test_who_is_gone_or_renamed_is_not_found(daemon: Daemon, start: Start, on_host: Resolver) -> None:
    start("web", "front")
    start("old", "front")
    start("app", "front", "--dns", ON_HOST)
    daemon.docker("rename", "old", "new")
    assert ask(daemon, "app", "old").code == 3
    assert daemon.inspect("new")["NetworkSettings"]["Networks"]["front"]["DNSNames"][0] == "new"
    new = address(daemon, "new", "front")
    assert ask(daemon, "app", "new").contents == {new}
    assert ask(daemon, "app", pointer(new), wire.PTR).contents == {"new.front"}
    web = address(daemon, "web", "front")
    daemon.docker("kill", "web")
    assert ask(daemon, "app", "web").code == 3
    assert ask(daemon, "app", pointer(web), wire.PTR).code == 3
    daemon.docker("start", "web")
    assert ask(daemon, "app", "web").contents == {address(daemon, "web", "front")}


def test_links_are_names_for_one_container(daemon: Daemon, start: Start, on_host: Resolver) -> None:
    start("web", "front")
    start("linked", "front", "--link", "web:database")
    start("other", "front", "--dns", ON_HOST)
    assert ask(daemon, "linked", "database").contents == {address(daemon, "web", "front")}
    assert ask(daemon, "other", "database").code == 3


def test_other_names_come_from_the_resolver_of_the_host(daemon: Daemon, start: Start, on_host: Resolver) -> None:
    start("app", "front", "--dns", ON_HOST)
    for stream in (False, True):
        assert ask(daemon, "app", "db.corp.example", stream=stream).contents == {"192.0.2.1"}
    assert ask(daemon, "app", "db.elsewhere").code == 3
    assert ask(daemon, "app", pointer("192.0.2.1"), wire.PTR).code == 3
    small, large = (ask(daemon, "app", "many.corp.example", size=size) for size in (0, 4096))
    assert small.truncated
    assert 8 <= len(small.answers) < 100
    assert (large.truncated, len(large.answers)) == (False, 100)
    assert len(ask(daemon, "app", "many.corp.example", stream=True).answers) == 100


def test_search_domains(daemon: Daemon, start: Start, on_host: Resolver) -> None:
    start("web", "front")
    flags = ("--dns", ON_HOST, "--dns-search", "front", "--dns-search", "corp.example")
    start("app", "front", *flags)
    assert (
        "PING db (192.0.2.1)"
        in daemon.docker("exec", "app", "ping", "-c", "1", "-W", "1", "db", check=False).stdout.decode()
    )
    asked = {(wire.read(query).question or ("",))[0] for query, _ in on_host.asked}
    assert {"db", "db.front", "db.corp.example"} <= asked
    assert f"PING web ({address(daemon, 'web', 'front')})" in daemon.out("exec", "app", "ping", "-c", "1", "web")


def test_an_internal_network_asks_nobody(daemon: Daemon, start: Start, on_host: Resolver) -> None:
    start("web", "inner", options=("--internal",))
    start("app", "inner", "--dns", ON_HOST)
    assert ask(daemon, "app", "web").contents == {address(daemon, "web", "inner")}
    assert ask(daemon, "app", "db.corp.example").code == 2
    assert on_host.asked == []


def test_a_container_may_have_port_53_itself(daemon: Daemon, start: Start) -> None:
    start("web", "front")
    start("app", "front")
    netns = f"/proc/{daemon.inspect('app')['State']['Pid']}/ns/net"
    with (
        open_in(netns, socket.AF_INET, socket.SOCK_STREAM) as tcp,
        open_in(netns, socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        tcp.bind(("0.0.0.0", 53))
        tcp.listen()
        udp.bind(("0.0.0.0", 53))
        for stream in (False, True):
            assert ask(daemon, "app", "web", stream=stream).contents == {address(daemon, "web", "front")}


def test_names_survive_the_daemon(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        daemon.docker("network", "create", "front")
        for name in ("web", "app"):
            daemon.docker("run", "-d", "--name", name, "--network", "front", "busybox", "sleep", "1000")
        web = address(daemon, "web", "front")
        daemon.kill()
        daemon.start()
        for stream in (False, True):
            assert ask(daemon, "app", "web", stream=stream).contents == {web}
        daemon.docker("network", "disconnect", "front", "web")
        assert ask(daemon, "app", "web").code != 0
        daemon.remove_all()
        daemon.docker("network", "rm", "front")


def test_answers_are_those_of_dockerd(tmp_path_factory: pytest.TempPathFactory) -> None:
    folders = [tmp_path_factory.mktemp(name) for name in ("d", "l")]  # short names: containerd's socket is below
    with dockerd(folders[0]) as docker, isolated(folders[1]) as labkit:
        for engine in (docker, labkit):
            engine.docker("network", "create", "--subnet", "10.77.0.0/24", "front")
            for name, *flags in (("web", "--network-alias", "www"), ("app", "--network-alias", "www")):
                engine.docker("run", "-d", "--name", name, "--network", "front", *flags, "busybox", "sleep", "1000")
        web = pointer(address(docker, "web", "front"))
        kinds = [(name, kind) for name in ("web", "WEB.front") for kind in (wire.A, wire.AAAA, wire.MX)]
        for name, kind in (*kinds, (web, wire.PTR)):
            for stream in (False, True):
                theirs, ours = (ask(engine, "app", name, kind, stream) for engine in (docker, labkit))
                assert ours == theirs, name
                assert ours.code == 0
        theirs, ours = (ask(engine, "app", "www") for engine in (docker, labkit))
        assert ours.contents == theirs.contents
        for engine in (docker, labkit):
            engine.remove_all()
            engine.docker("network", "rm", "front")
