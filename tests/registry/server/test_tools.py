"""The tools that people push and pull with, and those that read the registry's directory without it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import bcrypt
import oras.client  # type: ignore[import-untyped]  # it has no types
import oras.oci  # type: ignore[import-untyped]  # the same
import pytest

from labkit.images.manifests import OCI_MANIFEST
from labkit.registry.hub import carrying, recipes
from labkit.registry.hub.building import Workshop
from labkit.registry.server.documents import digest_of
from tests.registry.server.clients import PATIENCE, Client
from tests.registry.server.processes import Process, certificate, run, running


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image as `docker save` writes it."""
    path = tmp_path_factory.mktemp("archive") / "busybox.tar"
    with Workshop(path.with_name("hub"), (), print) as workshop:
        workshop.make(recipes.find("busybox"))
        carrying.export(workshop.storage, carrying.images(workshop.storage), path)
    return path


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Process]:
    with running(tmp_path / "registry") as found:
        yield found


def skopeo(*words: str | Path) -> str:
    command, *rest = words
    return run("skopeo", "--insecure-policy", command, *rest)


def copy(source: str, target: str, *flags: str) -> None:
    tls = [f"--{side}-tls-verify=false" for side, at in (("src", source), ("dest", target)) if at.startswith("docker:")]
    skopeo("copy", *flags, *tls, source, target)


def test_skopeo(registry: Process, archive: Path, tmp_path: Path) -> None:
    """Push and pull, in both formats, from repository to repository; the bytes of the layers come back."""
    for form in ("oci", "v2s2"):
        copy(f"docker-archive:{archive}", f"docker://{registry.host}/library/bb:{form}", "--format", form)
        copy(f"docker://{registry.host}/library/bb:{form}", f"docker://{registry.host}/other/bb:{form}")
        copy(f"docker://{registry.host}/other/bb:{form}", f"dir:{tmp_path}/{form}")
        manifest = json.loads((tmp_path / form / "manifest.json").read_bytes())
        for blob in (manifest["config"], *manifest["layers"]):
            data = (tmp_path / form / blob["digest"].removeprefix("sha256:")).read_bytes()
            assert digest_of(data) == blob["digest"]
    tags = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{registry.host}/other/bb"))
    assert tags["Tags"] == ["oci", "v2s2"]
    skopeo("delete", "--tls-verify=false", f"docker://{registry.host}/other/bb:oci")
    with Client(registry.port) as client:
        assert client.tags("other/bb") == ["v2s2"]


def test_skopeo_in_chunks_of_an_index(registry: Process, archive: Path, tmp_path: Path) -> None:
    """An index with all that it leads to (`copy --all`), from a layout and back to one."""
    layout = tmp_path / "layout"
    copy(f"docker-archive:{archive}", f"oci:{layout}:one")
    entry = json.loads((layout / "index.json").read_bytes())["manifests"][0]
    platform = {"architecture": "amd64", "os": "linux"}
    document = json.dumps(
        {"schemaVersion": 2, "manifests": [entry | {"platform": platform, "annotations": {}}]}
    ).encode()
    (layout / "blobs/sha256" / digest_of(document).removeprefix("sha256:")).write_bytes(document)
    listed = {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": digest_of(document),
        "size": len(document),
        "annotations": {"org.opencontainers.image.ref.name": "all"},
    }
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [listed]}))
    copy(f"oci:{layout}:all", f"docker://{registry.host}/bb:all", "--all")
    copy(f"docker://{registry.host}/bb:all", f"oci:{tmp_path}/back:all", "--all")
    with Client(registry.port) as client:
        reply = client.send("GET", "/v2/bb/manifests/all")
        assert reply.body == document
        assert client.send("GET", f"/v2/bb/manifests/{entry['digest']}").headers["Content-Type"] == OCI_MANIFEST


