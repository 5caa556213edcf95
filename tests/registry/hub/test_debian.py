"""Images of Debian packages, built for real, twice."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from labkit.errors import InvalidParameter, Unavailable
from labkit.registry.hub import debian
from labkit.registry.hub.building import Made, build
from labkit.registry.hub.images import seconds
from tests.registry.hub.conftest import say

Twice = tuple[tuple[Path, list[Made]], ...]


def names(root: Path, made: Made, layer: int = -1) -> dict[str, tarfile.TarInfo]:
    """The members of a layer."""
    digest = made.image.manifest.layers[layer].digest.removeprefix("sha256:")
    with tarfile.open(root / ".blobs/sha256" / digest, "r:gz") as archive:
        return {member.name: member for member in archive}


@pytest.mark.root
@pytest.mark.timeout(300)
def test_equal_packages_give_equal_bytes(twice: Twice) -> None:
    (_, first), (_, second) = twice
    assert [one.image for one in first] == [one.image for one in second]


@pytest.mark.root
def test_an_application_is_a_layer_on_debian(twice: Twice) -> None:
    root, (_, base, nginx) = twice[0]
    assert nginx.image.manifest.layers[:-1] == base.image.manifest.layers
    own, below = nginx.image.manifest.layers[-1], base.image.manifest.layers[-1]
    assert own.size < below.size / 3
    assert any(package.startswith("nginx-common ") for package in nginx.packages)
    assert not any(package.startswith("bash ") for package in nginx.packages)
    assert any(package.startswith("bash ") for package in base.packages)
    members = names(root, nginx)
    assert members["var/log/nginx/access.log"].linkname == "/dev/stdout"
    assert members["docker-entrypoint.sh"].mode == 0o755
    assert "etc/nginx/sites-enabled/default" not in members
    assert "etc/apt/sources.list" not in members
    assert "etc/apt/sources.list" in names(root, base)
    assert nginx.tags[0] == "latest"
    assert len(nginx.tags) == 4


@pytest.mark.root
def test_nothing_of_the_build_is_left(twice: Twice) -> None:
    root, (_, base, nginx) = twice[0]
    for made in (base, nginx):
        members = names(root, made)
        for name, member in members.items():
            assert not member.isdev(), name
            assert member.mtime <= seconds(made.image.config.created), name
            top = name.split("/")[0]
            assert top not in ("dev", "proc", "sys", "run", "tmp") or name == top, name
            logged = name.startswith("var/log/") and member.isfile()
            assert not logged, name
        for name in ("etc/resolv.conf", "etc/hostname", "var/cache/ldconfig/aux-cache", "var/lib/dpkg/status-old"):
            assert name not in members
        assert debian.PACKAGES in members
    assert sorted(path.name for path in root.iterdir()) == [".blobs", ".uploads", "library"]
    assert os.listdir(root / ".uploads") == ["lock"]


def test_what_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(Unavailable, match="apt-get install mmdebstrap"):
        build(tmp_path / "hub", ["debian"], (), say)
    assert not (tmp_path / "hub/library").exists()


@pytest.mark.root
def test_a_mirror_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"debian: the Debian mirror can't be reached \(--mirror URL"):
        build(tmp_path / "hub", ["nginx"], ["http://127.0.0.1:1/debian"], say)
    assert os.listdir(tmp_path / "hub/.uploads") == ["lock"]
    assert not (tmp_path / "hub/library").exists()


@pytest.mark.parametrize("mirror", ["http://me:secret@host/debian", "ftp://host/debian", "host", "http://a b/"])
def test_bad_mirrors(mirror: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="invalid mirror"):
        build(tmp_path / "hub", ["debian"], [mirror], say)
    assert not (tmp_path / "hub").exists()


def test_sources() -> None:
    assert debian.sources(["http://mirror/debian", "deb http://x y main"]) == (
        "deb http://mirror/debian bookworm main",
        "deb http://x y main",
    )
    assert [line.split()[2] for line in debian.sources(())] == ["bookworm", "bookworm-updates", "bookworm-security"]
