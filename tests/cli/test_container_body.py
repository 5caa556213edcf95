"""The options of `run` as the body of ContainerCreate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labkit.cli.commands import BY_NAME
from labkit.cli.container_body import container_body
from labkit.cli.grammar import StatusError, parse
from labkit.errors import InvalidParameter


def body(*words: str) -> dict[str, Any]:
    return container_body(parse("labkit", BY_NAME[("run",)], ("run",), [*words, "img", "cmd", "-x"]))


def host(*words: str) -> dict[str, Any]:
    config: dict[str, Any] = body(*words)["HostConfig"]
    return config


def test_a_plain_run() -> None:
    plain = body()
    assert (plain["Image"], plain["Cmd"]) == ("img", ["cmd", "-x"])
    assert (plain["AttachStdin"], plain["AttachStdout"], plain["AttachStderr"]) == (False, True, True)
    assert plain["HostConfig"]["NetworkMode"] == "default"
    assert plain["NetworkingConfig"] == {"EndpointsConfig": {"default": {}}}


def test_streams() -> None:
    interactive = body("-it")
    assert (interactive["OpenStdin"], interactive["StdinOnce"], interactive["Tty"]) == (True, True, True)
    attached = body("-a", "STDERR", "-a", "stdin")
    assert (attached["AttachStdin"], attached["AttachStdout"], attached["AttachStderr"]) == (True, False, True)


def test_values_go_to_their_fields() -> None:
    made = body(
        "-h", "box", "-u", "1:2", "-w", "/x", "--stop-timeout", "3", "-l", "a=b", "-l", "c", "--entrypoint", "e"
    )
    assert (made["Hostname"], made["User"], made["WorkingDir"], made["StopTimeout"]) == ("box", "1:2", "/x", 3)
    assert (made["Labels"], made["Entrypoint"]) == ({"a": "b", "c": ""}, ["e"])
    limits = host(
        "-m", "64m", "--memory-swap", "-1", "--cpus", "1.5", "--pids-limit", "9", "--shm-size", "1m", "--init"
    )
    assert (limits["Memory"], limits["MemorySwap"], limits["NanoCpus"]) == (67108864, -1, 1_500_000_000)
    assert (limits["PidsLimit"], limits["ShmSize"], limits["Init"]) == (9, 1048576, True)
    more = host(
        "--tmpfs", "/a:size=1m", "--tmpfs", "/b", "--sysctl", "net.x=1", "--cap-drop", "ALL", "--add-host", "a:1.2.3.4"
    )
    assert more["Tmpfs"] == {"/a": "size=1m", "/b": ""}
    assert (more["Sysctls"], more["CapDrop"], more["ExtraHosts"]) == ({"net.x": "1"}, ["ALL"], ["a:1.2.3.4"])


def test_capabilities_have_their_kernel_names() -> None:
    made = host("--cap-add", "net_admin", "--cap-add", "CAP_MKNOD", "--cap-drop", "MKNOD", "--cap-drop", "chown")
    assert (made["CapAdd"], made["CapDrop"]) == (["CAP_MKNOD", "CAP_NET_ADMIN"], ["CAP_CHOWN"])
    assert host("--cap-add", "ALL", "--cap-add", "KILL")["CapAdd"] == ["ALL"]


def test_environment_comes_from_files_flags_and_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_CALLER", "yes")
    file = tmp_path / "env"
    file.write_text("# comment\nA=1\n\nFROM_CALLER\nUNKNOWN\n")
    assert body("--env-file", str(file), "-e", "B=x=y", "-e", "UNKNOWN")["Env"] == ["A=1", "FROM_CALLER=yes", "B=x=y"]
    file.write_text("a b=1\n")
    with pytest.raises(InvalidParameter, match="variable 'a b' contains whitespaces"):
        body("--env-file", str(file))


@pytest.mark.parametrize(
    ("publish", "bindings"),
    [
        ("80", {"80/tcp": [("", "")]}),
        ("8080:80", {"80/tcp": [("", "8080")]}),
        ("127.0.0.1:8080:80/udp", {"80/udp": [("127.0.0.1", "8080")]}),
        ("127.0.0.1::80", {"80/tcp": [("127.0.0.1", "")]}),
        ("[::1]:8080:80", {"80/tcp": [("::1", "8080")]}),
        ("8000-8001:80-81", {"80/tcp": [("", "8000")], "81/tcp": [("", "8001")]}),
        ("8000-8005:80", {"80/tcp": [("", "8000-8005")]}),
        ("target=80,published=8080,protocol=udp", {"80/udp": [("", "8080")]}),
    ],
)
def test_published_ports(publish: str, bindings: dict[str, list[tuple[str, str]]]) -> None:
    made = body("-p", publish)
    expected = {port: [{"HostIp": ip, "HostPort": number} for ip, number in ends] for port, ends in bindings.items()}
    assert made["HostConfig"]["PortBindings"] == expected
    assert made["ExposedPorts"].keys() == expected.keys()


def test_exposed_ports() -> None:
    assert body("--expose", "80-81", "--expose", "53/udp")["ExposedPorts"] == {"80/tcp": {}, "81/tcp": {}, "53/udp": {}}


def test_volumes_and_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = body("-v", "/a:/b:ro", "-v", "./x:/y", "-v", "named:/n", "-v", "/anonymous")
    assert made["HostConfig"]["Binds"] == ["/a:/b:ro", f"{tmp_path}/x:/y", "named:/n"]
    assert made["Volumes"] == {"/anonymous": {}}
    mounts = host(
        "--mount", "type=bind,src=/a,dst=/b,ro,bind-propagation=rshared", "--mount", "target=/v,volume-opt=o=x"
    )
    assert mounts["Mounts"] == [
        {
            "Type": "bind",
            "Source": "/a",
            "Target": "/b",
            "ReadOnly": True,
            "BindOptions": {"Propagation": "rshared"},
        },
        {"Type": "volume", "Target": "/v", "VolumeOptions": {"DriverConfig": {"Options": {"o": "x"}}}},
    ]


def test_networks() -> None:
    assert host("--network", "none")["NetworkMode"] == "none"
    made = body("--network", "name=lab,alias=a,ip=10.0.0.5,driver-opt=k=v")
    assert made["HostConfig"]["NetworkMode"] == "lab"
    assert made["NetworkingConfig"]["EndpointsConfig"] == {
        "lab": {"Aliases": ["a"], "IPAMConfig": {"IPv4Address": "10.0.0.5"}, "DriverOpts": {"k": "v"}}
    }
    aliased = body("--network", "lab", "--network-alias", "x")["NetworkingConfig"]["EndpointsConfig"]
    assert aliased == {"lab": {"Aliases": ["x"]}}


def test_devices_policies_health_and_profiles(tmp_path: Path) -> None:
    assert host("--device", "/dev/a:/dev/b:r")["Devices"] == [
        {"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "r"}
    ]
    assert host("--device", "/dev/a:rw")["Devices"][0] == {
        "PathOnHost": "/dev/a",
        "PathInContainer": "/dev/a",
        "CgroupPermissions": "rw",
    }
    assert host("--restart", "on-failure:3")["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    health = body("--health-cmd", "true", "--health-interval", "5s", "--health-retries", "2")["Healthcheck"]
    assert health == {"Test": ["CMD-SHELL", "true"], "Interval": 5 * 10**9, "Retries": 2}
    assert body("--no-healthcheck")["Healthcheck"] == {"Test": ["NONE"]}
    profile = tmp_path / "profile.json"
    profile.write_text('{ "defaultAction": "SCMP_ACT_ALLOW" }')
    security = host("--security-opt", f"seccomp={profile}", "--security-opt", "systempaths=unconfined")
    assert security["SecurityOpt"] == ['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']
    assert (security["MaskedPaths"], security["ReadonlyPaths"]) == ([], [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rm", "--restart", "always"], "conflicting options: cannot specify both --restart and --rm"),
        (["--memory-swappiness", "101"], "invalid value: 101. Valid memory swappiness range is 0-100"),
        (["--pid", "x"], "--pid: invalid PID mode"),
        (["-p", "x"], "invalid containerPort: x"),
        (["-p", "80:99999"], "invalid containerPort: 99999"),
        (["-p", "1-3:1-2"], "invalid ranges specified for container and host Ports: 1-2 and 1-3"),
        (["-p", "1.2.3:1:1"], "invalid IP address: 1.2.3"),
        (["-p", "80/foo"], "invalid proto: foo"),
        (["-v", ":/x"], "invalid spec: :/x: empty section between colons"),
        (["--no-healthcheck", "--health-cmd", "x"], "--no-healthcheck conflicts with --health-* options"),
        (["--log-driver", "none", "--log-opt", "a=b"], "invalid logging opts for driver none"),
        (["--restart", "on-failure:x"], "invalid restart policy format: maximum retry count must be an integer"),
        (
            ["--network", "none", "--network-alias", "x"],
            "network-scoped aliases are only supported for user-defined networks",
        ),
        (["--network", "a", "--network", "a"], 'network "a" is specified multiple times'),
    ],
)
def test_options_that_contradict(words: list[str], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        body(*words)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ("foo", "invalid field 'foo' must be a key=value pair"),
        ("type=bind,src=/a", "target is required"),
        ("type=tmpfs,dst=/a,volume-nocopy", "cannot mix 'volume-\\*' options with mount type 'tmpfs'"),
        ("dst=/a,foo=1", "unexpected key 'foo' in 'foo=1'"),
        ("dst=/a,ro=x", "invalid value for ro: x"),
    ],
)
def test_mounts_that_are_none(mount: str, message: str) -> None:
    with pytest.raises(StatusError, match=f'for "--mount" flag: {message}'):
        body("--mount", mount)
