"""What is refused, in Docker's words, and what is warned of."""

from __future__ import annotations

import os
import re
import signal
from typing import Any

import msgspec
import pytest

from labkit.engine import validation
from labkit.engine.models import Config, CreateBody
from labkit.errors import InvalidParameter
from labkit.kernel.cgroups import read_layout
from tests.engine.records import host_record, record

CPUS = os.cpu_count() or 1


def check_host(**host: Any) -> list[str]:
    asked = host_record(**{"NetworkMode": "none"} | host)
    return validation.check(asked.Config, asked.HostConfig)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"ConsoleSize": [1, 1 << 16]}, "invalid ConsoleSize [1, 65536]: it needs rows and columns, from 0 to 65535"),
    ({"UsernsMode": "private"}, "invalid user namespace mode: private"),
    ({"PidMode": "own"}, "invalid PID mode: own"),
    ({"IpcMode": "own"}, "invalid IPC mode: own"),
    ({"UTSMode": "own"}, "invalid UTS mode: own"),
    ({"CgroupnsMode": "own"}, "invalid cgroup namespace mode: own"),
    ({"PidMode": "container:"}, "invalid PID mode: container:"),
    ({"IpcMode": "container:"}, "invalid IPC mode: container:"),
    ({"UTSMode": "container:x"}, "invalid UTS mode: container:x"),
    ({"CgroupnsMode": "container:x"}, "invalid cgroup namespace mode: container:x"),
    ({"Isolation": "hyperv"}, "invalid isolation 'hyperv' on linux"),
    ({"StorageOpt": {"size": "1"}},
     "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"),
    ({"StorageOpt": {"foo": "1"}}, "unknown option foo"),
]  # fmt: skip


@pytest.mark.parametrize(("host", "message"), REFUSED)
def test_what_can_not_be_is_refused_in_dockers_words(host: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_host(**host)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "host",
    [
        {}, {"Memory": 6 << 20}, {"Memory": 8 << 20, "MemorySwap": -1}, {"Memory": 8 << 20, "MemorySwap": 8 << 20},
        {"NanoCpus": CPUS * 10**9}, {"CpuPeriod": 1000, "CpuQuota": 1000}, {"CpuQuota": -1}, {"CpusetCpus": "0"},
        {"OomScoreAdj": -1000}, {"Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": -1}]}, {"CapAdd": ["all", "Chown"]},
        {"SecurityOpt": ["seccomp=unconfined", "no-new-privileges:true"]}, {"Sysctls": {"fs.mqueue.msg_max": "1"}},
        {"PidMode": "host", "IpcMode": "host", "UTSMode": "host", "CgroupnsMode": "private", "NetworkMode": "host"},
        {"PidMode": "container:x", "IpcMode": "container:x"}, {"Isolation": "Default"}, {"DeviceRequests": [{}]},
    ],
)  # fmt: skip
def test_what_can_be_passes_without_a_word(host: dict[str, Any]) -> None:
    assert check_host(**host) == []


def settled(**host: Any) -> Any:
    asked = host_record(**host)
    validation.check(asked.Config, asked.HostConfig)
    return asked.HostConfig


def test_what_is_written_into_a_configuration() -> None:
    assert settled(Memory=8 << 20).MemorySwap == 16 << 20
    assert settled(Memory=8 << 20, MemorySwap=-1).MemorySwap == -1
    assert [settled(PidsLimit=limit).PidsLimit for limit in (-1, 0, 5)] == [None, None, 5]
    assert settled().CgroupnsMode == ("host" if read_layout().version == 1 else "private")
    assert settled(CgroupnsMode="private").CgroupnsMode == "private"
    assert settled().SecurityOpt is None
    assert settled(ConsoleSize=[]).ConsoleSize == [0, 0]
    for host in ({"Privileged": True}, {"IpcMode": "host"}, {"PidMode": "host"}):
        assert settled(**host).SecurityOpt == ["label=disable"]
    assert settled(Privileged=True, SecurityOpt=["label=type:x"]).SecurityOpt == ["label=type:x"]


def check_network(config: dict[str, Any], **host: Any) -> None:
    asked = msgspec.convert({**config, "HostConfig": host}, CreateBody)
    assert asked.HostConfig
    validation.check_network_mode(asked, asked.HostConfig, asked.NetworkingConfig)


SHARED = "container:x"
MAC = {"EndpointsConfig": {SHARED: {"MacAddress": "92:d0:c6:0a:29:33"}}}


