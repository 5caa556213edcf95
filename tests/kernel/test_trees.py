"""Trees of the host in a container: where they are attached, what passes through them, who can lead them astray."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.errors import KernelError
from labkit.kernel import constants as c
from labkit.kernel import mountinfo, syscalls
from labkit.kernel.mounts import AttachTree, DetachOldRoot, Mount, OpenTree, PivotRoot, SetPropagation, make_mount_point
from labkit.plan import Context, Operation
from tests.kernel.test_operations import MOUNTS, in_child

pytestmark = pytest.mark.root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory that is to be the root of a mount namespace, with a source beside it."""
    for name in ("root/proc", "root/etc", "source/inner"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "source/file").write_text("of the host")
    return tmp_path / "root"


def inside(root: Path, *operations: Operation, before: tuple[Operation, ...] = ()) -> tuple[Operation, ...]:
    """The operations, with a new root around them."""
    held = [operation for operation in operations if isinstance(operation, OpenTree)]
    rest = [operation for operation in operations if not isinstance(operation, OpenTree)]
    own = (Mount(str(root), str(root), "none", c.MS_BIND), Mount("proc", f"{root}/proc", "proc"))
    return (*MOUNTS, *before, *own, *held, PivotRoot(str(root)), DetachOldRoot(), *rest)


def bind(source: Path, target: str, directory: bool = True, **how: int) -> tuple[Operation, ...]:
    tree = OpenTree(str(source), target=target)
    return tree, AttachTree(str(source), target, directory, **how)


def test_missing_mount_points_are_made(root: Path) -> None:
    source = root.parent / "source"
    operations = inside(root, *bind(source, "/a/b"), *bind(source / "file", "/c/d", False))
    assert in_child(operations, lambda: Path("/a/b/file").read_text() + Path("/c/d").read_text()) == "of the host" * 2
    assert (root / "a/b").is_dir()
    assert (root / "c/d").read_text() == ""


@pytest.mark.parametrize("link", ["../../../../new/place", "/new/place", "/etc/../new/place"])
def test_links_stay_within_the_root(root: Path, link: str) -> None:
    """Also one that leads to nothing yet: what is missing is made where it leads to."""
    (root / "link").symlink_to(link)
    operations = inside(root, *bind(root.parent / "source", "/link/deep"))
    assert in_child(operations, lambda: Path("/new/place/deep/file").read_text()) == "of the host"
    assert (root / "new/place/deep").is_dir()
    assert not (root.parent / "new").exists()
    assert not Path("/new").exists()


@pytest.mark.parametrize("link", ["/proc/1/root/tmp", "/proc/self/cwd", "/proc/self/fd/0"])
def test_links_of_proc_lead_nowhere(root: Path, link: str) -> None:
    (root / "link").symlink_to(link)
    operations = inside(root, *bind(root.parent / "source", "/link/labkit-astray"))
    assert in_child(operations, lambda: "attached").startswith("failed: error mounting")
    assert not Path("/tmp/labkit-astray").exists()


def test_a_loop_of_links_is_an_error(root: Path) -> None:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    assert "ELOOP" in in_child(inside(root, *bind(root.parent / "source", "/one/x")), lambda: "attached")


@pytest.mark.parametrize(
    ("target", "reason"), [("/proc", "not of type proc"), ("/proc/sys", "inside /proc"), ("/seen", "inside /proc")]
)
def test_nothing_covers_what_the_kernel_tells(root: Path, target: str, reason: str) -> None:
    (root / "seen").symlink_to("proc")
    found = in_child(inside(root, *bind(root.parent / "source", target)), lambda: "attached")
    assert reason in found
    assert f'error mounting "{root.parent}/source" to rootfs at "{target}"' in found


def test_a_file_of_the_whole_machine_may_be_replaced(root: Path) -> None:
    operations = inside(root, *bind(root.parent / "source/file", "/proc/uptime", False))
    assert in_child(operations, lambda: Path("/proc/uptime").read_text()) == "of the host"


@pytest.mark.parametrize(("source", "target"), [("source", "/file"), ("source/file", "/etc")])
def test_a_directory_is_no_place_for_a_file(root: Path, source: str, target: str) -> None:
    (root / "file").write_text("")
    found = in_child(inside(root, *bind(root.parent / source, target)), lambda: "attached")
    assert "ENOTDIR" in found


def tries() -> str:
    """Which of the two mounts can be written to."""
    found = []
    for path in ("/a/x", "/a/inner/x"):
        try:
            Path(path).write_text("x")
            found.append("written")
        except OSError as error:
            found.append(errno.errorcode[error.errno or 0])
    return " ".join(found)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, "written written"),
        ({"flags": c.MS_RDONLY}, "EROFS written"),
        ({"everywhere": c.MS_RDONLY}, "EROFS EROFS"),
    ],
)
def test_how_far_read_only_goes(root: Path, how: dict[str, int], expected: str) -> None:
    source = root.parent / "source"
    inner = Mount("tmpfs", str(source / "inner"), "tmpfs")
    assert in_child(inside(root, *bind(source, "/a", True, **how), before=(inner,)), tries) == expected


