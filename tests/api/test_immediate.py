"""Requests that are answered as they arrive: in their order, and no faster than the client reads."""

from __future__ import annotations

from labkit.api.http import Request, Response, Route
from labkit.errors import Conflict
from tests.api.serving import ECHO, PING, Serve, answer, ask, read_all, read_until


def plain(request: Request) -> Response:
    if "fail" in request.query:
        raise Conflict("not now")
    return Response(200, request.headers.get("x-number", "").encode(), "text/plain")


AT_ONCE = Route("GET", "/plain", plain, immediate=True)


def test_an_immediate_route_is_answered_in_order(serve: Serve) -> None:
    """Whole, in pieces, pipelined, and between requests of other kinds: each gets its own answer, in their order."""
    served = serve(AT_ONCE, ECHO)
    with served.connect() as client:
        for number in range(3):
            assert ask(client, f"GET /plain HTTP/1.1\nX-Number: {number}").read() == str(number).encode()
        both = b"".join(b"GET /plain HTTP/1.1\r\nHost: d\r\nX-Number: %d\r\n\r\n" % number for number in (7, 8))
        client.sendall(both)
        assert [part[-1:] for part in read_until(client, b"\r\n\r\n8").split(b"HTTP/1.1 200 OK")[1:]] == [b"7", b"8"]
        client.sendall(both[:20])
        client.sendall(both[20 : len(both) // 2])
        assert answer(client).read() == b"7"
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\nh")
        client.sendall(b"i")
        assert answer(client, "POST").read() == b"hi"
        assert ask(client, "GET /plain?fail=1 HTTP/1.1").status == 409
        assert ask(client, "GET /v9.99/plain HTTP/1.1").status == 400
    assert [path for path, _, _ in served.seen] == ["/plain"] * 6 + ["/echo", "/plain", "/plain"]


def test_a_constant_answer_is_told_of_each_time_and_only_to_those_who_may_have_it(serve: Serve) -> None:
    served = serve(Route("GET", "/same", lambda request: Response(200, b"it", "text/plain"), True, True), ECHO)
    with served.connect() as client:
        for path in ("/same", "/same", "/v1.41/same", "/v1.41/same"):
            assert ask(client, f"GET {path} HTTP/1.1").read() == b"it"
        for _ in range(2):
            assert ask(client, "GET /v9.99/same HTTP/1.1").status == 400
        for _ in range(2):
            client.sendall(b"GET /same HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\n\r\n123")
            assert answer(client).read() == b"it"
        assert ask(client, "GET /same HTTP/1.1\nConnection: close").read() == b"it"
        assert client.recv(1) == b""
    assert [(path, status) for path, status, _ in served.seen] == [
        *[("/same", 200)] * 4,
        *[("/same", 400)] * 2,
        *[("/same", 200)] * 3,
    ]


def test_an_immediate_route_waits_for_a_client_that_does_not_read(serve: Serve) -> None:
    """Answers of one who only asks don't pile up: once its buffers are full, its requests wait in their order."""
    served = serve(Route("GET", "/big", lambda request: Response(200, bytes(1 << 20)), immediate=True), PING)
    request = b"GET /big HTTP/1.1\r\nHost: d\r\n\r\n"
    with served.connect() as client:
        for _ in range(10):
            client.sendall(request)
            with served.connect() as other:  # once it is answered, the request before it was taken
                assert ask(other, "GET /_ping HTTP/1.1").read() == b"OK"
        assert sum(path == "/big" for path, _, _ in served.seen) < 5
        client.sendall(request * 19 + request[:-2] + b"Connection: close\r\n\r\n")
        assert read_all(client).count(b"HTTP/1.1 200 OK") == 30
