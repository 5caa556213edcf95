"""A container's root as a descriptor: what is seen through it, and that nobody else sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.errors import KernelError
from labkit.kernel.roots import ROOT, Bind, MountRoot, TakeRoot
from labkit.kernel.syscalls import pidfd_open
from labkit.plan import Context, Execution, Plan, Step

pytestmark = pytest.mark.root
OPTIONS = "redirect_dir=off,metacopy=off"


class Layers:
    """Two image layers, a container's own, and something of the host to bind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("one", "two", "layer/diff", "layer/work", "volume"):
            (path / name).mkdir(parents=True)
        (path / "one/image").write_text("upper image")
        (path / "two/image").write_text("lower image")
        (path / "layer/diff/own").write_text("own")
        (path / "volume/kept").write_text("kept")
        self.descriptor = -1

    def root(self, writable: bool, *binds: Bind) -> MountRoot:
        layer = str(self.path / "layer")
        return MountRoot(
            str(self.path), ("one", "two"), f"{layer}/diff", f"{layer}/work", layer, OPTIONS, binds, writable
        )

    def open(self, writable: bool, *binds: Bind) -> Path:
        """A path to the root, which is held by a descriptor."""
        context = Context()
        self.root(writable, *binds).run(context)
        self.descriptor = context.descriptors[ROOT]
        assert mounts(self.path) == []
        return Path(f"/proc/self/fd/{self.descriptor}")


def mounts(path: Path) -> list[str]:
    """The mounts in sight at or of what is below a path; others come and go beside this test."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{path}/" in line]


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Layers]:
    made = Layers(tmp_path)
    yield made
    if made.descriptor >= 0:
        os.close(made.descriptor)
    assert mounts(tmp_path) == []
    assert sorted(os.listdir(tmp_path / "layer")) == ["diff", "work"]


def test_layers_are_seen_as_one(layers: Layers) -> None:
    root = layers.open(False)
    assert sorted(os.listdir(root / ".")) == ["image", "own"]
    assert (root / "image").read_text() == "upper image"
    with pytest.raises(OSError, match="Read-only"):
        (root / "new").write_text("")


def test_what_is_written_lands_in_the_layer(layers: Layers) -> None:
    root = layers.open(True)
    (root / "new").write_text("new")
    (root / "image").unlink()
    assert (layers.path / "layer/diff/new").read_text() == "new"
    assert sorted(os.listdir(root / ".")) == ["new", "own"]
    assert (layers.path / "one/image").exists()


@pytest.mark.parametrize("writable", [False, True])
def test_binds_are_attached_and_their_places_made(layers: Layers, writable: bool) -> None:
    volume, file = str(layers.path / "volume"), str(layers.path / "two/image")
    root = layers.open(writable, ("/srv/data", volume, True), ("/etc/name", file, False), ("/own", file, True))
    assert (root / "srv/data/kept").read_text() == "kept"
    assert (root / "etc/name").read_text() == (root / "own").read_text() == "lower image"
    with pytest.raises(OSError, match="Read-only"):
        (root / "srv/data/new").write_text("")
    assert (layers.path / "layer/diff/srv/data").is_dir()
    assert (layers.path / "layer/diff/etc/name").is_file()


@pytest.mark.parametrize("writable", [False, True])
def test_a_bind_inside_another_one(layers: Layers, writable: bool) -> None:
    volume = str(layers.path / "volume")
    root = layers.open(writable, ("/srv", volume, False), ("/srv/inner", str(layers.path / "one"), True))
    assert (root / "srv/inner/image").read_text() == "upper image"
    assert os.listdir(layers.path / "layer/diff/srv") == []
    assert sorted(os.listdir(volume)) == ["inner", "kept"]


def test_a_bind_of_what_a_descriptor_stands_for(layers: Layers) -> None:
    held = os.open(layers.path / "volume", os.O_PATH)
    root = layers.open(True, ("/part", f"/proc/self/fd/{held}", False))
    os.close(held)
    assert (root / "part/kept").read_text() == "kept"


def test_a_link_can_not_lead_a_bind_out(layers: Layers, tmp_path: Path) -> None:
    (layers.path / "layer/diff/link").symlink_to(tmp_path)
    with pytest.raises(KernelError, match=r"mkdir.*EEXIST"):
        layers.open(True, ("/link/volume", str(layers.path / "volume"), False))
    assert os.listdir(tmp_path / "volume") == ["kept"]
    assert not layers.path.joinpath("link").exists()


def test_a_source_that_is_gone(layers: Layers) -> None:
    with pytest.raises(KernelError, match=r"none.*ENOENT"):
        layers.open(True, ("/x", str(layers.path / "none"), False))


def test_a_failure_leaves_nothing(layers: Layers) -> None:
    before = len(os.listdir("/proc/self/fd"))
    broken = MountRoot(str(layers.path), ("none",), str(layers.path / "layer/diff"), "/none", "/tmp", OPTIONS)
    execution = Execution(Plan("copy", (Step("daemon", broken),)).by("daemon"))
    with pytest.raises(KernelError, match="mount"):
        execution.run_or_undo()
    assert len(os.listdir("/proc/self/fd")) == before


def test_undo_lets_go(layers: Layers) -> None:
    before = len(os.listdir("/proc/self/fd"))
    execution = Execution(Plan("copy", (Step("daemon", layers.root(True)),)).by("daemon"))
    execution.run()
    assert [call[0] for call in execution.records[0].calls][:2] == ["unshare", "mount"]
    execution.undo()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_mounts_of_a_process(tmp_path: Path) -> None:
    """They stay as they were taken: the process unmounts its own, and ends."""
    script = (
        "mount -t tmpfs none $0 && echo kept > $0/file && echo ready && read go && umount $0 && echo gone && read go"
    )
    command = ["unshare", "-m", "sh", "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        pidfd = pidfd_open(process.pid)
        context = Context({"target": pidfd})
        TakeRoot(process.pid).run(context)
        os.close(pidfd)
        root = Path(f"/proc/self/fd/{context.descriptors[ROOT]}")
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"gone\n"
        process.kill()
    assert (root / str(tmp_path)[1:] / "file").read_text() == "kept\n"
    os.close(context.descriptors[ROOT])
    assert os.listdir(tmp_path) == []
    assert os.path.samefile("/proc/self/ns/mnt", f"/proc/{os.getpid()}/ns/mnt")


def test_it_goes_with_the_process_that_holds_it(layers: Layers) -> None:
    """No mount table has it, also while it is held; the layer can be used again after a SIGKILL."""
    code = f"""
import os, sys
from labkit.kernel.roots import MountRoot
from labkit.plan import Context
{layers.root(True, ("/srv", str(layers.path / "volume"), False))!r}.run(Context())
print("held", flush=True); sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        assert mounts(layers.path) == []
        process.kill()
    root = layers.open(True)
    (root / "after").write_text("")
    assert (layers.path / "layer/diff/after").exists()