def test_older_kernels_set_flags_after(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before Linux 5.12; with them read-only holds for the outermost mount."""

    def missing(*_: object) -> None:
        raise KernelError("mount_setattr", errno.ENOSYS)

    monkeypatch.setattr(syscalls, "mount_setattr", missing)
    source = root.parent / "source"
    inner = Mount("tmpfs", str(source / "inner"), "tmpfs")
    private = c.MS_PRIVATE | c.MS_REC
    operations = inside(root, *bind(source, "/a", everywhere=c.MS_RDONLY, propagation=private), before=(inner,))
    assert in_child(operations, tries) == "EROFS written"


def test_what_the_source_forbids_stays_forbidden(root: Path) -> None:
    source = root.parent / "source"
    strict = Mount("tmpfs", str(source), "tmpfs", c.MS_NOSUID | c.MS_NODEV)

    def look() -> str:
        flags = os.statvfs("/a").f_flag
        return f"{bool(flags & os.ST_NOSUID)} {bool(flags & os.ST_NODEV)} {bool(flags & os.ST_RDONLY)}"

    assert in_child(inside(root, *bind(source, "/a", flags=c.MS_RDONLY), before=(strict,)), look) == "True True True"


def own_mount(path: str) -> str:
    found = mountinfo.mount_of(path, mountinfo.read())
    assert found
    return f"{'shared ' if found.is_shared else ''}{'slave' if found.is_slave else ''}".strip() or "private"


@pytest.mark.parametrize(
    ("propagation", "expected"),
    [
        (0, "shared"),
        (c.MS_PRIVATE | c.MS_REC, "private"),
        (c.MS_SLAVE | c.MS_REC, "slave"),
        (c.MS_SHARED | c.MS_REC, "shared"),
    ],
)
def test_propagation(root: Path, propagation: int, expected: str) -> None:
    source = root.parent / "source"
    shared = (Mount("tmpfs", str(source), "tmpfs"), SetPropagation(str(source), c.MS_SHARED))
    peer = bind(source, "/peer")  # what the host keeps: a slave needs a master
    operations = inside(root, *peer, *bind(source, "/a", propagation=propagation), before=shared)
    assert in_child(operations, lambda: own_mount("/a")) == expected


def test_one_source_at_two_places(root: Path) -> None:
    source = root.parent / "source"
    operations = inside(root, *bind(source, "/a", flags=c.MS_RDONLY), *bind(source, "/b"))
    assert in_child(operations, lambda: str([os.statvfs(path).f_flag & 1 for path in ("/a", "/b")])) == "[1, 0]"


@pytest.fixture
def context() -> Iterator[Context]:
    found = Context()
    yield found
    for fd in found.descriptors.values():
        os.close(fd)


@pytest.mark.parametrize("part", ["out", "out/etc", "inner/../../root", "up/x"])
def test_a_part_of_a_volume_is_in_it(root: Path, context: Context, part: str) -> None:
    """A container writes the links that lie in a volume."""
    source = root.parent / "source"
    (source / "out").symlink_to("/")
    (source / "up").symlink_to("../..")
    with pytest.raises(KernelError, match="EXDEV"):
        OpenTree(f"{source}/{part}", base=str(source)).run(context)
    assert context.descriptors == {}


def test_a_part_of_a_volume_through_a_link_that_stays(root: Path, context: Context) -> None:
    source = root.parent / "source"
    (source / "link").symlink_to("inner")
    operation = OpenTree(f"{source}/link", base=str(source))
    operation.run(context)
    (tree,) = context.descriptors.values()
    assert os.path.samestat(os.fstat(tree), (source / "inner").stat())
    operation.undo(None, context)
    assert context.descriptors == {}


def test_a_tmpfs_takes_the_mode_of_what_it_covers(root: Path) -> None:
    (root / "open").mkdir()
    (root / "open").chmod(0o1777)
    (root / "closed").mkdir(mode=0o750)
    mounts = (
        Mount("tmpfs", "/open", "tmpfs", make=True),
        Mount("tmpfs", "/closed", "tmpfs", data="size=1m", make=True),
        Mount("tmpfs", "/asked", "tmpfs", data="mode=711", make=True),
    )
    found = in_child(inside(root, *mounts), lambda: str([os.stat(mount.target).st_mode & 0o7777 for mount in mounts]))
    assert found == str([0o1777, 0o750, 0o711])


def test_mount_points_where_none_can_be() -> None:
    with pytest.raises(KernelError, match="ENOTDIR"):
        make_mount_point("/etc/passwd/x", True)
    with pytest.raises(KernelError, match="ENOENT"):
        make_mount_point("/not/there/..", True)


def test_mountinfo() -> None:
    line = r"36 35 98:0 /mnt1 /mnt\0402\134 rw,noatime master:1 shared:7 - ext3 /dev/root rw"
    assert mountinfo.parse(line) == mountinfo.MountInfo("/mnt 2\\", ("master:1", "shared:7"))
    table = [mountinfo.MountInfo(target, ()) for target in ("/", "/proc", "/a", "/a/b")]
    over = [*table, mountinfo.MountInfo("/a", ("shared:1",))]
    for path, expected in (("/a/b/c", "/a/b"), ("/ab", "/"), ("/a", "/a")):
        found = mountinfo.mount_of(path, table)
        assert found
        assert found.target == expected
    topmost = mountinfo.mount_of("/a/x", over)
    assert topmost
    assert topmost.is_shared
    assert mountinfo.mount_of("/x", []) is None
    assert any(one.target == "/proc" for one in mountinfo.read())
