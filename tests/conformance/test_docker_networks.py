"""Networks beside dockerd: the same commands to Debian's (20.10) and to labkit, the same answers, the same inspect.

Each engine has a network namespace of its own, so that both choose the same subnets. What may differ is listed with its
reason; `docs/differences.md` says it for people. A difference that isn't listed fails.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest

from tests.conformance.side_by_side import Answer, differences, shown, told
from tests.support.daemon import Daemon
from tests.support.dockerd import Dockerd, Isolated, dockerd, isolated

pytestmark = pytest.mark.root

ADDRESSES = r"ip -o -4 address | sed 's/ \+/ /g; s/@if[0-9]*//; s/^[0-9]*: //'"
ROUTES = "ip route | sed 's/ dev [a-z0-9]*//' | sort"
GLOBAL = rf"ip -o -4 address show scope global | sed 's/.*inet \([^ ]*\).*/\1/' | sort; {ROUTES}"
"""Without names of interfaces: dockerd takes the networks of a start in any order, and counts on."""
OWN_HOSTS = r"grep -v '^[f:]' /etc/hosts | sed 's/\t[0-9a-f]*$//'"
RESOLVER = "grep '^[a-z]' /etc/resolv.conf | sort"
SLEEP = "busybox sleep 1000"
PING = "ping -c 1 -W 1"

SCENARIOS = {
    "default bridge": rf"""
run -d --name one {SLEEP}
sh:one {ADDRESSES}; ip route; {OWN_HOSTS}; {RESOLVER}; hostname -i
run -d --name box -h box --domainname dom.test --add-host x:1.2.3.4 --add-host gw:host-gateway --dns 9.9.9.9 {SLEEP}
sh:box tail -n 3 /etc/hosts; {RESOLVER}; hostname; cat /proc/sys/kernel/domainname
run --rm --dns 9.9.9.9 --dns 8.8.8.8 --dns-search a.test --dns-search b.test --dns-opt debug busybox sh -c "{RESOLVER}"
run --rm --dns 9.9.9.9 --dns-search . busybox sh -c "{RESOLVER}"
sh:one {PING} 172.17.0.3 > /dev/null && echo pong; {PING} 172.17.0.1 > /dev/null && echo gateway
run --rm --ip 172.17.0.9 busybox true
run --rm --network-alias x busybox true
network rm bridge
network disconnect bridge one
network disconnect bridge one
sh:one {ADDRESSES}; ip route
network connect bridge one
network connect bridge one
sh:one {GLOBAL}
stop -t 0 one
network connect bridge one
network connect --ip 172.17.0.40 bridge box
""",
    "links": rf"""
run -d --name db --expose 80-82 --expose 53/udp --expose 90 -e A=b -h dbhost {SLEEP}
run -d --name web --link db:the-alias --link db -e THE_ALIAS_NAME=own {SLEEP}
sh:web env | grep -e ^THE_ -e ^DB_ | sort; {OWN_HOSTS} | sort; {PING} the-alias > /dev/null && echo pong
run --rm --link db:x busybox env | grep ^X_
run --rm --link nosuch:x busybox true
run --rm --network host --link db busybox true
stop -t 0 db
run -d --name late --link db {SLEEP}
network create --subnet 10.220.0.0/24 lab
start db
network connect lab db
run -d --name user --network lab --link db:other {SLEEP}
sh:user nslookup -type=a other | tail -n 3
""",
    "user-defined": rf"""
network create --subnet 10.220.0.0/24 --gateway 10.220.0.254 --ip-range 10.220.0.128/25 --aux-address x=10.220.0.128 \
 --label a=b -o com.docker.network.driver.mtu=1400 lab
