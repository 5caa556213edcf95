"""The head of a request: its bytes in, what they say out (RFC 9112, sections 2 to 6; httptools is llhttp)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

import httptools

from labkit.api.routing import split_version
from labkit.errors import InvalidParameter

REPEATED_LIMIT = 1 << 10
"""Bytes of the longest head that is remembered: clients that poll send the same one over and over."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head. `path` is without the API version; nobody changes `query` and `fields`: requests share them."""

    method: str
    path: str
    version: tuple[int, int]
    query: dict[str, list[str]]
    fields: dict[str, str]
    http10: bool
    keep_alive: bool

    @property
    def bare(self) -> bool:
        """Whether the request is nothing but this head, and the connection goes on after it."""
        return self.keep_alive and self.fields.keys().isdisjoint(_MORE) and "host" in self.fields


_MORE = ("content-length", "transfer-encoding", "upgrade", "expect")


class HeadParser:
    """Collects a head that may come in pieces. One for each request."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._fields: dict[str, str] = {}
        self.head: Head | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes of the head, and none of what follows it. Raises InvalidParameter."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the end of a head that asks for another protocol; the route decides about that
        except httptools.HttpParserError as error:
            raise InvalidParameter(f"malformed HTTP request: {error}") from None

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        fields, key, text = self._fields, name.decode("latin-1").lower(), value.decode("latin-1")
        fields[key] = f"{fields[key]}, {text}" if key in fields else text

    def on_headers_complete(self) -> None:
        method = self._parser.get_method().decode("ascii")
        http10 = self._parser.get_http_version() == "1.0"
        # After CONNECT nothing is HTTP any more; with HTTP/1.0 an answer's end is the connection's.
        keep_alive = not http10 and method != "CONNECT" and self._parser.should_keep_alive()
        version, path, query = _split_url(self._url.decode("latin-1"))
        self.head = Head(method, path, version, query, self._fields, http10, keep_alive)


def _split_url(url: str) -> tuple[tuple[int, int], str, dict[str, list[str]]]:
    if url.startswith(("http://", "https://")):  # absolute form, as a proxy's client sends it
        url = "/" + url.split("/", 3)[3] if url.count("/") > 2 else "/"
    path, _, query = url.partition("?")
    if "%" in path:
        path = unquote(path)
    version, path = split_version(path)
    return version, path, parse_qs(query, keep_blank_values=True) if query else {}


def whole_head(data: bytes) -> Head | None:
    """The head of a request that is nothing else, if these bytes are one."""
    if data.find(b"\r\n\r\n") != len(data) - 4:
        return None
    parser = HeadParser()
    try:
        parser.feed(data)
    except InvalidParameter:
        return None
    return parser.head if parser.head and parser.head.bare else None
