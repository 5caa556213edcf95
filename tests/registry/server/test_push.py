"""Push: end-4 to end-7, end-11 and end-13 of the OCI distribution-spec (`spec.md`)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from labkit.images.manifests import DOCKER_MANIFEST, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from labkit.registry.server.documents import digest_of
from tests.registry.server.clients import Client, Served, described, index, manifest

DATA = b"0123456789" * 1000
DIGEST = digest_of(DATA)


def begin(client: Client, name: str = "a") -> str:
    """end-4a: 202 and where to send the bytes to."""
    reply = client.send("POST", f"/v2/{name}/blobs/uploads/")
    assert (reply.status, reply.headers["Range"]) == (202, "0-0")
    assert reply.location.startswith(f"/v2/{name}/blobs/uploads/")
    return reply.location


def stored(client: Client, name: str = "a") -> bytes:
    return client.send("GET", f"/v2/{name}/blobs/{DIGEST}").body


def test_post_then_put(client: Client) -> None:
    """end-4a, end-6: monolithic; 201 and where the blob can be pulled."""
    reply = client.send("PUT", f"{begin(client)}?digest={DIGEST}", DATA, Content_Type="application/octet-stream")
    assert (reply.status, reply.location) == (201, f"/v2/a/blobs/{DIGEST}")
    assert client.send("GET", reply.location).body == DATA


def test_single_post(client: Client) -> None:
    """end-4b: in one request; 201."""
    reply = client.send("POST", f"/v2/a/blobs/uploads/?digest={DIGEST}", DATA)
    assert (reply.status, reply.location) == (201, f"/v2/a/blobs/{DIGEST}")
    assert stored(client) == DATA


def test_single_post_of_other_bytes(client: Client, served: Served) -> None:
    """end-4b: 400 for a wrong digest; nothing is kept."""
    reply = client.send("POST", f"/v2/a/blobs/uploads/?digest={DIGEST}", b"other")
    assert (reply.status, reply.code) == (400, "DIGEST_INVALID")
    assert uploads(served) == []
    assert client.send("GET", "/v2/a/tags/list").code == "NAME_UNKNOWN"  # a refused push makes no repository


def uploads(served: Served) -> list[str]:
    """The uploads that are under way."""
    return sorted(path.name for path in (served.root / ".uploads").iterdir() if path.name != "lock")


def test_chunked(client: Client) -> None:
    """end-4a, end-5, end-6: chunks in order; each answer has the next place and what is here (end-13 says so too)."""
    place, at = begin(client), 0
    for chunk in (DATA[:10], DATA[10:4000]):
        span = f"{at}-{at + len(chunk) - 1}"
        reply = client.send("PATCH", place, chunk, Content_Range=span, Content_Type="application/octet-stream")
        at += len(chunk)
        assert (reply.status, reply.headers["Range"]) == (202, f"0-{at - 1}")
        place = reply.location
        status = client.send("GET", place)
        assert (status.status, status.headers["Range"], status.location) == (204, f"0-{at - 1}", place)
    last = f"{at}-{len(DATA) - 1}"
    reply = client.send("PUT", f"{place}?digest={DIGEST}", DATA[at:], Content_Range=last)
    assert (reply.status, reply.location) == (201, f"/v2/a/blobs/{DIGEST}")
    assert stored(client) == DATA


def test_chunked_without_a_last_chunk(client: Client) -> None:
    """end-6: the closing PUT may have no body."""
    place = client.send("PATCH", begin(client), DATA, Content_Range=f"0-{len(DATA) - 1}").location
    assert client.send("PUT", f"{place}?digest={DIGEST}").status == 201
    assert stored(client) == DATA


def test_streamed(client: Client) -> None:
    """end-5: one PATCH without a length, as docker sends it: in the chunks of HTTP/1.1."""
    place = client.send("PATCH", begin(client), iter([DATA[:5000], DATA[5000:]])).location
    assert client.send("PUT", f"{place}?digest={DIGEST}").status == 201
    assert stored(client) == DATA


def test_put_in_http_chunks(client: Client) -> None:
    """end-6: also the last bytes may come without a length."""
    assert client.send("PUT", f"{begin(client)}?digest={DIGEST}", iter([DATA])).status == 201
    assert stored(client) == DATA


@pytest.mark.parametrize("start", [0, 5, 11, 20])
def test_out_of_order(client: Client, start: int) -> None:
    """end-5: 416 with what is here; the upload goes on from there."""
    place = client.send("PATCH", begin(client), DATA[:10], Content_Range="0-9").location
    reply = client.send("PATCH", place, b"abc", Content_Range=f"{start}-{start + 2}")
    assert (reply.status, reply.headers["Range"]) == (416, "0-9")
    put = client.send("PUT", f"{place}?digest={DIGEST}", b"abc", Content_Range=f"{start}-{start + 2}")
    assert put.status == 416
    rest = f"10-{len(DATA) - 1}"
    assert client.send("PUT", f"{place}?digest={DIGEST}", DATA[10:], Content_Range=rest).status == 201


@pytest.mark.parametrize(
    ("span", "status"), [("0-5", 400), ("x", 416), ("9-0", 416), ("", 416), ("0-" + "9" * 40, 416)]
)
def test_content_range_that_lies(client: Client, span: str, status: int) -> None:
    """end-5: a Content-Range that isn't the length of the body, or is none."""
    place = begin(client)
    assert client.send("PATCH", place, b"abc", Content_Range=span).status == status
    assert client.send("GET", place).headers["Range"] == "0-0"


