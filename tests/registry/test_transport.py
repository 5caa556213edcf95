"""Retries, redirects, TLS, proxies and cancellation, against servers that misbehave in a scripted way."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import Forbidden, LabkitError, Unavailable
from labkit.registry.cancelling import Cancelled
from labkit.registry.endpoints import Certificates, Endpoint
from labkit.registry.exchange import Exchange
from labkit.registry.transport import (
    Broken,
    Patience,
    Request,
    Transport,
    Unreachable,
    redirected,
    retry_after,
)
from labkit.trace import continue_trace, new_trace
from tests.registry.conftest import Script
from tests.support.registries import PASSWORD, USER, Asked, KeyPair, Registry, make_key_pair

QUICK = Patience(connect=5, read=5, attempts=3, pause=0.001, longest=1)
NOW = datetime(2030, 1, 1, tzinfo=UTC)

Connect = Callable[..., Transport]


@pytest.fixture
def seen() -> list[Exchange]:
    return []


@pytest.fixture
def connect(seen: list[Exchange]) -> Iterator[Connect]:
    """Makes transports, and closes them."""
    with ExitStack() as stack:

        def make(endpoint: Endpoint | str, patience: Patience = QUICK, cancelled: Cancelled | None = None) -> Transport:
            place = endpoint if isinstance(endpoint, Endpoint) else Endpoint(endpoint)
            transport = Transport(place, seen.append, cancelled or Cancelled(), new_trace(), patience)
            stack.callback(transport.close)
            return transport

        yield make


def get(url: str, **headers: str) -> Request:
    return Request("GET", url, "test", headers)


def fetch(transport: Transport, url: str, **headers: str) -> tuple[int, bytes]:
    with transport.send(get(url, **headers)) as answer:
        return answer.status, answer.read(1 << 20, "answer")


def test_an_exchange_tells_all(script: Script, connect: Connect, seen: list[Exchange]) -> None:
    server = script(lambda asked: asked.say(200, b"hello", RateLimit_Limit="100;w=21600"))
    before = time.time_ns()
    assert fetch(connect(server.url), f"{server.url}/x?secret=1", Range="bytes=0-") == (200, b"hello")
    (told,) = seen
    assert (told.method, told.url, told.purpose, told.status) == ("GET", f"{server.url}/x?secret=(hidden)", "test", 200)
    assert (told.sent, told.size, told.error) == ((("Range", "bytes=0-"),), 5, "")
    assert ("RateLimit-Limit", "100;w=21600") in told.received
    assert before <= told.began <= told.ended <= time.time_ns()
    assert told.context
    assert server.seen[0].headers["traceparent"] == told.context.traceparent()
    assert continue_trace(server.seen[0].headers["traceparent"]).trace_id == told.context.trace_id


def test_a_connection_is_used_again(script: Script, connect: Connect) -> None:
    ports: list[int] = []

    def answer(asked: Asked) -> None:
        ports.append(asked.client_address[1])
        asked.say(404 if asked.path == "/no" else 200, b"x" * 1000)

    server = script(answer)
    transport = connect(server.url)
    fetch(transport, f"{server.url}/a")
    transport.send(get(f"{server.url}/no")).drain()
    with transport.send(Request("HEAD", f"{server.url}/h", "test", {})):
        pass
    fetch(transport, f"{server.url}/b")
    assert len(ports) == 4
    assert len(set(ports)) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(script: Script, connect: Connect, seen: list[Exchange], status: int) -> None:
    server = script(lambda asked: asked.say(status if len(server.seen) < 3 else 200, b"x"))
    assert fetch(connect(server.url), server.url + "/") == (200, b"x")
    assert [told.status for told in seen] == [status, status, 200]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 501])
def test_what_stays_is_answered_at_once(script: Script, connect: Connect, status: int) -> None:
    server = script(lambda asked: asked.say(status))
    assert fetch(connect(server.url), server.url + "/") == (status, b"")
    assert len(server.seen) == 1


def test_patience_ends(script: Script, connect: Connect) -> None:
    server = script(lambda asked: asked.say(503, b"later"))
    assert fetch(connect(server.url), server.url + "/") == (503, b"later")
    assert len(server.seen) == QUICK.attempts


def test_retry_after_is_waited_for(script: Script, connect: Connect) -> None:
    times: list[float] = []

    def answer(asked: Asked) -> None:
        times.append(time.monotonic())
        asked.say(429 if len(times) == 1 else 200, Retry_After="1")

    server = script(answer)
    assert fetch(connect(server.url), server.url + "/")[0] == 200
    assert times[1] - times[0] >= 1


def test_a_longer_wait_than_ours_is_an_answer(script: Script, connect: Connect) -> None:
    server = script(lambda asked: asked.say(429, b"hours", Retry_After="21600"))
    assert fetch(connect(server.url), server.url + "/") == (429, b"hours")
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        (format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30.0),
        (format_datetime(NOW - timedelta(seconds=30), usegmt=True), 0.0),
        ("soon", None),
        ("-1", None),
        ("", None),
        (None, None),
    ],
)
def test_both_forms_of_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@given(st.text())
def test_any_retry_after(value: str) -> None:
    found = retry_after(value, NOW)
    assert found is None or found >= 0


@given(st.integers(1, 40), st.one_of(st.none(), st.floats(0, 1e9)))
def test_pauses_grow_and_end(failures: int, asked: float | None) -> None:
    patience = Patience(attempts=20)
    pause = patience.pause_after(failures, asked)
    if failures >= 20 or (asked or 0) > patience.longest:
        assert pause is None
    elif asked is not None:
        assert pause == asked
    else:
        assert pause is not None
        assert 0 < pause <= 1.25 * min(patience.longest, patience.pause * 2 ** (failures - 1))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_nobody_there_is_told_in_dockers_words_at_once(connect: Connect, seen: list[Exchange]) -> None:
    port = free_port()
    with pytest.raises(Unreachable) as raised:
        connect(f"http://127.0.0.1:{port}").send(get(f"http://127.0.0.1:{port}/v2/a/manifests/b"))
    said = f'Get "http://127.0.0.1:{port}/v2/": dial tcp 127.0.0.1:{port}: connect: connection refused'
    assert str(raised.value) == said
    assert [(told.status, told.error) for told in seen] == [(0, said)]


def test_no_such_host(connect: Connect) -> None:
    with pytest.raises(Unreachable, match=r"dial tcp: lookup no-such-host\.invalid: no such host"):
        connect("http://no-such-host.invalid").send(get("http://no-such-host.invalid/v2/"))


def test_a_connection_that_breaks_later_is_tried_again(script: Script, connect: Connect, seen: list[Exchange]) -> None:
    def answer(asked: Asked) -> None:
        if len(server.seen) == 2:
            return asked.end()
        return asked.say(200, b"x")

    server = script(answer)
    transport = connect(server.url)
    assert fetch(transport, server.url + "/1") == (200, b"x")
    assert fetch(transport, server.url + "/2") == (200, b"x")
    assert [told.status for told in seen] == [200, 0, 200]
    assert seen[1].error == f'Get "{server.url}/2": unexpected EOF'


@pytest.mark.parametrize("head", [b"", b"\0" * 100, b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200,
                                  b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
                                  b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nx"])  # fmt: skip
def test_an_answer_that_is_none(script: Script, connect: Connect, head: bytes) -> None:
    def answer(asked: Asked) -> None:
        asked.wfile.write(head)
        asked.end()

    server = script(answer)
    with pytest.raises(Broken):
        connect(server.url).send(get(server.url + "/"))


def test_an_answer_that_ends_early(script: Script, connect: Connect, seen: list[Exchange]) -> None:
    def answer(asked: Asked) -> None:
        asked.say(200, b"x" * 10, Content_Length="100")
        asked.end()

    server = script(answer)
    with pytest.raises(Broken, match="unexpected EOF"):
        fetch(connect(server.url), server.url + "/")
    assert (seen[0].status, seen[0].error) == (200, "unexpected EOF")


def test_an_answer_without_end_is_cut_off(script: Script, connect: Connect) -> None:
    def answer(asked: Asked) -> None:
        asked.send_response(200)
        asked.end_headers()
        asked.end()
        while True:
            asked.wfile.write(b"x" * 65536)

    server = script(answer)
    with pytest.raises(LabkitError, match="larger than the 1048576 bytes"):
        fetch(connect(server.url), server.url + "/")


def test_a_server_that_falls_silent(script: Script, connect: Connect) -> None:
    done = threading.Event()

    def answer(asked: Asked) -> None:
        if asked.path == "/silent":
            done.wait(10)
            return asked.end()
        asked.say(200, b"x", Content_Length="2")
        asked.wfile.flush()
        done.wait(10)
        return asked.end()

    server = script(answer)
    with pytest.raises(Broken, match=r"no answer within 0\.05 seconds"):
        connect(server.url, replace(QUICK, read=0.05, attempts=1)).send(get(server.url + "/silent"))
    with pytest.raises(Broken, match="no data within the time allowed"):
        fetch(connect(server.url, replace(QUICK, read=1, attempts=1)), server.url + "/half")
    done.set()


def test_redirects_are_followed_and_told(script: Script, connect: Connect, seen: list[Exchange]) -> None:
    def answer(asked: Asked) -> None:
        if asked.path == "/a":
            return asked.say(307, Location="b?X-Signature=secret")
        return asked.say(200, asked.headers["Authorization"].encode())

    server = script(answer)
    assert fetch(connect(server.url), f"{server.url}/a", Authorization="Bearer t") == (200, b"Bearer t")
    assert [(told.status, told.url) for told in seen] == [
        (307, f"{server.url}/a"),
        (200, f"{server.url}/b?X-Signature=(hidden)"),
    ]
    assert "secret" not in str(seen)


def test_credentials_stay_at_their_origin(script: Script, connect: Connect) -> None:
    other = script(lambda asked: asked.say(200, asked.headers["Range"].encode()))
    server = script(lambda asked: asked.say(302, Location=f"{other.url}/blob"))
    transport = connect(server.url)
    assert fetch(transport, f"{server.url}/a", Authorization="Bearer t", Range="bytes=5-") == (200, b"bytes=5-")
    assert "Authorization" not in other.seen[0].headers
    assert server.seen[0].headers["Authorization"] == "Bearer t"


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://h/x", "gopher://h", "http://h:99999/", "//["])
def test_redirects_to_elsewhere_than_http_are_refused(script: Script, connect: Connect, location: str) -> None:
    server = script(lambda asked: asked.say(302, Location=location))
    with pytest.raises(Forbidden):
        fetch(connect(server.url), server.url + "/")


def test_a_redirect_that_gives_up_encryption_is_refused() -> None:
    with pytest.raises(Forbidden, match=r"refusing to follow the redirect from https to http://h/x"):
        redirected(get("https://r/x"), 302, "http://h/x")


def test_redirects_without_end(script: Script, connect: Connect) -> None:
    server = script(lambda asked: asked.say(302, Location=f"/{len(server.seen)}"))
    with pytest.raises(LabkitError, match="stopped after 10 redirects"):
        fetch(connect(server.url), server.url + "/")
    assert len(server.seen) == 11


def test_a_body_goes_along_with_a_307_and_is_not_dropped_by_a_302(script: Script, connect: Connect) -> None:
    def answer(asked: Asked) -> None:
        status = {"/307": 307, "/302": 302}.get(asked.path, 201)
        asked.say(status, Location="/there")

    server = script(answer)
    transport = connect(server.url)
    put = Request("PUT", f"{server.url}/307", "test", {"Content-Length": "4"}, lambda: iter([b"bo", b"dy"]))
    with transport.send(put) as answered:
        assert answered.status == 201
    with transport.send(replace(put, url=f"{server.url}/302")) as answered:
        assert answered.status == 302
    assert [(seen.path, seen.body) for seen in server.seen] == [
        ("/307", b"body"),
        ("/there", b"body"),
        ("/302", b"body"),
    ]


def test_tls_is_verified_unless_it_need_not_be(
    secure_registry: Registry, connect: Connect, key_pair: KeyPair, tmp_path: Path
) -> None:
    port = secure_registry.host.rpartition(":")[2]
    url = f"https://localhost:{port}"
    with pytest.raises(Unreachable, match=r"^Get \"https://localhost:\d+/v2/\": tls: failed to verify"):
        connect(url).send(get(f"{url}/v2/x"))
    trusting = Endpoint(url, certificates=Certificates((key_pair.certificate,)))
    assert fetch(connect(trusting), f"{url}/v2/")[0] == 401
    assert fetch(connect(Endpoint(url, verified=False)), f"{url}/v2/")[0] == 401
    elsewhere = Endpoint(f"https://127.0.0.2:{port}", certificates=trusting.certificates)
    with pytest.raises(Unreachable):
        connect(elsewhere).send(get(f"https://127.0.0.2:{port}/v2/"))


def tls_server(keys: KeyPair, authority: KeyPair) -> tuple[socket.socket, threading.Thread, list[object]]:
    """A server that wants a client certificate, for one connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys.certificate, keys.key)
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))
    shown: list[object] = []

    def serve() -> None:
        with listener.accept()[0] as raw, context.wrap_socket(raw, server_side=True) as connection:
            certificate = connection.getpeercert()
            shown.append(certificate and certificate["subject"])
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            connection.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    return listener, thread, shown


