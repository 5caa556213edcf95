"""Images imported from web servers: what is taken, and what a web server may not do."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.images import Api
from tests.images.tars import digest, directory, member, tar

pytestmark = pytest.mark.root  # layers carry owners

BASE = tar(directory("etc"), member("etc/name", b"base"))


class Web:
    """A web server whose answers a test chooses: by path, a status, headers, and a body."""

    def __init__(self, pages: dict[str, tuple[int, dict[str, str], bytes]]) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = pages[self.path]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    length = {"Content-Length": str(len(BASE))}
    served = Web(
        {
            "/base.tar": (200, length, BASE),
            "/moved": (302, {"Location": "/base.tar"}, b""),
            "/file": (302, {"Location": "file:///etc/passwd"}, b""),
            "/ftp": (301, {"Location": "ftp://127.0.0.1/x"}, b""),
            "/loop": (302, {"Location": "/loop"}, b""),
            "/gone": (410, {}, b"no more"),
            "/half": (200, length, BASE[:700]),
            "/text": (200, {}, b"hello" * 1000),
        }
    )
    yield served
    served.close()


@pytest.mark.parametrize("path", ["base.tar", "moved"])
def test_import_from_a_web_server(api: Api, web: Web, path: str) -> None:
    query = {"fromSrc": f"{web.url}/{path}", "repo": "own", "changes": ["CMD sh"]}
    lines = api.lines("POST", "/images/create", **query)
    found = api.json("GET", "/images/own/json")
    assert lines[0] == {"status": f"Downloading from {web.url}/{path}"}
    assert lines[-1] == {"status": found["Id"]}
    assert found["Comment"] == f"Imported from {web.url}/{path}"
    assert found["RootFS"]["Layers"] == [digest(BASE)]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("file", "'file:///etc/passwd' is not allowed"),
        ("ftp", "only http:// and https:// URLs"),
        ("loop", "infinite loop"),
        ("gone", "with status 410 Gone: no more"),
        ("half", "unexpected EOF"),
        ("text", "invalid tar header"),
    ],
)
def test_what_a_web_server_may_not_do(api: Api, web: Web, path: str, message: str) -> None:
    """Lead the daemon to files of its machine, or pass half an archive for a whole one."""
    assert message in api.lines("POST", "/images/create", fromSrc=f"{web.url}/{path}")[-1]["error"]
    assert api.json("GET", "/images/json") == []


def test_sources_that_are_no_web_servers(api: Api) -> None:
    for source in ("file:///etc/passwd", "unix:///x", "http://"):
        assert "only http" in api.error(400, "POST", "/images/create", fromSrc=source)
    (_, line) = api.lines("POST", "/images/create", fromSrc="127.0.0.1:1/x.tar")
    assert "can't import from http://127.0.0.1:1/x.tar" in line["error"]
