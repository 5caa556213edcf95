"""Layers made of this machine's programs: complete, reproducible, and they run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from labkit.images.layers import apply_layer
from labkit.images.store import ImageStore
from labkit.registry.hub import carrying, recipes
from labkit.registry.hub.building import Workshop, build
from labkit.registry.hub.busybox import gather
from labkit.registry.hub.layers import keep_layer
from tests.images.tars import listing
from tests.registry.hub.conftest import say


def loaded(store: ImageStore, name: str, work: Path) -> Path:
    """The topmost layer of an image of the hub, after a load into a store."""
    with Workshop(work / "hub", (), say) as workshop:
        workshop.make(recipes.find(name))
        carrying.export(workshop.storage, carrying.images(workshop.storage), work / "archive")
    with open(work / "archive", "rb") as file:
        store.load(file)
    return Path(store.lower_dirs(store.resolve(name))[0])


@pytest.mark.root
def test_busybox_from_debian(tmp_path: Path) -> None:
    programs = gather()
    assert gather().layer() == programs.layer()
    (taken,) = programs.taken
    assert taken.path == "/bin/busybox"
    assert taken.package.startswith("busybox-static ")
    store = ImageStore(tmp_path / "store")
    root = loaded(store, "busybox", tmp_path)
    assert store.resolve("busybox").config.defaults.cmd == ["sh"]
    assert store.resolve("busybox").labels == {}
    applets = subprocess.run([taken.source, "--list"], capture_output=True, text=True, check=True).stdout.split()
    assert set(os.listdir(root / "bin")) == {*applets, "busybox"}
    assert (root / "bin/sh").samefile(root / "bin/busybox")
    assert {line.split(" ")[0]: line.split(" ")[2] for line in listing(root)}["tmp"] == "1777"
    assert chroot(root, "echo $(whoami) && ls /etc") == "root\ngroup\nhostname\nhosts\nnsswitch.conf\npasswd\n"
    store.close()


@pytest.mark.root
def test_from_the_machines_own_programs(tmp_path: Path) -> None:
    """Where busybox is not installed: each program with its loader and libraries, and the report names them all."""
    programs = gather(busybox=())
    assert programs.applets == 0
    layer = keep_layer(programs.layer(), tmp_path / "tar", programs.created)
    root = tmp_path / "root"
    root.mkdir()
    descriptor = os.open(root, os.O_RDONLY)
    apply_layer(iter([layer.tar.read_bytes()]), descriptor)
    os.close(descriptor)
    assert chroot(root, "ls /etc/passwd && cat /etc/hostname && ls --version | head -c 2 && echo a | sed s/a/b/") == (
        "/etc/passwd\nlocalhost\nlsb\n"
    )
    reported = {taken.path for taken in programs.taken}
    assert {"/bin/sh", "/bin/ls"} <= reported
    assert any("libc.so" in path for path in reported)
    assert all(Path(taken.source).is_file() for taken in programs.taken)


def test_images_on_busybox_share_its_layer(tmp_path: Path) -> None:
    made = {one.name: one for one in build(tmp_path / "hub", ["alpine", "busybox", "hello-world"], (), say)}
    layers = {name: one.image.manifest.layers for name, one in made.items()}
    (base,) = layers["busybox:latest"]
    assert layers["alpine:latest"][0] == layers["hello-world:latest"][0] == base
    assert len({len(one) for one in layers.values()}) == 2
    pooled = tmp_path / "hub/.blobs/sha256" / base.digest.removeprefix("sha256:")
    assert pooled.stat().st_nlink == 4  # on disk once: the pool, and three layouts
    again = build(tmp_path / "other", ["alpine"], (), say)  # its base is built without being asked for
    assert again[0].image == made["alpine:latest"].image


def chroot(root: Path, script: str) -> str:
    command = ["chroot", str(root), "/bin/sh", "-c", script]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PATH": "/usr/sbin:/usr/bin:/bin"}
    ).stdout
