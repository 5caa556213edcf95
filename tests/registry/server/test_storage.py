"""The storage without HTTP: links, damage, other tools' files, what is swept, and many threads at once."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from labkit.errors import Conflict, LabkitError
from labkit.images.manifests import OCI_MANIFEST
from labkit.registry.server.documents import digest_of, read_document
from labkit.registry.server.refusals import Refused
from labkit.registry.server.storage import Repository, Storage
from labkit.registry.server.sweeping import sweep
from tests.registry.server.clients import described, index, manifest

DAY = 25 * 3600


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    found = Storage(tmp_path / "registry")
    yield found
    found.close()


def put_blob(repository: Repository, storage: Storage, data: bytes) -> str:
    file = storage.workspace / "blob"
    file.write_bytes(data)
    repository.adopt(file, digest_of(data))
    assert not file.exists()
    return digest_of(data)


def put_image(storage: Storage, name: str, reference: str, layer: bytes) -> str:
    repository = storage.make(name)
    for data in (b"{}", layer):
        put_blob(repository, storage, data)
    document = json.dumps(manifest(layer)).encode()
    return repository.put_manifest(reference or digest_of(document), read_document(document), document)


def test_one_keeper(storage: Storage) -> None:
    with pytest.raises(Conflict, match="in use by another process"):
        Storage(storage.root)


def test_layout_is_complete(storage: Storage) -> None:
    """What image-spec `image-layout.md` asks for; manifests without a tag are entries without a name."""
    first, second = put_image(storage, "a/b", "v1", b"1"), put_image(storage, "a/b", "", b"2")
    root = storage.root / "a/b"
    assert json.loads((root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    entries = json.loads((root / "index.json").read_bytes())["manifests"]
    assert [(entry["digest"], entry.get("annotations")) for entry in entries] == [
        (first, {"org.opencontainers.image.ref.name": "v1"}),
        (second, None),
    ]
    for file in (root / "blobs/sha256").iterdir():
        assert digest_of(file.read_bytes()) == f"sha256:{file.name}"


@pytest.mark.parametrize("link", ["a", "a/b", "a/b/blobs", "a/b/blobs/sha256", "a/b/index.json"])
def test_links_are_not_followed(storage: Storage, tmp_path: Path, link: str) -> None:
    """A symbolic link in the tree, wherever: nothing is read or written behind it."""
    outside = tmp_path / "outside"
    for directory in ("b/blobs/sha256", "blobs/sha256", "sha256"):
        (outside / directory).mkdir(parents=True)
    digest = put_image(storage, "a/b", "v1", b"layer")
    path = storage.root / link
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    before = sorted((file, file.stat().st_mtime_ns) for file in (tmp_path / "moved", *(tmp_path / "moved").rglob("*")))
    with pytest.raises(LabkitError):
        storage.find("a/b").manifest("v1")
    with pytest.raises(LabkitError):
        put_image(storage, "a/b", "v2", b"other")
    with suppress(LabkitError):  # where its entry isn't behind the link, that may go
        storage.find("a/b").remove_manifest(digest)
    after = sorted((file, file.stat().st_mtime_ns) for file in (tmp_path / "moved", *(tmp_path / "moved").rglob("*")))
    assert after == before


def test_file_that_is_a_link_or_a_pipe(storage: Storage, tmp_path: Path) -> None:
    repository = storage.make("a")
    (tmp_path / "secret").write_bytes(b"secret")
    for digest, make in (
        (digest_of(b"1"), lambda path: path.symlink_to(tmp_path / "secret")),
        (digest_of(b"2"), os.mkfifo),
        (digest_of(b"3"), os.mkdir),
    ):
        make(storage.root / "a/blobs/sha256" / digest.removeprefix("sha256:"))
        assert repository.size(digest) is None
        with pytest.raises(Refused) as refused:
            repository.open_blob(digest)
        assert refused.value.code == "BLOB_UNKNOWN"


def test_index_that_another_tool_wrote(storage: Storage) -> None:
    """A change on the disk is seen at the next request; what an index leads to needs no entry of its own."""
    digest = put_image(storage, "a", "v1", b"layer")
    child = storage.find("a").manifest("v1").data
    listed = json.dumps(index(described(OCI_MANIFEST, child))).encode()
    put_blob(storage.find("a"), storage, listed)
    entry = described("application/vnd.oci.image.index.v1+json", listed)
    entry["annotations"] = {"org.opencontainers.image.ref.name": "all"}
    (storage.root / "a/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    assert list(storage.find("a").listing().tags) == ["all"]
    assert storage.find("a").manifest("all").data == listed
    assert storage.find("a").manifest(digest).media_type == OCI_MANIFEST


def test_damage_is_told(storage: Storage) -> None:
    digest = put_image(storage, "a", "v1", b"layer")
    file = storage.root / "a/blobs/sha256" / digest.removeprefix("sha256:")
    good = file.read_bytes()
    file.write_bytes(good.replace(b"2", b"3", 1))
    with pytest.raises(LabkitError, match="is damaged: push it again"):
        storage.find("a").manifest("v1")
    assert put_image(storage, "a", "v1", b"layer") == digest
    assert storage.find("a").manifest("v1").data == good
    (storage.root / "a/index.json").write_text("{")
    with pytest.raises(LabkitError, match="is damaged: manifest invalid"):
        storage.find("a").manifest("v1")


@pytest.mark.parametrize("content", [b"{", None])
def test_damage_can_be_deleted(storage: Storage, content: bytes | None) -> None:
    """A manifest whose content is damaged or gone."""
    digest = put_image(storage, "a", "v1", b"layer")
    file = storage.root / "a/blobs/sha256" / digest.removeprefix("sha256:")
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    storage.find("a").remove_manifest(digest)
    assert storage.find("a").listing().tags == {}
    assert not file.exists()


def test_repository_that_was_removed_by_hand(storage: Storage) -> None:
    """rm -r of its directory while the registry runs: it is gone, and can be pushed again."""
    put_image(storage, "a", "v1", b"layer")
    shutil.rmtree(storage.root / "a")
    with pytest.raises(Refused) as refused:
        storage.find("a")
    assert refused.value.code == "NAME_UNKNOWN"
    put_image(storage, "a", "v2", b"layer")
    assert list(storage.find("a").listing().tags) == ["v2"]


def test_pushes_at_once(storage: Storage) -> None:
    """Threads that push tags, to the same new repository too, lose none of them."""
    failures: list[BaseException] = []

    def push(number: int) -> None:
        try:
            for name in ("shared", f"own{number}"):
                repository = storage.make(name)
                file = storage.workspace / f"file{number}-{name}"
                file.write_bytes(b"{}")
                repository.adopt(file, digest_of(b"{}"))
                document = json.dumps(manifest(number=number)).encode()
                repository.put_manifest(f"v{number}", read_document(document), document)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=push, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert set(storage.find("shared").listing().tags) == {f"v{number}" for number in range(16)}
    assert len({path.stat().st_ino for path in storage.root.rglob(digest_of(b"{}").removeprefix("sha256:"))}) == 1


def test_sweep(storage: Storage) -> None:
    """After a day, blobs that nothing leads to go; what an index leads to stays, and young blobs do."""
    child = put_image(storage, "a", "", b"layer")
    document = json.dumps(index(described(OCI_MANIFEST, storage.find("a").manifest(child).data))).encode()
    storage.find("a").put_manifest("all", read_document(document), document)
    storage.find("a").remove_tag("all")
    dropped = put_image(storage, "a", "v1", b"dropped layer")
    storage.find("a").remove_manifest(dropped)
    assert sweep(storage) == 0
    assert sweep(storage, time.time() + DAY) == len(b"dropped layer")
    names = {path.name for path in (storage.root / "a/blobs/sha256").iterdir()}
    data = (b"{}", b"layer", storage.find("a").manifest(child).data, document)
    assert names == {digest_of(one).removeprefix("sha256:") for one in data}
    assert not (storage.pool / "sha256" / digest_of(b"dropped layer").removeprefix("sha256:")).exists()


def test_sweep_of_what_cannot_be_read(storage: Storage) -> None:
    """A manifest that is damaged may need any blob: nothing of its repository is removed; others are swept."""
    digest = put_image(storage, "a", "v1", b"layer")
    (storage.root / "a/blobs/sha256" / digest.removeprefix("sha256:")).write_bytes(b"{")
    put_blob(storage.find("a"), storage, b"unreferenced")
    put_blob(storage.make("b"), storage, b"loose")
    assert sweep(storage, time.time() + DAY) == len(b"loose")
    assert storage.find("a").size(digest_of(b"unreferenced")) is not None


def test_sweep_of_the_pool(storage: Storage) -> None:
    """A repository that was removed with rm gives its space back."""
    digest = put_blob(storage.make("a"), storage, b"content")
    (storage.root / "a/blobs/sha256" / digest.removeprefix("sha256:")).unlink()
    assert sweep(storage) == len(b"content")
    assert not list(storage.root.rglob(digest.removeprefix("sha256:")))
