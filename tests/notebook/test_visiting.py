"""Published ports in a notebook: the page, its words, and the links by which a browser reaches it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import labkit
from labkit.errors import Unavailable
from labkit.notebook.visiting import links

PAGE = (
    b"<html><head><title>A &amp; B</title><style>p { }</style></head>"
    b"<body><h1>Hello</h1> <p>you &lt;3</p></body></html>"
)


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/" else 404)
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_page(port: int) -> None:
    found = labkit.visit(port)
    assert (found.status, found.title, found.words) == (200, "A & B", "A & B Hello you <3")
    assert repr(found) == f"GET http://127.0.0.1:{port}/ → 200 “A & B”\nA & B Hello you <3"
    shown = found._repr_html_()
    assert "<b>A &amp; B</b>" in shown
    assert f'href="http://127.0.0.1:{port}/"' in shown


def test_a_page_that_is_missing_is_an_answer_too(port: int) -> None:
    assert labkit.visit(port, "/missing").status == 404


def test_nobody_there() -> None:
    with pytest.raises(Unavailable, match=r"nothing answers at http://127\.0\.0\.1:1/.*labkit explain --way 1"):
        labkit.visit(1)


def test_links_behind_jupyterhub() -> None:
    environ = {"JUPYTERHUB_SERVICE_PREFIX": "/user/ann/"}
    assert links(8080, "/x", environ) == (
        ("on this machine", "http://127.0.0.1:8080/x"),
        ("through Jupyter", "/user/ann/proxy/8080/x"),
    )


def test_links_where_no_jupyter_server_is() -> None:
    assert links(8080, environ={}) == (("on this machine", "http://127.0.0.1:8080/"),)
