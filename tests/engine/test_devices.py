"""The host's devices in a spec."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from labkit.engine import devices
from labkit.errors import InvalidParameter
from tests.engine.records import host_record


def chosen(**host: Any) -> list[devices.Spec]:
    return list(devices.chosen(host_record(**host).HostConfig))


def test_a_device_comes_with_its_rule() -> None:
    (found,) = chosen(Devices=[{"PathOnHost": "/dev/zero", "PathInContainer": "/dev/mine", "CgroupPermissions": "r"}])
    assert found["rule"] == {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"}
    node = found["node"]
    assert (node["path"], node["major"], node["minor"], node["fileMode"]) == ("/dev/mine", 1, 5, 0o666)


def test_a_link_stands_for_the_device_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    (found,) = chosen(Devices=[{"PathOnHost": str(tmp_path / "link"), "PathInContainer": "/dev/n"}])
    assert (found["node"]["path"], found["rule"]["minor"]) == ("/dev/n", 3)


@pytest.mark.root
def test_a_directory_stands_for_the_devices_in_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, minor in (("a", 3), ("sub/b", 5)):
        os.mknod(tmp_path / name, 0o20600, os.makedev(1, minor))
    (tmp_path / "file").touch()
    found = chosen(Devices=[{"PathOnHost": str(tmp_path), "PathInContainer": "/dev/d"}])
    assert {one["node"]["path"] for one in found} == {"/dev/d/a", "/dev/d/sub/b"}


def test_all_devices_and_those_under_other_names() -> None:
    mapping = {"PathOnHost": "/dev/zero", "PathInContainer": "/dev/z"}
    same = {"PathOnHost": "/dev/null", "PathInContainer": "/dev/null"}
    paths = [one["node"]["path"] for one in chosen(Privileged=True, Devices=[mapping, same])]
    assert {"/dev/null", "/dev/zero", "/dev/z"} <= set(paths)
    assert paths.count("/dev/null") == 1
    assert not any(path.startswith(("/dev/pts/", "/dev/shm/")) for path in paths)


@pytest.mark.parametrize(
    ("path", "reason"), [("/nonesuch", "no such file or directory"), ("/etc/passwd", "not a device node")]
)
def test_what_is_no_device(path: str, reason: str) -> None:
    with pytest.raises(InvalidParameter, match=rf'adding custom device "{path}": {reason}$'):
        chosen(Devices=[{"PathOnHost": path}])


def test_limits_of_block_devices() -> None:
    rate = [{"Path": "/dev/null", "Rate": 7}]
    host = host_record(
        BlkioWeight=50, BlkioWeightDevice=[{"Path": "/dev/null", "Weight": 9}], BlkioDeviceWriteIOps=rate
    )
    numbers = {"major": 1, "minor": 3}
    assert devices.block_io(host.HostConfig) == {
        "weight": 50,
        "weightDevice": [{**numbers, "weight": 9}],
        "throttleWriteIOPSDevice": [{**numbers, "rate": 7}],
    }
    assert devices.block_io(host_record().HostConfig) == {}
    with pytest.raises(InvalidParameter, match=r"^stat /nonesuch: no such file or directory$"):
        devices.block_io(host_record(BlkioDeviceReadBps=[{"Path": "/nonesuch", "Rate": 1}]).HostConfig)


def test_requests_for_drivers() -> None:
    asked = [{"Capabilities": [["gpu", "compute"], ["x"]], "Count": -1}]
    with pytest.raises(InvalidParameter) as caught:
        devices.refuse_requests(host_record(DeviceRequests=asked).HostConfig)
    assert str(caught.value) == 'could not select device driver "" with capabilities: [[gpu compute] [x]]'
    with pytest.raises(InvalidParameter, match=r"unresolvable CDI devices a/b=c"):
        devices.refuse_requests(host_record(DeviceRequests=[{"Driver": "cdi", "DeviceIDs": ["a/b=c"]}]).HostConfig)
    devices.refuse_requests(host_record().HostConfig)
