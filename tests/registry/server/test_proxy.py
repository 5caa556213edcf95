"""A cache of another registry: fetched once, streamed while it comes, verified, and there when the other one isn't."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import bcrypt
import pytest

from labkit.errors import InvalidParameter
from labkit.images.manifests import OCI_MANIFEST
from labkit.registry.credentials import ANONYMOUS, Credentials
from labkit.registry.server.access import Passwords
from labkit.registry.server.documents import digest_of
from labkit.registry.server.proxy import Proxy
from labkit.registry.server.serving import Answer, Content, Request
from labkit.registry.server.storage import Storage
from tests.registry.server.clients import PATIENCE, Answering, Client, Served, described, manifest, serving
from tests.registry.server.processes import running

LAYER = bytes(range(256)) * 12_000
DIGEST = digest_of(LAYER)


@dataclass
class Upstream:
    """The registry that is cached: what it was asked, and how it misbehaves."""

    asked: list[str] = field(default_factory=list)
    change: Callable[[Request, Answer], Answer] = lambda request, answer: answer

    def around(self, application: Answering) -> Answering:
        def answer(request: Request) -> Answer:
            if request.path != "/v2/":
                self.asked.append(f"{request.method} {request.path.rpartition('/')[2]}")
            return self.change(request, application(request))

        return answer


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def source(upstream: Upstream, tmp_path: Path) -> Iterator[Served]:
    """The registry that is cached, with one image."""
    with serving(tmp_path / "upstream", around=upstream.around) as served:
        with Client(served.port) as client:
            client.push_image("lib/a", "v1", LAYER)
        upstream.asked.clear()
        yield served


def cached(source: Served, credentials: Credentials = ANONYMOUS) -> Callable[[Storage], Proxy]:
    return lambda storage: Proxy(storage, f"http://{source.host}", credentials)


@pytest.fixture
def cache(source: Served, tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "cache", proxy=cached(source)) as served:
        yield served


@pytest.fixture
def client(cache: Served) -> Iterator[Client]:
    with Client(cache.port) as found:
        yield found


def pull(client: Client) -> bytes:
    """The layer of the image, as an engine comes to it."""
    document = client.send("GET", "/v2/lib/a/manifests/v1").json
    assert client.send("GET", f"/v2/lib/a/blobs/{document['config']['digest']}").body == b"{}"
    return client.send("GET", f"/v2/lib/a/blobs/{document['layers'][0]['digest']}").body


def left(cache: Served) -> list[str]:
    """Files that aren't whole."""
    return [path.name for path in (cache.root / ".uploads").iterdir() if path.name != "lock"]


def stored(cache: Served) -> bool:
    return (cache.root / "lib/a/blobs/sha256" / DIGEST.removeprefix("sha256:")).exists()


def settled(cache: Served) -> None:
    """Waits until no download is under way."""
    pause = threading.Event()
    for _ in range(400):
        if not left(cache):
            return
        pause.wait(0.02)
    raise AssertionError(left(cache))


def test_fetched_once(client: Client, cache: Served, upstream: Upstream) -> None:
    """The second pull asks only whether the tag is still the same."""
    assert pull(client) == LAYER
    settled(cache)
    assert sorted(upstream.asked) == sorted(["GET v1", f"GET {digest_of(b'{}')}", f"GET {DIGEST}"])
    upstream.asked.clear()
    assert pull(client) == LAYER
    assert upstream.asked == ["HEAD v1"]
    assert client.send("GET", f"/v2/lib/a/blobs/{DIGEST}", Range="bytes=5-9").body == LAYER[5:10]
    upstream.asked.clear()
    document = client.send("GET", "/v2/lib/a/manifests/" + digest_of(json.dumps(manifest(LAYER)).encode()))
    assert (document.status, upstream.asked) == (200, [])


