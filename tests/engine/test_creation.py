"""From a request to a record, and the files that a container finds in its /etc."""

from __future__ import annotations

import os
from typing import Any

import pytest

from labkit.engine.creation import create_plan
from labkit.engine.settings import Settings
from labkit.errors import InvalidParameter
from labkit.kernel.storage import WriteFile
from tests.engine.records import IDENTITY, host_record, record

IMAGE = {"Entrypoint": ["/entry"], "Cmd": ["arg"]}


@pytest.mark.parametrize(
    ("body", "argv"),
    [
        ({"Cmd": None}, ["/entry", "arg"]), ({"Cmd": ["mine", "too"]}, ["/entry", "mine", "too"]),
        ({"Cmd": "mine"}, ["/entry", "mine"]), ({"Cmd": None, "Entrypoint": ["own"]}, ["own"]),
        ({"Cmd": ["x"], "Entrypoint": "own"}, ["own", "x"]), ({"Cmd": ["x"], "Entrypoint": [""]}, ["x"]),
        ({"Cmd": ["x"], "Entrypoint": []}, ["x"]),
    ],
)  # fmt: skip
def test_entrypoint_and_command(body: dict[str, Any], argv: list[str]) -> None:
    made = record(IMAGE, **body)
    assert [made.Path, *made.Args] == argv


@pytest.mark.parametrize("body", [{"Cmd": None}, {"Cmd": []}, {"Cmd": [""]}, {"Cmd": None, "Entrypoint": [""]}])
def test_nothing_to_run(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match=r"^no command specified$"):
        record({}, **body)


def test_the_name_of_the_host() -> None:
    assert record().Config.Hostname == IDENTITY[:12]
    assert record(Hostname="mine", HostConfig={"NetworkMode": "host"}).Config.Hostname == "mine"
    assert host_record(NetworkMode="host").Config.Hostname == os.uname().nodename


def test_what_a_container_has_on_disk() -> None:
    plan = create_plan(record(), Settings("/data", "/exec"), "127.0.0.1 localhost\n", "nameserver 1.1.1.1\n")
    written = {step.operation.path: step.operation.text for step in plan.steps if isinstance(step.operation, WriteFile)}
    assert written[f"/data/containers/{IDENTITY}/hostname"] == f"{IDENTITY[:12]}\n"
    assert written[f"/data/containers/{IDENTITY}/hosts"] == "127.0.0.1 localhost\n"
    assert written[f"/data/containers/{IDENTITY}/resolv.conf"] == "nameserver 1.1.1.1\n"
    assert {step.actor for step in plan.steps} == {"daemon"}