@pytest.mark.parametrize(
    ("config", "host", "message"),
    [
        ({"Hostname": "x"}, {"NetworkMode": SHARED}, "hostname and the network mode"),
        ({}, {"NetworkMode": SHARED, "Dns": ["1.2.3.4"]}, "dns and the network mode"),
        ({}, {"NetworkMode": SHARED, "ExtraHosts": ["a:1.2.3.4"]}, "custom host-to-IP mapping and the network mode"),
        ({"MacAddress": "92:d0:c6:0a:29:33"}, {"NetworkMode": "host"}, "mac-address and the network mode"),
        ({"NetworkingConfig": MAC}, {"NetworkMode": SHARED}, "mac-address and the network mode"),
        ({}, {"NetworkMode": SHARED, "PublishAllPorts": True}, "port publishing and the container type network mode"),
        ({"ExposedPorts": {"80/tcp": {}}}, {"NetworkMode": SHARED},
         "port exposing and the container type network mode"),
        ({"Hostname": "x"}, {"UTSMode": "host"}, "hostname and the UTS mode"),
        ({}, {"NetworkMode": "host", "Links": ["x"]},
         "host type networking can't be used with links. This would result in undefined behavior"),
        ({}, {"NetworkMode": SHARED, "Links": ["x"]},
         "container type network can't be used with links. This would result in undefined behavior"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_in_anothers_network(config: dict[str, Any], host: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_network(config, **host)
    assert str(caught.value) == f"conflicting options: {message}"


def test_networks() -> None:
    for mode in ("mine", "bridge", "default", "host", "none", SHARED):
        check_network({}, NetworkMode=mode)
    check_network({"Hostname": "x", "ExposedPorts": {"80/tcp": {}}}, NetworkMode="mine", Links=["a:b"], Dns=["::1"])
    with pytest.raises(InvalidParameter, match="Invalid network mode: invalid container format"):
        check_network({}, NetworkMode="container:")
    assert check_host(NetworkMode="mine", PortBindings={"80/tcp": None}) == []
    (warning,) = check_host(NetworkMode="host", PortBindings={"80/tcp": None})
    assert warning == "Published ports are discarded when using host network mode"


def check_config(**config: Any) -> list[str]:
    asked = record(**config, HostConfig={"NetworkMode": "none"})
    return validation.check(asked.Config, asked.HostConfig)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"WorkingDir": "a"}, "the working directory 'a' is invalid, it needs to be an absolute path"),
        ({"StopSignal": "SIGNO"}, "Invalid signal: SIGNO"),
        ({"Env": ["=x"]}, "invalid environment variable: =x"),
        ({"Hostname": "h" * 65}, f"invalid hostname '{'h' * 65}': at most 64 bytes, see sethostname(2)"),
    ],
)
def test_config(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter, match=f"^{re.escape(message)}$"):
        check_config(**config)


def test_warnings() -> None:
    assert check_config() == check_config(Healthcheck={"Test": ["CMD", "true"]}) == []
    assert check_config(Volumes={"/b": {}, "/a": {}}) == []


@pytest.mark.parametrize(
    ("text", "number"),
    [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)],
)
def test_signals(text: str, number: int) -> None:
    assert validation.parse_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "65", "NO", "-9", "SIG", "_DFL", "SIG_IGN", "²", "RTMIN+99", "RTMAX+1", "RTMIN-1"]
)
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(InvalidParameter, match=f"^Invalid signal: {re.escape(text)}$"):
        validation.parse_signal(text)


def test_all_signals_of_this_machine() -> None:
    for number in signal.valid_signals():
        assert validation.parse_signal(str(int(number))) == number


@pytest.mark.parametrize("name", ["a", "/", "-x", "a b", "a/b", "", "ä1", "ab\n"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidParameter, match="Invalid container name"):
        validation.check_name(name)


def test_names() -> None:
    for name in ("ab", "/ab", "0.x_-", "A" * 200):
        validation.check_name(name)


IMAGE = {
    "User": "www", "WorkingDir": "/srv", "Env": ["A=image", "B=image"], "Entrypoint": ["/entry"], "Cmd": ["arg"],
    "Labels": {"a": "image", "b": "image"}, "Volumes": {"/v": {}}, "StopSignal": "SIGINT",
    "ExposedPorts": {"80/tcp": {}},
}  # fmt: skip


def test_the_image_fills_what_was_left_open() -> None:
    config = Config(Env=["A=mine"], Labels={"a": "mine"})
    validation.merge_image(config, IMAGE)
    assert (config.User, config.WorkingDir, config.StopSignal) == ("www", "/srv", "SIGINT")
    assert (config.Env, config.Labels) == (["A=mine", "B=image"], {"a": "mine", "b": "image"})
    assert (config.Entrypoint, config.Cmd, config.Volumes) == (["/entry"], ["arg"], {"/v": {}})
    assert config.ExposedPorts == {"80/tcp": {}}


@pytest.mark.parametrize(
    ("entrypoint", "command", "found"),
    [
        (None, None, (["/entry"], ["arg"])), (None, ["mine"], (["/entry"], ["mine"])), (["own"], None, (["own"], None)),
        (["own"], ["mine"], (["own"], ["mine"])), ([""], None, ([""], None)),
    ],
)  # fmt: skip
def test_an_entrypoint_of_ones_own_takes_no_command_of_the_image(entrypoint: Any, command: Any, found: Any) -> None:
    config = Config(Entrypoint=entrypoint, Cmd=command)
    validation.merge_image(config, IMAGE)
    assert (config.Entrypoint, config.Cmd) == found
