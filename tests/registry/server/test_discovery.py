"""Content discovery: end-8 and end-12 of the OCI distribution-spec (`spec.md`), the catalogue, and the page."""

from __future__ import annotations

import json
import re

import pytest

from labkit.images.manifests import OCI_INDEX, OCI_MANIFEST
from tests.registry.server.clients import Client, Served, described, index, manifest

EMPTY = described("application/vnd.oci.empty.v1+json", b"{}")


def test_tags(client: Client) -> None:
    """end-8a: all tags, in ASCII order."""
    for tag in ("b", "a", "C", "1", "latest"):
        client.push_image("x/y", tag)
    reply = client.send("GET", "/v2/x/y/tags/list")
    assert (reply.status, reply.json) == (200, {"name": "x/y", "tags": ["1", "C", "a", "b", "latest"]})
    assert "Link" not in reply.headers


def test_no_tags(client: Client) -> None:
    """end-8a: none in a repository that has none; 404 if there is no repository."""
    assert client.send("GET", "/v2/a/tags/list").code == "NAME_UNKNOWN"
    client.push_image("a", "")
    assert client.tags("a") == []


def test_pages_of_tags(client: Client) -> None:
    """end-8b: `n` at most, those after `last`, which need not be a tag; Link leads on while there is more."""
    for tag in "abcde":
        client.push_image("x", tag)
    path, seen = "/v2/x/tags/list?n=2", []
    while path:
        reply = client.send("GET", path)
        seen.append(reply.json["tags"])
        link = re.fullmatch(r'<(.+)>; rel="next"', reply.headers.get("Link", ""))
        path = link[1] if link else ""
    assert seen == [["a", "b"], ["c", "d"], ["e"]]
    assert client.send("GET", "/v2/x/tags/list?last=bb&n=1").json["tags"] == ["c"]
    assert client.send("GET", "/v2/x/tags/list?last=c").json["tags"] == ["d", "e"]


def test_pages_at_their_limits(client: Client) -> None:
    """end-8b: no Link if all was given, and none for n=0, which gives nothing."""
    for tag in "ab":
        client.push_image("x", tag)
    for number, tags in (("2", ["a", "b"]), ("3", ["a", "b"]), ("0", [])):
        reply = client.send("GET", f"/v2/x/tags/list?n={number}")
        assert (reply.json["tags"], reply.headers["Link"]) == (tags, None)
    for number in ("-1", "x", "1.5", "9" * 30, "²"):
        reply = client.send("GET", f"/v2/x/tags/list?n={number.replace('²', '%C2%B2')}")
        assert (reply.status, reply.code) == (400, "PAGINATION_NUMBER_INVALID")


def test_catalog(client: Client) -> None:
    """Distribution's list of repositories, by pages too; the layouts' own directories are none."""
    assert client.send("GET", "/v2/_catalog").json == {"repositories": []}
    for name in ("library/b", "a", "a/b", "blobs", "a/blobs", "a/blobs/sha256", "index.json/oci-layout"):
        client.push_image(name, "v1")
    names = ["a", "a/b", "a/blobs", "a/blobs/sha256", "blobs", "index.json/oci-layout", "library/b"]
    assert client.send("GET", "/v2/_catalog").json == {"repositories": names}
    reply = client.send("GET", "/v2/_catalog?n=3")
    assert reply.json == {"repositories": names[:3]}
    assert reply.headers["Link"] == '</v2/_catalog?n=3&last=a%2Fblobs>; rel="next"'
    assert client.send("GET", "/v2/_catalog?n=9&last=a%2Fblobs").json == {"repositories": names[3:]}
    for name in names:
        assert client.tags(name) == ["v1"]


def test_no_referrers(client: Client) -> None:
    """end-12a: an empty index, with the type of one, of whatever isn't here; 400 if the digest is none."""
    absent = "sha256:" + "0" * 64
    for _ in range(2):
        reply = client.send("GET", f"/v2/a/referrers/{absent}")
        assert (reply.status, reply.headers["Content-Type"]) == (200, OCI_INDEX)
        assert reply.json == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
        client.push_image("a", "v1")
    assert client.send("GET", "/v2/a/referrers/v1").code == "DIGEST_INVALID"


def test_referrers(client: Client) -> None:
    """end-12a: descriptors with the artifact type (of an image without one, its configuration's) and annotations."""
    subject = described(OCI_MANIFEST, json.dumps(manifest(b"layer")).encode())
    client.push_image("a", "v1")
    notes = {"org.example.key": "value"}
    artifact = manifest(config=EMPTY, subject=subject, artifactType="application/vnd.example.sbom", annotations=notes)
    image = manifest(b"layer", subject=subject)
    listed = index(subject=subject, artifactType="application/vnd.example.list")
    unrelated = manifest(subject=described(OCI_MANIFEST, b"other"))
    for document in (artifact, image, listed, unrelated):
        assert client.push_manifest("a", "", document).status == 201
    expected = [
        described(OCI_MANIFEST, json.dumps(artifact).encode())
        | {"annotations": notes, "artifactType": "application/vnd.example.sbom"},
        described(OCI_MANIFEST, json.dumps(image).encode()) | {"artifactType": manifest()["config"]["mediaType"]},
        described(OCI_INDEX, json.dumps(listed).encode()) | {"artifactType": "application/vnd.example.list"},
    ]
    reply = client.send("GET", f"/v2/a/referrers/{subject['digest']}")
    assert reply.json["manifests"] == expected
    assert "OCI-Filters-Applied" not in reply.headers
    one = client.send("GET", f"/v2/a/referrers/{subject['digest']}?artifactType=application%2Fvnd.example.sbom")
    assert one.json["manifests"] == expected[:1]
    assert one.headers["OCI-Filters-Applied"] == "artifactType"
    client.send("DELETE", f"/v2/a/manifests/{expected[0]['digest']}")
    assert client.send("GET", f"/v2/a/referrers/{subject['digest']}").json["manifests"] == expected[1:]


def test_page(client: Client, served: Served) -> None:
    """What a class's browser shows: images, sizes, the command; with the host by which it came here."""
    assert "No images yet" in client.send("GET", "/").body.decode()
    client.push_image("library/a", "v1", bytes(1_500_000))
    reply = client.send("GET", "/", Host="registry.example:5000")
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    text = reply.body.decode()
    assert (
        '<td>library/a:v1<td class="size">1.5MB<td><code>docker pull registry.example:5000/library/a:v1</code>' in text
    )


def test_page_of_an_index(client: Client) -> None:
    for content in (bytes(1000), bytes(2_000_000)):
        client.push_image("a", "", content)
    children = [
        described(OCI_MANIFEST, json.dumps(manifest(data)).encode()) for data in (bytes(1000), bytes(2_000_000))
    ]
    assert client.push_manifest("a", "all", index(*children)).status == 201
    assert '<td class="size">1kB to 2MB, 2 platforms<' in client.send("GET", "/").body.decode()


@pytest.mark.parametrize("host", ['"><script>alert(1)</script>', "<b>"])
def test_page_escapes(client: Client, host: str) -> None:
    client.push_image("a", "v1")
    reply = client.send("GET", "/", Host=host)
    assert b"<script" not in reply.body
    assert b"<b>" not in reply.body
    assert reply.headers["Content-Security-Policy"].startswith("default-src 'none'")
