"""SIGKILL of the daemon at each operation on networks, machines on which links vanish, and many containers at once.

The daemons have a network namespace of their own: whatever link is there after, they have left.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import PATIENCE, Daemon, served
from tests.support.dockerd import Isolated

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
Requests = tuple[tuple[str, str, Any], ...]

HOOK = """
import os, select
from labkit import plan
def hook(armed, fifo, perform=plan.perform):
    def watched(operation):
        module = type(operation).__module__.removeprefix("labkit.kernel.")
        words = "".join(str(getattr(operation, name, "")) for name in ("path", "name", "key"))
        return not operation.ahead and (module in ("links", "nftables", "ports", "resolver") or "net/" in words or
            words.endswith(("/hosts", "/resolv.conf")))
    def kill():
        end = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        os.write(end, b"x")
        poll = select.poll()
        poll.register(end, 0)  # POLLERR: nobody reads any more, the daemon is dead
        poll.poll()
        os.close(end)
    def watching(index, operation, context):
        number = 0
        if watched(operation) and os.path.islink(armed):
            with open(armed + ".seen", "a+") as seen:
                seen.write(type(operation).__name__ + chr(10))
                seen.flush()
                seen.seek(0)
                number = len(seen.readlines())
        if number and os.readlink(armed) == f"before {number}":
            kill()
        record = perform(index, operation, context)
        if number and os.readlink(armed) == f"after {number}":
            kill()
        return record
    plan.perform = watching
"""
"""Has the daemon killed before or after the n-th operation on networks, once a link says so, whoever runs it.

A container's init doesn't see the daemon's pid: it writes to a FIFO, and goes on when nobody reads that any more.
"""

DAEMON = f"""{HOOK}
import signal, sys, threading
def die():
    with open(sys.argv[2], "rb") as end:
        end.read(1)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=die, daemon=True).start()