def test_a_class_at_once(cache: Served, upstream: Upstream) -> None:
    """Thirty clients pull what isn't here: one download of each thing."""
    found: list[bytes] = []

    def one() -> None:
        with Client(cache.port) as own:
            found.append(pull(own))

    threads = [threading.Thread(target=one) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [LAYER] * 30
    settled(cache)
    assert (cache.root / "lib/a/blobs/sha256" / DIGEST.removeprefix("sha256:")).read_bytes() == LAYER
    assert upstream.asked.count(f"GET {DIGEST}") == 1
    assert upstream.asked.count("GET v1") == 1


class Gated:
    """A blob that stops in the middle until it is let go on."""

    def __init__(self, content: Content, gate: threading.Event, middle: int) -> None:
        self.content, self.gate, self.middle, self.size = content, gate, middle, content.size

    def pieces(self) -> Iterator[tuple[int, int, int]]:
        for descriptor, start, size in self.content.pieces():
            yield descriptor, start, self.middle
            assert self.gate.wait(PATIENCE)
            yield descriptor, start + self.middle, size - self.middle

    def narrowed(self, start: int, end: int) -> Content:
        raise NotImplementedError

    def close(self) -> None:
        self.content.close()


@pytest.fixture
def gate(upstream: Upstream) -> Iterator[threading.Event]:
    """Holds the layer back after a megabyte, until it is set."""
    gate = threading.Event()

    def change(request: Request, answer: Answer) -> Answer:
        if request.method == "GET" and request.path.endswith(DIGEST) and not isinstance(answer.body, bytes):
            return replace(answer, body=Gated(answer.body, gate, 1_000_000))
        return answer

    upstream.change = change
    yield gate
    gate.set()


def begin(cache: Served, *headers: str) -> socket.socket:
    """A request for the layer, of which nothing is read yet."""
    sock = socket.create_connection(("127.0.0.1", cache.port), PATIENCE)
    request = "\r\n".join((f"GET /v2/lib/a/blobs/{DIGEST} HTTP/1.1", "Host: x", *headers, "\r\n"))
    sock.sendall(request.encode())
    return sock


def test_streamed_while_it_comes(client: Client, cache: Served, gate: threading.Event) -> None:
    """A client has the first megabyte before the cache has the second; HEAD and a range don't wait for the rest."""
    client.send("GET", "/v2/lib/a/manifests/v1")
    with begin(cache) as sock, sock.makefile("rb") as file, begin(cache, "Range: bytes=1000-1999") as other:
        while file.readline() != b"\r\n":
            pass
        assert file.read(700_000) == LAYER[:700_000]
        assert not stored(cache)
        assert other.recv(1000).startswith(b"HTTP/1.1 206 ")
        head = client.send("HEAD", f"/v2/lib/a/blobs/{DIGEST}")
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(LAYER)))
        gate.set()
        assert file.read(len(LAYER) - 700_000) == LAYER[700_000:]
    settled(cache)
    assert stored(cache)


def test_client_that_leaves(client: Client, cache: Served, gate: threading.Event) -> None:
    """The download goes on without it."""
    client.send("GET", "/v2/lib/a/manifests/v1")
    with begin(cache) as sock:
        assert sock.recv(100)
    gate.set()
    settled(cache)
    assert stored(cache)


def test_head_fetches_nothing(client: Client, upstream: Upstream) -> None:
    client.send("GET", "/v2/lib/a/manifests/v1")
    upstream.asked.clear()
    assert client.send("HEAD", f"/v2/lib/a/blobs/{DIGEST}").headers["Content-Length"] == str(len(LAYER))
    assert upstream.asked == []


def test_tag_that_moved(client: Client, source: Served) -> None:
    pull(client)
    with Client(source.port) as direct:
        moved = direct.push_image("lib/a", "v1", b"another")
    assert client.send("HEAD", "/v2/lib/a/manifests/v1").headers["Docker-Content-Digest"] == moved
    with Client(source.port) as direct:
        direct.send("DELETE", "/v2/lib/a/manifests/v1")
    assert client.send("GET", "/v2/lib/a/manifests/v1").code == "MANIFEST_UNKNOWN"
    assert client.send("GET", f"/v2/lib/a/manifests/{moved}").status == 200


def test_upstream_that_is_away(tmp_path: Path, upstream: Upstream) -> None:
    """What is here can be pulled, listed and asked about; what isn't is 503."""
    with serving(tmp_path / "upstream") as source:
        with Client(source.port) as client:
            client.push_image("lib/a", "v1", LAYER)
        with serving(tmp_path / "cache", proxy=cached(source)) as cache, Client(cache.port) as client:
            assert pull(client) == LAYER
            settled(cache)
    with serving(tmp_path / "cache", proxy=cached(source)) as cache, Client(cache.port) as client:
        assert pull(client) == LAYER
        assert client.tags("lib/a") == ["v1"]
        assert client.send("GET", f"/v2/lib/a/referrers/{DIGEST}").json["manifests"] == []
        for path in ("lib/a/manifests/v2", "lib/b/manifests/v1"):
            assert client.send("GET", f"/v2/{path}").status == 503


def test_wrong_bytes(client: Client, cache: Served, upstream: Upstream, tmp_path: Path) -> None:
    """A layer that isn't what its digest says: no client gets all of it, the store has none, a new try can."""
    (tmp_path / "lie").write_bytes(LAYER[:-1] + b"!")

    def lie(request: Request, answer: Answer) -> Answer:
        if request.method == "GET" and request.path.endswith(DIGEST) and not isinstance(answer.body, bytes):
            content = replace(answer.body, descriptor=os.open(tmp_path / "lie", os.O_RDONLY))  # type: ignore[type-var]  # a FilePart
            answer.body.close()
            return replace(answer, body=content)
        return answer

    upstream.change = lie
    client.send("GET", "/v2/lib/a/manifests/v1")
    with begin(cache, "Connection: close") as sock:
        head, _, received = b"".join(iter(lambda: sock.recv(1 << 16), b"")).partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 200 "):  # it was known too late
        assert LAYER.startswith(received)
        assert len(received) < len(LAYER)
    else:
        assert head.startswith(b"HTTP/1.1 500 ")
    settled(cache)
    assert not stored(cache)
    upstream.change = lambda request, answer: answer
    assert pull(client) == LAYER


