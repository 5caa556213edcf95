"""Streams and raw connections: what a client sees of them, and what a route sees of its client."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import AsyncIterator

import pytest

from labkit.api.http import Hijack, Hijacked, Request, Route, Stream
from labkit.api.streams import Outbox
from labkit.errors import Conflict
from tests.api.serving import ATTACH, PING, UPGRADE, WAIT, Serve, ask, read_all, read_until

# Streams


def test_stream_headers_come_before_the_first_piece(serve: Serve) -> None:
    go = threading.Event()

    async def pieces() -> AsyncIterator[bytes]:
        await asyncio.get_running_loop().run_in_executor(None, go.wait)
        yield b'{"n":1}\n'
        yield b""
        yield b'{"n":2}\n'

    async def stream(request: Request) -> Stream:
        return Stream(pieces(), headers=(("X-Kind", "test"),))

    served = serve(Route("GET", "/s", stream))
    with served.connect() as client:
        response = ask(client, "GET /s HTTP/1.1")
        assert (response.status, response.getheader("X-Kind")) == (200, "test")
        assert response.getheader("Transfer-Encoding") == "chunked"
        assert served.seen == []
        go.set()
        assert response.read() == b'{"n":1}\n{"n":2}\n'
        assert served.seen[0][:2] == ("/s", 200)
        assert ask(client, "GET /s HTTP/1.1").read() == b'{"n":1}\n{"n":2}\n'
    with served.connect() as client:
        client.sendall(b"GET /s HTTP/1.0\r\n\r\n")
        assert read_all(client).partition(b"\r\n\r\n")[2] == b'{"n":1}\n{"n":2}\n'


def test_a_stream_of_known_length_goes_out_as_it_is(serve: Serve) -> None:
    """With Content-Length, on a connection that then carries the next request."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"abc"
        yield b"def"

    async def stream(request: Request) -> Stream:
        return Stream(pieces(), "application/x-tar", length=6)

    served = serve(Route("GET", "/s", stream), PING)
    with served.connect() as client:
        response = ask(client, "GET /s HTTP/1.1")
        assert (response.getheader("Content-Length"), response.getheader("Transfer-Encoding")) == ("6", None)
        assert response.read() == b"abcdef"
        assert ask(client, "GET /_ping HTTP/1.1").read() == b"OK"


def test_a_stream_that_breaks_before_its_length_ends_the_connection(serve: Serve) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"abc"
        raise Conflict("broken")

    async def stream(request: Request) -> Stream:
        return Stream(pieces(), "application/x-tar", length=6)

    served = serve(Route("GET", "/s", stream))
    with served.connect() as client:
        response = ask(client, "GET /s HTTP/1.1")
        with pytest.raises(http.client.IncompleteRead):
            response.read()
        assert client.recv(1) == b""


def failing(content_type: str, error: Exception) -> Route:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"{}\n"
        raise error

    async def stream(request: Request) -> Stream:
        return Stream(pieces(), content_type)

    return Route("GET", "/s", stream)


@pytest.mark.parametrize("error", [Conflict("no space"), RuntimeError("no space")])
def test_an_error_in_a_json_stream_is_its_last_line(serve: Serve, error: Exception) -> None:
    with serve(failing("application/json", error)).connect() as client:
        first, last = ask(client, "GET /s HTTP/1.1").read().splitlines()
        assert (first, json.loads(last)) == (b"{}", {"errorDetail": {"message": "no space"}, "error": "no space"})


def test_an_error_in_another_stream_cuts_it(serve: Serve) -> None:
    with serve(failing("application/x-tar", Conflict("no space"))).connect() as client:
        response = ask(client, "GET /s HTTP/1.1")
        with pytest.raises(http.client.IncompleteRead):
            response.read()


