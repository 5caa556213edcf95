"""Other people's tools on labkit's store and archives, and labkit on theirs: skopeo, umoci."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.images.references import parse
from labkit.images.store import ImageStore
from tests.images.stores import assert_whole
from tests.images.tars import contents, directory, listing, member, symlink, tar

pytestmark = pytest.mark.root

ROOT = tar(directory("bin"), member("bin/tool", b"#!" * 9000, mode=0o4755), symlink("sbin", "bin"), directory("tmp"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = ImageStore(tmp_path / "store")
    opened.import_(io.BytesIO(ROOT), parse("tools/base:1"), ["CMD /bin/tool", "LABEL who=labkit"])
    yield opened
    opened.close()
    assert_whole(tmp_path / "store")


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_skopeo_reads_the_store(store: ImageStore, tmp_path: Path) -> None:
    image = store.resolve("tools/base:1")
    found = json.loads(run("skopeo", "inspect", "--raw", f"oci:{tmp_path}/store:tools/base:1"))
    assert found["config"]["digest"] == image.id
    config = json.loads(run("skopeo", "inspect", "--config", f"oci:{tmp_path}/store:tools/base:1"))
    assert config["config"]["Labels"] == {"who": "labkit"}


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_skopeo_reads_what_is_saved_and_labkit_what_skopeo_writes(store: ImageStore, tmp_path: Path, form: str) -> None:
    (tmp_path / "saved.tar").write_bytes(b"".join(store.save(["tools/base:1"])))
    source = f"docker-archive:{tmp_path}/saved.tar:tools/base:1"
    target = f"{form}:{tmp_path}/copy.tar:docker.io/tools/copy:2"
    run("skopeo", "--insecure-policy", "copy", "-q", source, target)
    other = ImageStore(tmp_path / "other")
    with open(tmp_path / "copy.tar", "rb") as archive:
        assert other.load(archive) == ["tools/copy:2"]
    image = other.resolve("tools/copy:2")
    original = store.resolve("tools/base:1")
    assert image.config.rootfs == original.config.rootfs
    assert listing(Path(other.lower_dirs(image)[0])) == listing(Path(store.lower_dirs(original)[0]))
    other.close()
    assert_whole(tmp_path / "other")


def test_an_image_that_skopeo_copied_into_the_store(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "saved.tar").write_bytes(b"".join(store.save(["tools/base:1"])))
    other = ImageStore(tmp_path / "other")
    other.close()
    source = f"docker-archive:{tmp_path}/saved.tar:tools/base:1"
    run("skopeo", "--insecure-policy", "copy", "-q", source, f"oci:{tmp_path}/other:copied:7")
    again = ImageStore(tmp_path / "other")
    image = again.resolve("copied:7")
    assert image.layers[0].media_type == "application/vnd.oci.image.layer.v1.tar+gzip"
    assert contents(Path(again.lower_dirs(image)[0])) == {"bin/tool": b"#!" * 9000}
    again.close()


def test_umoci_unpacks_the_same_files(store: ImageStore, tmp_path: Path) -> None:
    """umoci doesn't take slashes in names, so it gets an image with a plain one."""
    store.tag(store.resolve("tools/base:1"), parse("plain:1"))
    (tmp_path / "saved.tar").write_bytes(b"".join(store.save(["plain:1"])))
    run("skopeo", "--insecure-policy", "copy", "-q", f"oci:{tmp_path}/store:plain:1", f"oci:{tmp_path}/layout:plain")
    run("umoci", "unpack", "--image", f"{tmp_path}/layout:plain", tmp_path / "bundle")
    lower = Path(store.lower_dirs(store.resolve("plain:1"))[0])
    assert listing(tmp_path / "bundle/rootfs") == listing(lower)


def test_labkit_loads_what_umoci_made(store: ImageStore, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:made")
    (tmp_path / "files").mkdir()
    (tmp_path / "files/hello").write_text("from umoci")
    run("umoci", "insert", "--image", f"{layout}:made", tmp_path / "files", "/srv")
    archive = subprocess.run(["tar", "-C", layout, "-c", "."], capture_output=True, check=True).stdout
    assert store.load(io.BytesIO(archive)) == ["made:latest"]
    image = store.resolve("made")
    assert contents(Path(store.lower_dirs(image)[0])) == {"srv/hello": b"from umoci"}