def test_wrong_digest(client: Client, served: Served) -> None:
    """end-6: 400, the bytes are gone, and no blob appears."""
    reply = client.send("PUT", f"{begin(client)}?digest={DIGEST}", b"other")
    assert (reply.status, reply.code) == (400, "DIGEST_INVALID")
    assert uploads(served) == []
    assert not list(served.root.rglob(DIGEST.removeprefix("sha256:")))


@pytest.mark.parametrize("query", ["", "?digest=", "?digest=sha256:12", "?digest=../../etc/passwd"])
def test_bad_digest_parameter(client: Client, query: str) -> None:
    """end-6: 400 without a digest; the upload stays."""
    place = begin(client)
    reply = client.send("PUT", place + query, DATA)
    assert (reply.status, reply.code) == (400, "DIGEST_INVALID")
    assert client.send("GET", place).status == 204


@pytest.mark.parametrize("upload", ["nothing", "00000000-0000-0000-0000-000000000000", "lock", "..", "%2e%2e%2flock"])
def test_unknown_upload(client: Client, upload: str) -> None:
    """end-5, end-6, end-13: 404 for an upload that there isn't, and no path of another kind."""
    for method, query in (("GET", ""), ("PATCH", ""), ("PUT", f"?digest={DIGEST}"), ("DELETE", "")):
        reply = client.send(method, f"/v2/a/blobs/uploads/{upload}{query}", b"" if method == "GET" else b"x")
        assert reply.status == 404


def test_cancel(client: Client, served: Served) -> None:
    """DELETE of an upload: 204, and it is over."""
    place = begin(client)
    client.send("PATCH", place, b"some")
    assert client.send("DELETE", place).status == 204
    assert client.send("GET", place).code == "BLOB_UPLOAD_UNKNOWN"
    assert uploads(served) == []


def test_upload_is_over_when_it_is_finished(client: Client, served: Served) -> None:
    place = begin(client)
    assert client.send("PUT", f"{place}?digest={DIGEST}", DATA).status == 201
    assert client.send("PATCH", place, b"more").code == "BLOB_UPLOAD_UNKNOWN"
    assert stored(client) == DATA
    assert uploads(served) == []


def test_mount(client: Client, served: Served) -> None:
    """end-11: 201; the blob is the same file in both repositories."""
    client.push_blob("library/a", DATA)
    reply = client.send("POST", f"/v2/b/blobs/uploads/?mount={DIGEST}&from=library/a")
    assert (reply.status, reply.location) == (201, f"/v2/b/blobs/{DIGEST}")
    assert stored(client, "b") == DATA
    name = DIGEST.removeprefix("sha256:")
    assert (served.root / f"b/blobs/sha256/{name}").samefile(served.root / f"library/a/blobs/sha256/{name}")


