"""The bundle is a standard one: runc and crun start the same container from it."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.kernel.cgroups import read_layout, remove_cgroup
from tests.support.daemon import Daemon

pytestmark = pytest.mark.root
SCRIPT = """
id -u; hostname; pwd; echo $A; grep -E 'CapBnd|Seccomp:|NoNewPrivs' /proc/self/status
ls -A /; ls /dev | grep -vx core; ls /sys/firmware
"""  # /dev/core is optional (config-linux.md, Default Devices)
FLAGS = ("-u", "bob", "-h", "box", "-w", "/tmp", "-e", "A=1", "--cap-drop", "CHOWN", "-m", "64m")


@pytest.fixture
def bundle(daemon: Daemon, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A bundle that labkit wrote, with its root mounted as labkit mounts it; and the container's own output."""
    daemon.docker("run", "-d", "--network", "none", "--name", "model", *FLAGS, "busybox", "sleep", "1000")
    found = daemon.inspect("model")
    config = json.loads((daemon.run / "bundles" / found["Id"] / "config.json").read_text())
    output = daemon.out("exec", "-e", "A=1", "model", "sh", "-c", SCRIPT)
    root = tmp_path / "rootfs"
    for name in ("rootfs", "upper", "work"):
        (tmp_path / name).mkdir()
    layers = found["GraphDriver"]["Data"]["LowerDir"]
    options = f"lowerdir={layers},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", root], check=True)
    (tmp_path / "config.json").write_text(json.dumps(changed(config, str(root))))
    yield tmp_path, output
    subprocess.run(["umount", root], check=True)
    assert daemon.inspect("model")["State"]["Running"] is True


def changed(config: dict[str, Any], root: str) -> dict[str, Any]:
    """The same container elsewhere: another root and cgroup, and the script as its program."""
    config["root"]["path"] = root
    config["process"]["args"] = ["sh", "-c", SCRIPT]
    config["linux"]["cgroupsPath"] = f"/lk-test-{uuid.uuid4().hex[:8]}/other"
    return config


def remove_cgroups(config: Path) -> None:
    path = json.loads(config.read_text())["linux"]["cgroupsPath"].rsplit("/", 1)[0]
    layout = read_layout()
    for directory in {*layout.directories(path), *([f"{layout.unified}{path}"] if layout.unified else [])}:
        remove_cgroup(directory)  # runc makes one in a hybrid layout's v2 tree too


def test_runc_runs_the_bundle(bundle: tuple[Path, str], tmp_path: Path) -> None:
    folder, expected = bundle
    command = ["runc", "--root", str(tmp_path / "state"), "run", "--bundle", str(folder), f"lk-{uuid.uuid4().hex[:8]}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    remove_cgroups(folder / "config.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip("\n") == expected


def test_crun_runs_the_bundle(bundle: tuple[Path, str], tmp_path: Path) -> None:
    """crun refuses a hybrid cgroup layout, so its v2 side is hidden from it."""
    folder, expected = bundle
    layout = read_layout()
    hide = f"umount {layout.unified} && " if layout.version == 1 and layout.unified else ""
    run = f"{hide}exec crun --root {tmp_path}/state run --bundle {folder} lk-{uuid.uuid4().hex[:8]}"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", run]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    remove_cgroups(folder / "config.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip("\n") == expected
