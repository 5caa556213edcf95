"""Registries that lie: a clear error, nothing believed, and no loop."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from labkit.errors import InvalidParameter, LabkitError, NotFound, Unauthorized, Unavailable
from labkit.images.manifests import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
)
from labkit.images.streams import digest_of
from labkit.registry.credentials import Credentials
from labkit.registry.documents import ACCEPT
from labkit.registry.exchange import Exchange
from labkit.registry.transport import Broken
from tests.registry.conftest import Script
from tests.registry.lies import BLOB, MANIFEST, MISSING, QUICK, lying, ranged, reading, serving_blob
from tests.registry.pushing import described
from tests.support.registries import Asked, Registry


def test_a_manifest_with_another_digest(script: Script) -> None:
    server = script(lambda asked: lying(asked, MANIFEST))
    with reading(server.host) as repository, pytest.raises(LabkitError) as raised:
        repository.manifest(MISSING)
    said = f"manifest verification failed for digest {MISSING}: the content has {digest_of(MANIFEST)}"
    assert str(raised.value) == said
    with reading(server.host) as repository, pytest.raises(LabkitError, match="manifest verification failed"):
        repository.describe(MISSING)


def test_a_digest_header_that_lies(script: Script) -> None:
    server = script(lambda asked: lying(asked, MANIFEST, Docker_Content_Digest=MISSING))
    with reading(server.host) as repository, pytest.raises(LabkitError, match="manifest verification failed"):
        repository.manifest("1")


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"<html>", OCI_MANIFEST, "invalid manifest of"),
        (b"[]", OCI_MANIFEST, "invalid manifest of"),
        (b'{"config": {}, "layers": [], "manifests": []}', OCI_MANIFEST, "it is an index and an image at once"),
        (b'{"manifests": []}', OCI_MANIFEST, "it isn't what its media type"),
        (b'{"config": {}, "layers": []}', OCI_INDEX, "it isn't what its media type"),
        (MANIFEST, "text/html", "unsupported manifest media type|mediaType in manifest should be"),
        (MANIFEST, DOCKER_MANIFEST, f"mediaType in manifest should be '{DOCKER_MANIFEST}' not '{OCI_MANIFEST}'"),
        (b'{"layers": [], "config": {}}', "text/html", "unsupported manifest media type of .*: text/html"),
        (b'{"schemaVersion": 1}', "application/json", "schema 1 support has been removed"),
        (b"{}", "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1 support has been removed"),
    ],
)
def test_a_manifest_of_the_wrong_type(script: Script, body: bytes, content_type: str, message: str) -> None:
    server = script(lambda asked: lying(asked, body, Content_Type=content_type))
    with reading(server.host) as repository, pytest.raises(InvalidParameter, match=message.replace("+", r"\+")):
        repository.manifest("1")


@pytest.mark.parametrize("content_type", ["", "application/json; charset=utf-8", f"{OCI_MANIFEST}; charset=utf-8"])
def test_a_vague_media_type_is_made_precise(script: Script, content_type: str) -> None:
    server = script(lambda asked: lying(asked, MANIFEST, Content_Type=content_type))
    with reading(server.host) as repository:
        assert repository.manifest("1").descriptor.media_type == OCI_MANIFEST


def test_an_endless_manifest(script: Script) -> None:
    def answer(asked: Asked) -> None:
        asked.send_response(200)
        asked.end_headers()
        asked.end()
        while True:
            asked.wfile.write(b" " * 65536)

    server = script(answer)
    with reading(server.host) as repository, pytest.raises(LabkitError, match="is larger than the 4194304 bytes"):
        repository.manifest("1")


@pytest.mark.parametrize("stated", ["", "sha512:" + "a" * 128])
def test_head_without_usable_headers_falls_back_to_get(script: Script, stated: str) -> None:
    def answer(asked: Asked) -> None:
        digest = stated if asked.command == "HEAD" else digest_of(MANIFEST)
        lying(asked, MANIFEST, Docker_Content_Digest=digest)

    server = script(answer)
    with reading(server.host) as repository:
        assert repository.describe("1") == Descriptor(OCI_MANIFEST, digest_of(MANIFEST), len(MANIFEST))
    assert [seen.method for seen in server.seen if seen.path.startswith("/v2")] == ["HEAD", "GET"]
    assert server.seen[-1].headers["Accept"] == ACCEPT


@pytest.mark.parametrize("wanted", ["sha512:" + "a" * 128, "sha256:short", "sha256:../../x"])
def test_digests_are_checked_before_they_are_asked_for(registry: Registry, wanted: str) -> None:
    with reading(registry.host) as repository:
        for ask in (repository.manifest, repository.describe, repository.has, repository.referrers):
            with pytest.raises(InvalidParameter):
                ask(wanted)


def test_a_broken_blob_is_resumed_by_range(script: Script) -> None:
    server = script(serving_blob(lambda asked, number: ranged(asked, 1_000_000 if number < 3 else None)))
    seen: list[Exchange] = []
    with reading(server.host, observe=seen.append) as repository:
        assert b"".join(repository.blob(described(BLOB))) == BLOB
    ranges = [dict(told.sent).get("Range", "") for told in seen if told.status]
    assert ranges[0] == ""
    assert all(re.fullmatch(rf"bytes=[1-9]\d+-{len(BLOB) - 1}", value) for value in ranges[1:])
    assert [told.error for told in seen if told.status] == ["unexpected EOF", "unexpected EOF", ""]


def test_a_server_that_ignores_range_starts_again(script: Script) -> None:
    def cut(asked: Asked, number: int) -> None:
        asked.say(200, BLOB[: 1_000_000 if number == 1 else None], Content_Length=str(len(BLOB)))
        if number == 1:
            asked.end()

    server = script(serving_blob(cut))
    with reading(server.host) as repository:
        assert b"".join(repository.blob(described(BLOB))) == BLOB


def test_a_blob_that_always_ends_at_the_same_byte(script: Script) -> None:
    def cut(asked: Asked, number: int) -> None:
        asked.say(200, BLOB[:1000], Content_Length=str(len(BLOB)))
        asked.end()

    server = script(serving_blob(cut))
    with reading(server.host) as repository, pytest.raises(Broken):
        list(repository.blob(described(BLOB)))
    assert len(server.paths()) <= 1 + QUICK.attempts + 1


def test_a_connection_that_gives_little_each_time_ends(script: Script) -> None:
    server = script(serving_blob(lambda asked, number: ranged(asked, 10)))
    with reading(server.host) as repository, pytest.raises(Broken):
        list(repository.blob(described(BLOB)))
    assert len(server.paths()) < 10


@pytest.mark.parametrize("length", [len(BLOB) + 1, len(BLOB) - 1, 0])
def test_a_blob_of_another_size(script: Script, length: int) -> None:
    server = script(serving_blob(lambda asked, number: asked.say(200, (BLOB + b"x")[:length])))
    with (
        reading(server.host) as repository,
        pytest.raises(LabkitError, match=r"the registry has .* bytes, and its manif"),
    ):
        list(repository.blob(described(BLOB)))
    assert len([path for path in server.paths() if path.startswith("/v2")]) == 1


def test_an_endless_blob(script: Script) -> None:
    def cut(asked: Asked, number: int) -> None:
        asked.send_response(200)
        asked.end_headers()
        asked.end()
        while True:
            asked.wfile.write(b"x" * 65536)

    server = script(serving_blob(cut))
    with (
        reading(server.host) as repository,
        pytest.raises(LabkitError, match="the registry has more than 100000 bytes"),
    ):
        list(repository.blob(Descriptor("", MISSING, 100_000)))


@pytest.mark.parametrize("content_range", ["", "bytes 7-9/10", "bytes 5-9/11", "bytes 9-5/x"])
def test_another_range_than_asked_for(script: Script, content_range: str) -> None:
    server = script(serving_blob(lambda asked, number: asked.say(206, b"01234", Content_Range=content_range)))
    with reading(server.host) as repository, pytest.raises(LabkitError):
        list(repository.blob(Descriptor("", MISSING, 10), 5))


def test_a_document_with_another_digest(script: Script) -> None:
    server = script(lambda asked: asked.say(200, b"{}"))
    with reading(server.host) as repository:
        with pytest.raises(LabkitError, match=f"verification failed for digest {MISSING}"):
            repository.document(Descriptor("", MISSING, 2))
        with pytest.raises(LabkitError, match="larger than"):
            repository.document(Descriptor("", MISSING, 5 << 20))


def test_a_reader_that_stops_early_leaves_no_connection(script: Script) -> None:
    server = script(serving_blob(lambda asked, number: ranged(asked)))
    seen: list[Exchange] = []
    with reading(server.host, observe=seen.append) as repository:
        pieces = repository.blob(described(BLOB))
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]  # it is a generator
        assert seen[-1].size == 1 << 18
        assert b"".join(repository.blob(described(BLOB))) == BLOB


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow"}]}', Unavailable, "toomanyrequests: slow"),
        (429, b'{"details":"your pull rate limit"}', Unavailable, "toomanyrequests: your pull rate limit"),
        (429, b"", Unavailable, "toomanyrequests: too many requests"),
        (500, b"<html>", Unavailable, "received unexpected HTTP status: 500 Internal Server Error"),
        (599, b"", Unavailable, "received unexpected HTTP status: 599"),
        (418, b"{}", LabkitError, "received unexpected HTTP status: 418 I'm a Teapot"),
        (404, b"not json", NotFound, "received unexpected HTTP status: 404 Not Found"),
        (401, b"", Unauthorized, "unauthorized: authentication required"),
        (400, b'{"errors":[{"code":"NAME_INVALID"}]}', InvalidParameter, "name invalid: unknown error"),
        (400, b'{"errors":[{"code":"ODD","message":"\\u001b[2J\\r\\nx"}]}', LabkitError, "odd:  [2J  x"),
        (400, b'{"errors":[{"code":5}]}', LabkitError, "received unexpected HTTP status: 400 Bad Request"),
        (403, b"", NotFound, "pull access denied for HOST/team/app, repository does not exist or may require "
                             "'docker login': denied: requested access to the resource is denied"),
    ],
)  # fmt: skip
def test_refusals(script: Script, status: int, body: bytes, kind: type[LabkitError], message: str) -> None:
    server = script(lambda asked: asked.say(status, body))
    with reading(server.host, replace(QUICK, attempts=1)) as repository, pytest.raises(LabkitError) as raised:
        repository.manifest("1")
    assert (type(raised.value), str(raised.value)) == (kind, message.replace("HOST", server.host))


def test_500_then_fine(script: Script) -> None:
    def answer(asked: Asked) -> None:
        if len(server.paths()) < 3:
            return asked.say(500)
        return lying(asked, MANIFEST)

    server = script(answer)
    with reading(server.host) as repository:
        assert repository.manifest("1").body == MANIFEST


def test_blobs_from_elsewhere_without_our_credentials(script: Script) -> None:
    storage = script(serving_blob(lambda asked, number: ranged(asked, 1_000_000 if number == 1 else None)))
    server = script(lambda asked: asked.say(307, Location=f"{storage.url}/v2/signed?X-Amz-Signature=secret"))
    seen: list[Exchange] = []
    with reading(server.host, observe=seen.append) as repository:
        assert b"".join(repository.blob(described(BLOB))) == BLOB
    assert storage.seen[1].headers["Range"].startswith("bytes=")
    assert "secret" not in str(seen)


def test_a_storage_that_asks_for_credentials_gets_none(script: Script) -> None:
    thief = script(lambda asked: asked.say(401, WWW_Authenticate="Basic realm=x"))
    server = script(lambda asked: asked.say(307, Location=f"{thief.url}/x"))
    with (
        reading(server.host, credentials=Credentials("me", "secret")) as repository,
        pytest.raises(Unauthorized),
    ):
        repository.manifest("1")
    assert [seen.headers["Authorization"] for seen in thief.seen] == [None]
