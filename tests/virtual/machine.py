"""A virtual machine with Debian's cloud kernel and labkit on its disk, in software emulation (qemu(1), TCG).

The disk is an ext4 filesystem that `mke2fs -d` fills: busybox, this Python, labkit, what it imports, and the tests.
The first RAM disk (initramfs) holds busybox and the modules that the disk needs.
"""

from __future__ import annotations

import compileall
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from tests.support.daemon import REPOSITORY

KERNEL = REPOSITORY / "build/kernel"
"""Where scripts/fetch-kernel has put kernel and modules."""
DISTRIBUTIONS = ("uvloop", "httptools", "msgspec", "isal", "zstandard", "urllib3")
FIRST = ("virtio_pci", "virtio_blk")
"""Modules that lead to the disk."""
FOLDERS = ("net", "fs/overlayfs", "drivers/net", "drivers/virtio", "drivers/block", "lib", "crypto", "arch")
"""Of the kernel's modules those that the machine may load."""
UNUSED = shutil.ignore_patterns(
    "test", "tests", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "site-packages", "dist-packages",
    "config-*", "pydoc_data", "_test*.so",
)  # fmt: skip

INITRAMFS = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
modprobe -a {first}
mount -t ext4 /dev/vda /disk
mount --move /dev /disk/dev
umount /proc /sys
exec switch_root /disk /sbin/init
"""

INIT = """#!/bin/sh
export PATH=/bin:/sbin HOME=/root PYTHONPATH=/labkit:/site PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
hostname virtual
ip link set lo up
modprobe -a overlay veth bridge br_netfilter nf_tables
cd /labkit
{python} -m {program} >/dev/ttyS1
poweroff -f
"""


def assemble(folder: Path, program: str) -> tuple[Path, Path]:
    """Make a disk that runs a Python module, and the first RAM disk, below `folder`; returns their paths."""
    root = folder / "root"
    _lay_out(root)
    modules = _modules(root)
    _copy_python(root)
    for name in ("labkit", "tests"):
        shutil.copytree(REPOSITORY / name, root / "labkit" / name, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(root / "labkit/labkit", quiet=2, workers=0, stripdir=root, prependdir="/")
    init = root / "sbin/init"
    init.write_text(INIT.format(python=Path(sys.executable).resolve(), program=program))
    init.chmod(0o755)
    disk, start = folder / "disk", folder / "initramfs"
    make = ["mke2fs", "-qF", "-t", "ext4", "-O", "^has_journal", "-d", str(root), str(disk), "700m"]
    subprocess.run(make, check=True, env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"})
    _make_initramfs(folder / "start", modules, start)
    return disk, start


def _lay_out(root: Path) -> None:
    """The directories of a machine, and busybox under its names."""
    for name in ("bin", "sbin", "proc", "sys", "dev", "run", "tmp", "root", "etc", "disk", "var/lib", "lib", "usr/bin"):
        (root / name).mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    shutil.copy2("/bin/busybox", root / "bin/busybox")
    for name in subprocess.run(["busybox", "--list"], capture_output=True, check=True, text=True).stdout.split():
        if name not in ("busybox", "init"):
            (root / "bin" / name).symlink_to("/bin/busybox")
    (root / "sbin/modprobe").symlink_to("/bin/busybox")


def _modules(root: Path) -> Path:
    """Copy the kernel's modules; returns their directory."""
    found = list(KERNEL.glob("lib/modules/*"))
    assert found, f"{KERNEL} has no modules: run scripts/fetch-kernel"
    target = root / "lib/modules" / found[0].name
    for name in FOLDERS:
        shutil.copytree(found[0] / "kernel" / name, target / "kernel" / name, dirs_exist_ok=True)
    for path in found[0].glob("modules.*"):
        shutil.copy2(path, target)
    subprocess.run(["busybox", "depmod", "-b", root, found[0].name], check=True)
    return target


def _copy_python(root: Path) -> None:
    """This interpreter at its own path, its library, what labkit imports, and the shared objects of all of them."""
    python = Path(sys.executable).resolve()
    _copy(python, root)
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(library, root / library.relative_to("/"), ignore=UNUSED, dirs_exist_ok=True)
    site = root / "site"
    for name in DISTRIBUTIONS:
        for file in importlib.metadata.files(name) or ():
            if ".." not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(file.locate()), site / file)
    for needed in _shared_objects([python, *library.rglob("*.so"), *site.rglob("*.so")]):
        _copy(needed, root)


def _copy(path: Path, root: Path) -> None:
    target = root / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, target)


def _shared_objects(programs: Iterable[Path]) -> set[Path]:
    """What the dynamic linker would load for programs (ldd(1))."""
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    return {Path(name) for name in re.findall(r"(/\S+) \(0x", said)}


def _make_initramfs(folder: Path, modules: Path, target: Path) -> None:
    for name in ("bin", "proc", "sys", "dev", "disk", f"lib/modules/{modules.name}"):
        (folder / name).mkdir(parents=True)
    shutil.copy2("/bin/busybox", folder / "bin/busybox")
    for name in ("sh", "mount", "umount", "modprobe", "switch_root"):
        (folder / "bin" / name).symlink_to("busybox")
    for name in ("drivers/virtio", "drivers/block"):
        shutil.copytree(modules / "kernel" / name, folder / "lib/modules" / modules.name / "kernel" / name)
    subprocess.run(["busybox", "depmod", "-b", folder, modules.name], check=True)
    init = folder / "init"
    init.write_text(INITRAMFS.format(first=" ".join(FIRST)))
    init.chmod(0o755)
    names = "\n".join(str(path.relative_to(folder)) for path in folder.rglob("*"))
    with target.open("wb") as file:
        pack = ["busybox", "cpio", "-o", "-H", "newc"]
        subprocess.run(pack, cwd=folder, input=names.encode(), stdout=file, stderr=subprocess.DEVNULL, check=True)


def boot(folder: Path, program: str, timeout: float) -> tuple[str, str]:
    """Run a Python module in a new machine until it powers off; what it said, and what the kernel did.

    A second disk of 16 MiB is there as /dev/vdb.
    """
    disk, start = assemble(folder, program)
    said, console, second = (folder / name for name in ("said", "console", "second"))
    second.write_bytes(bytes(16 << 20))
    kernel = next(KERNEL.glob("boot/vmlinuz-*"))
    command = [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024",
        "-display", "none", "-no-reboot", "-nic", "none", "-monitor", "none",
        "-serial", f"file:{console}", "-serial", f"file:{said}",
        "-drive", f"file={disk},format=raw,if=virtio", "-drive", f"file={second},format=raw,if=virtio",
        "-kernel", str(kernel), "-initrd", str(start),
        "-append", "console=ttyS0 quiet panic=-1 mitigations=off",
    ]  # fmt: skip
    subprocess.run(command, timeout=timeout, check=True, stdin=subprocess.DEVNULL)
    return said.read_text(errors="replace"), console.read_text(errors="replace")
