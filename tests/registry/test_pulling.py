"""Pull and push between a store and registries, honest ones and liars: what comes is what was sent, or nothing."""

from __future__ import annotations

import gzip
import io
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import zstandard

from labkit.errors import InvalidParameter, LabkitError, NotFound, Unavailable
from labkit.images.manifests import (
    DOCKER_INDEX,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Platform,
)
from labkit.images.progress import Progress
from labkit.images.references import Reference, parse
from labkit.images.store import ImageStore
from labkit.registry.pulling import Pulled, pull
from labkit.registry.pushing import push
from labkit.registry.repository import Repository
from labkit.registry.transfers import Transfer
from labkit.registry.uploading import Uploader
from tests.images.tars import config_of, contents, digest, directory, docker_archive, member, pieces, tar
from tests.registry.conftest import Script
from tests.registry.images import Honest, manifest_of
from tests.support.registries import Asked, Registry

pytestmark = pytest.mark.root  # layers carry owners

BASE = tar(directory("etc"), member("etc/name", b"base" * 5000), member("gone", b"x"))
TOP = tar(member("etc/name", b"top!"), member(".wh.gone"))


@dataclass
class Told:
    """What a transfer reported, and what it kept for the trace."""

    transfer: Transfer = field(default_factory=lambda: Transfer("pull", "test"))
    reports: list[Progress] = field(default_factory=list)

    def steps(self, status: str) -> int:
        return sum(report.status == status for report in self.reports)

    def fates(self, role: str = "layer") -> list[str]:
        return [blob.fate for blob in self.transfer.blobs if blob.role == role]

    def requests(self, method: str) -> list[str]:
        return [exchange.url for exchange in self.transfer.exchanges if exchange.method == method]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = ImageStore(tmp_path / "store")
    yield opened
    assert list((tmp_path / "store/tmp").iterdir()) == []
    opened.close()


def pulled(store: ImageStore, reference: Reference, told: Told | None = None, platform: str = "") -> Pulled:
    told = told or Told()
    wanted = Platform(os="linux", architecture=platform) if platform else None
    with Repository(reference, observe=told.transfer.exchanges.append) as repository:
        return pull(store, repository, reference, wanted, told.reports.append, told.transfer)


def pushed(store: ImageStore, reference: Reference, told: Told | None = None) -> Descriptor:
    told = told or Told()
    with Repository(reference, observe=told.transfer.exchanges.append, push=True) as repository:
        return push(store, repository, reference, told.reports.append, told.transfer)


def loaded(store: ImageStore, reference: Reference, layers: Sequence[bytes] = (BASE, TOP)) -> str:
    store.load(io.BytesIO(docker_archive(list(layers), [reference.familiar])))
    return store.resolve(str(reference)).id


def snapshots(root: Path) -> list[dict[str, bytes]]:
    return sorted((contents(path) for path in (root / "store/snapshots").glob("*/fs")), key=str)


@pytest.fixture
def name(registry: Registry, request: pytest.FixtureRequest) -> Reference:
    """A repository of this test's own."""
    return parse(f"{registry.host}/{request.function.__name__}/{uuid.uuid4().hex[:8]}:one")


def test_there_and_back(store: ImageStore, name: Reference, tmp_path: Path) -> None:
    """A pushed image can be pulled into an empty store: same ID, same files; its layers went compressed."""
    identifier = loaded(store, name)
    manifest = pushed(store, name)
    assert [f"{name.familiar_name}@{manifest.digest}"] == store.resolve(identifier).repo_digests
    other = ImageStore(tmp_path / "other/store")
    told = Told()
    assert pulled(other, name, told) == Pulled(identifier, manifest.digest, True)
    assert snapshots(tmp_path) == snapshots(tmp_path / "other")
    image = other.resolve(str(name))
    assert [layer.media_type for layer in image.layers] == [OCI_LAYER + "+gzip"] * 2
    assert told.fates() == ["downloaded"] * 2
    assert told.steps("Pull complete") == told.steps("Download complete") == 2
    assert {"network", "hash and store"} < told.transfer.blobs[-1].times.keys()
    assert not list((tmp_path / "other/store/ingests").iterdir())
    other.close()


def test_again(store: ImageStore, name: Reference) -> None:
    """A second pull asks for the documents only, a second push for what is there."""
    identifier = loaded(store, name)
    manifest = pushed(store, name)
    told = Told()
    assert pulled(store, name, told) == Pulled(identifier, manifest.digest, False)
    assert told.steps("Already exists") == 2
    assert not [url for url in told.requests("GET") if "/blobs/" in url and identifier not in url]
    told = Told()
    assert pushed(store, name, told) == manifest
    assert told.fates() == ["skipped: the registry has it"] * 2
    assert told.requests("POST") == []


def test_mounted_from_another_repository(store: ImageStore, name: Reference) -> None:
    loaded(store, name)
    pushed(store, name)
    copy = parse(f"{name.domain}/copies/{name.path}:two")
    store.tag(store.resolve(str(name)), copy)
    told = Told()
    pushed(store, copy, told)
    assert told.fates() == [f"mounted from {name.path}, where the registry has it"] * 2
    assert told.steps(f"Mounted from {name.path}") == 2