run -d --name one --network lab --network-alias al1 --network-alias al2 {SLEEP}
run -d --name two --network lab --ip 10.220.0.7 -h uhost {SLEEP}
sh:one {ADDRESSES}; ip route; {OWN_HOSTS}; {RESOLVER}; cat /sys/class/net/eth0/mtu /sys/class/net/eth0/address
sh:one {PING} two > /dev/null && echo pong; {PING} 10.220.0.254 > /dev/null && echo gateway
sh:one for n in two uhost two.lab one al1; do nslookup -type=a $n | tail -n 3; done; nslookup 10.220.0.7 | tail -n 2
sh:two for n in al1 al2.lab one; do nslookup -type=a $n | tail -n 3; done; nslookup 10.220.0.129 | tail -n 2
run --rm --network lab --ip 10.220.0.7 busybox true
run --rm --network lab --ip 10.220.1.7 busybox true
run --rm --network lab --ip 10.220.0.254 busybox true
run --rm --network lab --ip 10.220.0.128 busybox true
run --rm --network lab --ip foo busybox true
run --rm --network lab --dns 9.9.9.9 --dns-search a.test --dns-opt ndots:3 busybox sh -c "{RESOLVER}"
restart -t 0 one
sh:one {ADDRESSES}
run --rm --name one busybox true
run --rm --network nosuch busybox true
create --name early --network later {SLEEP}
start early
network create --subnet 10.221.0.0/24 later
start early
sh:early {ADDRESSES}
""",
    "errors": f"""
network create --subnet 10.220.0.0/24 lab
run -d --name one --network lab {SLEEP}
network create lab
network create --subnet 10.220.0.0/16 other
network create --subnet 10.220.0.128/25 other
network create --subnet 10.221.0.0/24 --gateway 10.222.0.1 other
network create --gateway 10.222.0.1 other
network create -d nosuch other
network create -d host other
network create -d null other
network create host
network create none
network create bridge
network rm lab
network rm host
network rm none
network rm nosuch
network inspect nosuch
network connect nosuch one
network connect lab nosuch
network connect lab one
network disconnect nosuch one
network disconnect lab nosuch
network disconnect -f lab nosuch
network disconnect bridge one
network ls -f driver=nosuch -q
network create --subnet 10.223.0.0/30 tiny
run -d --name first --network tiny {SLEEP}
run -d --name second --network tiny {SLEEP}
rm second
rm -f first
run --rm --network tiny busybox true
network rm tiny
""",
    "options that can't be": """
network create -o com.docker.network.driver.mtu=foo one
network create -o com.docker.network.driver.mtu=-5 one
network create -o com.docker.network.bridge.enable_icc=foo one
network create -o com.docker.network.bridge.enable_ip_masquerade=2 one
network create -o com.docker.network.bridge.host_binding_ipv4=foo one
network create -o com.docker.network.bridge.name=averyveryverylongname one
network create -o com.docker.network.bridge.name=lo one
network create -o com.docker.network.bridge.name=mybr0 named
network create -o com.docker.network.bridge.name=mybr0 one
network create -d macvlan -o macvlan_mode=foo -o parent=lo one
network create -d macvlan -o parent=nosuch9 one
network create -o nosuch=foo other
network create --subnet fd00:5::/64 six
network create --subnet 10.4.0.0/32 one
network create --subnet 10.4.0.0/31 one
network create --subnet 10.5.0.0/24 --gateway 10.5.0.0 one
network create --subnet 10.5.0.0/24 --gateway 10.5.0.255 one
network create --subnet 10.5.0.0/24 --aux-address a=10.5.0.1 one
network create --subnet 10.5.0.0/24 --gateway 10.5.0.9 --aux-address a=10.5.0.9 one
network create --subnet 10.10.0.0/24 --subnet 10.11.0.0/24 one
network create --subnet 10.4.0.0/33 one
network create .dot
network create -x
network create --ipam-opt a=b --label x --attachable labelled
network inspect -f "{{json .Options}} {{json .Labels}} {{.Attachable}} {{json .IPAM.Options}}" named labelled
network create -o com.docker.network.container_iface_prefix=lan prefixed
run --rm --network prefixed busybox ls /sys/class/net
""",
    "internal, no icc, isolation": rf"""
