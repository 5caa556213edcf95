"""HTTP as clients that are slow, gone, confused or hostile speak it (RFC 9112)."""

from __future__ import annotations

import re
import socket
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.registry.server import serving as server
from labkit.registry.server.documents import digest_of
from tests.registry.server.clients import PATIENCE, Client, Served, raw

HEAD = b"HTTP/1.1\r\nHost: x\r\n"


def upload(client: Client) -> str:
    return client.send("POST", "/v2/a/blobs/uploads/").location


def size(client: Client, place: str) -> str:
    return str(client.send("GET", place).headers["Range"])


def test_kept_connection(client: Client) -> None:
    """One connection serves many requests, also after errors and bodies that nobody read."""
    client.send("GET", "/v2/")
    sock = client.connection.sock
    assert client.send("GET", "/v2/A/tags/list", b"x" * 1000).status == 400
    assert client.send("POST", "/v2/A/blobs/uploads/", b"x" * 1000).status == 400
    assert client.send("GET", "/v2/").status == 200
    assert client.connection.sock is sock


def test_big_body_that_is_refused(client: Client) -> None:
    """The answer arrives, though the client would send on; the connection ends."""
    reply = client.send("PUT", "/v2/a/tags/list", bytes(8 << 20))
    assert (reply.status, reply.headers["Connection"]) == (405, "close")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=6), upper=st.booleans())
def test_chunks(client: Client, served: Served, data: bytes, cuts: list[int], upper: bool) -> None:
    """A body in any chunks, with extensions and trailers, is its content."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parts = [data[start:end] for start, end in pairwise(edges) if start < end]
    sizes = [f"{len(part):X}" if upper else f"000{len(part):x};name=value" for part in parts]
    body = b"".join(size.encode() + b"\r\n" + part + b"\r\n" for size, part in zip(sizes, parts, strict=True))
    request = f"POST /v2/a/blobs/uploads/?digest={digest_of(data)} ".encode() + HEAD
    answer = raw(served.port, request + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\nTrailer: 1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert client.send("GET", f"/v2/a/blobs/{digest_of(data)}").body == data


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Content-Length: 10\r\n", b"four"),
        (b"Transfer-Encoding: chunked\r\n", b"4\r\nfour"),
        (b"Transfer-Encoding: chunked\r\n", b"4\r\nfour\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"4\r\nfour\r\nzz\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"4\r\nfour\r\n-1\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"4\r\nfour\r\n0x1\r\nx\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"4\r\nfour\r\nffffffffffffffffffffffff\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"4\r\nfour\r\n1" + b"0" * 5000),
    ],
)
def test_truncated_body(client: Client, served: Served, headers: bytes, body: bytes) -> None:
    """400; what had arrived is kept for the client to go on from (end-5), and the connection ends."""
    place = upload(client)
    answer = raw(served.port, b"PATCH " + place.encode() + b" " + HEAD + headers + b"\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in answer
    assert size(client, place) == "0-3"
    assert client.send("PATCH", place, b"five", Content_Range="4-7").status == 202


def test_truncated_single_post(client: Client, served: Served) -> None:
    """end-4b: nobody knows such an upload's name, so nothing of it is kept."""
    request = f"POST /v2/a/blobs/uploads/?digest={digest_of(b'x')} ".encode() + HEAD + b"Content-Length: 9\r\n\r\nfour"
    assert raw(served.port, request).startswith(b"HTTP/1.1 400 ")
    assert [path.name for path in (served.root / ".uploads").iterdir()] == ["lock"]


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
        b"Content-Length: -4\r\n",
        b"Content-Length: +4\r\n",
        b"Content-Length: 0x4\r\n",
        b"Content-Length: \xb2\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    ],
)
def test_ambiguous_lengths(served: Served, headers: bytes) -> None:
    """Requests that two servers could read differently (RFC 9112, 6.3 and 11.2): refused, and nothing follows."""
    answer = raw(
        served.port, b"POST /v2/a/blobs/uploads/ " + HEAD + headers + b"\r\n0\r\n\r\nGET /v2/ " + HEAD + b"\r\n"
    )
    assert len(re.findall(rb"HTTP/1\.1 \d+", answer)) == 1
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "data", [b"\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET /v2/ HTTP/9.9\r\n\r\n", b"x" * 70_000]
)
def test_no_http(client: Client, served: Served, data: bytes) -> None:
    """What isn't HTTP ends that connection and no other."""
    assert not raw(served.port, data).startswith(b"HTTP/1.1 200")
    assert client.send("GET", "/v2/").status == 200


def test_expect(client: Client, served: Served) -> None:
    """100-continue comes when the body is wanted, and not before a refusal."""
    place = upload(client)
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE) as sock:
        sock.sendall(b"PATCH " + place.encode() + b" " + HEAD + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"four")
        assert sock.recv(1000).startswith(b"HTTP/1.1 202 ")
    refused = b"PATCH /v2/A/blobs/uploads/x " + HEAD + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    answer = raw(served.port, refused)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in answer


def test_old_protocol(served: Served) -> None:
    """HTTP/1.0: one answer, and the end."""
    assert raw(served.port, b"GET /v2/ HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\n{}")


def test_slow_client(client: Client, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that sends nothing holds up nobody, and is given up in time."""
    place = upload(client)
    monkeypatch.setattr(server, "PATIENCE", 0.3)
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE) as sock:
        sock.sendall(b"PATCH " + place.encode() + b" " + HEAD + b"Content-Length: 400\r\n\r\nfour")
        with Client(served.port) as other:
            assert other.send("GET", "/v2/").status == 200
        assert sock.recv(1000) == b""
    with Client(served.port) as other:
        assert size(other, place) == "0-3"


def test_client_that_leaves_during_a_download(client: Client, served: Served) -> None:
    digest = client.push_blob("a", bytes(64 << 20))
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE) as sock:
        sock.sendall(f"GET /v2/a/blobs/{digest} ".encode() + HEAD + b"\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert client.send("HEAD", f"/v2/a/blobs/{digest}").status == 200
    served_requests_end(served)


def served_requests_end(served: Served) -> None:
    """No descriptor of the blob stays open."""
    pattern = str(served.root / "a/blobs")
    deadline = threading.Event()
    for _ in range(200):
        if not any(pattern in target for target in descriptors()):
            return
        deadline.wait(0.05)
    raise AssertionError(descriptors())


def descriptors() -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except FileNotFoundError:
            continue  # closed meanwhile
    return found


def test_thirty_pulls_at_once(client: Client, served: Served) -> None:
    """A class: every one gets every byte."""
    data = bytes(range(256)) * (1 << 14)
    digest = client.push_blob("a", data)
    found: list[str] = []

    def pull() -> None:
        with Client(served.port) as own:
            found.append(digest_of(own.send("GET", f"/v2/a/blobs/{digest}").body))

    threads = [threading.Thread(target=pull) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [digest] * 30


def test_two_patches_at_once(client: Client, served: Served) -> None:
    """The second request to an upload is told that there is a first one; the first one's bytes are whole."""
    place = upload(client)
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE) as sock:
        sock.sendall(b"PATCH " + place.encode() + b" " + HEAD + b"Content-Length: 8\r\n\r\nfour")
        while size(client, place) != "0-3":
            pass
        reply = client.send("PATCH", place, b"other")
        assert (reply.status, reply.code) == (409, "BLOB_UPLOAD_INVALID")
        sock.sendall(b"more")
        assert sock.recv(1000).startswith(b"HTTP/1.1 202 ")
    assert client.send("PUT", f"{place}?digest={digest_of(b'fourmore')}").status == 201
