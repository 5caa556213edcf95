"""The name server of lessons, asked by a real client from another network namespace."""

from __future__ import annotations

import threading

import pytest

from labkit.errors import LabkitError
from labkit.kernel.constants import CLONE_NEWNET
from labkit.kernel.links import BringUpLoopback
from labkit.kernel.namespaces import Unshare
from labkit.lab import Child, Names

pytestmark = pytest.mark.root


@pytest.fixture
def child() -> Child:
    """A process in a network namespace of its own."""
    made = Child()
    made.do(Unshare(CLONE_NEWNET), BringUpLoopback())
    return made


def test_it_answers_what_it_knows(child: Child, capsys: pytest.CaptureFixture[str]) -> None:
    with child, Names(child.pid, "127.0.0.5", {"Web": "10.7.0.2"}) as names:
        child.sh("busybox nslookup web 127.0.0.5")
        child.sh("busybox nslookup db 127.0.0.5 || true")
    said = capsys.readouterr().out
    assert "Address: 10.7.0.2" in said
    assert "can't find db: NXDOMAIN" in said
    assert names.asked == ["web", "db"]
    assert not [thread for thread in threading.enumerate() if "_serve" in thread.name]


def test_it_gives_the_port_back(child: Child) -> None:
    with child:
        for _ in range(2):
            with Names(child.pid, "127.0.0.5", {}):
                pass
        with (
            Names(child.pid, "127.0.0.5", {}),
            pytest.raises(LabkitError, match=r"can't answer at 127\.0\.0\.5, port 53"),
        ):
            Names(child.pid, "127.0.0.5", {}).__enter__()