network create --internal --subnet 10.224.0.0/24 inner
run -d --name in1 --network inner -p 8400:80 --expose 81 {SLEEP}
run -d --name in2 --network inner {SLEEP}
sh:in1 {PING} in2 > /dev/null && echo pong; {PING} 10.224.0.1 > /dev/null && echo gateway
port in1
network create -o com.docker.network.bridge.enable_icc=false --subnet 10.225.0.0/24 quiet
run -d --name q1 --network quiet {SLEEP}
run -d --name q2 --network quiet {SLEEP}
sh:q1 {PING} 10.225.0.3 > /dev/null || echo silent; {PING} 10.225.0.1 > /dev/null && echo gateway
sh:q1 nslookup -type=a q2 | tail -n 3
run -d --name plain {SLEEP}
sh:q1 {PING} 10.224.0.2 > /dev/null || echo silent; {PING} 172.17.0.2 > /dev/null || echo silent
sh:plain {PING} 10.224.0.2 > /dev/null || echo silent; {PING} 10.225.0.2 > /dev/null || echo silent
""",
    "ipv6": rf"""
network create --ipv6 --subnet fd00:9::/64 --subnet 10.226.0.0/24 six
run -d --name s1 --network six {SLEEP}
run -d --name s2 --network six --ip6 fd00:9::99 {SLEEP}
sh:s1 ip -o -6 address show eth0 scope global | sed 's/ \+/ /g; s/@if[0-9]*//; s/^[0-9]*: //' | cut -d' ' -f1-4
sh:s1 ip -6 route | grep default; {OWN_HOSTS}; grep fd00 /etc/hosts | sed 's/\t[0-9a-f]*$//'
sh:s1 nslookup -type=aaaa s2 | tail -n 3; {PING} -6 s2 > /dev/null && echo pong
run --rm --network six --ip6 fd00:9::99 busybox true
run --rm --network six --ip6 fd00:8::99 busybox true
""",
    "host, none, container": rf"""
run -d --name host1 --network host {SLEEP}
run -d --name host2 --network host -h named -p 80:80 {SLEEP}
sh:host2 hostname
run -d --name none1 --network none {SLEEP}
run -d --name none2 --network none -p 80:80 --expose 81 {SLEEP}
sh:none1 ls /sys/class/net; {OWN_HOSTS}; ip route
network create --subnet 10.220.0.0/24 lab
run -d --name owner --network lab {SLEEP}
run -d --name guest --network container:owner {SLEEP}
sh:guest {ADDRESSES}; {OWN_HOSTS}; {RESOLVER}; {PING} owner > /dev/null && echo pong
run --rm --network container:owner -p 80:80 busybox true
run --rm --network container:owner -P busybox true
run --rm --network container:owner --expose 80 busybox true
run --rm --network container:owner -h x busybox true
run --rm --network container:owner --dns 1.2.3.4 busybox true
run --rm --network container:owner --add-host a:1.2.3.4 busybox true
run --rm --network container:owner --link owner busybox true
run --rm --network container:nosuch busybox true
run --rm --network container: busybox true
create --name stopped busybox true
run --rm --network container:stopped busybox true
run --rm --network host --dns 1.2.3.4 busybox sh -c "{RESOLVER}"
run --rm --network none --link owner busybox true
network connect host owner
network connect none owner
network connect lab host1
network connect lab none1
network connect lab guest
network disconnect host host1
network disconnect none none1
network connect lab none1
sh:none1 {ADDRESSES}
""",
    "connect and disconnect": rf"""