@pytest.mark.parametrize("source", ["c", "empty", "../a", "A"])
def test_mount_that_falls_back(client: Client, source: str) -> None:
    """end-11: 202 and an upload if the source hasn't the blob, or is no repository."""
    client.push_blob("a", DATA)
    client.push_blob("empty", b"other")
    reply = client.send("POST", f"/v2/b/blobs/uploads/?mount={DIGEST}&from={source}")
    assert reply.status == 202
    assert client.send("PUT", f"{reply.location}?digest={DIGEST}", DATA).status == 201


def test_mount_without_a_source(client: Client) -> None:
    """end-11: from any repository that has it, if the client names none; 202 if none has it."""
    assert client.send("POST", f"/v2/b/blobs/uploads/?mount={DIGEST}").status == 202
    client.push_blob("a", DATA)
    assert client.send("POST", f"/v2/b/blobs/uploads/?mount={DIGEST}").status == 201
    assert stored(client, "b") == DATA


def test_mount_of_no_digest(client: Client) -> None:
    assert client.send("POST", "/v2/b/blobs/uploads/?mount=../x&from=a").code == "DIGEST_INVALID"


def test_same_blob_twice(client: Client, served: Served) -> None:
    """A blob that is here may be pushed again, to the same or another repository: one file."""
    for name in ("a", "a", "b"):
        client.push_blob(name, DATA)
    assert len({path.stat().st_ino for path in served.root.rglob(DIGEST.removeprefix("sha256:"))}) == 1


def test_manifest(client: Client) -> None:
    """end-7: 201, where it can be pulled, and its digest."""
    client.push_blob("a", b"{}")
    data = json.dumps(manifest()).encode()
    for reference in ("v1", digest_of(data)):
        reply = client.send("PUT", f"/v2/a/manifests/{reference}", data, Content_Type=OCI_MANIFEST)
        assert (reply.status, reply.location) == (201, f"/v2/a/manifests/{digest_of(data)}")
        assert reply.headers["Docker-Content-Digest"] == digest_of(data)
        assert reply.headers["OCI-Subject"] is None


def test_manifest_bytes_are_kept(client: Client) -> None:
    """end-7: MUST store the exact bytes, with the spaces and fields that they have."""
    client.push_blob("a", b"{}")
    data = json.dumps(manifest(unknown={"b": 1, "a": [1.0]}), indent=7).encode() + b"\n\n"
    assert client.send("PUT", "/v2/a/manifests/v1", data, Content_Type=OCI_MANIFEST).status == 201
    assert client.send("GET", "/v2/a/manifests/v1").body == data


def test_manifest_of_what_is_not_here(client: Client) -> None:
    """end-7: 404 MANIFEST_BLOB_UNKNOWN, be it a configuration, a layer or a manifest of an index."""
    assert client.push_manifest("a", "v1", manifest()).code == "MANIFEST_BLOB_UNKNOWN"
    client.push_blob("a", b"{}")
    for document in (manifest(b"layer"), index(described(OCI_MANIFEST, b"{}{}"))):
        reply = client.push_manifest("a", "v1", document)
        assert (reply.status, reply.code) == (404, "MANIFEST_BLOB_UNKNOWN")
    assert client.tags("a") == []


def test_layers_from_elsewhere_need_not_be_here(client: Client) -> None:
    client.push_blob("a", b"{}")
    foreign = described("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", b"x")
    linked = described(OCI_LAYER, b"y") | {"urls": ["https://example.org/y"]}
    assert client.push_manifest("a", "v1", manifest(layers=[foreign, linked])).status == 201


def test_manifest_under_another_digest(client: Client) -> None:
    """end-7: a reference that is a digest MUST be that of the body."""
    client.push_blob("a", b"{}")
    assert client.push_manifest("a", DIGEST, manifest()).code == "DIGEST_INVALID"


@pytest.mark.parametrize("tag", [".v1", "-v1", "a b", "x" * 129, "a:b", "sha256:0"])
def test_bad_tags(client: Client, tag: str) -> None:
    client.push_blob("a", b"{}")
    assert client.push_manifest("a", tag.replace(" ", "%20"), manifest()).status == 400


