"""A registry server on a thread of the test, and a client that sends what it is told, also what no client should."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labkit.images.manifests import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from labkit.registry.server.access import Passwords
from labkit.registry.server.application import Registry
from labkit.registry.server.documents import digest_of
from labkit.registry.server.proxy import Proxy
from labkit.registry.server.routes import Application
from labkit.registry.server.serving import Answer, Request, Server
from labkit.registry.server.storage import Storage
from labkit.registry.server.uploads import Uploads

Answering = Callable[[Request], Answer]

PATIENCE = 20
"""Seconds after which what should have happened has not."""


@dataclass(frozen=True)
class Served:
    """A registry that is served."""

    port: int
    root: Path
    registry: Registry

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def serving(
    root: Path,
    passwords: Passwords | None = None,
    around: Callable[[Answering], Answering] = lambda application: application,
    proxy: Callable[[Storage], Proxy] | None = None,
    **settings: Any,
) -> Iterator[Served]:
    """A registry with that root, while the block runs. `around` may watch or change what it answers."""
    storage = Storage(root)
    origin = proxy(storage) if proxy else None
    registry = replace(Registry(storage, Uploads(storage.workspace), origin=origin), **settings)
    server = Server(("127.0.0.1", 0), around(Application(registry, passwords)))
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
    thread.start()
    try:
        yield Served(server.server_address[1], root, registry)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        server.drain(PATIENCE)
        if origin:
            origin.close()
        storage.close()


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The specification's code of an error."""
        return str(self.json["errors"][0]["code"])

    @property
    def location(self) -> str:
        return str(self.headers["Location"])


class Client:
    """One connection that is kept; a context manager."""

    def __init__(self, port: int, headers: dict[str, str] | None = None) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self.headers = headers or {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One request; `_` in the names of headers is `-`. A body that is an iterator goes out in chunks."""
        named = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, named)
        with self.connection.getresponse() as answer:
            return Reply(answer.status, answer.headers, answer.read())

    def push_blob(self, name: str, data: bytes) -> str:
        """Pushes a blob at once; returns its digest."""
        digest = digest_of(data)
        reply = self.send("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", data)
        assert reply.status == 201, reply.body
        return digest

    def push_manifest(self, name: str, reference: str, document: dict[str, Any], **headers: str) -> Reply:
        """Pushes a manifest; the reference may be "" for its digest."""
        data = json.dumps(document).encode()
        kind = document.get("mediaType", OCI_MANIFEST)
        return self.send(
            "PUT", f"/v2/{name}/manifests/{reference or digest_of(data)}", data, **{"Content-Type": kind} | headers
        )

    def push_image(self, name: str, reference: str, content: bytes = b"layer") -> str:
        """Pushes an image of one layer; returns the manifest's digest."""
        for data in (b"{}", content):
            self.push_blob(name, data)
        reply = self.push_manifest(name, reference, manifest(content))
        assert reply.status == 201, reply.body
        return str(reply.headers["Docker-Content-Digest"])

    def tags(self, name: str) -> list[str]:
        return list(self.send("GET", f"/v2/{name}/tags/list").json["tags"])


def described(kind: str, data: bytes) -> dict[str, Any]:
    """A descriptor."""
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}


def manifest(*layers: bytes, **fields: Any) -> dict[str, Any]:
    """An image manifest with the configuration `{}`; `fields` are added or put in place of its own."""
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described(OCI_CONFIG, b"{}"),
        "layers": [described(OCI_LAYER, layer) for layer in layers],
    } | fields


def index(*manifests: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """An image index of descriptors."""
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests)} | fields


def raw(port: int, data: bytes) -> bytes:
    """All that the server answers to these bytes, after which the client says that it sends no more."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))