hook(*sys.argv[1:3])
from labkit.runtime import spawning
spawning._PROGRAM = sys.argv[3] + spawning._PROGRAM
from labkit.cli.main import main
sys.exit(main(sys.argv[4:]))
"""
SPAWNER = f"""import sys
sys.path.append(sys.argv[1])
{HOOK}
"""
"""The hook goes into the spawner too, and with it into the inits of containers."""


class Fragile(Isolated):
    """A daemon that can be told at which operation to die."""

    @property
    def armed(self) -> Path:
        return self.root / "armed"

    def start(self) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self.root / "fifo")
        super().start()

    def command(self) -> list[str]:
        words = Daemon.command(self)
        places = str(self.armed), str(self.root / "fifo")
        spawner = f"{SPAWNER}hook{places!r}\n"
        return self.in_network([sys.executable, "-c", DAEMON, *places, spawner, *words[words.index("daemon") :]])

    def killed_at(self, moment: str, requests: Requests) -> str:
        """Make requests of a daemon that dies at this moment; at which operation it did, if it came to that."""
        assert self.process
        seen = self.root / "armed.seen"
        seen.write_text("")
        self.armed.symlink_to(moment)
        done = ask(self, requests)
        self.armed.unlink()
        operations = seen.read_text().split()
        if done and int(moment.split()[1]) > len(operations):
            return ""
        assert self.process.wait(PATIENCE) == -9
        self.start()
        return f"{moment}, {operations[int(moment.split()[1]) - 1]}"


def ask(daemon: Daemon, requests: Requests) -> bool:
    """Make requests that must succeed, but for a daemon that dies; whether all were answered."""
    for method, path, body in requests:
        try:
            status, answer = daemon.request(method, path, body)
        except (ConnectionError, http.client.HTTPException):
            return False
        assert status < 300, (path, answer)
    return True


@pytest.fixture
def own(tmp_path: Path, busybox_archive: None) -> Iterator[Fragile]:
    daemon = Fragile(tmp_path)
    with daemon.network(), served(daemon):
        yield daemon


NETWORK = ("POST", "/networks/create", {"Name": "lab", "IPAM": {"Config": [{"Subnet": "10.230.0.0/24"}]}})
FAR = ("POST", "/networks/create", {"Name": "far", "IPAM": {"Config": [{"Subnet": "10.231.0.0/24"}]}})
WEB: tuple[str, str, Any] = (
    "POST",
    "/containers/create?name=web",
    {
        "Image": "busybox",
        "Cmd": ["httpd", "-f", "-h", "/etc"],
        "ExposedPorts": {"80/tcp": {}},
        "HostConfig": {
            "NetworkMode": "lab",
            "PortBindings": {"80/tcp": [{"HostPort": "8080"}, {"HostPort": "8081", "HostIp": "127.0.0.1"}]},
        },
    },
)
WEB_ON_BRIDGE = (*WEB[:2], {**WEB[2], "HostConfig": {**WEB[2]["HostConfig"], "NetworkMode": "bridge"}})
START = ("POST", "/containers/web/start", None)
CONNECT = ("POST", "/networks/far/connect", {"Container": "web", "EndpointConfig": {"Aliases": ["other"]}})
ALL = (NETWORK, FAR, WEB, START)

SCENARIOS: dict[str, tuple[Requests, Requests]] = {
    "create a network": ((), (NETWORK,)),
    "remove a network": ((NETWORK,), (("DELETE", "/networks/lab", None),)),
    "start": ((NETWORK, FAR, WEB), (START,)),
    "connect": (ALL, (CONNECT,)),
    "connect to a first network with names": (
        (FAR, WEB_ON_BRIDGE, START),
        (CONNECT,),
    ),
    "disconnect": ((*ALL, CONNECT), (("POST", "/networks/lab/disconnect", {"Container": "web"}),)),
    "stop": ((*ALL, CONNECT), (("POST", "/containers/web/stop?t=0", None),)),
    "remove by force": ((*ALL, CONNECT), (("DELETE", "/containers/web?force=1", None),)),
}
"""What is done before, and what the daemon is killed at."""

ATTACHING = {"CreateVeth", "ConfigureLink", "OverwriteFile"}
EXPECTED = {
    "create a network": {"CreateBridge", "WriteSysctl", "AdmitBridge"},
    "remove a network": {"DeleteLink", "DismissBridge"},
    "start": {"HoldPort", "PublishPort", "ServeNames", *ATTACHING},
    "connect": {"SetDefaultRoute", *ATTACHING},
    "connect to a first network with names": {"ServeNames", *ATTACHING},
    "disconnect": {"DeleteLink", "SetDefaultRoute", "OverwriteFile", "UnpublishPort", "HoldPort", "PublishPort"},
    "stop": {"UnpublishPort", "CutOff"},
    "remove by force": {"UnpublishPort", "CutOff"},
}
"""Operations at which it must have been killed, or the test is about something else."""


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_daemon_killed_at_each_operation(own: Fragile, scenario: str) -> None:
    before, requests = SCENARIOS[scenario]
    killed = set()
    for number in range(1, 30):
        for moment in (f"before {number}", f"after {number}"):
            assert ask(own, before)
            operation = own.killed_at(moment, requests)
            check(own, operation)
            remove_everything(own)
            killed.add(operation.rpartition(" ")[2])
            if not operation:
                assert killed >= EXPECTED[scenario]
                return
    raise AssertionError("it never came to an end")


def links(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(daemon.on_host("ip", "-j", "-d", "link", "show"))
    return found


def addresses_inside(pid: int) -> dict[str, list[str]]:
    """The addresses of each link of a process's network namespace, besides the loopback's."""
    words = ["nsenter", "-t", str(pid), "-n", "ip", "-j", "-4", "address", "show"]
    shown = json.loads(subprocess.run(words, check=True, capture_output=True, timeout=PATIENCE).stdout)
    return {link["ifname"]: [one["local"] for one in link["addr_info"]] for link in shown if link["ifname"] != "lo"}


def check(daemon: Isolated, moment: str) -> None:
    """The machine is what the daemon says, and what it says works."""
    networks = daemon.request("GET", "/networks")[1]
    containers = [daemon.inspect(one["Id"]) for one in daemon.request("GET", "/containers/json?all=1")[1]]
    bridges = {f"labkit-{one['Id'][:8]}" for one in networks if one["Driver"] == "bridge"}
    cables = set()
    for container in containers:
        endpoints = container["NetworkSettings"]["Networks"]
        attached = {one["EndpointID"]: one["IPAddress"] for one in endpoints.values() if one["EndpointID"]}
        assert bool(attached) == container["State"]["Running"], moment
        cables |= {f"veth{identity[:7]}" for identity in attached}
        if container["State"]["Running"]:
            inside = addresses_inside(container["State"]["Pid"])
            assert sorted(one for link in inside.values() for one in link) == sorted(attached.values()), moment
            assert_answers(daemon, container, moment)
        else:
            assert not container["NetworkSettings"]["Ports"], moment
    found = {link["ifname"]: link["linkinfo"]["info_kind"] for link in links(daemon) if "linkinfo" in link}
    assert {name for name, kind in found.items() if kind == "bridge"} == bridges, moment
    assert_cables(daemon, cables, moment)
    table = daemon.on_host("nft", "list", "ruleset")
    assert {name for name in found if f'"{name}"' in table} == bridges, moment
    running = any(container["State"]["Running"] for container in containers)
    assert (" 8080 " in table) == (running and bool(containers[0]["NetworkSettings"]["Ports"]["80/tcp"])), moment


def assert_cables(daemon: Isolated, cables: set[str], moment: str) -> None:
    """The host's ends of cables are these. The kernel takes down those of ended containers in its own time."""
    deadline = time.monotonic() + PATIENCE
    found: set[str] = set()
    while time.monotonic() < deadline:
        kinds = {link["ifname"]: link["linkinfo"]["info_kind"] for link in links(daemon) if "linkinfo" in link}
        found = {name for name, kind in kinds.items() if kind == "veth"}
        if found == cables:
            return
        time.sleep(0.02)  # nobody tells when a namespace is gone
    assert found == cables, moment