@pytest.mark.parametrize(
    "fields",
    [
        {"schemaVersion": 1},
        {"schemaVersion": "2"},
        {"config": None},
        {"config": []},
        {"mediaType": "application/json"},
        {"config": {"mediaType": "x", "digest": "sha256:../../x", "size": 1}},
        {"layers": [{"mediaType": "x", "digest": DIGEST, "size": -1}]},
        {"subject": {"mediaType": "x", "digest": "x", "size": 1}},
        {"mediaType": OCI_INDEX},
    ],
)
def test_bad_manifests(client: Client, fields: dict[str, Any]) -> None:
    """end-7: what hasn't the form of its media type is refused."""
    client.push_blob("a", b"{}")
    reply = client.push_manifest("a", "v1", manifest(**fields))
    assert (reply.status, reply.code) == (400, "MANIFEST_INVALID")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 1_000_000, b'{"schemaVersion":' * 10_000]
)
def test_manifests_that_are_no_json(client: Client, data: bytes) -> None:
    client.push_blob("a", b"{}")
    assert client.send("PUT", "/v2/a/manifests/v1", data, Content_Type=OCI_MANIFEST).code == "MANIFEST_INVALID"


def test_manifest_of_another_type_than_it_says(client: Client) -> None:
    """end-7: Content-Type SHOULD be the mediaType of the document."""
    client.push_blob("a", b"{}")
    reply = client.push_manifest("a", "v1", manifest(), **{"Content-Type": DOCKER_MANIFEST})
    assert (reply.status, reply.code) == (400, "MANIFEST_INVALID")


def test_manifest_without_media_type(client: Client) -> None:
    """OCI's documents may leave it out: then the request's type counts, or the form."""
    client.push_blob("a", b"{}")
    document = manifest()
    del document["mediaType"]
    data = json.dumps(document).encode()
    for headers in ({"Content-Type": OCI_MANIFEST}, {}):
        assert client.send("PUT", "/v2/a/manifests/v1", data, **headers).status == 201
        assert client.send("GET", "/v2/a/manifests/v1").headers["Content-Type"] == OCI_MANIFEST


def test_manifest_with_a_wrong_size(client: Client) -> None:
    client.push_blob("a", b"{}")
    wrong = described("x", b"{}") | {"size": 3}
    assert client.push_manifest("a", "v1", manifest(config=wrong)).code == "SIZE_INVALID"


def test_manifest_of_any_size(client: Client) -> None:
    """end-7: 4 MiB SHOULD be accepted, 413 for more; with or without a length said before."""
    client.push_blob("a", b"{}")
    limit = 4 << 20
    bare = len(json.dumps(manifest(pad="")).encode())
    fits = json.dumps(manifest(pad="x" * (limit - bare))).encode()
    assert len(fits) == limit
    assert client.send("PUT", "/v2/a/manifests/v1", fits, Content_Type=OCI_MANIFEST).status == 201
    assert client.send("GET", "/v2/a/manifests/v1").body == fits
    for body in (fits + b" ", iter([fits, b" "])):
        reply = client.send("PUT", "/v2/a/manifests/v2", body, Content_Type=OCI_MANIFEST)
        assert (reply.status, reply.code) == (413, "SIZE_INVALID")


def test_subject(client: Client) -> None:
    """end-7: accepted before its subject is, and the answer says that referrers are known here."""
    client.push_blob("a", b"{}")
    subject = described(OCI_MANIFEST, b"not pushed yet")
    reply = client.push_manifest("a", "", manifest(subject=subject))
    assert (reply.status, reply.headers["OCI-Subject"]) == (201, subject["digest"])


def test_tag_moves(client: Client) -> None:
    """end-7: a tag that is pushed again leads to the new manifest; the old one keeps its digest."""
    first, second = client.push_image("a", "v1", b"1"), client.push_image("a", "v1", b"2")
    assert client.send("GET", "/v2/a/manifests/v1").headers["Docker-Content-Digest"] == second
    assert client.send("GET", f"/v2/a/manifests/{first}").status == 200
    assert client.tags("a") == ["v1"]