def test_a_client_certificate_is_shown(connect: Connect, key_pair: KeyPair, tmp_path: Path) -> None:
    client = make_key_pair(tmp_path, "client")
    listener, thread, shown = tls_server(key_pair, client)
    with listener:
        url = f"https://localhost:{listener.getsockname()[1]}"
        certificates = Certificates((key_pair.certificate,), ((client.certificate, client.key),))
        transport = connect(Endpoint(url, certificates=certificates))
        assert fetch(transport, f"{url}/v2/") == (200, b"ok")
        transport.close()
        thread.join(10)
    assert shown == [((("commonName", "client"),),)]


def test_a_proxy_is_used_and_given_its_password(
    script: Script, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = script(lambda asked: asked.say(200, b"from the proxy"))
    monkeypatch.setenv("HTTP_PROXY", f"http://{USER}:{PASSWORD}@{proxy.host}")
    url = "http://registry.invalid"
    assert fetch(connect(url), f"{url}/v2/") == (200, b"from the proxy")
    assert proxy.seen[0].path == f"{url}/v2/"
    assert proxy.seen[0].headers["Proxy-Authorization"].startswith("Basic ")
    monkeypatch.setenv("NO_PROXY", "registry.invalid")
    with pytest.raises(Unreachable):
        fetch(connect(url), f"{url}/v2/")


def test_a_proxy_that_is_not_there(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unreachable, match="proxyconnect tcp"):
        connect("https://registry.invalid").send(get("https://registry.invalid/v2/"))


def ended_by(cancelled: Cancelled, work: Callable[[], object], ready: threading.Event) -> float:
    """Cancels when `ready`; how many seconds the work took to end from there on."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except LabkitError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(10)
    began = time.monotonic()
    cancelled.cancel()
    thread.join(10)
    assert [str(error) for error in raised] == ["context canceled"]
    return time.monotonic() - began


@pytest.mark.parametrize("path", ["/silent", "/half"])
def test_cancelling_ends_a_read_that_is_blocked(script: Script, connect: Connect, path: str) -> None:
    reached, done = threading.Event(), threading.Event()

    def answer(asked: Asked) -> None:
        if path == "/half":
            asked.say(200, b"x", Content_Length="2")
            asked.wfile.flush()
        reached.set()
        done.wait(20)
        asked.end()

    server = script(answer)
    cancelled = Cancelled()
    transport = connect(server.url, Patience(), cancelled)
    assert ended_by(cancelled, lambda: fetch(transport, server.url + path), reached) < 5
    done.set()


def test_cancelling_ends_a_handshake_that_is_blocked(connect: Connect) -> None:
    cancelled, reached = Cancelled(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        transport = connect(Endpoint(url, verified=False), Patience(), cancelled)
        peers: list[socket.socket] = []

        def accept() -> None:
            peers.append(listener.accept()[0])
            peers[0].recv(65536)
            reached.set()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        assert ended_by(cancelled, lambda: fetch(transport, url + "/"), reached) < 5
        acceptor.join(10)
        peers[0].close()


def test_cancelling_ends_a_pause(script: Script, connect: Connect) -> None:
    reached = threading.Event()

    def answer(asked: Asked) -> None:
        asked.say(429, Retry_After="50")
        reached.set()

    server = script(answer)
    cancelled = Cancelled()
    transport = connect(server.url, Patience(), cancelled)
    assert ended_by(cancelled, lambda: fetch(transport, server.url + "/"), reached) < 5


def test_what_is_cancelled_begins_nothing(script: Script, connect: Connect) -> None:
    server = script(lambda asked: asked.say(200))
    cancelled = Cancelled()
    cancelled.cancel()
    with pytest.raises(Unavailable, match=r"^context canceled$"):
        fetch(connect(server.url, QUICK, cancelled), server.url + "/")
    assert server.seen == []