network create --subnet 10.220.0.0/24 lab
network create --subnet 10.225.0.0/24 far
run -d --name one {SLEEP}
run -d --name two --network lab {SLEEP}
network connect lab one
sh:one {ADDRESSES}; ip route; {OWN_HOSTS}; {RESOLVER}; {PING} two > /dev/null && echo pong
network connect --ip 10.220.0.9 far one
network connect --ip 10.225.0.9 --alias w2 far one
run -d --name three --network far {SLEEP}
sh:three nslookup -type=a w2 | tail -n 3; nslookup -type=a one | tail -n 3
network disconnect bridge one
sh:one {ADDRESSES}; ip route
network disconnect far one
sh:three nslookup -type=a w2 2>&1 | grep -c 10.225 ; {PING} 10.225.0.9 > /dev/null || echo silent
stop -t 0 one
network connect --ip 10.225.0.7 far one
start one
sh:one {GLOBAL}
stop -t 0 one
network disconnect lab one
start one
sh:one {ADDRESSES}; ip route
network disconnect far one
sh:one {ADDRESSES}
create --name idle --network far {SLEEP}
network rm far
""",
    "ports": """
run -d --name p1 -p 8080:80 busybox httpd -f
run -d --name p2 -p 127.0.0.1:8081:80 -p 8082:82/udp -p 8100-8102:90-92 busybox httpd -f
run -d --name p3 -p 80 --expose 81 busybox httpd -f
run -d --name p4 -P --expose 80-82 --expose 53/udp busybox httpd -f
run -d --name p5 -p 8200-8210:80 busybox httpd -f
run -d --name p6 -p 8200-8210:80 busybox httpd -f
run -d --name p7 -p [::1]:8220:80 busybox httpd -f
port p1
port p2 80
port p2 80/tcp
port p2 82/udp
port p2 82
port p2 99
port p4
port p5
port p6
port p7
port nosuch
run -d --name p8 -p 8080:80 busybox httpd -f
rm p8
run -d --name p8 -p 127.0.0.1:8080:80 busybox httpd -f
rm -f p8
run -d --name p8 -p 1.2.3.4:8230:80 busybox httpd -f
rm -f p8
run -d --name p8 -p 8300:80 -p 8300:81 busybox httpd -f
rm -f p8
run -d --name p8 -p 8300-8301:80 -p 8300:81 busybox httpd -f
run -d --name p9 -p 9999:80 busybox httpd -f
rm -f p9
stop -t 0 p1
port p1
run -d --name p9 -p 8080:80 busybox httpd -f
start p1
rm -f p9
start p1
port p1
network create --subnet 10.227.0.0/24 zoo
network connect zoo p2
port p2
network disconnect bridge p2
port p2
run -d --name p10 --network none -p 8500:80 busybox httpd -f
network disconnect none p10
network connect zoo p10
port p10
""",
}  # fmt: skip
"""Lines of words for docker; `sh:NAME SCRIPT` runs a script in a container. `docker` is the 28.2 client or Debian's."""

PREFIX = "since 23 dockerd says first in which step of a start it failed"
DIFFERENT_WORDS = {
    r"run .*--ip (172\.17\.0\.9|foo|10\.220\.1\.7) .*|run .*--ip6 fd00:8.*|network connect --ip .*": (
        "invalid config for network ", "since 25 dockerd says all that is wrong with an endpoint"),
    r"network create --subnet 10\.220\.0\.(0/16|128/25) other": (
        "invalid pool request: Pool overlaps with other one on this address space", "since 24"),
    r"network rm (lab|far|bridge|host|none)|network disconnect bridge one": (
        "", "since 28 dockerd says which containers hold a network"),
    r"network create .*bridge.name=averyvery.*": ("invalid bridge name", "dockerd has what the kernel says"),
    r"network create .*bridge.name=lo one": ("can't use lo as the bridge", "labkit takes no link that is there"),
    r"network create .*parent=nosuch9 one": ("invalid subinterface vlan name nosuch9", "labkit makes no VLAN links"),
    r"network create --subnet 10\.4\.0\.0/33 one": ("invalid subnet 10.4.0.0/33", "more help"),
    r"network create --subnet 10\.4\.0\.0/32 one": ("", "more help"),
    r"network create -d nosuch other": (
        "could not find plugin nosuch in v1 plugin registry: plugin not found", "since 28"),
    r"run -d --name p8 .*|start p1": ("failed to set up container networking: driver failed", PREFIX),
    r"run -d --name p9 -p 9999:80 .*": ("failed to bind host port for 0.0.0.0:9999", PREFIX),
}  # fmt: skip
"""Lines whose message differs: what labkit's must contain, and why. Exit status and output may not differ."""

