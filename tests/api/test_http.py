"""The HTTP border, spoken to with raw sockets, http.client and the docker command."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from labkit import __version__
from labkit.api.http import Hijack, Hijacked, Request, Response, Route, Stream, json_response
from labkit.api.messages import BODY_LIMIT, header_lines
from labkit.api.streams import READ_AHEAD
from labkit.errors import Conflict, InvalidParameter, NotModified
from tests.api.serving import ATTACH, ECHO, PING, UPGRADE, WAIT, Serve, Served, answer, ask, ping, read_all, read_until

# Requests and answers


def test_ping_carries_dockers_headers(serve: Serve) -> None:
    with serve(PING).connect() as client:
        response = ask(client, "GET /_ping HTTP/1.1")
        assert (response.status, response.read()) == (200, b"OK")
        headers = dict(response.getheaders())
        assert headers == {
            "Api-Version": "1.50",
            "Content-Type": "text/plain; charset=utf-8",
            "Docker-Experimental": "false",
            "Ostype": "linux",
            "Server": f"labkit/{__version__} (linux)",
            "Content-Length": "2",
        }


def test_head_has_the_length_and_no_body(serve: Serve) -> None:
    with serve(PING, Route("HEAD", "/_ping", ping)).connect() as client:
        response = ask(client, "HEAD /_ping HTTP/1.1")
        assert response.getheader("Content-Length") == "2"
        assert ask(client, "GET /_ping HTTP/1.1").read() == b"OK"


@pytest.mark.parametrize("line", ["GET /nope", "POST /_ping", "GET /v1.99/nope", "GET /v1/_ping"])
def test_unknown_path_or_method_is_page_not_found(serve: Serve, line: str) -> None:
    with serve(PING).connect() as client:
        response = ask(client, f"{line} HTTP/1.1")
        assert (response.status, json.loads(response.read())) == (404, {"message": "page not found"})


def test_api_versions(serve: Serve) -> None:
    async def version(request: Request) -> Response:
        return json_response(request.version)

    with serve(Route("GET", "/version", version)).connect() as client:
        assert json.loads(ask(client, "GET /version HTTP/1.1").read()) == [1, 50]
        assert json.loads(ask(client, "GET /v1.24/version HTTP/1.1").read()) == [1, 24]
        new = ask(client, "GET /v1.99/version HTTP/1.1")
        assert new.status == 400
        assert json.loads(new.read())["message"] == (
            "client version 1.99 is too new. Maximum supported API version is 1.50"
        )
        old = ask(client, "GET /v1.10/version HTTP/1.1")
        assert old.status == 400
        assert json.loads(old.read())["message"] == (
            "client version 1.10 is too old. Minimum supported API version is 1.24, "
            "please upgrade your client to a newer version"
        )


def test_routes_and_parameters(serve: Serve) -> None:
    def route(pattern: str) -> Route:
        async def answer(request: Request) -> Response:
            return json_response([pattern, request.params])

        return Route("GET", pattern, answer)

    patterns = ("/containers/json", "/containers/{id}/json", "/images/{name:.*}/json", "/a/{b}/c/{d}")
    with serve(*map(route, reversed(patterns))).connect() as client:
        for path, expected in {
            "/containers/json": ["/containers/json", {}],
            "/containers/web/json": ["/containers/{id}/json", {"id": "web"}],
            "/containers/w%C3%A9b/json": ["/containers/{id}/json", {"id": "w\u00e9b"}],
            "/images/a/b:c@d/json": ["/images/{name:.*}/json", {"name": "a/b:c@d"}],
            "/images/a%2Fb/json": ["/images/{name:.*}/json", {"name": "a/b"}],
            "/a/1/c/2?x=y": ["/a/{b}/c/{d}", {"b": "1", "d": "2"}],
        }.items():
            assert json.loads(ask(client, f"GET {path} HTTP/1.1").read()) == expected
        assert (
            ask(client, "GET /containers/../json HTTP/1.1").read()
            == json.dumps(["/containers/{id}/json", {"id": ".."}], separators=(",", ":")).encode()
        )
        assert ask(client, "GET /containers//json HTTP/1.1").status == 404


def test_errors_are_told_as_docker_tells_them(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def conflict(request: Request) -> Response:
        raise Conflict('Conflict. The container name "/a" is already in use')

    async def unchanged(request: Request) -> Response:
        raise NotModified("already started")

    async def bug(request: Request) -> Response:
        raise ZeroDivisionError("division by zero")

    served = serve(Route("GET", "/c", conflict), Route("POST", "/n", unchanged), Route("GET", "/b", bug))
    with served.connect() as client:
        response = ask(client, "GET /c HTTP/1.1")
        assert response.status == 409
        assert json.loads(response.read()) == {"message": 'Conflict. The container name "/a" is already in use'}
        response = ask(client, "POST /n HTTP/1.1")
        assert (response.status, response.read(), response.getheader("Content-Type")) == (304, b"", None)
        response = ask(client, "GET /b HTTP/1.1")
        assert (response.status, json.loads(response.read())) == (500, {"message": "division by zero"})
    assert "in bug" in caplog.text  # the traceback
    assert [(path, status) for path, status, _ in served.seen] == [("/c", 409), ("/n", 304), ("/b", 500)]
    assert all(took >= 0 for _, _, took in served.seen)


def test_query_parameters_follow_dockerd(serve: Serve) -> None:
    async def parameters(request: Request) -> Response:
        return json_response(
            {
                "flags": {name: request.flag(name) for name in request.query if name.startswith("f")},
                "default": request.flag("absent", True),
                "number": request.number("n", 5),
                "text": request.text("t", "none"),
                "filters": request.filters(),
            }
        )

    with serve(Route("GET", "/p", parameters)).connect() as client:
        got = json.loads(
            ask(client, "GET /p?f1=1&f2=true&f3=0&f4=No&f5=none&f6=&f7=FALSE&f8=yes&n=-3&t=a%20b HTTP/1.1").read()
        )
        assert got["flags"] == {
            "f1": True, "f2": True, "f3": False, "f4": False, "f5": False, "f6": False, "f7": False, "f8": True,
        }  # fmt: skip
        assert (got["default"], got["number"], got["text"], got["filters"]) == (True, -3, "a b", {})
        got = json.loads(
            ask(
                client,
                "GET /p?n=&filters={%22label%22:[%22a=b%22],%22status%22:{%22up%22:true,%22x%22:false}} HTTP/1.1",
            ).read()
        )
        assert (got["number"], got["filters"]) == (5, {"label": ["a=b"], "status": ["up"]})
        assert ask(client, "GET /p?filters=null HTTP/1.1").status == 200
        for bad in ("n=abc", "n=1.5", "filters=abc", "filters={%22a%22:1}", "filters=[]"):
            response = ask(client, f"GET /p?{bad} HTTP/1.1")
            assert response.status == 400, bad
            assert bad.split("=")[0] in json.loads(response.read())["message"]


class Ports(msgspec.Struct):
    Image: str = ""
    Port: int = 0


def test_json_bodies(serve: Serve) -> None:
    async def ports(request: Request) -> Response:
        return json_response(await request.json(Ports))

    kind = "Content-Type: application/json"
    with serve(Route("POST", "/j", ports)).connect() as client:

        def post(body: bytes, content_type: str = kind) -> tuple[int, dict[str, object]]:
            response = ask(client, f"POST /j HTTP/1.1\nContent-Length: {len(body)}\n{content_type}", body)
            return response.status, json.loads(response.read())

        assert post(b'{"Image": "a", "Port": 3, "Later": true}') == (200, {"Image": "a", "Port": 3})
        assert post(b"") == (200, {"Image": "", "Port": 0})
        assert post(b"{}", f"{kind}; charset=utf-8") == (200, {"Image": "", "Port": 0})
        status, told = post(b'{"Port": "x"}')
        assert status == 400
        assert told["message"] == (
            "invalid JSON: json: cannot unmarshal string into Go struct field Ports.Port of type int64"
        )
        assert post(b"{")[0] == 400
        assert post(b"{}", "Content-Type: text/plain") == (
            400,
            {"message": "unsupported Content-Type header (text/plain): must be 'application/json'"},
        )
        assert post(b"{}", "X: y")[1] == {"message": "malformed Content-Type header (): mime: no media type"}


# HTTP itself


def test_a_pipeline_is_answered_in_order(serve: Serve) -> None:
    async def nap(request: Request) -> Response:
        if request.params["n"] == "0":
            await asyncio.wait([asyncio.ensure_future(request.gone.wait())], timeout=0.05)
        return json_response(request.params["n"])

    with serve(Route("POST", "/n/{n}", nap)).connect() as client:
        body = b"GET / HTTP/1.1\r\n\r\n"  # a body that must not be taken for a request
        sized = "POST /n/%d HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\n\r\n"
        chunked = "POST /n/%d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n12\r\n"
        requests = [
            (sized % n).encode() + body if n % 2 else (chunked % n).encode() + body + b"\r\n0\r\nTrailer: x\r\n\r\n"
            for n in range(20)
        ]
        client.sendall(b"".join(requests))
        received = read_until(client, b'"19"')
        assert re.findall(rb'\r\n\r\n"(\d+)"', received) == [b"%d" % n for n in range(20)]


def test_a_request_may_arrive_byte_by_byte(serve: Serve) -> None:
    request = b"\r\nPOST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    request += b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"
    with serve(ECHO).connect() as client:
        for _ in range(2):
            for byte in request:
                client.send(bytes([byte]))
            assert answer(client).read() == b"abc0123456789"


def test_big_bodies_go_through_with_back_pressure(serve: Serve) -> None:
    release = threading.Event()
    taken: list[int] = []

    async def slow(request: Request) -> Response:
        await asyncio.get_running_loop().run_in_executor(None, release.wait)
        async for piece in request.chunks():
            taken.append(len(piece))
        return json_response(sum(taken))

    with serve(Route("POST", "/slow", slow)).connect() as client:
        size = 32 << 20
        client.sendall(f"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
        client.setblocking(False)
        sent, block = 0, bytes(1 << 20)
        blocked_since = time.monotonic()
        while time.monotonic() - blocked_since < 0.3:  # as long as the server takes anything
            try:
                sent += client.send(block)
                blocked_since = time.monotonic()
            except BlockingIOError:
                pass
        assert sent < READ_AHEAD + (4 << 20), "the server read on though nobody took the body"
        client.settimeout(WAIT)
        release.set()
        client.sendall(bytes(size - sent))
        assert json.loads(answer(client).read()) == size


def test_expect_continue(serve: Serve) -> None:
    async def refuse(request: Request) -> Response:
        raise InvalidParameter("no")

    head = "POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    served = serve(ECHO, Route("POST", "/refuse", refuse))
    with served.connect() as client:
        client.sendall((head % "echo").encode())
        assert read_until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        assert answer(client).read() == b"abc"
        client.sendall((head % "refuse").encode())
        refused = answer(client)
        assert (refused.status, refused.getheader("Connection")) == (400, "close")
        refused.read()
        assert client.recv(1) == b""


def test_an_unread_body_does_not_become_the_next_request(serve: Serve) -> None:
    with serve(PING, Route("POST", "/ping", ping)).connect() as client:
        body = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n" * 3
        assert ask(client, f"POST /ping HTTP/1.1\nContent-Length: {len(body)}", body).read() == b"OK"
        assert ask(client, "GET /_ping HTTP/1.1").read() == b"OK"
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET /_ping HTTP/1.1\n\n",
        b"GET /_ping HTTP/3.7\r\nHost: x\r\n\r\n",
        b"BREW /_ping HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -3\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 10_000,
        b"GET /_ping HTTP/1.1\r\nHost: x\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n",
    ],
)
def test_malformed_requests_get_400_and_the_connection_ends(serve: Serve, request_bytes: bytes) -> None:
    with serve(PING, ECHO).connect() as client:
        client.sendall(request_bytes + b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        response = answer(client)
        assert response.status == 400
        assert json.loads(response.read())["message"]
        with suppress(ConnectionResetError):  # as it closes with bytes of ours unread
            assert client.recv(1) == b""


def test_a_body_beyond_the_limit_is_refused(serve: Serve) -> None:
    with serve(ECHO).connect() as client:
        body = bytes(BODY_LIMIT + 1)
        response = ask(client, f"POST /echo HTTP/1.1\nContent-Length: {len(body)}", body)
        assert response.status == 400
        assert "too large" in json.loads(response.read())["message"]
        assert ask(client, "POST /echo HTTP/1.1\nContent-Length: 2", b"ok").read() == b"ok"


def test_a_truncated_body_is_an_error(serve: Serve) -> None:
    with serve(ECHO).connect() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        client.shutdown(socket.SHUT_WR)
        assert json.loads(answer(client).read()) == {"message": "unexpected EOF"}


def test_http_1_0_and_connection_close(serve: Serve) -> None:
    served = serve(PING)
    for head in ("GET /_ping HTTP/1.0\r\n\r\n", "GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
        with served.connect() as client:
            client.sendall(head.encode())
            received = read_all(client)
            assert b"Connection: close\r\n" in received
            assert received.endswith(b"\r\n\r\nOK")


def test_a_client_that_half_closes_still_gets_its_answers(serve: Serve) -> None:
    with serve(PING).connect() as client:
        client.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).count(b"\r\n\r\nOK") == 3


def test_header_lines_can_not_be_forged() -> None:
    assert header_lines((("A", "b"), ("C", "d"))) == "A: b\r\nC: d\r\n"
    with pytest.raises(ValueError, match="line break"):
        header_lines((("A", "b\r\nForged: yes"),))


# The server as a whole


def test_close_ends_streams_and_raw_connections(tmp_path: Path) -> None:
    began, ended = threading.Semaphore(0), threading.Semaphore(0)

    async def forever() -> AsyncIterator[bytes]:
        began.release()
        try:
            await asyncio.get_running_loop().create_future()
            yield b""
        finally:
            ended.release()

    async def stream(request: Request) -> Stream:
        return Stream(forever())

    async def run(raw: Hijacked) -> None:
        async for _ in forever():
            pass

    async def raw(request: Request) -> Hijack:
        return Hijack(run)

    served = Served([Route("GET", "/s", stream), Route("GET", "/h", raw), PING], tmp_path / "s")
    clients = [served.connect() for _ in range(3)]
    for client, path in zip(clients, ("s", "h", "_ping"), strict=True):
        client.sendall(f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert began.acquire(timeout=WAIT)
    assert began.acquire(timeout=WAIT)
    served.close()
    assert ended.acquire(timeout=0)
    assert ended.acquire(timeout=0)
    for client in clients:
        read_all(client)
        client.close()
    with socket.socket(socket.AF_UNIX) as late, pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        late.connect(str(served.path))


def test_tls(serve: Serve, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    plain = serve(PING, ATTACH, tls=context).connect()
    with trusting.wrap_socket(plain, server_hostname="localhost") as client:
        assert ask(client, "GET /_ping HTTP/1.1").read() == b"OK"
        client.sendall(f"POST /containers/a/attach HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\nhello".encode())
        assert read_until(client, b"hello")


def test_the_docker_command_speaks_with_it(serve: Serve) -> None:
    async def version(request: Request) -> Response:
        return json_response({"Version": "lab", "ApiVersion": "1.50", "MinAPIVersion": "1.24", "Os": "linux"})

    async def logs(request: Request) -> Stream:
        async def frames() -> AsyncIterator[bytes]:
            for stream, line in ((1, b"out\n"), (2, b"err\n")):
                yield struct.pack(">BxxxI", stream, len(line)) + line

        return Stream(frames(), "application/vnd.docker.multiplexed-stream")

    async def inspect(request: Request) -> Response:
        state = {"Status": "running", "Running": True}
        return json_response(
            {"Id": "a" * 64, "Name": "/web", "State": state, "Config": {"Tty": False, "OpenStdin": True}}
        )

    async def attach(request: Request) -> Hijack:
        async def run(raw: Hijacked) -> None:
            received = b""
            while data := await raw.read():
                received += data
            line = received.upper()
            raw.write(struct.pack(">BxxxI", 1, len(line)) + line)

        return Hijack(run, "application/vnd.docker.multiplexed-stream")

    async def wait(request: Request) -> Stream:
        async def code() -> AsyncIterator[bytes]:
            yield b'{"StatusCode": 7}'

        return Stream(code())

    served = serve(
        PING,
        Route("HEAD", "/_ping", ping),
        Route("GET", "/version", version),
        Route("GET", "/containers/{id}/logs", logs),
        Route("GET", "/containers/{id}/json", inspect),
        Route("POST", "/containers/{id}/attach", attach),
        Route("POST", "/containers/{id}/wait", wait),
    )

    def docker(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = ["docker", "-H", f"unix://{served.path}", *arguments]
        environment = {**os.environ, "DOCKER_CONFIG": str(served.path.parent)}
        return subprocess.run(command, input=stdin, capture_output=True, timeout=WAIT, env=environment, check=False)

    assert docker("version", "--format", "{{.Server.Version}}").stdout == b"lab\n"
    told = docker("logs", "web")
    assert (told.stdout, told.stderr) == (b"out\n", b"err\n")
    attached = docker("attach", "web", stdin=b"hello")
    assert (attached.stdout, attached.returncode) == (b"HELLO", 7)
    assert b"page not found" in docker("ps").stderr
