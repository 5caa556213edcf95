"""`docker container prune` and `docker system prune` with the docker command, beside dockerd."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon
from tests.support.dockerd import Dockerd, dockerd

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    with dockerd(tmp_path_factory.mktemp("dockerd")) as engine:
        yield engine


@pytest.fixture(params=["labkit", "dockerd"])
def engine(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Each of the two, for what both must do."""
    found: Daemon = request.getfixturevalue("daemon" if request.param == "labkit" else "reference")
    yield found
    found.remove_all()


def left(engine: Daemon) -> set[str]:
    return set(engine.out("ps", "-a", "--format", "{{.Names}}").split())


def test_those_that_do_not_run_go(engine: Daemon) -> None:
    engine.docker("run", "-d", "--network", "none", "--name", "runs", "busybox", "sleep", "1000")
    engine.docker(
        "run", "--network", "none", "--name", "ended", "busybox", "dd", "if=/dev/zero", "of=/f", "bs=1k", "count=5"
    )
    engine.docker(
        "create", "--network", "none", "--name", "made", "--label", "keep=1", "--label", "b", "busybox", "true"
    )
    first = engine.inspect("ended")["Created"]
    assert engine.out("container", "prune", "-f", "--filter", "until=2000-01-01") == "Total reclaimed space: 0B"
    assert engine.out("container", "prune", "-f", "--filter", "label=nosuch") == "Total reclaimed space: 0B"
    assert left(engine) == {"runs", "ended", "made"}
    found = engine.out("container", "prune", "-f", "--filter", "label!=keep", "--filter", f"until={first}")
    assert re.fullmatch(r"Deleted Containers:\n[0-9a-f]{64}\n\nTotal reclaimed space: 5.12kB", found)
    assert left(engine) == {"runs", "made"}
    status, body = engine.request("POST", "/containers/prune")
    assert (status, len(body["ContainersDeleted"]), body["SpaceReclaimed"]) == (200, 1, 0)
    assert engine.request("POST", "/containers/prune")[1] == {"ContainersDeleted": None, "SpaceReclaimed": 0}


@pytest.mark.parametrize("filters", ['{"foo":["a"]}', '{"until":["1h","2h"]}', '{"until":["x"]}'])
def test_filters_that_are_refused(engine: Daemon, filters: str) -> None:
    from urllib.parse import quote

    status, body = engine.request("POST", f"/containers/prune?filters={quote(filters)}")
    assert status == 400 or (status == 500 and isinstance(engine, Dockerd))  # as 20.10 has it
    assert "message" in body


def test_a_system_prune(engine: Daemon) -> None:
    engine.docker("network", "create", "unused")
    engine.docker("volume", "create", "kept")
    engine.docker("run", "--network", "none", "--name", "ended", "-v", "/anonymous", "busybox", "true")
    found = engine.out("system", "prune", "-f")
    expected = r"Deleted Containers:\n[0-9a-f]{64}\n\nDeleted Networks:\nunused\n\nTotal reclaimed space: 0B"
    assert re.fullmatch(expected, found)
    assert "kept" in engine.out("volume", "ls", "-q").split()
    engine.docker("volume", "rm", "kept")


def test_events_tell(engine: Daemon) -> None:
    since = engine.out("info", "--format", "{{.SystemTime}}")
    engine.docker("run", "--network", "none", "--name", "ended", "busybox", "true")
    engine.docker("container", "prune", "-f")
    until = engine.out("info", "--format", "{{.SystemTime}}")
    form = '{{.Action}} {{index .Actor.Attributes "reclaimed"}}'
    told = engine.out("events", "--since", since, "--until", until, "--filter", "event=prune", "--format", form)
    assert told == "prune 0"
