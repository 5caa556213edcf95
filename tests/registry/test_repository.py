"""Reading a repository: of Debian's docker-registry, through mirrors, and what lists say."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import msgspec
import pytest

from labkit.errors import LabkitError, NotFound, Unavailable
from labkit.images.manifests import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    decode_manifest,
)
from labkit.images.references import Reference, parse
from labkit.images.streams import digest_of
from labkit.registry.cancelling import Cancelled
from labkit.registry.endpoints import Settings
from labkit.registry.repository import Repository
from labkit.registry.session import RateLimit, rate_limit
from labkit.registry.transport import Patience
from labkit.registry.uploading import Uploader
from tests.registry.conftest import Script
from tests.registry.lies import BLOB, MANIFEST, MISSING, QUICK, lying, ranged, reading, serving_blob
from tests.registry.pushing import described, push_small, put_blob
from tests.support.registries import Asked, Registry

# Against docker-registry


@pytest.fixture
def pushed(registry: Registry) -> tuple[Reference, bytes]:
    reference = parse(f"{registry.host}/reading/app:1")
    return reference, push_small(reference)


def test_a_manifest_by_tag_and_by_digest(pushed: tuple[Reference, bytes]) -> None:
    reference, body = pushed
    expected = Descriptor(OCI_MANIFEST, digest_of(body), len(body))
    with Repository(reference) as repository:
        by_tag = repository.manifest("1")
        assert (by_tag.descriptor, by_tag.body) == (expected, body)
        assert repository.manifest(digest_of(body)) == by_tag
        assert repository.describe("1") == repository.describe(digest_of(body)) == expected
        assert repository.endpoint == f"http://{reference.domain}"


def test_what_is_not_there_in_dockers_words(pushed: tuple[Reference, bytes]) -> None:
    reference, _ = pushed
    name = f"{reference.domain}/reading/app"
    with Repository(reference) as repository:
        assert repository.describe("2") is None
        for wanted, shown in (("2", f"{name}:2"), (MISSING, f"{name}@{MISSING}")):
            with pytest.raises(NotFound) as raised:
                repository.manifest(wanted)
            assert str(raised.value) == f"manifest for {shown} not found: manifest unknown: manifest unknown"
    with Repository(parse(f"{reference.domain}/no/such")) as repository, pytest.raises(NotFound) as raised:
        repository.tags()
    said = "not found: name unknown: repository name not known to registry"
    assert str(raised.value) == f"repository {reference.domain}/no/such {said}"


def test_blobs_and_documents(pushed: tuple[Reference, bytes]) -> None:
    reference, body = pushed
    manifest = decode_manifest(body)
    (layer,) = manifest.layers
    with Repository(reference) as repository:
        assert repository.document(manifest.config).startswith(b'{"rootfs"')
        assert b"".join(repository.blob(layer)) == b"layer"
        assert b"".join(repository.blob(layer, 2)) == b"yer"
        assert b"".join(repository.blob(layer, 5)) == b""
        assert repository.has(layer.digest)
        assert not repository.has(MISSING)
        with pytest.raises(NotFound, match="blob unknown"):
            list(repository.blob(Descriptor("", MISSING, 7)))


def test_a_layer_by_skopeo_comes_in_pieces(registry: Registry, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    (tmp_path / "files").mkdir()
    (tmp_path / "files/random").write_bytes(BLOB)
    copy = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:a"]
    commands: tuple[list[str | Path], ...] = (
        ["umoci", "init", "--layout", layout],
        ["umoci", "new", "--image", f"{layout}:a"],
        ["umoci", "insert", "--rootless", "--image", f"{layout}:a", tmp_path / "files", "/data"],
        [*copy, f"docker://{registry.host}/skopeo/app:1"],
    )
    for command in commands:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    with Repository(parse(f"{registry.host}/skopeo/app")) as repository:
        (layer,) = decode_manifest(repository.manifest("1").body).layers
        pieces = list(repository.blob(layer))
    assert digest_of(b"".join(pieces)) == layer.digest
    assert all(len(piece) == 1 << 18 for piece in pieces[:-1])


def test_all_tags(registry: Registry) -> None:
    reference = parse(f"{registry.host}/paged/app:0")
    body = push_small(reference)
    with Repository(reference, push=True) as repository:
        for number in range(1, 5):
            Uploader(repository).put_manifest(str(number), OCI_MANIFEST, body)
        assert sorted(repository.tags()) == ["0", "1", "2", "3", "4"]


def test_an_index_and_a_docker_manifest(registry: Registry) -> None:
    reference = parse(f"{registry.host}/kinds/app:1")
    oci = push_small(reference)
    docker = json.dumps({**json.loads(oci), "mediaType": DOCKER_MANIFEST}).encode()
    index = msgspec.json.encode(Index((Descriptor(OCI_MANIFEST, digest_of(oci), len(oci)),)))
    listed = index.replace(OCI_INDEX.encode(), DOCKER_INDEX.encode())
    with Repository(reference, push=True) as repository:
        uploader = Uploader(repository)
        for media_type, body in ((DOCKER_MANIFEST, docker), (OCI_INDEX, index), (DOCKER_INDEX, listed)):
            assert uploader.put_manifest("kind", media_type, body) == digest_of(body)
            found = repository.manifest("kind")
            assert (found.descriptor.media_type, found.body) == (media_type, body)


def test_the_rate_limit_is_kept(script: Script) -> None:
    server = script(
        lambda asked: lying(
            asked,
            MANIFEST,
            RateLimit_Limit="100;w=21600",
            RateLimit_Remaining="76;w=21600",
            Docker_RateLimit_Source="1.2.3.4",
        )
    )
    with reading(server.host) as repository:
        repository.manifest("1")
        assert repository.rate_limit == RateLimit(100, 76, 21600, "1.2.3.4")
    assert rate_limit({"RateLimit-Limit": "many", "RateLimit-Remaining": "1"}) is None


def test_a_list_of_tags_without_end(script: Script) -> None:
    again = script(lambda asked: asked.say(200, b'{"tags": ["a"]}', Link='</v2/team/app/tags/list?n=1000>; rel="next"'))
    with reading(again.host) as repository, pytest.raises(LabkitError, match="has no end"):
        repository.tags()


def test_tags_by_link(script: Script) -> None:
    def answer(asked: Asked) -> None:
        if "last" in asked.path:
            return asked.say(200, b'{"tags": ["c"]}')
        return asked.say(200, b'{"tags": ["a", "b"]}', Link='<list?last=b&n=2>; rel="next"')

    server = script(answer)
    with reading(server.host) as repository:
        assert repository.tags() == ["a", "b", "c"]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"tags": [1]}', b'{"tags": {}}'])
def test_tags_that_are_none(script: Script, body: bytes) -> None:
    server = script(lambda asked: asked.say(200, body))
    with reading(server.host) as repository, pytest.raises(LabkitError, match="can't be read"):
        repository.tags()


def test_no_tags_at_all(script: Script) -> None:
    server = script(lambda asked: asked.say(200, b'{"name": "team/app", "tags": null}'))
    with reading(server.host) as repository:
        assert repository.tags() == []


REFERRERS = (
    Descriptor(OCI_MANIFEST, "sha256:" + "b" * 64, 1, artifact_type="application/x.sbom"),
    Descriptor(OCI_MANIFEST, "sha256:" + "c" * 64, 2, artifact_type="application/x.sig"),
)


def test_referrers_of_a_registry_of_1_1(script: Script) -> None:
    server = script(lambda asked: asked.say(200, msgspec.json.encode(Index(REFERRERS)), Content_Type=OCI_INDEX))
    with reading(server.host) as repository:
        assert repository.referrers(MISSING) == REFERRERS
        assert repository.referrers(MISSING, "application/x.sig") == REFERRERS[1:], "filtered, if it wasn't"
    assert server.seen[-1].query == {"artifactType": ["application/x.sig"]}


def test_referrers_by_the_fallback_tag(registry: Registry) -> None:
    reference = parse(f"{registry.host}/referred/app:1")
    subject = push_small(reference)
    with Repository(reference, push=True) as repository:
        assert repository.referrers(digest_of(subject)) == ()
        uploader = Uploader(repository)
        empty = put_blob(uploader, b"{}")
        about = {"mediaType": OCI_MANIFEST, "digest": digest_of(subject), "size": len(subject)}
        for kind in ("sbom", "sig", "sbom"):
            artifact = {
                "schemaVersion": 2, "mediaType": OCI_MANIFEST, "subject": about,
                "artifactType": f"application/x.{kind}",
                "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty.digest, "size": 2},
                "layers": [], "annotations": {"by": kind},
            }  # fmt: skip
            body = json.dumps(artifact).encode()
            uploader.put_manifest(digest_of(body), OCI_MANIFEST, body)
        found = repository.referrers(digest_of(subject))
        assert [(entry.artifact_type, entry.annotations) for entry in found] == [
            ("application/x.sbom", {"by": "sbom"}),
            ("application/x.sig", {"by": "sig"}),
        ]
        assert repository.referrers(digest_of(subject), "application/x.sig") == found[1:]


# Mirrors and addresses


HUB = parse("team/app")


def hub(*mirrors: str) -> Settings:
    return Settings(mirrors=mirrors, certs=())


def test_a_mirror_answers_for_docker_io(script: Script) -> None:
    server = script(lambda asked: lying(asked, MANIFEST))
    with Repository(HUB, hub(server.url), patience=QUICK) as repository:
        assert repository.manifest("1").body == MANIFEST
        assert repository.endpoint == server.url
    assert server.seen[0].path == "/v2/team/app/manifests/1"


@pytest.mark.parametrize("status", [404, 401, 403, 429, 500])
def test_a_mirror_that_fails_gives_way(script: Script, status: int) -> None:
    bad = script(lambda asked: asked.say(status, WWW_Authenticate="Basic realm=x"))
    good = script(lambda asked: lying(asked, MANIFEST))
    with Repository(HUB, hub(bad.url, good.url), patience=QUICK) as repository:
        assert repository.manifest("1").body == MANIFEST
        assert repository.manifest("1").body == MANIFEST
    assert len({seen.path for seen in good.seen}) == 1
    asked_again = len(bad.seen) == 2
    assert asked_again == (status == 404), "what lacks one thing may have the next"


def test_a_mirror_that_is_away_gives_way(script: Script) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        away = f"http://127.0.0.1:{listener.getsockname()[1]}"
    good = script(lambda asked: lying(asked, MANIFEST))
    with Repository(HUB, hub(away, good.url), patience=QUICK) as repository:
        assert repository.manifest("1").body == MANIFEST
        assert repository.endpoint == good.url


def test_a_mirror_that_breaks_in_the_middle_gives_way(script: Script) -> None:
    bad = script(serving_blob(lambda asked, number: ranged(asked, 10)))
    good = script(serving_blob(lambda asked, number: ranged(asked)))
    with Repository(HUB, hub(bad.url, good.url), patience=QUICK) as repository:
        assert b"".join(repository.blob(described(BLOB))) == BLOB
    assert int(good.seen[0].headers["Range"].removeprefix("bytes=").partition("-")[0]) > 0


def test_a_registry_that_is_away_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
    with reading(host, Patience()) as repository, pytest.raises(Unavailable) as raised:
        repository.manifest("1")
    assert str(raised.value) == f'Get "http://{host}/v2/": dial tcp {host}: connect: connection refused'


def test_cancelled_in_the_middle_of_a_blob(script: Script) -> None:
    server = script(serving_blob(lambda asked, number: ranged(asked)))
    cancelled = Cancelled()
    with reading(server.host, cancelled=cancelled) as repository:
        pieces = repository.blob(described(BLOB))
        next(pieces)
        cancelled.cancel()
        with pytest.raises(Unavailable, match=r"^context canceled$"):
            list(pieces)
