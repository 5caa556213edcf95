"""Pull: end-1, end-2 and end-3 of the OCI distribution-spec (`spec.md`)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.images.manifests import DOCKER_INDEX, DOCKER_MANIFEST, OCI_MANIFEST
from labkit.registry.server.blobs import positions
from labkit.registry.server.documents import digest_of
from tests.registry.server.clients import Client, described, index, manifest

ABSENT = "sha256:" + "0" * 64


def test_version_check(client: Client) -> None:
    """end-1: 200 says that the specification is supported."""
    for path in ("/v2/", "/v2"):
        reply = client.send("GET", path)
        assert (reply.status, reply.json) == (200, {})
        assert reply.headers["Docker-Distribution-API-Version"] == "registry/2.0"


@pytest.mark.parametrize("kind", ["blobs", "manifests"])
def test_absent_content(client: Client, kind: str) -> None:
    """end-2, end-3: 404 and the code, for GET and HEAD; a repository that isn't there has its own code."""
    code = {"blobs": "BLOB_UNKNOWN", "manifests": "MANIFEST_UNKNOWN"}[kind]
    assert client.send("GET", f"/v2/a/{kind}/{ABSENT}").code == "NAME_UNKNOWN"
    client.push_blob("a", b"x")
    reply = client.send("GET", f"/v2/a/{kind}/{ABSENT}")
    assert (reply.status, reply.code) == (404, code)
    head = client.send("HEAD", f"/v2/a/{kind}/{ABSENT}")
    assert (head.status, head.body) == (404, b"")


def test_blob(client: Client) -> None:
    """end-2: the bytes, with their digest; HEAD says as much without them; a client that has them is told so."""
    digest = client.push_blob("library/a", b"hello")
    reply = client.send("GET", f"/v2/library/a/blobs/{digest}")
    assert (reply.status, reply.body) == (200, b"hello")
    assert reply.headers["Docker-Content-Digest"] == digest
    head = client.send("HEAD", f"/v2/library/a/blobs/{digest}")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "5")
    assert head.headers["Docker-Content-Digest"] == digest
    again = client.send("GET", f"/v2/library/a/blobs/{digest}", If_None_Match=reply.headers["ETag"])
    assert (again.status, again.body) == (304, b"")


def test_blob_of_another_repository(client: Client) -> None:
    """end-2: a blob belongs to a repository."""
    digest = client.push_blob("a", b"mine")
    client.push_blob("b", b"other")
    assert client.send("GET", f"/v2/b/blobs/{digest}").status == 404


def test_empty_blob(client: Client) -> None:
    digest = client.push_blob("a", b"")
    reply = client.send("GET", f"/v2/a/blobs/{digest}")
    assert (reply.status, reply.body) == (200, b"")
    assert client.send("GET", f"/v2/a/blobs/{digest}", Range="bytes=0-").status == 416


