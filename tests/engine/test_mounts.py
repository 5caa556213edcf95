"""Mount points as mounts of the OCI spec, and as inspect shows them."""

from __future__ import annotations

from typing import Any

import msgspec

from labkit.engine import mounts
from labkit.engine.models import ContainerRecord
from labkit.engine.settings import Settings
from labkit.volumes import grammar
from labkit.volumes.models import Mount, MountPoint
from tests.engine.records import host_record

SETTINGS = Settings("/data", "/run")


def made(binds: list[str] | None = None, mount: list[dict[str, Any]] | None = None, **host: Any) -> ContainerRecord:
    """A record with these mount points; volumes have the names that were asked for, or `anonymous`."""
    record = host_record(**host)
    asked = msgspec.convert(mount or [], list[Mount])
    record.MountPoints = grammar.points_of(binds or [], asked, host.get("Tmpfs", {}), "")
    for point in record.MountPoints.values():
        if point.Type == "volume":
            point.Name, point.Driver = point.Name or "anonymous", "local"
    return record


def user(record: ContainerRecord) -> list[tuple[str, str, str, list[str]]]:
    found = mounts.user_mounts(record, SETTINGS)
    return [(entry["destination"], entry["type"], entry["source"], entry["options"]) for entry in found]


def test_outer_mounts_come_before_those_inside_them() -> None:
    record = made(["v:/a/b/c", "/x:/a:ro", "/y:/a/b:rslave"], Tmpfs={"/a/b/d": "size=1m", "/t": ""})
    assert [entry[0] for entry in user(record)] == ["/a", "/t", "/a/b", "/a/b/c", "/a/b/d"]
    assert user(record)[0] == ("/a", "bind", "/x", ["rbind", "rro", "rprivate"])
    assert user(record)[2] == ("/a/b", "bind", "/y", ["rbind", "rslave"])
    assert user(record)[3] == ("/a/b/c", "bind", "/data/volumes/v/_data", ["rbind"])
    assert user(record)[4][1:3] == ("tmpfs", "tmpfs")
    assert user(record)[4][3][-1] == "size=1m"


def test_how_far_read_only_goes() -> None:
    def options(**bind: bool) -> list[str]:
        asked = {"Type": "bind", "Source": "/", "Target": "/x", "ReadOnly": True, "BindOptions": bind}
        return user(made(mount=[asked]))[0][3]

    assert options() == ["rbind", "rro", "rprivate"]
    assert options(ReadOnlyForceRecursive=True) == ["rbind", "rro", "rprivate"]
    assert options(ReadOnlyNonRecursive=True) == ["rbind", "ro", "rprivate"]
    assert options(NonRecursive=True) == ["bind", "rro", "rprivate"]


def test_a_part_of_a_volume() -> None:
    asked = {"Type": "volume", "Source": "v", "Target": "/x", "VolumeOptions": {"Subpath": "./a//b/"}}
    record = made(["other:/y"], [asked])
    assert user(record)[0][2] == "/data/volumes/v/_data/a/b"
    assert mounts.bases(record, SETTINGS) == {"/data/volumes/v/_data/a/b": "/data/volumes/v/_data"}


def test_a_tmpfs_of_mounts() -> None:
    asked = {"Type": "tmpfs", "Target": "/t", "ReadOnly": True, "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o700}}
    options = ["noexec", "nosuid", "nodev", "rprivate", "ro", "mode=700", "size=1m"]
    assert user(made(mount=[asked])) == [("/t", "tmpfs", "tmpfs", options)]


def places(entries: list[mounts.Spec]) -> list[str]:
    return [entry["destination"] for entry in entries]


def entry(place: str, *options: str) -> mounts.Spec:
    return {"destination": place, "type": "x", "source": "x", "options": list(options)}


def test_a_users_mount_takes_the_place_of_any_other() -> None:
    default, files = [entry("/proc"), entry("/dev"), entry("/dev/shm")], [entry("/etc/hosts"), entry("/etc/hostname")]
    mine = [entry("/dev/shm/"), entry("/etc/hosts")]
    assert places(mounts.combine(default, files, mine, False)) == [
        "/proc", "/dev", "/dev/shm/", "/etc/hosts", "/etc/hostname",
    ]  # fmt: skip
    assert places(mounts.combine(default, files, [entry("/dev")], False)) == [
        "/proc", "/dev", "/etc/hosts", "/etc/hostname",
    ]  # fmt: skip


def test_with_a_read_only_root_the_engines_files_are_read_only_too() -> None:
    found = mounts.combine(
        [entry("/proc"), entry("/sys", "rw"), entry("/other")], [entry("/etc/hosts")], [entry("/m")], True
    )
    assert {one["destination"]: one["options"] for one in found} == {
        "/proc": [], "/sys": ["rw"], "/other": ["ro"], "/m": [], "/etc/hosts": ["ro"],
    }  # fmt: skip


def test_the_root_passes_mounts_on_if_one_of_them_does() -> None:
    for binds, expected in (
        ([], {}),
        (["/a:/b"], {}),
        (["/a:/b:slave"], {"rootfsPropagation": "rslave"}),
        (["/a:/b:slave", "/a:/c:rshared"], {"rootfsPropagation": "shared"}),
    ):
        assert mounts.root_propagation(mounts.user_mounts(made(binds), SETTINGS)) == expected


def test_what_inspect_shows() -> None:
    record = made(["v:/n:ro", "/x:/a:rshared"], [{"Type": "tmpfs", "Target": "/t"}])
    record.MountPoints["/anon"] = MountPoint(Type="volume", Name="hex", Destination="/anon", Driver="local")
    shown = {one["Destination"]: one for one in mounts.views(record, SETTINGS)}
    assert shown["/n"] == {
        "Type": "volume", "Name": "v", "Source": "/data/volumes/v/_data", "Destination": "/n", "Driver": "local",
        "Mode": "ro", "RW": False, "Propagation": "",
    }  # fmt: skip
    assert shown["/a"] == {
        "Type": "bind", "Source": "/x", "Destination": "/a", "Mode": "rshared", "RW": True, "Propagation": "rshared",
    }  # fmt: skip
    assert shown["/t"] == {
        "Type": "tmpfs", "Source": "", "Destination": "/t", "Mode": "", "RW": True, "Propagation": "",
    }  # fmt: skip
    listed = {one["Destination"]: one for one in mounts.views(record, None)}
    assert (shown["/anon"]["Source"], listed["/anon"]["Source"]) == ("/data/volumes/hex/_data", "")
