"""Writing to a repository: docker-registry takes it and another tool reads it; broken uploads go on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit.errors import Forbidden, InvalidParameter, LabkitError, NotFound
from labkit.images.manifests import OCI_MANIFEST
from labkit.images.references import parse
from labkit.images.streams import digest_of
from labkit.registry import uploading
from labkit.registry.exchange import Exchange
from labkit.registry.repository import Repository
from labkit.registry.transport import Broken, Patience
from labkit.registry.uploading import Uploader
from tests.registry.conftest import Script
from tests.registry.pushing import described, push_small, put_blob
from tests.support.registries import Asked, Registry

QUICK = Patience(connect=5, read=5, attempts=3, pause=0.001)
BLOB = bytes(range(256)) * 4096


def chunks(offset: int) -> Iterator[bytes]:
    for at in range(offset, len(BLOB), 100_000):
        yield BLOB[at : at + 100_000]


def writing(host: str, **options: object) -> Repository:
    return Repository(parse(f"{host}/writing/app"), push=True, patience=QUICK, **options)  # type: ignore[arg-type]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(uploading, "CHUNK", 300_000)
    return 300_000


def test_in_one_request(registry: Registry) -> None:
    seen: list[Exchange] = []
    sent: list[int] = []
    with writing(registry.host, observe=seen.append) as repository:
        Uploader(repository).upload(described(BLOB), chunks, progress=sent.append)
        assert b"".join(repository.blob(described(BLOB))) == BLOB
    asked = [(told.method, told.status) for told in seen if told.status]
    assert asked == [("POST", 202), ("PUT", 201), ("GET", 200)]
    assert seen[-2].size == len(BLOB)
    assert sent == sorted(sent)
    assert sent[-1] == len(BLOB)


def test_in_chunks(registry: Registry, small_chunks: int) -> None:
    seen: list[Exchange] = []
    sent: list[int] = []
    body = BLOB[::-1]
    with writing(registry.host, observe=seen.append) as repository:
        uploader = Uploader(repository)
        uploader.upload(described(body), lambda offset: iter([body[offset:]]), chunked=True, progress=sent.append)
        assert b"".join(repository.blob(described(body))) == body
    asked = [told.method for told in seen if told.status]
    assert asked == ["POST", "PATCH", "PATCH", "PATCH", "PATCH", "PUT", "GET"]
    ranges = [dict(told.sent)["Content-Range"] for told in seen if told.method == "PATCH"]
    assert ranges == ["0-299999", "300000-599999", "600000-899999", f"900000-{len(body) - 1}"]
    assert sent[-1] == len(body)


def test_an_empty_blob(registry: Registry) -> None:
    with writing(registry.host) as repository:
        for chunked in (False, True):
            put_blob(Uploader(repository), b"", chunked)
        assert repository.has(digest_of(b""))


def test_a_pushed_image_is_read_by_skopeo(registry: Registry) -> None:
    body = push_small(parse(f"{registry.host}/writing/image:1"))
    done = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry.host}/writing/image:1"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == body


def test_a_blob_is_mounted_from_another_repository(registry: Registry) -> None:
    source = parse(f"{registry.host}/source/app:1")
    push_small(source, name=b"a layer to mount")
    layer = described(b"a layer to mount")
    seen: list[Exchange] = []
    with writing(registry.host, observe=seen.append) as repository:
        assert not repository.has(layer.digest)
        assert Uploader(repository).mount(layer.digest, source)
        assert repository.has(layer.digest)
    assert f"/blobs/uploads/?mount={layer.digest}&from=source/app" in "".join(told.url for told in seen)


def test_what_cannot_be_mounted_is_uploaded_into_what_was_opened(registry: Registry) -> None:
    body = b"not in the source"
    seen: list[Exchange] = []
    with writing(registry.host, observe=seen.append) as repository:
        uploader = Uploader(repository)
        assert not uploader.mount(digest_of(body), parse(f"{registry.host}/source/nothing"))
        put_blob(uploader, body)
        assert repository.has(digest_of(body))
    assert [told.method for told in seen if told.status] == ["POST", "PUT", "HEAD"]


def test_deleting(registry: Registry) -> None:
    reference = parse(f"{registry.host}/deleted/app:1")
    body = push_small(reference, name=b"a layer to delete")
    with Repository(reference, push=True) as repository:
        uploader = Uploader(repository)
        uploader.delete_manifest(digest_of(body))
        assert repository.describe("1") is None
        uploader.delete_blob(digest_of(b"a layer to delete"))
        assert not repository.has(digest_of(b"a layer to delete"))
        with pytest.raises(NotFound):
            uploader.delete_manifest(digest_of(body))


def test_a_manifest_whose_blobs_are_missing(registry: Registry) -> None:
    manifest = json.loads(push_small(parse(f"{registry.host}/writing/image:1")))
    manifest["layers"][0]["digest"] = "sha256:" + "d" * 64
    with writing(registry.host) as repository, pytest.raises(InvalidParameter, match="manifest blob unknown"):
        Uploader(repository).put_manifest("1", OCI_MANIFEST, json.dumps(manifest).encode())


def test_a_manifest_under_another_digest(registry: Registry) -> None:
    with writing(registry.host) as repository, pytest.raises(LabkitError, match="manifest verification failed"):
        Uploader(repository).put_manifest("sha256:" + "d" * 64, OCI_MANIFEST, b"{}")


def test_content_with_another_digest_is_refused(registry: Registry) -> None:
    with writing(registry.host) as repository, pytest.raises(InvalidParameter, match="digest invalid"):
        Uploader(repository).upload(described(b"right"), lambda offset: iter([b"wrong"]))


def test_a_source_that_is_too_short(registry: Registry) -> None:
    with writing(registry.host) as repository, pytest.raises(LabkitError, match="ends after 3 of 5 bytes"):
        Uploader(repository).upload(described(b"right"), lambda offset: iter([b"rig"]))


class Uploads:
    """A registry that keeps what it gets, and breaks off where a test wants."""

    def __init__(self, breaks: Callable[[Asked, int], bool] = lambda asked, number: False, **opening: str) -> None:
        self.received = b""
        self.number = 0
        self.breaks = breaks
        self.opening = opening

    def answer(self, asked: Asked) -> None:
        if not asked.path.startswith("/v2"):
            return asked.say(400)
        if asked.command == "POST":
            self.received = b""
            return asked.say(202, b"", Location="/v2/up/1?_state=s", **self.opening)
        if asked.command == "GET":
            return asked.say(204, Location="/v2/up/2?_state=t", Range=f"0-{len(self.received) - 1}")
        self.number += 1
        broken = self.breaks(asked, self.number)
        body = asked.request_seen.body
        if asked.command == "PATCH":
            at = int(asked.headers["Content-Range"].partition("-")[0])
            if at != len(self.received):
                return asked.say(416)
            self.received += body[: len(body) // 2] if broken else body
        else:
            self.received += body
        if broken:
            return asked.end()
        status = 201 if asked.command == "PUT" else 202
        return asked.say(status, Location="/v2/up/1?_state=s", Range=f"0-{len(self.received) - 1}")


def test_a_broken_chunk_goes_on_where_the_registry_stands(script: Script, small_chunks: int) -> None:
    uploads = Uploads(lambda asked, number: number == 2)
    server = script(uploads.answer)
    with writing(server.host) as repository:
        Uploader(repository).upload(described(BLOB), chunks, chunked=True)
    assert uploads.received == BLOB
    asked = [(seen.method, seen.headers["Content-Range"]) for seen in server.seen if seen.path.startswith("/v2/up")]
    assert asked[:4] == [("PATCH", "0-299999"), ("PATCH", "300000-599999"), ("GET", None), ("PATCH", "450000-749999")]


def test_a_chunk_that_never_gets_through_ends(script: Script, small_chunks: int) -> None:
    def answer(asked: Asked) -> None:
        if asked.command == "PATCH":
            return asked.say(416)
        return Uploads().answer(asked)

    server = script(answer)
    with writing(server.host) as repository, pytest.raises(Broken, match="has no more than 0 bytes"):
        Uploader(repository).upload(described(BLOB), chunks, chunked=True)


def test_chunks_are_as_large_as_the_registry_wants(script: Script, small_chunks: int) -> None:
    server = script(Uploads(OCI_Chunk_Min_Length="500000").answer)
    with writing(server.host) as repository:
        Uploader(repository).upload(described(BLOB), chunks, chunked=True)
    sizes = [len(seen.body) for seen in server.seen if seen.method == "PATCH"]
    assert sizes == [500_000, 500_000, len(BLOB) - 1_000_000]


def test_a_broken_put_goes_on_in_chunks(script: Script) -> None:
    uploads = Uploads(lambda asked, number: number == 1)
    server = script(uploads.answer)
    with writing(server.host) as repository:
        Uploader(repository).upload(described(BLOB), chunks)
    assert uploads.received == BLOB
    methods = [seen.method for seen in server.seen if seen.path.startswith("/v2")]
    assert methods == ["POST", "PUT", "POST", "PATCH", "PUT"]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("status", [429, 503])
def test_a_registry_that_is_busy_is_tried_again(script: Script, status: int, chunked: bool) -> None:
    uploads = Uploads()
    busy = [True]

    def answer(asked: Asked) -> None:
        if asked.command in ("PUT", "PATCH") and busy:
            busy.clear()
            return asked.say(status)
        return uploads.answer(asked)

    server = script(answer)
    with writing(server.host) as repository:
        Uploader(repository).upload(described(BLOB), chunks, chunked)
    assert uploads.received == BLOB


def test_a_put_that_always_breaks_ends(script: Script) -> None:
    server = script(Uploads(lambda asked, number: True).answer)
    with writing(server.host) as repository, pytest.raises(Broken):
        Uploader(repository).upload(described(BLOB), chunks)
    methods = [seen.method for seen in server.seen]
    assert (methods.count("PUT"), methods.count("PATCH")) == (1, QUICK.attempts * (QUICK.attempts - 1))


@pytest.mark.parametrize(("headers", "kind"), [({}, LabkitError), ({"Location": "file:///x"}, Forbidden)])
def test_an_upload_that_leads_nowhere(script: Script, headers: dict[str, str], kind: type[LabkitError]) -> None:
    server = script(lambda asked: asked.say(202, b"", **headers))
    with writing(server.host) as repository, pytest.raises(kind):
        Uploader(repository).upload(described(BLOB), chunks)


def test_a_registry_that_stores_something_else(script: Script) -> None:
    other = "sha256:" + "e" * 64
    server = script(lambda asked: asked.say(201, Docker_Content_Digest=other))
    with writing(server.host) as repository, pytest.raises(LabkitError, match=f"stored {other} instead of"):
        Uploader(repository).put_manifest("1", OCI_MANIFEST, b"{}")


def test_pushing_is_denied(script: Script) -> None:
    server = script(lambda asked: asked.say(403, b'{"errors":[{"code":"DENIED","message":"no"}]}'))
    with writing(server.host) as repository, pytest.raises(Forbidden, match=r"^denied: no$"):
        Uploader(repository).upload(described(BLOB), chunks)


def test_a_source_that_fails_is_told_as_it_is(registry: Registry, tmp_path: Path) -> None:
    def failing(offset: int) -> Iterator[bytes]:
        yield BLOB[:100]
        raise NotFound("the layer is gone")

    with writing(registry.host) as repository, pytest.raises(NotFound, match="the layer is gone"):
        Uploader(repository).upload(described(BLOB), failing)
