"""From a request to a record, and the files that a container finds in its /etc."""

from __future__ import annotations

import os
from typing import Any

import pytest

from labkit.engine.creation import create_plan, hosts, resolver
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


def test_hosts() -> None:
    text = hosts(host_record(ExtraHosts=["a:1.2.3.4", "b:::1", "c=[fe80::1]", "d:[::2]"]))
    assert text.startswith("127.0.0.1\tlocalhost\n")
    assert text.splitlines()[-4:] == ["1.2.3.4\ta", "::1\tb", "fe80::1\tc", "::2\td"]


@pytest.mark.parametrize("entry", ["a", ":1.2.3.4", "a:", "a=", ""])
def test_hosts_that_are_none(entry: str) -> None:
    with pytest.raises(InvalidParameter, match="bad format for add-host"):
        hosts(host_record(ExtraHosts=[entry]))


PRESENT = "# a comment\nnameserver 1.1.1.1\nnameserver 2.2.2.2\n\nsearch a b\noptions ndots:1\n"


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ({}, PRESENT),
        ({"Dns": ["9.9.9.9"]}, "nameserver 9.9.9.9\nsearch a b\noptions ndots:1\n"),
        ({"DnsSearch": ["c", "d"]}, "nameserver 1.1.1.1\nnameserver 2.2.2.2\nsearch c d\noptions ndots:1\n"),
        ({"DnsOptions": ["x", "y"]}, "nameserver 1.1.1.1\nnameserver 2.2.2.2\nsearch a b\noptions x y\n"),
    ],
)
def test_resolver(host: dict[str, Any], text: str) -> None:
    assert resolver(host_record(**host).HostConfig, PRESENT) == text


def test_what_a_container_has_on_disk() -> None:
    plan = create_plan(record(), Settings("/data", "/exec"), PRESENT)
    written = {step.operation.path: step.operation.text for step in plan.steps if isinstance(step.operation, WriteFile)}
    assert written[f"/data/containers/{IDENTITY}/hostname"] == f"{IDENTITY[:12]}\n"
    assert written[f"/data/containers/{IDENTITY}/resolv.conf"] == PRESENT
    assert {step.actor for step in plan.steps} == {"daemon"}