def test_shared_layers_come_once(store: ImageStore, name: Reference, tmp_path: Path) -> None:
    loaded(store, name)
    pushed(store, name)
    second = parse(f"{name.name}:second")
    loaded(store, second, (BASE, tar(member("second"))))
    pushed(store, second)
    other = ImageStore(tmp_path / "other")
    pulled(other, name)
    told = Told()
    pulled(other, second, told)
    assert told.fates() == ["skipped: already here, as part of another image or an earlier pull", "downloaded"]
    other.close()


def put(registry: Registry, name: Reference, blobs: Sequence[bytes], *documents: tuple[str, str, bytes]) -> None:
    """Blobs and manifests (tag or digest, media type, body) put into a registry."""
    with Repository(name, push=True) as repository:
        uploader = Uploader(repository)
        for blob in blobs:
            uploader.upload(Descriptor(OCI_LAYER, digest(blob), len(blob)), lambda at, blob=blob: pieces(blob[at:]))  # type: ignore[misc]  # bound now
        for tag, media_type, body in documents:
            uploader.put_manifest(tag, media_type, body)


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), ("+gzip", gzip.compress), ("+zstd", zstandard.ZstdCompressor().compress)],
)
def test_compressions(store: ImageStore, registry: Registry, name: Reference, suffix: str, pack: object) -> None:
    assert callable(pack)
    blob, config = pack(BASE), config_of([BASE])
    manifest = manifest_of(config, (OCI_LAYER + suffix, blob))
    put(registry, name, [blob, config], (name.tag, OCI_MANIFEST, manifest))
    assert pulled(store, name).identifier == digest(config)
    assert store.resolve(str(name)).manifest.digest == digest(manifest)


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_INDEX])
def test_platforms(store: ImageStore, registry: Registry, name: Reference, kind: str) -> None:
    """An index leads to this machine's manifest or the one that was asked for; its own digest is the image's name."""
    entries, documents, blobs = [], [], [BASE]
    for architecture in ("arm64", "amd64"):
        config = config_of([BASE], architecture=architecture)
        manifest = manifest_of(config, (OCI_LAYER, BASE))
        platform = Platform(os="linux", architecture=architecture)
        entries.append(Descriptor(OCI_MANIFEST, digest(manifest), len(manifest), platform=platform))
        documents.append((digest(manifest), OCI_MANIFEST, manifest))
        blobs.append(config)
    index = msgspec.json.encode(Index(tuple(entries), media_type=kind))
    put(registry, name, blobs, *documents, (name.tag, kind, index))
    for architecture, blob in (("arm64", blobs[1]), ("amd64", blobs[2])):
        found = pulled(store, name, platform=architecture)
        assert (found.identifier, found.digest) == (digest(blob), digest(index))
        assert store.resolve(f"{name.name}@{digest(index)}").id == digest(blob)
    with pytest.raises(NotFound, match="no matching manifest for linux/s390x in the manifest list entries"):
        pulled(store, name, platform="s390x")


def test_an_artifact_is_no_image(store: ImageStore, registry: Registry, name: Reference) -> None:
    blob = b"{}"
    manifest = manifest_of(blob, ("text/plain", blob), config_type="application/vnd.oci.empty.v1+json")
    put(registry, name, [blob], (name.tag, OCI_MANIFEST, manifest))
    with pytest.raises(InvalidParameter, match=r'Encountered remote "application/vnd.oci.empty.v1\+json"'):
        pulled(store, name)
    assert store.list() == []


def test_a_layer_that_is_not_what_the_image_says(store: ImageStore, registry: Registry, name: Reference) -> None:
    """The blob is what the manifest says, and unpacks to another tar than the image was made of."""
    blob, config = gzip.compress(TOP), config_of([BASE])
    put(registry, name, [blob, config], (name.tag, OCI_MANIFEST, manifest_of(config, (OCI_LAYER + "+gzip", blob))))
    with pytest.raises(InvalidParameter, match="invalid diffID for layer"):
        pulled(store, name)
    assert store.list() == []


def test_numbers_of_layers_differ(store: ImageStore, registry: Registry, name: Reference) -> None:
    config = config_of([BASE, TOP])
    put(registry, name, [BASE, config], (name.tag, OCI_MANIFEST, manifest_of(config, (OCI_LAYER, BASE))))
    with pytest.raises(InvalidParameter, match="number of layers and diffIDs don't match"):
        pulled(store, name)


def test_not_there(store: ImageStore, name: Reference) -> None:
    with pytest.raises(NotFound, match=f"manifest for {name.familiar} not found: manifest unknown"):
        pulled(store, name)
    with pytest.raises(NotFound, match=f"An image does not exist locally with the tag: {name.familiar_name}"):
        pushed(store, name)
    loaded(store, parse(f"{name.name}:other"))
    with pytest.raises(NotFound, match=f"tag does not exist: {name.familiar}"):
        pushed(store, name)