def test_wrong_manifest(client: Client, cache: Served, upstream: Upstream) -> None:
    upstream.change = lambda request, answer: replace(answer, body=b"{}") if "manifests" in request.path else answer
    assert client.send("GET", "/v2/lib/a/manifests/v1").status >= 400
    assert not (cache.root / "lib").exists()


def test_blob_that_is_gone(client: Client, cache: Served, source: Served) -> None:
    """404 from there is 404 here."""
    client.send("GET", "/v2/lib/a/manifests/v1")
    with Client(source.port) as direct:
        direct.send("DELETE", f"/v2/lib/a/blobs/{DIGEST}")
    reply = client.send("GET", f"/v2/lib/a/blobs/{DIGEST}")
    assert (reply.status, reply.code) == (404, "BLOB_UNKNOWN")
    assert left(cache) == []


def test_blob_of_no_manifest(client: Client, source: Served, upstream: Upstream) -> None:
    with Client(source.port) as direct:
        other = direct.push_blob("lib/a", b"other")
    upstream.asked.clear()
    assert client.send("GET", f"/v2/lib/a/blobs/{other}").code == "BLOB_UNKNOWN"
    client.send("GET", "/v2/lib/a/manifests/v1")
    assert client.send("GET", f"/v2/lib/a/blobs/{other}").code == "BLOB_UNKNOWN"
    assert upstream.asked == ["GET v1"]


def test_what_is_not_there(client: Client, cache: Served) -> None:
    for path in ("lib/none/manifests/v1", "lib/a/manifests/none", "lib/a/manifests/.x"):
        assert client.send("GET", f"/v2/{path}").code == "MANIFEST_UNKNOWN"
    assert client.send("GET", "/v2/lib/none/tags/list").code == "NAME_UNKNOWN"
    assert not (cache.root / "lib").exists()


def test_pushes(client: Client) -> None:
    """405: push to the registry itself."""
    for method, path in (("POST", "blobs/uploads/"), ("PUT", "manifests/v1"), ("DELETE", "manifests/v1")):
        reply = client.send(method, f"/v2/lib/a/{path}", b"x")
        assert (reply.status, reply.code) == (405, "UNSUPPORTED")


def test_lists(client: Client, source: Served) -> None:
    """Tags and referrers are those there."""
    subject = json.dumps(manifest(LAYER)).encode()
    with Client(source.port) as direct:
        direct.push_manifest("lib/a", "sbom", manifest(subject=described(OCI_MANIFEST, subject)))
    assert client.tags("lib/a") == ["sbom", "v1"]
    found = client.send("GET", f"/v2/lib/a/referrers/{digest_of(subject)}").json["manifests"]
    assert [one["digest"] for one in found] == [
        client.send("HEAD", "/v2/lib/a/manifests/sbom").headers["Docker-Content-Digest"]
    ]


def test_passwords(tmp_path: Path) -> None:
    """The registry behind wants to know who asks: DENIED without, and with the right words all is well."""
    (tmp_path / "htpasswd").write_bytes(b"ann:" + bcrypt.hashpw(b"x", bcrypt.gensalt(4)))
    root = tmp_path / "upstream"
    with serving(root) as source, Client(source.port) as client:
        client.push_image("lib/a", "v1", LAYER)
    with serving(root, Passwords(tmp_path / "htpasswd")) as source:
        with serving(tmp_path / "one", proxy=cached(source)) as cache, Client(cache.port) as client:
            reply = client.send("GET", "/v2/lib/a/manifests/v1")
            assert (reply.status, reply.code) == (403, "DENIED")
        known = cached(source, Credentials("ann", "x"))
        with serving(tmp_path / "two", proxy=known) as cache, Client(cache.port) as client:
            assert pull(client) == LAYER


def test_end_during_a_download(source: Served, gate: threading.Event, tmp_path: Path) -> None:
    """A cache that ends gives up what isn't whole, without a trace on the disk."""
    storage = Storage(tmp_path / "cache")
    proxy = Proxy(storage, f"http://{source.host}")
    proxy.manifest("lib/a", "v1")
    content = proxy.blob("lib/a", DIGEST, True)
    pieces = content.pieces()
    assert next(pieces)[2] > 0
    proxy.close()
    with pytest.raises(ConnectionAbortedError):
        list(pieces)
    content.close()
    assert [path.name for path in storage.workspace.iterdir()] == ["lock"]
    storage.close()


@pytest.mark.parametrize("url", ["", "docker.io", "ftp://x", "http://", "https://x/path", "https://me:word@x"])
def test_bad_urls(tmp_path: Path, url: str) -> None:
    storage = Storage(tmp_path / "cache")
    with pytest.raises(InvalidParameter, match="HOST\\[:PORT\\] is needed"):
        Proxy(storage, url)
    storage.close()


def test_process(source: Served, tmp_path: Path) -> None:
    """`labkit registry --proxy`: pulled through, and there after a restart."""
    for _ in range(2):
        with running(tmp_path / "cache", "--proxy", f"http://{source.host}") as process, Client(process.port) as client:
            assert pull(client) == LAYER