def assert_answers(daemon: Isolated, container: Any, moment: str) -> None:
    """Names and ports of a container that runs."""
    endpoints = container["NetworkSettings"]["Networks"]
    if named := [one["IPAddress"] for name, one in endpoints.items() if name in ("lab", "far")]:
        told = daemon.out("exec", "web", "nslookup", "-type=a", "web")
        assert any(address in told for address in named), (moment, told)
    assert container["NetworkSettings"]["Ports"]["80/tcp"], moment
    for binding in container["NetworkSettings"]["Ports"]["80/tcp"] or ():
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(binding["HostIp"], binding["HostIp"])
        page = daemon.on_host("curl", "-sS", "-m", "5", f"http://{host}:{binding['HostPort']}/passwd")
        assert page.startswith("root:"), moment


def remove_everything(daemon: Isolated) -> None:
    daemon.remove_all()
    daemon.docker("network", "prune", "-f")
    assert_cables(daemon, set(), "at the end")
    kinds = {link["ifname"] for link in links(daemon) if link.get("linkinfo", {}).get("info_kind")}
    default = daemon.request("GET", "/networks/bridge")[1]["Id"]
    assert {name for name in kinds if name.startswith(("veth", "labkit"))} == {f"labkit-{default[:8]}"}
    assert "8080" not in daemon.on_host("nft", "list", "ruleset")


def test_no_address_is_given_twice_after_a_crash(own: Fragile) -> None:
    ask(own, (NETWORK,))
    given = {}
    for number in range(6):
        own.docker("run", "-d", "--network", "lab", "--name", f"box{number}", "busybox", "sleep", "1000")
        given[f"box{number}"] = address_of(own, f"box{number}")
        if number == 2:
            own.docker("rm", "-f", "box1")
            del given["box1"]
        own.kill()
        own.start()
        assert {name: address_of(own, name) for name in given} == given
    assert len(set(given.values())) == len(given)
    in_use = given["box0"]
    refused = own.docker("run", "--rm", "--network", "lab", "--ip", in_use, "busybox", "true", check=False)
    assert b"Address already in use" in refused.stderr


def address_of(daemon: Daemon, name: str) -> str:
    found: str = daemon.inspect(name)["NetworkSettings"]["Networks"]["lab"]["IPAddress"]
    return found