class Liar(Honest):
    """A registry with one image, whose layer comes as `lie` answers it until it is `honest`."""

    def __init__(self) -> None:
        super().__init__([BASE], gzip.compress)
        self.layer = self.blobs[0]
        self.honest = False

    def blob(self, asked: Asked, data: bytes) -> None:
        if data == self.layer and not self.honest:
            self.lie(asked)
        else:
            super().blob(asked, data)

    def lie(self, asked: Asked) -> None:
        asked.say(200, self.layer[:-1] + b"?")


def test_a_lie_leaves_nothing_and_the_truth_works_afterwards(store: ImageStore, script: Script, tmp_path: Path) -> None:
    liar = Liar()
    reference = parse(f"{script(liar.answer).host}/app:1")
    with pytest.raises(InvalidParameter, match=r"verification failed|stream is damaged"):  # who sees it first
        pulled(store, reference)
    assert store.list() == []
    assert [list((tmp_path / "store" / name).iterdir()) for name in ("snapshots", "blobs/sha256")] == [[], []]
    liar.honest = True
    assert pulled(store, reference).identifier == digest(liar.config)


def test_a_broken_download_is_resumed_by_the_next_pull(store: ImageStore, script: Script) -> None:
    half = 40

    class Breaking(Liar):
        def lie(self, asked: Asked) -> None:
            if "Range" in asked.headers:
                return asked.say(404)
            asked.say(200, self.layer[:half], Content_Length=str(len(self.layer)))
            return asked.end()

    liar = Breaking()
    server = script(liar.answer)
    reference = parse(f"{server.host}/app:1")
    with pytest.raises(LabkitError):
        pulled(store, reference)
    liar.honest = True
    told = Told()
    pulled(store, reference, told)
    assert told.fates() == [f"resumed at byte {half}"]
    assert server.seen[-1].headers["Range"] == f"bytes={half}-{len(liar.layer) - 1}"


def test_a_cancelled_pull_ends_at_once(store: ImageStore, script: Script) -> None:
    """A registry that sends nothing any more holds nobody up."""
    waiting, go = threading.Event(), threading.Event()

    class Slow(Liar):
        def lie(self, asked: Asked) -> None:
            asked.say(200, self.layer[:10], Content_Length=str(len(self.layer)))
            asked.wfile.flush()
            waiting.set()
            assert go.wait(20)
            asked.end()

    reference = parse(f"{script(Slow().answer).host}/app:1")
    raised: list[BaseException] = []
    with Repository(reference) as repository:

        def work() -> None:
            try:
                pull(store, repository, reference, None, lambda progress: None, Transfer("pull", "app"))
            except Unavailable as error:
                raised.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        assert waiting.wait(20)
        repository.cancelled.cancel()
        thread.join(20)
        go.set()
    assert "context canceled" in str(raised[0])


def test_two_pulls_at_once_download_once(store: ImageStore, script: Script) -> None:
    """Both get their image from one download of the layer."""
    first, second, go = threading.Event(), threading.Event(), threading.Event()

    class Waiting(Liar):
        def answer(self, asked: Asked) -> None:
            super().answer(asked)
            if asked.path.endswith("/manifests/2"):
                second.set()

        def lie(self, asked: Asked) -> None:
            first.set()
            assert go.wait(20)
            asked.say(200, self.layer)

    liar = Waiting()
    server = script(liar.answer)
    references = [parse(f"{server.host}/app:{tag}") for tag in ("1", "2")]
    threads = [threading.Thread(target=pulled, args=(store, reference)) for reference in references]
    threads[0].start()
    assert first.wait(20)
    threads[1].start()
    assert second.wait(20)
    go.set()
    for thread in threads:
        thread.join(20)
    assert [store.resolve(str(reference)).id for reference in references] == [digest(liar.config)] * 2
    assert sum(digest(liar.layer) in path for path in server.paths()) == 1


def test_a_layer_that_is_pulled_is_not_collected(store: ImageStore, name: Reference, script: Script) -> None:
    """The image whose layer a pull counts on is removed meanwhile: the layer stays, since the new image needs it."""
    again = tar(member("again"))
    loaded(store, parse("base:1"), (BASE,))
    blob, config = gzip.compress(again), config_of([BASE, again])
    plain = manifest_of(config, (OCI_LAYER, BASE), (OCI_LAYER + "+gzip", blob))

    def answer(asked: Asked) -> None:
        path = asked.path.rpartition("/")[2]
        if "/manifests/" in asked.path:
            return asked.say(200, plain, Content_Type=OCI_MANIFEST)
        if path == digest(blob):
            store.remove("base:1", False, lambda image: [])
        return asked.say(200, {digest(blob): blob, digest(config): config}[path])

    reference = parse(f"{script(answer).host}/app:1")
    told = Told()
    assert pulled(store, reference, told).identifier == digest(config)
    assert [image.repo_tags for image in store.list()] == [[reference.familiar]]
    assert len(store.lower_dirs(store.resolve(str(reference)))) == 2
    assert told.fates()[0].startswith("skipped")
