"""What `labkit explain` and `%explain` find, asked of a real engine that has run real containers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import pytest

from labkit.cli.grammar import StatusError
from labkit.client import Client
from labkit.errors import InvalidParameter, NotFound
from labkit.explain import explain, main
from tests.client.engines import IMAGE, docker_daemon

pytestmark = pytest.mark.root


@pytest.fixture
def ran(engine: str) -> Iterator[Client]:
    """A client that has just run a container called `told`, and has its spans."""
    client = Client(engine)
    body = {"Image": IMAGE, "Cmd": ["sleep", "100"], "HostConfig": {"NetworkMode": "none"}}
    created = client.post("/containers/create", {"name": "told"}, body)
    client.post(f"/containers/{created['Id']}/start")
    yield client
    client.close()


def asked(client: Client, *argv: str) -> str:
    """What another command is told, which has no spans of the action."""
    with closing(Client(client.host)) as other:
        return explain(other, argv, ()).text()


def test_the_last_action_by_its_spans(ran: Client) -> None:
    told = explain(ran, [], ran.spans).text()
    assert told.startswith(f"trace {ran.trace_id}  · 2 requests")
    assert re.search(r"POST /containers/create → 201  · [\d.]+ ms for the client  · [\d.]+ ms in the daemon", told)
    assert "\n│  └─ plan: create " in told
    assert "\n   └─ plan: start " in told
    assert 'pivot_root(".", ".") = 0' in told


def test_the_last_action_without_spans_is_the_last_that_did_something(ran: Client) -> None:
    with closing(Client(ran.host)) as other:
        other.get("/containers/json")
    assert asked(ran).startswith(f"trace {ran.trace_id}")


def test_a_container_a_trace_and_a_request_can_be_named(ran: Client) -> None:
    expected = explain(ran, [], ()).text()
    assert asked(ran, "told") == expected
    assert asked(ran, ran.trace_id) == expected
    assert asked(ran, "POST", "/containers/create") == expected


def test_a_removed_container_is_known_by_its_id(ran: Client) -> None:
    identity = ran.get("/containers/told/json")["Id"]
    with closing(Client(ran.host)) as other:
        other.request("DELETE", f"/containers/{identity}", {"force": True}).body()
    assert ran.trace_id in asked(ran, identity[:12])


def test_an_exec_is_told_of_its_container_too(ran: Client) -> None:
    with closing(Client(ran.host)) as other:
        made = other.post("/containers/told/exec", None, {"Cmd": ["true"]})
        other.post(f"/exec/{made['Id']}/start", None, {"Detach": True})
    told = asked(ran, "told")
    assert told.index("plan: create") < told.index("plan: start") < told.index("plan: exec")
    assert "the new process, between its fork and its exec" in told


def test_a_start_that_failed_is_told_up_to_the_call_that_failed(engine: str) -> None:
    with closing(Client(engine)) as client:
        body = {"Image": IMAGE, "Cmd": ["nosuch"], "HostConfig": {"NetworkMode": "none"}}
        created = client.post("/containers/create", None, body)
        with pytest.raises(InvalidParameter, match="executable file not found"):
            client.post(f"/containers/{created['Id']}/start")
        told = explain(client, ["--only", "Execute"], client.spans).text()
    assert "POST /containers/" in told
    assert "/start → 400" in told
    assert told.count("Execute: become nosuch") == 1
    assert told.count('execve("') == 1
    assert "= -1 ENOENT (No such file or directory)" in told


def test_options_choose_how_much_is_told(ran: Client) -> None:
    assert 'pivot_root("' not in asked(ran, "--no-calls")
    assert "PivotRoot" in asked(ran, "--no-calls")
    assert 'pivot_root("' not in asked(ran, "--calls=false")
    assert "POST /containers/create" not in asked(ran, "--only", "pivot_root")
    assert not re.search(r"[0-9a-f]{12}|\d ms|\d µs|pid \d", asked(ran, "--no-times"))
    identity = ran.get("/containers/told/json")["Id"]
    assert identity in asked(ran, "--full")
    assert identity not in asked(ran)


def test_what_is_not_kept_is_not_found(ran: Client) -> None:
    for wanted in ("nosuch", "f" * 32, "DELETE /nowhere"):
        with pytest.raises(NotFound, match=r"No such trace|No trace of"):
            asked(ran, wanted)


def test_another_engine_keeps_no_traces(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("d")  # short: containerd's sockets have long paths of their own (unix(7))
    refused = pytest.raises(NotFound, match=r"The engine at unix://.* keeps no traces")
    with docker_daemon(folder) as host, closing(Client(host)) as client, refused:
        explain(client, [], ())


def test_wrong_words_are_refused_in_dockers_wording(ran: Client) -> None:
    with pytest.raises(StatusError, match=r"unknown flag: --nosuch\n\nUsage:  labkit explain \[OPTIONS\]"):
        asked(ran, "--nosuch")
    assert asked(ran, "--help").startswith("Usage:  labkit explain [OPTIONS] [CONTAINER|IMAGE|TRACE|METHOD PATH]")


def test_the_command_prints_the_tree(ran: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ran, ["told", "--only", "SetHostname"]) == 0
    assert "SetHostname: call this host" in capsys.readouterr().out


def test_why_a_container_has_ended_and_nothing_else(ran: Client) -> None:
    with pytest.raises(NotFound, match="No end of told is known: --why wants a container that has ended"):
        asked(ran, "told", "--why")
    ran.post("/containers/told/kill")
    ran.post("/containers/told/wait")
    assert asked(ran, "told", "--why", "--no-times") == (
        "why it ended: exit code 137, killed by the SIGKILL that a client's `kill` had it sent"
    )
