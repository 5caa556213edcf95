"""The spawner's event loop: what it is told of in one turn, when something has ended meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.runtime import channel
from labkit.runtime.spawner import Spawner
from tests.support.daemon import PATIENCE


@pytest.fixture
def spawner(tmp_path: Path) -> Iterator[Spawner]:
    made = Spawner(str(tmp_path))
    yield made
    made.drop_daemon()
    made.listener.close()
    made.selector.close()
    made.spare.close()


def connected(spawner: Spawner) -> socket.socket:
    """A daemon that the spawner has greeted."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(PATIENCE)
    sock.connect(f"{spawner.folder}/spawner.sock")
    spawner.turn()
    assert [channel.receive(sock) for _ in range(2)]
    return sock


def test_a_daemon_that_has_died_is_noticed_once(spawner: Spawner) -> None:
    """It died while it was to be told of something, and the selector has told of its end in the same turn."""
    with connected(spawner) as daemon:
        served = spawner.daemon
        assert served
        daemon.close()
        spawner.tell({"exited": "box"})
        assert spawner.daemon is None
        spawner.serve(served)


def test_the_next_daemon_is_not_kept_waiting_by_the_last(spawner: Spawner) -> None:
    with connected(spawner) as first:
        served = spawner.daemon
        assert served
        with connected(spawner) as second:
            first.close()
            spawner.serve(served)
            channel.send(second, {"do": "end"})
            spawner.turn()
    assert not spawner.running
