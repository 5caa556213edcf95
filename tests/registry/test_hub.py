"""Images made from this machine's programs: complete, reproducible, and they run."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest

from labkit.errors import NotFound
from labkit.images.store import ImageStore
from labkit.registry import hub
from tests.images.tars import listing


def test_no_recipe() -> None:
    with pytest.raises(NotFound, match="no recipe for 'nginx'; it has: busybox"):
        hub.build("nginx")


@pytest.mark.root
def test_busybox_from_debian(tmp_path: Path) -> None:
    built = hub.build("busybox")
    assert hub.build("busybox").archive == built.archive
    (taken,) = built.taken
    assert taken.path == "/bin/busybox"
    assert taken.package.startswith("busybox-static ")
    store = ImageStore(tmp_path / "store")
    assert store.load(io.BytesIO(built.archive)) == ["busybox:latest"]
    image = store.resolve("busybox")
    assert image.config.defaults.cmd == ["sh"]
    root = Path(store.lower_dirs(image)[0])
    applets = subprocess.run([taken.source, "--list"], capture_output=True, text=True, check=True).stdout.split()
    assert set(os.listdir(root / "bin")) == {*applets, "busybox"}
    assert (root / "bin/sh").samefile(root / "bin/busybox")
    assert {line.split(" ")[0]: line.split(" ")[2] for line in listing(root)}["tmp"] == "1777"
    assert chroot(root, "echo $(whoami) && ls /etc") == "root\ngroup\nhostname\nhosts\nnsswitch.conf\npasswd\n"
    store.close()


@pytest.mark.root
def test_from_the_machines_own_programs(tmp_path: Path) -> None:
    """Where busybox is not installed: each program with its loader and libraries, and the report names them all."""
    built = hub.build("busybox", busybox=())
    assert built.applets == 0
    store = ImageStore(tmp_path / "store")
    store.load(io.BytesIO(built.archive))
    root = Path(store.lower_dirs(store.resolve("busybox"))[0])
    assert chroot(root, "ls /etc/passwd && cat /etc/hostname && ls --version | head -c 2 && echo a | sed s/a/b/") == (
        "/etc/passwd\nlocalhost\nlsb\n"
    )
    reported = {taken.path for taken in built.taken}
    assert {"/bin/sh", "/bin/ls"} <= reported
    assert any("libc.so" in path for path in reported)
    assert all(Path(taken.source).is_file() for taken in built.taken)
    store.close()


def chroot(root: Path, script: str) -> str:
    command = ["chroot", str(root), "/bin/sh", "-c", script]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PATH": "/usr/sbin:/usr/bin:/bin"}
    ).stdout