def test_two_hundred_at_once(own: Fragile) -> None:
    ask(own, (NETWORK,))
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "lab", "PublishAllPorts": True}}
    body |= {"ExposedPorts": {"80/tcp": {}}}
    names = [f"many{number}" for number in range(200)]
    failures: list[Any] = []

    def work(mine: list[str], requests: list[tuple[str, str]]) -> None:
        for name in mine:
            for method, path in requests:
                status, answer = own.request(method, path.format(name), body if "create" in path else None)
                if status >= 300:
                    failures.append((name, path, status, answer))

    def all_at_once(*requests: tuple[str, str]) -> None:
        threads = [threading.Thread(target=work, args=(names[first::20], list(requests))) for first in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    all_at_once(("POST", "/containers/create?name={}"), ("POST", "/containers/{}/start"))
    assert failures == []
    shown = own.request("GET", "/networks/lab")[1]["Containers"].values()
    assert len({one["IPv4Address"] for one in shown}) == 200
    ports = {one["Ports"][0]["PublicPort"] for one in own.request("GET", "/containers/json")[1]}
    assert len(ports) == 200
    assert sum(link["ifname"].startswith("veth") for link in links(own)) == 200
    all_at_once(("DELETE", "/containers/{}?force=1"))
    assert failures == []
    assert own.request("GET", "/networks/lab")[1]["Containers"] == {}
    remove_everything(own)


def test_a_container_that_breaks_its_own_network(own: Fragile) -> None:
    ask(own, (NETWORK, FAR))
    breaks = ("ip route del default", "ip address flush dev eth0", "ip link set eth0 down", "ip link delete eth0")
    for script in breaks:
        flags = ("--cap-add", "NET_ADMIN", "--network", "lab", "-p", "8080:80", "--name", "web")
        own.docker("run", "-d", *flags, "busybox", "httpd", "-f", "-h", "/etc")
        own.docker("exec", "web", "sh", "-c", script)
        own.docker("network", "connect", "far", "web")
        own.docker("network", "disconnect", "far", "web")
        own.docker("network", "connect", "far", "web")
        own.docker("network", "disconnect", "lab", "web")
        assert_answers(own, own.inspect("web"), script)
        own.docker("restart", "-t", "0", "web")
        assert_answers(own, own.inspect("web"), script)
        own.docker("exec", "web", "sh", "-c", script)
        own.kill()
        own.start()
        assert own.inspect("web")["State"]["Running"]
        own.docker("rm", "-f", "web")
    remove_everything(own)


def test_a_bridge_that_somebody_deleted(own: Fragile) -> None:
    ask(own, (NETWORK, FAR, WEB))
    identity = own.request("GET", "/networks/lab")[1]["Id"]
    own.on_host("ip", "link", "delete", f"labkit-{identity[:8]}")
    refused = own.docker("start", "web", check=False)
    assert refused.returncode == 1
    assert f"labkit-{identity[:8]}" in refused.stderr.decode()
    own.kill()
    own.start()
    own.docker("start", "web")
    check(own, "made again at the boot")
    own.on_host("ip", "link", "delete", f"labkit-{identity[:8]}")
    own.docker("rm", "-f", "web")
    own.docker("network", "rm", "lab", "far")
    remove_everything(own)


def test_bridges_are_found_again(own: Fragile) -> None:
    ask(own, ALL)
    before = {link["ifname"]: link["ifindex"] for link in links(own)}
    own.kill()
    own.start()
    assert {link["ifname"]: link["ifindex"] for link in links(own)} == before
    check(own, "found again")
    identity = own.request("GET", "/networks/far")[1]["Id"]
    own.kill()
    (own.data / "networks" / f"{identity}.json").unlink()  # as if it had been killed while it removed the network
    own.start()
    assert f"labkit-{identity[:8]}" not in {link["ifname"] for link in links(own)}
    assert_answers(own, own.inspect("web"), "the other network")


class Neighbour(Isolated):
    """A second daemon in the network namespace of a first."""

    def __init__(self, root: Path, first: Isolated) -> None:
        super().__init__(root)
        self.first = first

    @property
    def namespace(self) -> Path:
        return self.first.namespace

    def network_left(self) -> list[str]:
        return Daemon.network_left(self)


def test_two_daemons_on_one_machine(own: Fragile, tmp_path: Path) -> None:
    second = Neighbour(tmp_path / "second", own)
    with served(second):
        ask(own, ALL)
        page = ("busybox", "httpd", "-f", "-h", "/etc")
        second.docker("network", "create", "lab")
        second.docker("run", "-d", "--network", "lab", "--name", "web", "-p", "8090:80", *page)
        refused = second.docker("run", "-d", "--name", "late", "-p", "8080:80", *page, check=False)
        assert b"address already in use" in refused.stderr
        second.docker("rm", "late")
        for daemon in (own, second):
            daemon.kill()
            daemon.start()
            assert_answers(daemon, daemon.inspect("web"), "two daemons")
        subnets = [str(one["IPAM"]["Config"]) for one in (*own_networks(own), *own_networks(second))]
        assert len(set(subnets)) == len(subnets)
        second.docker("rm", "-f", "web")
        second.docker("network", "rm", "lab")
    assert_answers(own, own.inspect("web"), "the second is gone")


def own_networks(daemon: Daemon) -> list[Any]:
    return [one for one in daemon.request("GET", "/networks")[1] if one["Driver"] == "bridge"]