def test_the_directory_without_the_registry(registry: Process, archive: Path, tmp_path: Path) -> None:
    """skopeo and umoci read ROOT/NAME as the layout that it is; what skopeo writes there is served at once."""
    copy(f"docker-archive:{archive}", f"docker://{registry.host}/library/bb:v1", "--format", "oci")
    layout = registry.root / "library/bb"
    copy(f"oci:{layout}:v1", f"dir:{tmp_path}/out")
    assert run("umoci", "ls", "--layout", layout).split() == ["v1"]
    run("umoci", "unpack", "--rootless", "--image", f"{layout}:v1", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/bin/sh").exists()
    copy(f"docker-archive:{archive}", f"oci:{layout}:v2")
    with Client(registry.port) as client:
        assert client.tags("library/bb") == ["v1", "v2"]
        copy(f"docker://{registry.host}/library/bb:v2", f"dir:{tmp_path}/v2")
        client.push_image("library/bb", "v3")
        assert client.tags("library/bb") == ["v1", "v2", "v3"]


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory with a short name, as engines want it, on a filesystem that their storage drivers like."""
    with TemporaryDirectory(prefix="lk-", dir="/dev/shm") as found:
        yield Path(found)


@pytest.mark.root
def test_podman(registry: Process, archive: Path, home: Path) -> None:
    """push, to another repository by mount, and pull."""
    (home / "containers.conf").write_text('[engine]\nlock_type = "file"\n')  # not the machine's shared memory
    own = ["--root", f"{home}/root", "--runroot", f"{home}/run", "--tmpdir", f"{home}/tmp", "--storage-driver", "vfs"]
    podman = ["env", f"CONTAINERS_CONF={home}/containers.conf", "podman", *own]
    try:
        loaded = run(*podman, "load", "-q", "-i", archive).rpartition(" ")[2].strip()
        for name in ("pod/bb", "other/bb"):
            run(*podman, "push", "-q", "--tls-verify=false", loaded, f"{registry.host}/{name}:v1")
        run(*podman, "rmi", "-af")
        run(*podman, "pull", "-q", "--tls-verify=false", f"{registry.host}/other/bb:v1")
        assert f"{registry.host}/other/bb" in run(*podman, "images", "--format", "{{.Repository}}")
    finally:
        run(*podman, "system", "reset", "-f")
    inodes = {path.stat().st_ino for path in registry.root.glob("*/bb/blobs/sha256/*") if path.stat().st_size > 100_000}
    assert len(inodes) == 1  # the layer was mounted, or found again


def test_oras(registry: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact of files, in one piece and in chunks; and another that refers to it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "big.bin").write_bytes(bytes(3 << 20))
    client = oras.client.OrasClient(hostname=registry.host, insecure=True, tls_verify=False)
    target = f"{registry.host}/art/notes:v1"
    for name, chunked in (("notes.txt", False), ("big.bin", True)):
        client.push(target=target, files=[f"{name}:text/plain"], do_chunked=chunked, chunk_size=1 << 20)
        pulled = client.pull(target=target, outdir=str(tmp_path / "out"))
        assert [Path(path).read_bytes() for path in pulled] == [(tmp_path / name).read_bytes()]
    assert client.get_tags(target) == ["v1"]
    with Client(registry.port) as plain:
        subject = plain.send("HEAD", "/v2/art/notes/manifests/v1").headers
        about = oras.oci.Subject(
            mediaType=subject["Content-Type"],
            digest=subject["Docker-Content-Digest"],
            size=int(subject["Content-Length"]),
        )
        client.push(target=f"{registry.host}/art/notes:sbom", files=["notes.txt:text/plain"], subject=about)
        found = plain.send("GET", f"/v2/art/notes/referrers/{subject['Docker-Content-Digest']}").json["manifests"]
        assert [one["digest"] for one in found] == [
            plain.send("HEAD", "/v2/art/notes/manifests/sbom").headers["Docker-Content-Digest"]
        ]


def test_passwords_and_tls(archive: Path, tmp_path: Path) -> None:
    """skopeo logs in over TLS with an authority that it was given; without a password it is refused."""
    cert, key = certificate(tmp_path)
    (tmp_path / "authorities").mkdir()
    shutil.copy(cert, tmp_path / "authorities/ca.crt")
    (tmp_path / "htpasswd").write_bytes(b"ann:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)))
    flags = ["--tls-cert", str(cert), "--tls-key", str(key), "--htpasswd", str(tmp_path / "htpasswd")]
    with running(tmp_path / "registry", *flags) as process:
        words = ["copy", f"--dest-cert-dir={tmp_path}/authorities", f"docker-archive:{archive}"]
        skopeo(*words, "--dest-creds=ann:secret", f"docker://{process.host}/bb:v1")
        with pytest.raises(AssertionError, match="authentication required"):
            skopeo(*words, f"docker://{process.host}/bb:v2")
        with pytest.raises(AssertionError, match=r"authentication required|invalid username"):
            skopeo(*words, "--dest-creds=ann:wrong", f"docker://{process.host}/bb:v2")


@pytest.fixture
def dockerd(home: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Debian's dockerd with directories of its own and no network of its own; the environment for its client."""
    flags = ["--data-root", f"{home}/data", "--exec-root", f"{home}/exec", "-H", f"unix://{home}/docker.sock"]
    quiet = ["--pidfile", f"{home}/pid", "--bridge=none", "--iptables=false", "--storage-driver=vfs"]
    process = subprocess.Popen(
        ["dockerd", *flags, *quiet], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    said = ""
    while "API listen on" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    try:
        yield {"DOCKER_HOST": f"unix://{home}/docker.sock", "DOCKER_CONFIG": str(tmp_path), "PATH": os.environ["PATH"]}
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)


@pytest.mark.root
def test_dockerd(registry: Process, archive: Path, dockerd: dict[str, str]) -> None:
    """docker push and pull: by tag and digest, all tags, and from one repository to another."""
    loaded = run("docker", "load", "-q", "-i", archive, **dockerd).rpartition(" ")[2].strip()
    for name in ("library/bb:v1", "library/bb:v2", "other/bb:v1"):
        run("docker", "tag", loaded, f"{registry.host}/{name}", **dockerd)
        said = run("docker", "push", f"{registry.host}/{name}", **dockerd)
    assert "Mounted from library/bb" in said
    digest = said.split("digest: ")[1].split()[0]
    images = run("docker", "images", "-q", "--no-trunc", **dockerd).split()
    run("docker", "rmi", "-f", *set(images), **dockerd)
    run("docker", "pull", "-q", "-a", f"{registry.host}/library/bb", **dockerd)
    run("docker", "pull", "-q", f"{registry.host}/other/bb@{digest}", **dockerd)
    assert set(run("docker", "images", "-q", "--no-trunc", **dockerd).split()) == set(images)
