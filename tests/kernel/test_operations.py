"""The operations, each on the real kernel in a forked child: what they say is what then holds."""

from __future__ import annotations

import os
import resource
import signal
import socket
import stat
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.errors import KernelError
from labkit.kernel import cgroups, pipes
from labkit.kernel import constants as c
from labkit.kernel.capabilities import DropBounding, KeepCapabilities, SetCapabilities
from labkit.kernel.devices import MakeDevice
from labkit.kernel.links import BringUpLoopback
from labkit.kernel.mounts import BindMount, DetachOldRoot, MakeReadOnly, MaskPath, Mount, PivotRoot, SetPropagation
from labkit.kernel.namespaces import SetDomainname, SetHostname, Unshare
from labkit.kernel.overlay import MountOverlay
from labkit.kernel.process import EnterDirectory, NoNewPrivileges, SetRlimit, SetUser
from labkit.kernel.stdio import ConnectStdio
from labkit.plan import Context, Operation, perform

pytestmark = pytest.mark.root
MOUNTS = (Unshare(c.CLONE_NEWNS), SetPropagation("/", c.MS_PRIVATE | c.MS_REC))


def in_child(operations: tuple[Operation, ...], look: Callable[[], str]) -> str:
    """Run operations in a forked child; what it then sees, or the error that stopped it."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            context = Context()
            for operation in operations:
                operation.run(context)
            os.write(theirs, look().encode())
        except (KernelError, OSError, AssertionError) as error:
            os.write(theirs, f"failed: {error}".encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as said:
        found = said.read().decode()
    os.waitpid(pid, 0)
    return found


def status(field: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split(None, 1)[1] for line in lines if line.startswith(f"{field}:"))


def test_names() -> None:
    operations = (Unshare(c.CLONE_NEWUTS), SetHostname("lab"), SetDomainname("test"))
    assert (
        in_child(operations, lambda: socket.gethostname() + Path("/proc/sys/kernel/domainname").read_text())
        == "labtest\n"
    )
    assert socket.gethostname() != "lab"


def test_loopback() -> None:
    operations = (Unshare(c.CLONE_NEWNET), BringUpLoopback())
    assert in_child(operations, lambda: Path("/sys/class/net/lo/flags").read_text() and ping()) == "hello"


def ping() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        with peer:
            peer.sendall(b"hello")
            return client.recv(10).decode()


def test_a_root_of_layers(tmp_path: Path) -> None:
    for name in ("low/a", "low/b", "up", "work", "root"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "low/a/file").write_text("topmost")
    (tmp_path / "low/b/file").write_text("beneath")
    overlay = MountOverlay(f"{tmp_path}/low", ("a", "b"), f"{tmp_path}/up", f"{tmp_path}/work", f"{tmp_path}/root")
    operations = (
        *MOUNTS,
        overlay,
        PivotRoot(f"{tmp_path}/root"),
        DetachOldRoot(),
        Mount("t", "/x/y", "tmpfs", make=True),
    )

    def look() -> str:
        return f"{Path('/file').read_text()} {sorted(os.listdir('/'))} {Path('/new').write_text('n')}"

    assert in_child(operations, look) == "topmost ['file', 'x'] 1"
    assert (tmp_path / "up/new").read_text() == "n"


def test_masks_and_read_only_paths(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/secret").write_text("s")
    (tmp_path / "file").write_text("s")
    (tmp_path / "kept").mkdir()
    paths = [MaskPath(f"{tmp_path}/{name}") for name in ("dir", "file", "missing")]

    def look() -> str:
        return f"{os.listdir(tmp_path / 'dir')} {(tmp_path / 'file').read_text()!r}"

    operations = (*MOUNTS, *paths, MakeReadOnly(f"{tmp_path}/kept"), MakeReadOnly(f"{tmp_path}/missing"))
    assert in_child(operations, look) == "[] ''"
    read_only = in_child(operations, lambda: str((tmp_path / "kept/x").write_text("x")))
    assert "Read-only file system" in read_only


@pytest.mark.parametrize("instead", [None, "link", "file", "zero"])
def test_in_a_foreign_dev_only_the_null_device_hides(tmp_path: Path, instead: str | None) -> None:
    """What another container can put there may be a way to a file of the kernel: it would be mounted over the path."""
    (tmp_path / "dev").mkdir()
    there = tmp_path / "dev/null"
    if instead == "link":
        there.symlink_to("/proc/sysrq-trigger")
    elif instead == "file":
        there.write_text("")
    else:
        os.mknod(there, stat.S_IFCHR | 0o666, os.makedev(1, 5 if instead else 3))
    (tmp_path / "secret").write_text("s")
    operations = (*MOUNTS, BindMount(f"{tmp_path}/dev", "/dev"), MaskPath(f"{tmp_path}/secret", foreign=True))
    found = in_child(operations, lambda: repr((tmp_path / "secret").read_text()))
    assert found == ("failed: open('/dev/null'): ENODEV: No such device (the container has something else there)"
                     if instead else "''")  # fmt: skip
    if not instead:  # what was looked at is what is mounted, whatever stands there by then
        source = in_child(operations[:-1], lambda: perform(0, operations[-1], Context()).calls[0][1][0])
        assert source.startswith("/proc/self/fd/")
    connected = in_child((*operations[:-1], ConnectStdio(())), lambda: "open")
    assert connected.startswith("failed: open('/dev/null'): " if instead else "open")


def test_no_working_directory_is_outside_of_the_root(tmp_path: Path) -> None:
    def leave() -> str:
        os.chdir(tmp_path)
        os.chroot("/tmp")
        EnterDirectory("/", make=False).run(Context())
        os.chdir("..")
        return os.getcwd()

    def stay_outside() -> str:
        outside = os.open("/", os.O_RDONLY)
        os.chroot(tmp_path)
        os.fchdir(outside)
        EnterDirectory(".", make=False).run(Context())
        return "outside"

    assert in_child((), leave) == "/"
    assert in_child((), stay_outside).startswith("failed: chdir('.'): EXDEV: ")


def test_capabilities_and_users() -> None:
    operations = (
        DropBounding(("CAP_SYS_ADMIN",)),
        KeepCapabilities(True),
        SetUser(1234, 55, (7, 55)),
        KeepCapabilities(False),
        SetCapabilities(("CAP_KILL",), ("CAP_KILL",), ("CAP_KILL",), ("CAP_KILL",)),
        NoNewPrivileges(),
    )

    def look() -> str:
        sets = [int(status(name), 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")]
        bounding = int(status("CapBnd"), 16) >> 21 & 1
        return f"{os.getresuid()} {os.getresgid()} {os.getgroups()} {sets} {bounding} {status('NoNewPrivs')}"

    assert in_child(operations, look) == "(1234, 1234, 1234) (55, 55, 55) [7, 55] [32, 32, 32, 32] 0 1"


def test_a_limit_that_may_not_be_raised_is_clamped() -> None:
    hard = 100
    lower = SetRlimit("RLIMIT_NOFILE", 50, hard)
    drop = SetCapabilities((), (), (), ())
    said = in_child((lower, drop), lambda: str(SetRlimit("RLIMIT_NOFILE", 200, 300).run(Context())))
    assert said == "clamped to 100: raising it needs CAP_SYS_RESOURCE"
    operations = (lower, drop, SetRlimit("RLIMIT_NOFILE", 200, 300))
    assert in_child(operations, lambda: str(resource.getrlimit(resource.RLIMIT_NOFILE))) == "(100, 100)"


def test_devices(tmp_path: Path) -> None:
    MakeDevice(f"{tmp_path}/deep/null", "c", 1, 3, 0o640, 5, 6).run(Context())
    found = os.stat(tmp_path / "deep/null")
    assert stat.filemode(found.st_mode) == "crw-r-----"
    assert (os.major(found.st_rdev), os.minor(found.st_rdev), found.st_uid, found.st_gid) == (1, 3, 5, 6)


def test_a_cgroup_is_removed_with_who_is_in_it() -> None:
    layout = cgroups.read_layout()
    [*directories] = layout.directories(f"lk-test-{uuid.uuid4().hex[:8]}")
    path = next(name for name in directories if "pids" in name or layout.version == 2)
    made = cgroups.CreateCgroup(path)
    made.run(Context())
    ready, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        cgroups.JoinCgroup(f"{path}/{'tasks' if layout.version == 1 else 'cgroup.procs'}").run(Context())
        os.write(theirs, b"x")
        while True:
            signal.pause()
    os.read(ready, 1)
    assert cgroups.cgroup_pids(path) == [pid]
    made.undo(None, Context())
    assert not os.path.exists(path)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    made.undo(None, Context())
    os.close(ready)
    os.close(theirs)


def test_staged_bytes_stay_until_taken_and_marks_are_remembered(tmp_path: Path) -> None:
    source, stage, scratch = pipes.make_pipe(), pipes.make_pipe(), pipes.make_pipe()
    os.write(source[1], b"hello")
    assert pipes.move(source[0], stage[1]) == 5
    assert pipes.copy(stage[0], scratch, 5) == b"hello"
    assert pipes.waiting(stage[0]) == 5
    mark = pipes.Mark.open(str(tmp_path / "mark"))
    assert mark.unfinished() is None
    mark.set(5, 99)
    mark.close()
    again = pipes.Mark.open(str(tmp_path / "mark"))
    assert again.unfinished() == (5, 99)
    again.clear()
    assert again.unfinished() is None
    again.close()
    os.close(source[1])
    assert pipes.move(source[0], stage[1]) == 0
    for fd in (source[0], *stage, *scratch):
        os.close(fd)