@pytest.mark.parametrize("early", [False, True], ids=["while it waits", "before it began"])
def test_a_stream_ends_when_its_client_goes(serve: Serve, early: bool) -> None:
    began, closed, may_answer = threading.Event(), threading.Event(), threading.Event()

    async def pieces() -> AsyncIterator[bytes]:
        began.set()
        try:
            yield b"{}"
            await asyncio.get_running_loop().create_future()
        finally:
            closed.set()

    async def stream(request: Request) -> Stream:
        if early:
            may_answer.set()
            await request.gone.wait()
        return Stream(pieces())

    served = serve(Route("GET", "/s", stream))
    client = served.connect()
    client.sendall(b"GET /s HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (may_answer if early else began).wait(WAIT)
    client.close()
    assert closed.wait(WAIT)


def test_a_stream_waits_for_a_slow_client(serve: Serve) -> None:
    made: list[int] = []

    async def pieces() -> AsyncIterator[bytes]:
        for n in range(100):
            made.append(n)
            yield bytes(1 << 20)

    async def stream(request: Request) -> Stream:
        return Stream(pieces(), "application/x-tar")

    with serve(Route("GET", "/s", stream)).connect() as client:
        response = ask(client, "GET /s HTTP/1.1")
        response.read(1)
        time.sleep(0.2)  # time for a server without back-pressure to make them all
        assert len(made) < 10
        assert len(response.read()) == (100 << 20) - 1
        assert len(made) == 100


# Raw streams


@pytest.mark.parametrize(
    "body", ["", "Content-Length: 2\r\n\r\n{}", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("upgrade", [True, False])
@pytest.mark.parametrize("together", [True, False], ids=["one packet", "after the head"])
def test_hijack_with_half_close(serve: Serve, upgrade: bool, body: str, together: bool) -> None:
    served = serve(ATTACH)
    head = f"POST /containers/a/attach HTTP/1.1\r\nHost: x\r\n{UPGRADE if upgrade else ''}" + (body or "\r\n")
    stdin = b"GET / HTTP/1.1\r\n\r\n\x00\xff"
    with served.connect() as client:
        client.sendall(head.encode() + (stdin if together else b""))
        if together:
            client.shutdown(socket.SHUT_WR)
        status = read_until(client, b"\r\n\r\n") if not together else b""
        if not together:
            client.sendall(stdin)
            client.shutdown(socket.SHUT_WR)
        received = status + read_all(client)
        answered, _, output = received.partition(b"\r\n\r\n")
        assert output == stdin + b"<end>"
        lines = answered.split(b"\r\n")
        assert lines[0] == (b"HTTP/1.1 101 UPGRADED" if upgrade else b"HTTP/1.1 200 OK")
        assert (b"Upgrade: tcp" in lines) == upgrade
        assert b"Content-Type: application/vnd.docker.raw-stream" in lines
    assert served.seen[0][:2] == ("/containers/a/attach", 101 if upgrade else 200)


def test_output_goes_on_after_stdin_ended_and_gone_is_told_apart(serve: Serve) -> None:
    ended, gone = threading.Event(), threading.Event()

    async def run(raw: Hijacked) -> None:
        assert await raw.read() == b""
        assert not raw.gone.is_set()
        ended.set()
        raw.write(b"output")
        await raw.gone.wait()
        gone.set()
        raw.write(b"to nobody")
        await raw.drain()

    async def answer(request: Request) -> Hijack:
        return Hijack(run)

    client = serve(Route("POST", "/h", answer)).connect()
    client.sendall(f"POST /h HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n".encode())
    client.shutdown(socket.SHUT_WR)
    assert ended.wait(WAIT)
    assert read_until(client, b"output")
    assert not gone.is_set()
    client.close()
    assert gone.wait(WAIT)


def test_a_drained_buffer_may_be_used_again(serve: Serve) -> None:
    async def run(raw: Hijacked) -> None:
        buffer = bytearray(1 << 20)
        for n in range(64):
            buffer[:] = bytes([n]) * len(buffer)
            raw.write(memoryview(buffer))
            await raw.drain()
        raw.write_eof()

    async def answer(request: Request) -> Hijack:
        return Hijack(run)

    with serve(Route("POST", "/h", answer)).connect() as client:
        client.sendall(f"POST /h HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n".encode())
        received = read_all(client).partition(b"\r\n\r\n")[2]
        assert received == b"".join(bytes([n]) * (1 << 20) for n in range(64))


def test_an_upgrade_that_no_route_wants_is_ignored(serve: Serve) -> None:
    with serve(PING).connect() as client:
        head = "GET /_ping HTTP/1.1\nConnection: Upgrade\nUpgrade: h2c"
        assert [ask(client, head).read() for _ in range(3)] == [b"OK"] * 3


def test_a_route_joins_before_the_client_can_ask_for_more(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A route that waited until its head was sent would miss what the start that follows puts out at once."""
    joined = threading.Event()

    async def never(outbox: Outbox) -> None:
        await asyncio.Event().wait()

    async def run(raw: Hijacked) -> None:
        joined.set()
        raw.close()

    async def answer(request: Request) -> Hijack:
        monkeypatch.setattr(Outbox, "drain", never)
        return Hijack(run)

    served = serve(Route("POST", "/attach", answer))
    with served.connect() as client:
        client.sendall(b"POST /attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        assert joined.wait(5)
