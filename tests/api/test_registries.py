"""The routes on registries: what isn't a registry's answer is refused in time, and nothing goes on for nobody."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from labkit.client import Client
from labkit.client.credentials import AuthConfig
from labkit.errors import InvalidParameter, LabkitError, Unauthorized
from tests.client.engines import engine, engine_host
from tests.support.daemon import PATIENCE
from tests.support.registries import Asked, scripted

__all__ = ["engine", "engine_host"]

pytestmark = pytest.mark.root
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def client(engine: str) -> Iterator[Client]:
    with closing(Client(engine)) as found:
        yield found


def test_what_is_no_manifest_is_not_stored(client: Client) -> None:
    for query, content_type, body, message in (
        ({}, MANIFEST, b"{}", "name is required"),
        ({"name": "a:1"}, "text/plain", b"{}", "unsupported manifest media type: 'text/plain'"),
        ({"name": "a:1"}, MANIFEST, b"{", "invalid image manifest"),
        ({"name": "A"}, MANIFEST, b"{}", "must be lowercase"),
    ):
        with pytest.raises(InvalidParameter, match=message):
            client.request("PUT", "/labkit/registry/manifests", query, body, {"Content-Type": content_type})


def refuse(asked: Asked) -> None:
    asked.say(401, WWW_Authenticate='Basic realm="x"')


def test_only_a_login_is_answered_by_401(client: Client) -> None:
    """At a 401 the docker command asks for a password, and tries again."""
    with scripted(refuse) as server:
        auth = AuthConfig("a", "b", serveraddress=server.host)
        with pytest.raises(Unauthorized):
            client.post("/auth", body=auth.fields())
        for path in (f"/distribution/{server.host}/a/json", f"/images/search?term={server.host}/a"):
            with pytest.raises(LabkitError) as raised:
                client.get(path)
            assert type(raised.value) is LabkitError
        with pytest.raises(LabkitError) as raised:
            client.post("/images/create", {"fromImage": f"{server.host}/a", "tag": "1"})
        assert type(raised.value) is LabkitError


def test_a_request_that_nobody_waits_for_ends(engine: str) -> None:
    asked_for, ended = threading.Event(), threading.Event()

    def silent(asked: Asked) -> None:
        asked_for.set()
        if not asked.rfile.read(1):
            ended.set()  # the engine has closed the connection
        asked.end()

    with scripted(silent) as server, closing(Client(engine)) as client:
        exchange = client.begin("GET", f"/distribution/{server.host}/a/json")
        assert asked_for.wait(PATIENCE)
        assert not ended.is_set()
        exchange.connection.close()
        assert ended.wait(PATIENCE)
