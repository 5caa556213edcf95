"""Content management: end-9 and end-10 of the OCI distribution-spec (`spec.md`), and registries that refuse it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.registry.server.clients import Client, Served, manifest, serving


def test_delete_tag(client: Client) -> None:
    """end-9: 202; the tag is gone, its manifest is not."""
    digest = client.push_image("a", "v1")
    client.push_image("a", "v2")
    assert client.send("DELETE", "/v2/a/manifests/v1").status == 202
    assert client.tags("a") == ["v2"]
    assert client.send("GET", "/v2/a/manifests/v1").code == "MANIFEST_UNKNOWN"
    assert client.send("DELETE", "/v2/a/manifests/v2").status == 202
    assert client.send("GET", f"/v2/a/manifests/{digest}").status == 200


def test_delete_manifest(client: Client) -> None:
    """end-9: 202; it is gone under its digest and all its tags."""
    digest = client.push_image("a", "v1")
    client.push_image("a", "v2")
    assert client.send("DELETE", f"/v2/a/manifests/{digest}").status == 202
    for reference in ("v1", "v2", digest):
        assert client.send("GET", f"/v2/a/manifests/{reference}").status == 404
    assert client.tags("a") == []
    assert client.push_image("a", "v1") == digest  # and can come again


def test_delete_blob(client: Client, served: Served) -> None:
    """end-10: 202; gone here, still there in the other repository, and the space is given back with the last one."""
    digest = client.push_blob("a", b"data")
    client.push_blob("b", b"data")
    assert client.send("DELETE", f"/v2/a/blobs/{digest}").status == 202
    assert client.send("GET", f"/v2/a/blobs/{digest}").status == 404
    assert client.send("GET", f"/v2/b/blobs/{digest}").body == b"data"
    assert client.send("DELETE", f"/v2/b/blobs/{digest}").status == 202
    assert not list(served.root.rglob(digest.removeprefix("sha256:")))


@pytest.mark.parametrize("path", ["manifests/v1", "manifests/sha256:" + "0" * 64, "blobs/sha256:" + "0" * 64])
def test_delete_what_is_not_there(client: Client, path: str) -> None:
    """end-9, end-10: 404."""
    assert client.send("DELETE", f"/v2/a/{path}").code == "NAME_UNKNOWN"
    client.push_blob("a", b"x")
    assert client.send("DELETE", f"/v2/a/{path}").status == 404


def test_no_delete(tmp_path: Path) -> None:
    """end-9, end-10: 405 where deletion is off; an upload can still be given up."""
    with serving(tmp_path / "registry", deletable=False) as served, Client(served.port) as client:
        digest = client.push_image("a", "v1")
        for path in ("manifests/v1", f"manifests/{digest}", f"blobs/{digest}"):
            reply = client.send("DELETE", f"/v2/a/{path}")
            assert (reply.status, reply.code) == (405, "UNSUPPORTED")
        assert client.send("DELETE", client.send("POST", "/v2/a/blobs/uploads/").location).status == 204
        assert client.tags("a") == ["v1"]


def test_readonly(tmp_path: Path) -> None:
    """All that changes the registry is 405; what is there can be pulled."""
    with serving(tmp_path / "registry") as served, Client(served.port) as client:
        digest = client.push_image("a", "v1")
    with serving(tmp_path / "registry", readonly=True) as served, Client(served.port) as client:
        data = json.dumps(manifest(b"layer")).encode()
        for method, path in (
            ("POST", "blobs/uploads/"),
            ("PUT", "manifests/v2"),
            ("DELETE", "manifests/v1"),
            ("DELETE", f"blobs/{digest}"),
        ):
            reply = client.send(method, f"/v2/a/{path}", data)
            assert (reply.status, reply.code) == (405, "UNSUPPORTED")
        assert client.send("GET", "/v2/a/manifests/v1").body == data


def test_other_methods(client: Client) -> None:
    """405 and what is allowed."""
    reply = client.send("PUT", "/v2/a/tags/list")
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")
    for path in ("/v3/", "/v2/a", "/favicon.ico", "/v2/a/manifests/", "/v2//tags/list"):
        assert client.send("GET", path).status == 404
