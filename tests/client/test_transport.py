"""HTTP as it arrives on a real socket: heads, bodies, ends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.client import Client
from labkit.client.transport import Address, parse_host, percent_encode
from labkit.errors import Conflict, InvalidParameter, LabkitError, NotFound, NotImplementedByLabkit, Unavailable


@contextmanager
def server(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Answers one request after another on TCP; gives the host and the request heads that came."""
    heads: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            for answer in answers:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536)
                heads.append(data)
                for byte in range(0, len(answer), 7):  # in small pieces: nothing arrives as it was sent
                    connection.sendall(answer[byte : byte + 7])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}", heads
    finally:
        thread.join(10)
        listener.close()


def ask(answer: bytes) -> bytes:
    with server(answer) as (host, _):
        client = Client(host)
        try:
            return client.request("GET", "/x").body()
        finally:
            client.close()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("unix:///run/x.sock", ("unix", "/run/x.sock", 0)),
        ("tcp://10.0.0.1:2375", ("tcp", "10.0.0.1", 2375)),
        ("tcp://[::1]:99", ("tcp", "::1", 99)),
        ("tcp://lab", ("tcp", "lab", 2375)),
        ("lab:2375", ("tcp", "lab", 2375)),
        ("https://lab", ("tls", "lab", 2376)),
    ],
)
def test_hosts_are_read_as_docker_reads_them(host: str, address: tuple[str, str, int]) -> None:
    assert parse_host(host) == Address(*address, host)


@pytest.mark.parametrize("host", ["", "unix://", "ssh://lab", "fd://3"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_host(host)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_encoding_agrees_with_the_standard_library(text: str) -> None:
    assert percent_encode(text) == quote(text, safe="")


def test_a_body_ends_with_its_length() -> None:
    assert ask(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello") == b"hello"


def test_a_body_ends_with_its_last_chunk() -> None:
    chunks = b"5\r\nhello\r\n10;ext=1\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n"
    assert ask(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks) == b"hello" + b"x" * 16


def test_a_body_without_length_ends_with_the_connection() -> None:
    assert ask(b"HTTP/1.1 200 OK\r\n\r\nhello") == b"hello"


def test_interim_answers_are_skipped() -> None:
    assert ask(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") == b"ok"


@pytest.mark.parametrize(
    "cut",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"SSH-2.0-OpenSSH\r\n\r\n",
    ],
)
def test_an_answer_that_is_cut_short_is_an_error(cut: bytes) -> None:
    with pytest.raises(Unavailable):
        ask(cut)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidParameter), (404, NotFound), (409, Conflict), (500, LabkitError), (501, NotImplementedByLabkit)],
)
def test_a_status_becomes_its_error_with_the_daemons_message(status: int, kind: type[LabkitError]) -> None:
    body = b'{"message":"No such thing"}'
    with pytest.raises(kind) as caught:
        ask(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
    assert type(caught.value) is kind
    assert str(caught.value) == "Error response from daemon: No such thing"


def test_requests_of_a_client_share_a_connection_and_a_trace() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    with server(answer, answer) as (host, heads):
        client = Client(host)
        client.get("/one", {"a": True, "b": False, "c": None, "d": ["x y", "ü"], "e": 3})
        client.post("/two", None, {"Image": "x"})
        client.close()
    assert heads[0].startswith(b"GET /one?a=1&d=x%20y&d=%C3%BC&e=3 HTTP/1.1\r\n")
    assert heads[1].endswith(b'Content-Type: application/json\r\nContent-Length: 13\r\n\r\n{"Image":"x"}')
    first, second = client.spans
    assert first.context.trace_id == second.context.trace_id == client.trace.trace_id
    assert first.context.parent_id == client.trace.span_id
    for span, head in zip((first, second), heads, strict=True):
        assert f"Traceparent: {span.context.traceparent()}".encode() in head
    assert (first.name, first.actor, first.attributes["http.response.status_code"]) == ("GET /one", "client", 200)
    assert first.began < first.ended <= second.began


def test_a_refused_request_leaves_a_span_that_says_why() -> None:
    with server(b'HTTP/1.1 404 X\r\nContent-Length: 15\r\n\r\n{"message":"m"}') as (host, _):
        client = Client(host)
        with pytest.raises(NotFound):
            client.get("/x")
        client.close()
    assert client.spans[0].error == "Error response from daemon: m"


def test_nobody_there_is_said_in_dockers_words() -> None:
    with pytest.raises(Unavailable, match=r"^Cannot connect to the Docker daemon at unix:///nowhere/x\.sock\. Is the"):
        Client("unix:///nowhere/x.sock").get("/_ping")
