"""The firewall's table: what nft(8) reads of it, and how it is taken back."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import KernelError
from labkit.kernel.netlink import attributes
from labkit.kernel.nft_messages import connect
from labkit.kernel.nftables import (
    PUBLISHED,
    PUBLISHED6_ON,
    AdmitBridge,
    DismissBridge,
    InstallTable,
    PublishPort,
    RemoveTable,
    UnpublishPort,
    bridge_elements,
    port_element,
    redirect_names,
    redirect_names_shell,
    table_messages,
)
from labkit.plan import Context, Execution, Operation, decode, encode
from labkit.trace import RECORDER
from tests.support.netlab import Namespace, Server, ask

BRIDGES = (("labkit0", False, True, True, True), ("labkit-0badcafe", True, False, False, False))
PORTS = (
    ("tcp", "", 8080, "172.30.0.2", 80),
    ("udp", "127.0.0.1", 53, "172.30.0.2", 53),
    ("sctp", "", 9, "fd30::2", 9),
    ("tcp", "fd50::1", 8080, "fd30::2", 80),
)
TABLE = "labkit"


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.close()


def without_handles(listed: Any) -> Any:
    if isinstance(listed, dict):
        return {key: without_handles(value) for key, value in listed.items() if key != "handle"}
    return [without_handles(value) for value in listed] if isinstance(listed, list) else listed


def listing(namespace: Namespace, what: str = f"table inet {TABLE}") -> Any:
    return without_handles(json.loads(namespace.command(f"nft -j list {what}")))


def run(namespace: Namespace, *operations: Operation) -> Execution:
    execution = Execution(tuple(enumerate(operations)))
    namespace.run(execution.run_or_undo)
    return execution


@pytest.mark.root
def test_nft_makes_the_same_table_of_what_shell_prints(namespace: Namespace) -> None:
    operation = InstallTable(TABLE, BRIDGES, PORTS)
    run(namespace, operation)
    made = listing(namespace)
    run(namespace, RemoveTable(TABLE))
    assert TABLE not in namespace.command("nft list tables")
    namespace.command(operation.shell())
    assert listing(namespace) == made


@pytest.mark.root
def test_single_operations_come_to_the_same_as_their_shell_commands(namespace: Namespace) -> None:
    other = Namespace()
    operations = (
        *(AdmitBridge(TABLE, *bridge) for bridge in BRIDGES),
        *(PublishPort(TABLE, *port) for port in PORTS),
        UnpublishPort(TABLE, *PORTS[0]),
        DismissBridge(TABLE, *BRIDGES[0]),
    )
    run(namespace, InstallTable(TABLE), *operations)
    run(other, InstallTable(TABLE))
    for operation in operations:
        other.command(operation.shell())
    assert listing(namespace) == listing(other) != without_handles([])
    other.command(RemoveTable(TABLE).shell())
    other.command(RemoveTable(TABLE).shell())
    assert TABLE not in other.command("nft list tables")
    other.close()


@pytest.mark.root
def test_what_is_undone_leaves_the_table_as_it_was(namespace: Namespace) -> None:
    run(namespace, InstallTable(TABLE))
    before = listing(namespace)
    execution = run(namespace, AdmitBridge(TABLE, *BRIDGES[0]), PublishPort(TABLE, *PORTS[0]))
    assert listing(namespace) != before
    assert namespace.run(execution.undo) == []
    assert listing(namespace) == before
    assert namespace.run(execution.undo) == []  # what isn't there is passed over
    execution = run(namespace, InstallTable(TABLE))
    assert namespace.run(execution.undo) == []
    assert TABLE not in namespace.command("nft list tables")


@pytest.mark.root
@pytest.mark.parametrize("other", ["172.30.0.2", "172.30.0.3"])
def test_a_port_is_published_once(namespace: Namespace, other: str) -> None:
    run(namespace, InstallTable(TABLE), PublishPort(TABLE, *PORTS[0]))
    before = listing(namespace)
    again = PublishPort(TABLE, "tcp", "", 8080, other, 80)
    with pytest.raises(KernelError) as caught:
        run(namespace, again)
    assert caught.value.errno == errno.EEXIST
    assert caught.value.hint == "Bind for 0.0.0.0:8080 failed: port is already allocated"
    assert listing(namespace) == before


@pytest.mark.root
def test_after_a_crash_only_an_own_element_is_undone(namespace: Namespace) -> None:
    run(namespace, InstallTable(TABLE), PublishPort(TABLE, *PORTS[0]))
    before = listing(namespace)
    foreign = PublishPort(TABLE, "tcp", "", 8080, "172.30.0.3", 80)
    namespace.run(lambda: foreign.undo(None, Context()))
    assert listing(namespace) == before
    namespace.run(lambda: PublishPort(TABLE, *PORTS[0]).undo(None, Context()))
    assert "8080" not in namespace.command(f"nft list map inet {TABLE} published")
    namespace.run(lambda: PublishPort(TABLE, *PORTS[0]).undo(None, Context()))


@pytest.mark.root
def test_installing_replaces_what_a_crash_left_and_no_other_table(namespace: Namespace) -> None:
    run(namespace, InstallTable("labkit_0badcafe", BRIDGES, PORTS), InstallTable(TABLE, BRIDGES, PORTS))
    other = listing(namespace, "table inet labkit_0badcafe")
    run(namespace, InstallTable(TABLE, BRIDGES[:1], PORTS[1:]))
    assert PORTS[0][3] not in namespace.command(f"nft list map inet {TABLE} published")
    run(namespace, RemoveTable(TABLE))
    assert listing(namespace, "table inet labkit_0badcafe") == other


@pytest.mark.root
def test_a_table_of_thousands_of_ports_is_one_batch(namespace: Namespace) -> None:
    ports = tuple(("tcp", "", port, "172.30.0.2", 80) for port in range(1, 5001))
    run(namespace, InstallTable(TABLE, BRIDGES, ports))
    assert namespace.command(f"nft list map inet {TABLE} published").count("172.30.0.2") == 5000


@pytest.mark.root
def test_operations_use_an_open_socket(namespace: Namespace) -> None:
    run(namespace, InstallTable(TABLE))
    with connect(namespace.path) as sock:  # this thread is in another namespace: only the socket leads there
        context = Context({"host-nftables": sock.fileno()})
        operations = (AdmitBridge(TABLE, *BRIDGES[0]), PublishPort(TABLE, *PORTS[0]))
        execution = Execution(tuple(enumerate(operations)), context)
        execution.run_or_undo()
        assert "8080" in namespace.command(f"nft list map inet {TABLE} published")
        assert execution.undo() == []
    assert "8080" not in namespace.command(f"nft list map inet {TABLE} published")


@pytest.mark.root
def test_the_trace_tells_what_was_sent(namespace: Namespace) -> None:
    def traced() -> list[tuple[Any, ...]]:
        calls = RECORDER.start()
        try:
            InstallTable(TABLE).run(Context())
            PublishPort(TABLE, *PORTS[0]).run(Context())
        finally:
            RECORDER.stop()
        return calls

    told = [call[1][0] for call in namespace.run(traced) if call[0] == "sendto"]
    assert told[:3] == [f"add table inet {TABLE}", f"delete table inet {TABLE}", f"add table inet {TABLE}"]
    assert f"add rule inet {TABLE} forward ct state established,related accept" in told
    assert told[-1] == f"create element inet {TABLE} published {{ tcp . 8080 : 172.30.0.2 . 80 }}"


@pytest.mark.root
def test_without_a_table_there_is_nothing_to_publish_in(namespace: Namespace) -> None:
    with pytest.raises(KernelError) as caught:
        run(namespace, PublishPort(TABLE, *PORTS[0]))
    assert caught.value.errno == errno.ENOENT
    run(namespace, UnpublishPort(TABLE, *PORTS[0]), DismissBridge(TABLE, *BRIDGES[0]))


def test_operations_travel_as_plain_data() -> None:
    for operation in (
        InstallTable(TABLE, BRIDGES, PORTS),
        AdmitBridge(TABLE, *BRIDGES[0]),
        PublishPort(TABLE, *PORTS[0]),
    ):
        copy = decode(json.loads(json.dumps(encode(operation))))
        assert copy.shell() == operation.shell()
        assert copy.describe() == operation.describe()


names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=15)


@given(names, st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_a_bridge_is_in_the_sets_that_it_asks_for(name: str, internal: bool, icc: bool, four: bool, six: bool) -> None:
    found = {declared.name: element.key for declared, element in bridge_elements((name, internal, icc, four, six))}
    wanted = {"bridges": True, "internal": internal, "connected": icc, "masquerade4": four, "masquerade6": six}
    assert found.keys() == {label for label, wants in wanted.items() if wants}
    assert found["bridges"] == (name,)


@given(st.integers(1, 65535), st.ip_addresses(v=4), st.integers(1, 65535))
def test_a_port_of_any_address_is_in_the_map_of_its_family(host_port: int, ip: Any, port: int) -> None:
    declared, element = port_element(("udp", "", host_port, str(ip), port))
    assert declared == PUBLISHED
    assert element.text == f"udp . {host_port} : {ip} . {port}"
    declared, element = port_element(("udp", "fd00::1", host_port, "fd00::2", port))
    assert declared == PUBLISHED6_ON
    assert element.text == f"fd00::1 . udp . {host_port} : fd00::2 . {port}"


@given(st.lists(st.integers(1, 65535), unique=True, max_size=1200))
def test_no_attribute_outgrows_its_length(ports: list[int]) -> None:
    for message in table_messages(TABLE, (), tuple(("tcp", "", port, "172.30.0.2", 80) for port in ports)):
        assert sum(len(found) + 4 for found in attributes(message.body[4:]).values()) <= len(message.body)
        assert len(message.body) < 1 << 16


# Packets: a host between a LAN and three bridges, with and without br_netfilter looking at bridged packets.


@pytest.mark.root
def test_names_are_led_to_other_ports(namespace: Namespace) -> None:
    """Also when a name server of the container's own has port 53 of all addresses, and twice."""
    own = Server(namespace, "own", (53,))
    other = Server(namespace, "resolver", (4053, 4054), "::ffff:127.0.0.11")
    try:
        for udp, tcp in ((4054, 4054), (4053, 4053)):
            redirect_names(namespace.path, udp, tcp)
            for protocol in ("udp", "tcp"):
                assert ask(namespace, "127.0.0.11", 53, protocol).startswith("resolver")
                assert ask(namespace, "127.0.0.1", 53, protocol).startswith("own")
    finally:
        own.close()
        other.close()
    made = listing(namespace, "table ip labkit_names")
    namespace.command("nft delete table ip labkit_names")
    namespace.command(redirect_names_shell(4053, 4053))
    assert listing(namespace, "table ip labkit_names") == made


@pytest.mark.root
def test_names_are_led_from_within(namespace: Namespace) -> None:
    namespace.run(lambda: redirect_names("", 4053, 4053))
    assert "127.0.0.11:4053" in namespace.command("nft list ruleset")
