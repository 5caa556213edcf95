"""The grammar of mounts: dockerd's answers, word for word (compared with dockerd 20.10 and 28.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import InvalidParameter, NotImplementedByLabkit
from labkit.volumes import grammar
from labkit.volumes.models import Mount, MountPoint, TmpfsOptions

MODES = sorted(word for group in grammar._GROUPS for word in group)


def spec(**fields: Any) -> Mount:
    return msgspec.convert(fields, Mount)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("/anon", ("volume", "", "", "/anon", True, "", True)),
        ("named:/n", ("volume", "named", "", "/n", True, "", True)),
        ("named:/n:nocopy,ro", ("volume", "named", "", "/n", False, "", False)),
        ("/a/../b:/n/:ro,z", ("bind", "", "/b", "/n", False, "rprivate", False)),
        ("/a:/n:rshared", ("bind", "", "/a", "/n", True, "rshared", False)),
        ("/a://n//m/.:cached,Z", ("bind", "", "/a", "/n/m", True, "rprivate", False)),
    ],
)  # fmt: skip
def test_binds(raw: str, expected: tuple[Any, ...]) -> None:
    point = grammar.parse_bind(raw)
    found = (point.Type, point.Name, point.Source, point.Destination, point.RW, point.Propagation, point.CopyData)
    assert found == expected
    assert point.CreateSource == (point.Type == "bind")
    assert point.is_anonymous == (raw == "/anon")
    assert point.Mode == (raw.split(":")[2] if raw.count(":") == 2 else "")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("", "invalid volume specification: ''"),
        (":/a", "invalid volume specification: ':/a'"),
        ("ab:ro", "invalid volume specification: 'ab:ro'"),
        ("ab:", "invalid volume specification: 'ab:'"),
        ("/a:/b:ro:x", "invalid volume specification: '/a:/b:ro:x'"),
        ("ab:/b:rx", "invalid mode: rx"),
        ("ab:/b:ro,rw", "invalid mode: ro,rw"),
        ("ab:/b:slave,rshared", "invalid mode: slave,rshared"),
        ("ab:/b:ro,", "invalid mode: ro,"),
        (
            "/tmp:/",
            "invalid volume specification: '/tmp:/': invalid mount config for type \"bind\": invalid specification: "
            "destination can't be '/'",
        ),
        (
            "ab:b",
            "invalid volume specification: 'ab:b': invalid mount config for type \"volume\": invalid mount path: 'b' "
            "mount path must be absolute",
        ),
        (
            "ab:/b:rshared",
            "invalid volume specification: 'ab:/b:rshared': invalid mount config for type \"volume\": "
            "field BindOptions must not be specified",
        ),
        (
            "/tmp:/b:nocopy",
            "invalid volume specification: '/tmp:/b:nocopy': invalid mount config for type \"bind\": field "
            "VolumeOptions must not be specified",
        ),
    ],
)
def test_binds_that_are_none(raw: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        grammar.parse_bind(raw)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"Type": "bind", "Source": "/x"}, "field Target must not be empty"),
        ({"Type": "foo", "Target": "/x"}, "mount type unknown"),
        ({"Type": "bind", "Target": "/x"}, "field Source must not be empty"),
        ({"Type": "bind", "Target": "/x", "Source": "rel"}, "invalid mount path: 'rel' mount path must be absolute"),
        ({"Type": "bind", "Target": "/x", "Source": "/not/there"}, "bind source path does not exist: /not/there"),
        (
            {"Type": "bind", "Target": "/x", "Source": "/", "BindOptions": {"Propagation": "x"}},
            "invalid propagation mode: x",
        ),
        (
            {"Type": "bind", "Target": "/x", "Source": "/", "VolumeOptions": {}},
            "field VolumeOptions must not be specified",
        ),
        ({"Type": "volume", "Target": "/x", "BindOptions": {}}, "field BindOptions must not be specified"),
        (
            {"Type": "volume", "Target": "/x", "ReadOnly": True},
            "must not set ReadOnly mode when using anonymous volumes",
        ),
        (
            {"Type": "volume", "Target": "/x", "VolumeOptions": {"Subpath": "a"}},
            "must not set Subpath when using anonymous volumes",
        ),
        (
            {"Type": "volume", "Target": "/x", "Source": "v", "VolumeOptions": {"Subpath": "a/../../b"}},
            "subpath must be a relative path within the volume",
        ),
        (
            {"Type": "volume", "Target": "/x", "Source": "v", "VolumeOptions": {"Subpath": "/etc"}},
            "subpath must be a relative path within the volume",
        ),
        ({"Type": "tmpfs", "Target": "/x", "Source": "s"}, "field Source must not be specified"),
        ({"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"Options": [["size", "1"]]}}, "invalid option: size"),
        ({"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"Options": [[]]}}, "invalid option array length"),
    ],
)
def test_mounts_that_are_none(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        grammar.parse_mount(spec(**fields))
    assert str(caught.value) == f'invalid mount config for type "{fields["Type"]}": {reason}'


def test_image_mounts_are_to_come() -> None:
    with pytest.raises(NotImplementedByLabkit, match="yet"):
        grammar.parse_mount(spec(Type="image", Source="x", Target="/x"))


def test_mounts(tmp_path: Path) -> None:
    bind = grammar.parse_mount(spec(Type="bind", Source=str(tmp_path), Target="/x/", ReadOnly=True))
    assert (bind.Source, bind.Destination, bind.RW, bind.Propagation) == (str(tmp_path), "/x", False, "rprivate")
    assert not bind.CreateSource
    missing = spec(Type="bind", Source="/not/there", Target="/x", BindOptions={"CreateMountpoint": True})
    assert grammar.parse_mount(missing).CreateSource
    options = {"NoCopy": True, "DriverConfig": {"Name": "d"}}
    volume = grammar.parse_mount(spec(Type="volume", Source="v", Target="/x", VolumeOptions=options))
    assert (volume.Name, volume.Driver, volume.CopyData, volume.Mode) == ("v", "d", False, "")
    assert grammar.parse_bind("v:/x", "d").Driver == "d"
    assert grammar.parse_bind("/v:/x", "d").Driver == ""


@pytest.mark.parametrize(
    ("text", "expected"), [("web", ("web", True)), ("web:ro", ("web", False)), ("web:rw,z", ("web", True))]
)
def test_volumes_from(text: str, expected: tuple[str, bool]) -> None:
    assert grammar.parse_volumes_from(text) == expected


@pytest.mark.parametrize("mode", ["x", "nocopy", "rshared", "ro,rw"])
def test_modes_that_other_containers_volumes_can_not_have(mode: str) -> None:
    with pytest.raises(InvalidParameter, match=f"invalid mode: {mode}"):
        grammar.parse_volumes_from(f"web:{mode}")


def test_volumes_from_nobody() -> None:
    with pytest.raises(InvalidParameter, match="volumes-from specification cannot be an empty string"):
        grammar.parse_volumes_from("")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["noexec", "nosuid", "nodev", "rprivate"]),
        (["size=1m", "mode=1700", "exec"], ["nosuid", "nodev", "rprivate", "size=1m", "mode=1700", "exec"]),
        (["size=1m", "size=2m"], ["noexec", "nosuid", "nodev", "rprivate", "size=2m"]),
        (["rw", "ro", "rslave"], ["noexec", "nosuid", "nodev", "ro", "rslave"]),
    ],
)  # fmt: skip
def test_options_of_a_tmpfs(words: list[str], expected: list[str]) -> None:
    assert grammar.tmpfs_options(words) == expected


@pytest.mark.parametrize(
    ("word", "shown"), [("foo=bar", '["foo" "bar"]'), ("foo", '["foo"]'), ("exec=1", '["exec" "1"]')]
)
def test_options_that_a_tmpfs_has_not(word: str, shown: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        grammar.tmpfs_options([word])
    assert str(caught.value) == f"invalid tmpfs option {shown}"
    with pytest.raises(InvalidParameter, match="invalid tmpfs option"):
        grammar.points_of([], [], {"/x": word}, "")


@pytest.mark.parametrize(
    ("size", "word"), [(1 << 30, "size=1g"), (3 << 20, "size=3m"), (5 << 10, "size=5k"), (1000, "size=1000")]
)
def test_sizes_of_a_tmpfs(size: int, word: str) -> None:
    assert grammar.tmpfs_words(TmpfsOptions(SizeBytes=size, Mode=0o1770), True) == ["ro", "mode=1770", word]


def test_one_place_is_for_one_mount() -> None:
    tmpfs = spec(Type="tmpfs", Target="/b/")
    doubled: tuple[tuple[list[str], list[Mount], dict[str, str]], ...] = (
        (["/a:/b", "v:/b/"], [], {}),
        (["/a:/b"], [], {"/b": ""}),
        (["/a:/b"], [tmpfs], {}),
        ([], [tmpfs, tmpfs], {}),
    )
    for binds, asked, memory in doubled:
        with pytest.raises(InvalidParameter, match="Duplicate mount point: /b"):
            grammar.points_of(binds, asked, memory, "")
    points = grammar.points_of(["/a:/b", "v:/c"], [spec(Type="tmpfs", Target="/d")], {"/e": ""}, "")
    assert list(points) == ["/b", "/c", "/d"]


@pytest.mark.parametrize("target", ["x", "/", "/..", "//."])
def test_places_of_a_tmpfs_that_are_none(target: str) -> None:
    with pytest.raises(InvalidParameter):
        grammar.points_of([], [], {target: ""}, "")


@given(st.lists(st.sampled_from(MODES), max_size=4))
def test_a_mode_has_one_word_of_each_group(words: list[str]) -> None:
    doubled = any(sum(word in group for word in words) > 1 for group in grammar._GROUPS)
    assert grammar.is_mode(",".join(words)) == (not doubled)


@given(st.text(alphabet="/:.abroxyz,~\0", max_size=24))
def test_any_bind_is_a_mount_point_or_an_error_that_clients_know(raw: str) -> None:
    """Whatever is said of a mount, it is never at the root, and its place is clean."""
    try:
        point = grammar.parse_bind(raw)
    except InvalidParameter:
        return
    assert isinstance(point, MountPoint)
    assert point.Destination.startswith("/")
    assert point.Destination != "/"
    assert ".." not in point.Destination.split("/")
    assert point.Type == ("bind" if raw.startswith("/") and raw.count(":") else "volume")


@given(st.lists(st.sampled_from(["ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "size=1", "mode=7"])))
def test_of_words_that_contradict_each_other_the_last_counts(words: list[str]) -> None:
    found = grammar.tmpfs_options(words)
    for yes, no in (("exec", "noexec"), ("suid", "nosuid"), ("dev", "nodev"), ("ro", "rw")):
        last = next((word for word in reversed(words) if word in (yes, no)), "" if yes == "ro" else no)
        assert [word for word in found if word in (yes, no)] == ([last] if last else [])