@pytest.mark.parametrize(
    ("wanted", "status", "body", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=9-9", 206, b"9", "bytes 9-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-30", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=5-500", 206, b"56789", "bytes 5-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=3-1", 200, b"0123456789", None),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_range(client: Client, wanted: str, status: int, body: bytes | None, content_range: str | None) -> None:
    """end-2: SHOULD support Range in accordance with RFC 9110."""
    digest = client.push_blob("a", b"0123456789")
    reply = client.send("GET", f"/v2/a/blobs/{digest}", Range=wanted)
    assert (reply.status, reply.headers["Content-Range"]) == (status, content_range)
    assert body is None or reply.body == body
    assert client.send("GET", f"/v2/a/blobs/{digest}", Range="bytes=1-2").body == b"12"  # the connection goes on


def test_range_only_if_unchanged(client: Client) -> None:
    digest = client.push_blob("a", b"0123456789")
    path = f"/v2/a/blobs/{digest}"
    assert client.send("GET", path, Range="bytes=1-2", If_Range=f'"{digest}"').status == 206
    assert client.send("GET", path, Range="bytes=1-2", If_Range=f'"{ABSENT}"').body == b"0123456789"


@given(data=st.binary(max_size=20), first=st.none() | st.integers(0, 25), last=st.none() | st.integers(0, 25))
def test_positions_are_those_of_a_slice(data: bytes, first: int | None, last: int | None) -> None:
    texts = ["" if number is None else str(number) for number in (first, last)]
    if first is None and last is None:
        return
    start, end = positions(texts[0], texts[1], len(data))
    found = data[start:end] if start < end else b""
    if first is None:
        assert found == (data[-last:] if last else b"")
    else:
        assert found == data[first : None if last is None else last + 1]


def test_manifest_by_tag_and_digest(client: Client) -> None:
    """end-3: the exact bytes under the type they were pushed with; HEAD has the same headers."""
    digest = client.push_image("a", "v1")
    data = json.dumps(manifest(b"layer")).encode()
    for reference in ("v1", digest):
        reply = client.send("GET", f"/v2/a/manifests/{reference}", Accept=OCI_MANIFEST)
        assert (reply.status, reply.body) == (200, data)
        assert reply.headers["Content-Type"] == OCI_MANIFEST
        assert reply.headers["Docker-Content-Digest"] == digest
        head = client.send("HEAD", f"/v2/a/manifests/{reference}")
        assert (head.status, head.body) == (200, b"")
        same = ("Content-Type", "Content-Length", "Docker-Content-Digest")
        assert [head.headers[name] for name in same] == [reply.headers[name] for name in same]
    assert client.send("GET", "/v2/a/manifests/v1", If_None_Match=f'"{digest}"').status == 304


@pytest.mark.parametrize("reference", ["v2", ".bad", "x" * 129, "sha256:abc", "md5:" + "0" * 32])
def test_manifest_that_is_not_there(client: Client, reference: str) -> None:
    """end-3: 404 if it isn't found, however it was asked for."""
    client.push_image("a", "v1")
    reply = client.send("GET", f"/v2/a/manifests/{reference}")
    assert (reply.status, reply.code) == (404, "MANIFEST_UNKNOWN")


def test_docker_types(client: Client) -> None:
    """end-3: a client gets back the media type that was pushed, Docker's too."""
    client.push_blob("a", b"{}")
    image = manifest(mediaType=DOCKER_MANIFEST)
    listed = index(described(DOCKER_MANIFEST, json.dumps(image).encode()), mediaType=DOCKER_INDEX)
    assert client.push_manifest("a", "", image).status == 201
    assert client.push_manifest("a", "all", listed).status == 201
    assert client.send("GET", "/v2/a/manifests/all").headers["Content-Type"] == DOCKER_INDEX
    child = client.send("GET", f"/v2/a/manifests/{listed['manifests'][0]['digest']}")
    assert (child.headers["Content-Type"], child.json) == (DOCKER_MANIFEST, image)


def test_layer_is_no_manifest(client: Client) -> None:
    """end-3: a blob can't be had as a manifest, be it small or too big to be read for that."""
    for data in (b"layer", b'{"schemaVersion": 2}', b"[" * 100_000, bytes((4 << 20) + 1)):
        reply = client.send("GET", f"/v2/a/manifests/{client.push_blob('a', data)}")
        assert (reply.status, reply.code) == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize(
    "name",
    ["A", "a//b", "-a", "a-", "a/../b", "..", "a/.b", "a" * 256, "a__-b", "a/b_", "ä", "a%00b", "a%2f..%2f..%2fetc"],
)
def test_bad_names(client: Client, name: str) -> None:
    """Names that the specification's grammar doesn't allow: NAME_INVALID, and nothing reaches the disk."""
    for path in (f"/v2/{name}/manifests/v1", f"/v2/{name}/tags/list", f"/v2/{name}/blobs/{ABSENT}"):
        reply = client.send("GET", path.replace("ä", "%C3%A4"))
        assert (reply.status, reply.code) == (400, "NAME_INVALID")


def test_bad_digests(client: Client) -> None:
    client.push_blob("a", b"x")
    for digest in ("sha256:abc", "sha256:" + "A" * 64, "md5:" + "0" * 32, "x"):
        reply = client.send("GET", f"/v2/a/blobs/{digest}")
        assert (reply.status, reply.code) == (400, "DIGEST_INVALID")


def test_sha512(client: Client) -> None:
    """Digests of the other algorithm that the image-spec registers."""
    digest = digest_of(b"data", "sha512")
    assert client.send("POST", f"/v2/a/blobs/uploads/?digest={digest}", b"data").status == 201
    assert client.send("GET", f"/v2/a/blobs/{digest}").body == b"data"
    client.push_blob("a", b"{}")
    data = json.dumps(manifest()).encode()
    name = digest_of(data, "sha512")
    reply = client.send("PUT", f"/v2/a/manifests/{name}", data, Content_Type=OCI_MANIFEST)
    assert (reply.status, reply.headers["Docker-Content-Digest"]) == (201, name)
    assert client.send("GET", f"/v2/a/manifests/{name}").body == data
