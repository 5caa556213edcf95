"""Security options, capabilities, sysctls, device rules: read, or refused in dockerd's or runc's words."""

from __future__ import annotations

import re
from typing import Any

import pytest

from labkit.engine import security
from labkit.engine.security import SecurityOptions
from labkit.errors import InvalidParameter
from tests.engine.records import host_record


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (None, SecurityOptions()),
        (["no-new-privileges"], SecurityOptions(no_new_privileges=True)),
        (["no-new-privileges:true", "no-new-privileges=F"], SecurityOptions()),
        (["seccomp=unconfined"], SecurityOptions(seccomp="unconfined")),
        (['seccomp={"a":"b=c"}', "apparmor:x"], SecurityOptions(seccomp='{"a":"b=c"}', apparmor="x")),
        (["label=type:a", "disable"], SecurityOptions(labels=("type:a", "disable"))),
        (["writable-cgroups=true"], SecurityOptions(writable_cgroups=True)),
    ],
)
def test_options(options: list[str] | None, found: SecurityOptions) -> None:
    assert security.parse(options) == found


@pytest.mark.parametrize(
    ("option", "number"),
    [("foo", 1), ("seccomp", 1), ("foo=bar", 2), ("no-new-privileges=maybe", 2), ("writable-cgroups=", 2)],
)
def test_what_is_no_option(option: str, number: int) -> None:
    with pytest.raises(InvalidParameter, match=f'^invalid --security-opt {number}: "{option}"$'):
        security.parse([option])


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ({"CapAdd": ["FLY"]}, 'invalid CapAdd: unknown capability: "CAP_FLY"'),
        ({"CapDrop": ["CAP_"]}, 'invalid CapDrop: unknown capability: "CAP_"'),
        ({"Sysctls": {"vm.swappiness": "1"}}, 'sysctl "vm.swappiness" is not in a separate kernel namespace'),
        ({"Sysctls": {"net/../kernel/x": "1"}}, 'sysctl "net/../kernel/x" is not in a separate kernel namespace'),
        ({"Sysctls": {"net.a": "1"}, "NetworkMode": "host"}, 'sysctl "net.a" not allowed in host network namespace'),
        ({"Sysctls": {"kernel.sem": "1"}, "IpcMode": "host"},
         'sysctl "kernel.sem" is not allowed in the hosts ipc namespace'),
        ({"Sysctls": {"kernel.domainname": "1"}, "UTSMode": "host"},
         'sysctl "kernel.domainname" is not allowed in the hosts UTS namespace'),
        ({"Annotations": {"": "x"}},
         "invalid Annotations: the empty string is not permitted as an annotation key"),
    ],
)  # fmt: skip
def test_what_is_refused(host: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter, match=f"^{re.escape(message)}$"):
        security.check(host_record(**host).HostConfig)


def test_what_passes() -> None:
    host = host_record(
        CapAdd=["all", "Chown"],
        Sysctls={"fs.mqueue.msg_max": "1", "kernel.shmmax": "2", "net.ipv4.conf.eth0/1.forwarding": "1"},
        SecurityOpt=["apparmor=unconfined", "label=disable"],
    )
    assert security.check(host.HostConfig) == []


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("c 42:* rmw", {"type": "c", "major": 42, "access": "rmw"}),
        ("b *:7 r", {"type": "b", "minor": 7, "access": "r"}),
        ("a *:* rwm", {"type": "a", "access": "rwm"}),
    ],
)
def test_device_rules(text: str, rule: dict[str, Any]) -> None:
    assert security.device_rule(text) == {"allow": True, **rule}


@pytest.mark.parametrize(
    "text", ["", "x 1:1 r", "c 1 r", "c 1:1 q", "c 1:1 rwmm", "c -1:1 r", "c ²:1 r", "c 9999999999:1 r"]
)
def test_what_is_no_device_rule(text: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^invalid device cgroup rule format: "):
        security.device_rule(text)
