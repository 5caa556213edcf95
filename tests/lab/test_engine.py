"""The engine of lessons: killed, started again, gone."""

from __future__ import annotations

import os

import pytest

from labkit.client import Client
from labkit.kernel.links import read_links
from labkit.kernel.netlink import Netlink
from labkit.lab import Engine
from labkit.network.planning import table_name
from tests.support.daemon import processes

pytestmark = pytest.mark.root


def answers(engine: Engine) -> bool:
    client = Client(engine.host)
    try:
        return bool(client.get("/version")["ApiVersion"])
    finally:
        client.close()


def test_it_is_killed_and_comes_back() -> None:
    with Engine() as engine:
        first = engine.pid
        assert answers(engine)
        engine.kill()
        assert engine.pid == 0
        assert repr(engine) == "an engine that doesn't run"
        engine.start()
        assert engine.pid not in (0, first)
        assert answers(engine)
    assert not os.path.exists(engine.root)
    assert processes(engine.root) == []


def test_one_that_was_killed_leaves_nothing_either() -> None:
    engine = Engine()
    engine.kill()
    engine.end()
    engine.end()
    assert processes(engine.root) == []
    with Netlink() as netlink:
        mark = table_name(f"{engine.root}/data")
        assert not [link for link in read_links(netlink) if link.alias.startswith(mark)]
