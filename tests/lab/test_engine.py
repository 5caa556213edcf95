"""The engine of lessons: killed, started again, gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from labkit.client import Client
from labkit.kernel.links import read_links
from labkit.kernel.netlink import Netlink
from labkit.lab import Engine
from labkit.network.planning import table_name
from tests.support.daemon import PATIENCE, processes

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


FORGOTTEN = """
from labkit.lab import Engine
engine = Engine()
print(engine.root, flush=True)
"""


def test_it_goes_with_the_notebook() -> None:
    """A kernel that ends without a word: its engine is ended all the same."""
    gone = subprocess.run([sys.executable, "-c", FORGOTTEN], capture_output=True, text=True, check=True)
    root = gone.stdout.strip()
    deadline = time.monotonic() + PATIENCE
    while (os.path.exists(root) or processes(root)) and time.monotonic() < deadline:
        time.sleep(0.05)  # no process of ours is the parent of what goes
    assert not os.path.exists(root)
    assert processes(root) == []
