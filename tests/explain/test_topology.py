"""The network as it is, told and drawn; the way of a packet through it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from labkit.errors import InvalidParameter, NotFound
from labkit.explain.topology import Topology, narrowed
from labkit.explain.way import Way, way

Data = dict[str, Any]


def binding(host_ip: str, host_port: int, translated: bool, **more: Any) -> Data:
    fields = {"host_ip": host_ip, "host_port": host_port, "protocol": "tcp", "ip": "172.17.0.2", "port": 80}
    return fields | {"translated": translated} | more


def network(name: str, bridge: str, subnet: str, gateway: str) -> Data:
    fields = {
        "id": f"{name}0123",
        "name": name,
        "driver": "bridge",
        "internal": False,
        "bridge": bridge,
        "present": True,
    }
    return fields | {"subnets": [subnet], "gateways": [gateway]}


def data(**web: Any) -> Data:
    """A host with two networks; `web` is in both and publishes ports, `db` in the second."""
    first = {
        "network": "bridge", "interface": "eth0", "mac": "02:42:ac:11:00:02", "addresses": ["172.17.0.2/16"],
        "link": "veth1", "bridge": "labkit0", "names": [],
    }  # fmt: skip
    second = first | {
        "network": "shop",
        "interface": "eth1",
        "addresses": ["172.18.0.2/16"],
        "link": "veth2",
        "bridge": "labkit-1",
    }
    ports = [binding("0.0.0.0", 8080, True), binding("::", 8080, False), binding("127.0.0.1", 53, True, protocol="udp")]
    one = {"id": "aaa", "name": "web", "pid": 7, "mode": "bridge", "nameserver": True, "listening": [80]}
    two = one | {"id": "bbb", "name": "db", "ports": [], "listening": []}
    alone = two | {"id": "ccc", "name": "quiet", "mode": "none", "endpoints": []}
    other = second | {"interface": "eth0", "addresses": ["172.18.0.3/16"], "link": "veth3"}
    return {
        "host": "vm",
        "table": "labkit",
        "links": [{"name": "eth0", "addresses": ["192.0.2.2/24"]}],
        "networks": [
            network("bridge", "labkit0", "172.17.0.0/16", "172.17.0.1"),
            network("shop", "labkit-1", "172.18.0.0/16", "172.18.0.1"),
        ],
        "containers": [one | {"endpoints": [first, second], "ports": ports} | web, two | {"endpoints": [other]}, alone],
    }


def test_a_topology_as_text() -> None:
    lines = Topology(data()).text().splitlines()
    assert lines[0] == "host vm"
    assert "├─ port 0.0.0.0:8080/tcp → web 172.17.0.2:80 by nf_tables" in lines
    assert "├─ port [::]:8080/tcp → web 172.17.0.2:80 by the proxy" in lines
    assert "│  ├─ veth2 ═ eth1  172.18.0.2/16  02:42:ac:11:00:02  container web" in lines
    assert lines[-1] == "└─ container quiet  network none"


def test_a_bridge_that_somebody_deleted() -> None:
    found = data()
    found["networks"][0]["present"] = False
    assert "├─ network bridge: labkit0 (missing on this host)" in Topology(found).text()
    assert way(found, "8080").steps[2].fails


def test_the_picture_says_what_the_text_says() -> None:
    image = ET.fromstring(Topology(data()).svg())
    words = " ".join(element.text or "" for element in image.iter("{http://www.w3.org/2000/svg}text"))
    for word in ("labkit0", "labkit-1", "veth1 ═ eth0", "veth3 ═ eth0", "172.18.0.3/16", "container quiet", "8080/tcp"):
        assert word in words
    assert image.find("{http://www.w3.org/2000/svg}desc") is not None


def test_boxes_lie_beside_each_other() -> None:
    image = ET.fromstring(Topology(data()).svg())
    boxes = [
        [float(element.get(side, "0")) for side in ("x", "y", "width", "height")]
        for element in image.iter("{http://www.w3.org/2000/svg}rect")
        if element.get("x")
    ]
    assert len(boxes) == 7
    for number, (x, y, width, height) in enumerate(boxes):
        for left, top, wide, high in boxes[:number]:
            assert x >= left + wide or left >= x + width or y >= top + high or top >= y + height


@pytest.mark.parametrize(("wanted", "containers"), [("shop", ["web", "db"]), ("db", ["db"]), ("bridge", ["web"])])
def test_one_network_or_container(wanted: str, containers: list[str]) -> None:
    found = narrowed(data(), wanted)
    assert [one["name"] for one in found["containers"]] == containers
    if wanted == "shop":
        assert [one["name"] for one in found["networks"]] == ["shop"]
        assert [endpoint["network"] for endpoint in found["containers"][0]["endpoints"]] == ["shop"]


def test_nothing_of_that_name() -> None:
    with pytest.raises(NotFound, match="No such network, or running container: nope"):
        narrowed(data(), "nope")


def places(found: Way) -> list[str]:
    return [step.place for step in found.steps]


def test_the_way_from_the_host_itself() -> None:
    found = way(data(), "8080")
    assert places(found) == [
        "client", "host, nf_tables, hook output", "host, routing", "host, nf_tables, hook postrouting",
        "bridge labkit0", "veth pair veth1 ═ eth0", "container web, eth0", "container web, process",
    ]  # fmt: skip
    assert "map published has { tcp . 8080 : 172.17.0.2 . 80 }" in found.text()
    assert found.steps[3].packet == "172.17.0.1:40000 → 172.17.0.2:80"
    assert not any(step.fails for step in found.steps)


def test_the_way_from_elsewhere() -> None:
    found = way(data(), "192.0.2.2:8080")
    assert places(found)[1:4] == ["host, nf_tables, hook prerouting", "host, routing", "host, nf_tables, hook forward"]
    assert found.steps[1].packet == "CLIENT:40000 → 172.17.0.2:80"


def test_the_way_through_the_proxy() -> None:
    assert places(way(data(), "[::1]:8080"))[1] == "host, labkit's proxy"


def test_a_port_at_one_address() -> None:
    assert "map published_on has { 127.0.0.1 . udp . 53 : 172.17.0.2 . 80 }" in way(data(), "53/udp").text()
    with pytest.raises(NotFound, match=r"no running container has published 192\.0\.2\.2:53/udp"):
        way(data(), "192.0.2.2:53/udp")


def test_nothing_listens() -> None:
    last = way(data(listening=[81]), "8080").steps[-1]
    assert (last.what, last.fails) == ("nothing listens at port 80", True)


@pytest.mark.parametrize("wanted", ["x", "1.2.3:80", ":", "8080:x", ""])
def test_no_port_at_all(wanted: str) -> None:
    with pytest.raises(InvalidParameter, match="is no port of this host"):
        way(data(), wanted)
