"""The variables of `--link`: those of moby's `daemon/links`, for any ports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.engine.legacy_links import parse_link, variables
from labkit.errors import InvalidParameter

PORTS = st.lists(st.tuples(st.integers(1, 65535), st.sampled_from(["tcp", "udp"])), max_size=20, unique=True)


@pytest.mark.parametrize(
    ("text", "name", "alias"),
    [("db", "db", "db"), ("db:x", "db", "x"), ("/db:/web/x", "db", "x"), ("/db", "db", "db"), ("db:", "db", "db")],
)
def test_links_are_read_in_both_forms(text: str, name: str, alias: str) -> None:
    assert parse_link(text) == (name, alias)


@pytest.mark.parametrize("text", ["", ":x", "a:b:c", "/"])
def test_what_is_no_link(text: str) -> None:
    with pytest.raises(InvalidParameter, match="bad format for links"):
        parse_link(text)


def test_one_port_and_the_environment_of_the_other_end() -> None:
    told = ["A=b", "PATH=/bin", "HOME=/", "NOTHING", "EMPTY="]
    assert variables("/web/the-db", "172.17.0.2", [(5432, "tcp")], told) == [
        "THE_DB_PORT=tcp://172.17.0.2:5432",
        "THE_DB_PORT_5432_TCP=tcp://172.17.0.2:5432",
        "THE_DB_PORT_5432_TCP_ADDR=172.17.0.2",
        "THE_DB_PORT_5432_TCP_PORT=5432",
        "THE_DB_PORT_5432_TCP_PROTO=tcp",
        "THE_DB_NAME=/web/the-db",
        "THE_DB_ENV_A=b",
        "THE_DB_ENV_EMPTY=",
    ]


@given(PORTS)
def test_any_ports(ports: list[tuple[int, str]]) -> None:
    found = dict(entry.split("=", 1) for entry in variables("/web/db", "10.0.0.1", ports, None))
    for port, kind in ports:
        assert found[f"DB_PORT_{port}_{kind.upper()}"] == f"{kind}://10.0.0.1:{port}"
    first = min(ports, key=lambda port: (port[0], port[1] != "tcp"), default=None)
    assert found.get("DB_PORT") == (f"{first[1]}://10.0.0.1:{first[0]}" if first else None)
    begun = {name.removesuffix("_PORT_START") for name in found if name.endswith("_PORT_START")}
    for name in begun:
        start, end = int(found[f"{name}_PORT_START"]), int(found[f"{name}_PORT_END"])
        kind = name.rpartition("_")[2].lower()
        assert all((port, kind) in ports for port in range(start, end + 1))