DIFFERENT_FIELDS = {
    r"/containers/[^/]+/(GraphDriver/.*|.*Path)": "where the engine keeps its files is its own affair",
    r"/containers/[^/]+/HostConfig/(CgroupnsMode|MaskedPaths|MemorySwappiness|Runtime)": "not about networks",
    r"/containers/[^/]+/HostConfig/NetworkMode": "since 26 dockerd says `bridge` for `default`",
    r"/containers/[^/]+/State/(Pid|Error)": "the machine's; the words of an error are compared where it is said",
    r"/containers/[^/]+/NetworkSettings/Sandbox(ID|Key)": "labkit names the namespace by its process",
    r"/containers/[^/]+/NetworkSettings/Networks/[^/]+/DNSNames": "since 25 dockerd says which names a container has",
    r"/containers/[^/]+/NetworkSettings/Networks/[^/]+/Aliases": "since 25 without short ID and hostname",
    r"/containers/(in1|in2)/NetworkSettings/Networks/inner/Gateway": "since 28 internal networks are no way out",
    r"/networks/[^/]+/EnableIPv4": "new in 28",
    r"/networks/(\.dot|labelled|named|other|prefixed|six)/IPAM/Config/0/Subnet": "dockerd takes the one after the last",
    r"/networks/[^/]+/IPAM/Config/\d/Gateway": "labkit shows the gateway that it chose itself",
}
"""Fields of inspect that may differ, and why."""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, busybox_archive: None) -> Iterator[Dockerd]:
    with dockerd(tmp_path_factory.mktemp("dockerd")) as engine:
        yield engine


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, busybox_archive: None) -> Iterator[Isolated]:
    with isolated(tmp_path_factory.mktemp("labkit")) as daemon:
        yield daemon


@contextlib.contextmanager
def cleared(*engines: Daemon) -> Iterator[None]:
    """Containers and networks are removed after it."""
    try:
        yield
    finally:
        for engine in engines:
            engine.remove_all()
            engine.docker("network", "prune", "-f")


def permitted(line: str, ours: Answer, theirs: Answer) -> bool:
    if ours == theirs:
        return True
    if ours.status != theirs.status or ours.out != theirs.out:
        return False
    wanted = [words for pattern, (words, _) in DIFFERENT_WORDS.items() if re.fullmatch(pattern, line)]
    return any(words in ours.err for words in wanted)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_commands_have_the_same_effect(scenario: str, ours: Isolated, theirs: Dockerd) -> None:
    found = []
    with cleared(ours, theirs):
        for line in SCENARIOS[scenario].replace("\\\n", "").strip().splitlines():
            if line.endswith("9999:80 busybox httpd -f"):
                answers = [told_beside_a_program(engine, line, 9999) for engine in (ours, theirs)]
            else:
                answers = [told(engine, line) for engine in (ours, theirs)]
            if not permitted(line, *answers):
                found.append(f"{line}\n   labkit: {answers[0]}\n   dockerd: {answers[1]}")
        for path, one, other in differences(shown(ours), shown(theirs)):
            if not any(re.fullmatch(pattern, path) for pattern in DIFFERENT_FIELDS):
                found.append(f"{path}\n   labkit: {one}\n   dockerd: {other}")
    assert "\n".join(found) == ""


def told_beside_a_program(engine: Isolated, line: str, port: int) -> Answer:
    """The answer while another program listens at a port of the engine's host."""
    with engine.listening(port):
        return told(engine, line)
