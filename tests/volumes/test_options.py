"""The local driver's names and options, in dockerd's words."""

from __future__ import annotations

import pytest

from labkit.errors import InvalidParameter, NotFound
from labkit.kernel import constants as c
from labkit.kernel.mounts import MakeReadOnly, Mount, SetPropagation
from labkit.volumes.models import Volume
from labkit.volumes.options import LONGEST, check_driver, check_name, check_options, mount_of


@pytest.mark.parametrize("name", ["ab", "a" * LONGEST, "0.-_", "A1"])
def test_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", ".a", "-a", "a/b", "../x", "a b", "ä" * 3, "ab\n", "a" * (LONGEST + 1)])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InvalidParameter, match=r"includes invalid characters for a local volume name|too long"):
        check_name(name)


def test_a_name_is_two_characters_at_least() -> None:
    with pytest.raises(InvalidParameter, match="volume name is too short, names should be at least two alphanumeric"):
        check_name("a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bad": "1"}, 'invalid option: "bad"'),
        ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"device": "x"}, 'missing required option: "type"'),
        ({"o": "x"}, 'missing required option: "device"'),
        ({"size": "1g"}, "quota size requested but no quota support"),
    ],
)
def test_options_that_are_none(options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        check_options(options)


def test_options() -> None:
    check_options({})
    check_options({"type": "tmpfs", "device": "tmpfs", "o": "size=1m"})
    assert not Volume(Name="v", CreatedAt="", Options={}).mounts
    assert Volume(Name="v", CreatedAt="", Options={"type": "none", "device": "/d"}).mounts


def test_drivers() -> None:
    check_driver("")
    check_driver("local")
    with pytest.raises(NotFound, match='error looking up volume plugin nfs: plugin "nfs" not found'):
        check_driver("nfs")


def test_what_is_mounted() -> None:
    tmpfs = mount_of({"type": "tmpfs", "device": "none", "o": "size=1m,noexec,defaults,mode=700"}, "/v")
    assert tmpfs == [Mount("none", "/v", "tmpfs", c.MS_NOEXEC, "size=1m,mode=700")]
    bind = mount_of({"type": "none", "device": "/d", "o": "bind,ro,rslave"}, "/v")
    assert bind == [
        Mount("/d", "/v", "none", c.MS_BIND | c.MS_RDONLY),
        MakeReadOnly("/v", mounted=True),
        SetPropagation("/v", c.MS_SLAVE | c.MS_REC),
    ]
    assert mount_of({"type": "ext4", "device": "/dev/x"}, "/v") == [Mount("/dev/x", "/v", "ext4")]
    assert mount_of({"type": "ext4", "device": "/dev/x", "o": "ro,rw"}, "/v") == [Mount("/dev/x", "/v", "ext4")]
