"""The OCI spec of a container, by what was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from labkit.engine import spec
from labkit.engine.models import ContainerRecord
from labkit.engine.users import Identity
from labkit.kernel.capabilities import NUMBERS, mask
from labkit.kernel.cgroups import Layout
from labkit.runtime.plans import Machine, start_plan
from tests.engine.records import host_record, record

SCHEMAS = Path(__file__).parents[3] / "shared/reference/oci/runtime"
V1 = Machine(Layout((("memory", "/cg/memory"),), ""), mask(tuple(NUMBERS)))
V2 = Machine(Layout((), "/cg"), mask(tuple(NUMBERS)))
DEVICE = {
    "node": {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
    "rule": {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
}


def build(asked: ContainerRecord, uid: int = 0, machine: Machine = V1, devices: tuple[Any, ...] = ()) -> spec.Spec:
    identity = Identity(uid, uid, (uid,), "/home")
    found = spec.build(asked, spec.Facts("/r", "/c", "/labkit/ID", identity, machine, devices), None)
    plain: spec.Spec = json.loads(msgspec.json.encode(found))
    return plain


def host_spec(**host: Any) -> spec.Spec:
    return build(host_record(**host))


ASKED: dict[str, dict[str, Any]] = {
    "default": {},
    "privileged": {"Privileged": True},
    "limits": {"Memory": 1 << 30, "NanoCpus": 5 * 10**8, "PidsLimit": 9, "CpuShares": 2, "CpusetCpus": "0",
               "MemorySwappiness": 0, "OomKillDisable": True, "MemoryReservation": 1 << 20, "CpusetMems": "0"},
    "unlimited": {"Memory": 1 << 30, "MemorySwap": -1, "PidsLimit": -1,
                  "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": -1}]},
    "host": {"NetworkMode": "host", "PidMode": "host", "IpcMode": "host", "UTSMode": "host", "CgroupnsMode": "host"},
    "tmpfs": {"Tmpfs": {"/x": "", "/y": "size=1m,exec"}, "ReadonlyRootfs": True, "Sysctls": {"net.a": "1"}},
    "capabilities": {"CapAdd": ["sys_admin"], "CapDrop": ["CAP_CHOWN"], "SecurityOpt": ["no-new-privileges"]},
}  # fmt: skip


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason="the OCI schemas don't lie beside this checkout")
@pytest.mark.parametrize("machine", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("asked", ASKED)
def test_the_spec_is_one_by_the_schema_of_oci(asked: str, machine: Machine) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    referencing = pytest.importorskip("referencing")
    files = {path.name: json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")}
    resources = {name: referencing.jsonschema.DRAFT4.create_resource(content) for name, content in files.items()}
    registry = referencing.Registry().with_resources(resources.items())
    schema = files["config-schema.json"] | {"id": "config-schema.json"}
    validator = jsonschema.Draft4Validator(schema, registry=registry)
    validator.validate(build(host_record(**ASKED[asked]), machine=machine, devices=(DEVICE,)))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"ociVersion": "1.2.0", "process": {"cwd": 3}})


@pytest.mark.parametrize("machine", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("asked", ASKED)
def test_each_spec_has_a_plan(asked: str, machine: Machine) -> None:
    found = build(host_record(**ASKED[asked]), machine=machine, devices=(DEVICE,))
    plan = start_plan(found, machine, None, frozenset(), b"", (0, 0))
    assert plan.steps[-1].operation.describe() == "become sh"


def test_dockers_default() -> None:
    found = build(record(Env=["A=b"], WorkingDir="/srv", Cmd=["sh", "-c", "true"], Domainname="example"))
    process = found["process"]
    assert (process["args"], process["cwd"], process["terminal"]) == (["sh", "-c", "true"], "/srv", False)
    assert process["env"] == [f"PATH={spec.DEFAULT_PATH}", "HOSTNAME=0123456789ab", "A=b", "HOME=/home"]
    assert process["capabilities"]["effective"] == process["capabilities"]["bounding"]
    assert len(process["capabilities"]["bounding"]) == 14
    assert not process["noNewPrivileges"]
    assert found["root"] == {"path": "/r", "readonly": False}
    assert (found["hostname"], found["domainname"]) == ("0123456789ab", "example")
    assert "memory" not in found["linux"]["resources"]
    assert found["linux"]["maskedPaths"] == list(spec.MASKED)
    places = [mount["destination"] for mount in found["mounts"]]
    assert places[:3] == ["/proc", "/dev", "/dev/pts"]
    assert {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/shm"} <= set(places)


def test_variables_override_and_take_away() -> None:
    asked = record(Env=["PATH=/x", "HOSTNAME", "HOME=/there", "EMPTY=", "E=a=b"], Tty=True)
    env = build(asked)["process"]["env"]
    assert env == ["PATH=/x", "TERM=xterm", "HOME=/there", "EMPTY=", "E=a=b"]


@pytest.mark.parametrize(
    ("add", "drop", "more", "less"),
    [
        ([], [], set(), set()),
        (["SYS_ADMIN"], [], {"CAP_SYS_ADMIN"}, set()),
        (["cap_sys_time", "Net_Admin"], ["chown"], {"CAP_SYS_TIME", "CAP_NET_ADMIN"}, {"CAP_CHOWN"}),
        (["ALL"], [], set(NUMBERS) - set(spec.DEFAULT_CAPABILITIES), set()),
        (["ALL"], ["CHOWN"], set(NUMBERS) - set(spec.DEFAULT_CAPABILITIES), {"CAP_CHOWN"}),
        ([], ["ALL"], set(), set(spec.DEFAULT_CAPABILITIES)),
        (["CHOWN"], ["ALL"], set(), set(spec.DEFAULT_CAPABILITIES) - {"CAP_CHOWN"}),
    ],
)
def test_capabilities(add: list[str], drop: list[str], more: set[str], less: set[str]) -> None:
    sets = host_spec(CapAdd=add, CapDrop=drop)["process"]["capabilities"]
    assert set(sets["bounding"]) == set(spec.DEFAULT_CAPABILITIES) - less | more
    assert sets["bounding"] == sets["effective"] == sets["permitted"]


def test_no_more_than_the_machine_has() -> None:
    poor = Machine(V1.cgroups, mask(("CAP_CHOWN", "CAP_SYS_ADMIN")))
    assert build(host_record(), machine=poor)["process"]["capabilities"]["bounding"] == ["CAP_CHOWN"]


def test_a_user_has_no_capability_in_effect() -> None:
    sets = build(record(User="www"), uid=33)["process"]["capabilities"]
    assert (len(sets["bounding"]), sets["effective"], sets["permitted"]) == (14, [], [])


def test_privileged_hides_and_refuses_nothing() -> None:
    found = host_spec(Privileged=True)
    assert len(found["process"]["capabilities"]["bounding"]) == len(NUMBERS)
    assert found["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert not {"maskedPaths", "readonlyPaths"} & set(found["linux"])
    assert found["linux"]["sysctl"] == {}
    (sys,) = [mount for mount in found["mounts"] if mount["destination"] == "/sys"]
    assert "rw" in sys["options"]
    assert "ro" not in sys["options"]


@pytest.mark.parametrize(
    ("host", "memory"),
    [
        ({"Memory": 10}, {"limit": 10, "swap": 20}),
        ({"Memory": 10, "MemorySwap": 15}, {"limit": 10, "swap": 15}),
        ({"Memory": 10, "MemorySwap": -1}, {"limit": 10, "swap": -1}),
        ({"Memory": 10, "MemoryReservation": 5, "OomKillDisable": True},
         {"limit": 10, "swap": 20, "reservation": 5, "disableOOMKiller": True}),
        ({"Memory": 10, "MemorySwappiness": -1}, {"limit": 10, "swap": 20}),
        ({"Memory": 10, "MemorySwappiness": 60}, {"limit": 10, "swap": 20, "swappiness": 60}),
    ],
)  # fmt: skip
def test_memory(host: dict[str, Any], memory: dict[str, Any]) -> None:
    assert host_spec(**host)["linux"]["resources"]["memory"] == memory


def test_cpus_as_a_quota_of_time() -> None:
    assert host_spec(NanoCpus=15 * 10**8)["linux"]["resources"]["cpu"] == {"period": 100000, "quota": 150000}


@pytest.mark.parametrize(("asked", "pids"), [(None, None), (0, None), (7, {"limit": 7}), (-1, {"limit": -1})])
def test_processes(asked: int | None, pids: dict[str, int] | None) -> None:
    assert host_spec(PidsLimit=asked)["linux"]["resources"].get("pids") == pids


def test_sysctls_of_an_own_network() -> None:
    assert host_spec()["linux"]["sysctl"]["net.ipv4.ip_unprivileged_port_start"] == "0"
    asked = host_spec(Sysctls={"net.ipv4.ip_unprivileged_port_start": "1024", "kernel.msgmax": "9"})["linux"]["sysctl"]
    assert (asked["net.ipv4.ip_unprivileged_port_start"], asked["kernel.msgmax"]) == ("1024", "9")
    assert host_spec(NetworkMode="host")["linux"]["sysctl"] == {}


@pytest.mark.parametrize(
    ("host", "machine", "missing"),
    [
        ({}, V1, {"cgroup"}), ({}, V2, set()), ({"CgroupnsMode": "private"}, V1, set()),
        ({"CgroupnsMode": "host"}, V2, {"cgroup"}), ({"PidMode": "host"}, V2, {"pid"}),
        ({"NetworkMode": "host", "UTSMode": "host", "IpcMode": "host"}, V2, {"network", "uts", "ipc"}),
    ],
)  # fmt: skip
def test_namespaces(host: dict[str, Any], machine: Machine, missing: set[str]) -> None:
    found = {entry["type"] for entry in build(host_record(**host), machine=machine)["linux"]["namespaces"]}
    assert found == {"mount", "network", "uts", "pid", "ipc", "cgroup"} - missing


def test_shared_memory() -> None:
    shm = {mode: [m for m in host_spec(IpcMode=mode)["mounts"] if m["destination"] == "/dev/shm"]
           for mode in ("private", "host", "none")}  # fmt: skip
    assert f"size={64 << 20}" in shm["private"][0]["options"]
    assert (shm["host"][0]["type"], shm["host"][0]["source"]) == ("bind", "/dev/shm")
    assert shm["none"] == []


def test_devices_come_with_the_rule_that_permits_them() -> None:
    linux = build(host_record(), devices=(DEVICE,))["linux"]
    assert linux["devices"] == [DEVICE["node"]]
    assert linux["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert linux["resources"]["devices"][-1] == DEVICE["rule"]


@pytest.mark.parametrize("option", ["no-new-privileges", "no-new-privileges=true", "no-new-privileges:true"])
def test_no_new_privileges(option: str) -> None:
    assert host_spec(SecurityOpt=[option])["process"]["noNewPrivileges"]
    assert not host_spec(SecurityOpt=["no-new-privileges=false"])["process"]["noNewPrivileges"]


def test_unlimited_is_the_largest_number() -> None:
    limits = host_spec(Ulimits=[{"Name": "core", "Soft": 1, "Hard": -1}])["process"]["rlimits"]
    assert limits == [{"type": "RLIMIT_CORE", "hard": 2**64 - 1, "soft": 1}]
