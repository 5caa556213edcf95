"""One HTTP/1.1 connection to an engine: over a unix socket, TCP or TLS (RFC 9112).

Written by hand because the command line starts often: `http.client` imports the e-mail package, which
costs more than a whole request. Blocking; a connection carries one exchange at a time and is reusable
once its answer has been read to the end.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from labkit.errors import InvalidParameter, Unavailable

if TYPE_CHECKING:
    from labkit.client.tls import Security, TlsSocket

_RECEIVE = 256 * 1024
_HEAD_LIMIT = 64 * 1024
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Address(NamedTuple):
    """Where an engine listens: `kind` is unix, tcp or tls; `target` a path, or host and port."""

    kind: str
    target: str
    port: int
    host: str  # as the user wrote it, for messages
    security: Security | None = None


def parse_host(host: str, security: Security | None = None) -> Address:
    """An address out of `DOCKER_HOST` syntax (`unix:///path`, `tcp://host:port`); InvalidParameter otherwise.

    `security` is how to do TLS; without it, DOCKER_TLS_VERIFY and DOCKER_TLS say whether to.
    """
    scheme, _, rest = host.partition("://") if "://" in host else ("tcp", "", host)
    if not rest:
        raise InvalidParameter(f"unable to parse docker host `{host}`")
    if scheme == "unix":
        return Address("unix", rest, 0, host)
    if scheme not in ("tcp", "http", "https"):
        raise InvalidParameter(f"invalid docker host scheme `{scheme}` in `{host}`: use unix:// or tcp://")
    name, _, port = rest.rstrip("/").rpartition(":")
    if not name or not port.isdigit():
        name, port = rest.rstrip("/"), ""
    asked = bool(os.environ.get("DOCKER_TLS_VERIFY") or os.environ.get("DOCKER_TLS"))
    secure = scheme == "https" or security is not None or asked
    number = int(port or (2376 if secure else 2375))
    return Address("tls" if secure else "tcp", name.strip("[]"), number, host, security)


def connect(address: Address) -> socket.socket | TlsSocket:
    """A connected stream socket; Unavailable, in Docker's words, if nothing answers."""
    try:
        if address.kind == "unix":
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                sock.connect(address.target)
            except OSError:
                sock.close()
                raise
            return sock
        sock = socket.create_connection((address.target, address.port))
        return _secure(sock, address) if address.kind == "tls" else sock
    except PermissionError as error:
        raise Unavailable(
            f"permission denied while trying to connect to the Docker daemon socket at {address.host}: "
            f"connect: {error.strerror}"
        ) from error
    except OSError as error:
        if address.kind == "tls" and type(error).__module__ == "ssl":
            raise Unavailable(f"error during connect: {address.host}: {error}") from error
        raise Unavailable(
            f"Cannot connect to the Docker daemon at {address.host}. Is the docker daemon running?"
        ) from error


def _secure(sock: socket.socket, address: Address) -> TlsSocket:
    # Imported here: few connections are secured, and the library is large.
    from labkit.client import tls

    verify = bool(os.environ.get("DOCKER_TLS_VERIFY"))
    return tls.connect(sock, address.security or tls.usual(verify), address.target)


def percent_encode(text: str, safe: bytes = b"") -> str:
    """RFC 3986 encoding of everything but unreserved characters and `safe`."""
    return "".join(chr(b) if b in _UNRESERVED or b in safe else f"%{b:02X}" for b in text.encode("utf-8"))


class Connection:
    """A socket, and the bytes that were received beyond what has been read."""

    def __init__(self, sock: socket.socket | TlsSocket, host: str) -> None:
        self.sock = sock
        self.host = host
        self.pending = bytearray()

    def send(self, head: bytes, body: bytes | Iterable[bytes]) -> None:
        """Writes a request. A body that isn't bytes is sent in chunks, as it comes."""
        try:
            if isinstance(body, bytes):
                self.sock.sendall(head + body)
                return
            self.sock.sendall(head)
            for chunk in body:
                if chunk:
                    self.sock.sendall(b"%x\r\n" % len(chunk) + chunk + b"\r\n")
            self.sock.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            # The engine may have refused the request before its body was through; its answer says why.
            return

    def read_head(self) -> tuple[int, dict[str, str]]:
        """Status and headers (names in lower case) of the answer; interim 1xx answers but 101 are skipped."""
        while True:
            lines = bytes(self._read_until(b"\r\n\r\n", _HEAD_LIMIT)).decode("latin-1").split("\r\n")
            version, _, rest = lines[0].partition(" ")
            if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
                raise Unavailable(f"{self.host} does not speak HTTP: {lines[0][:80]!r}")
            status = int(rest[:3])
            if status >= 200 or status == 101:
                fields = (line.partition(":") for line in lines[1:] if line)
                return status, {name.strip().lower(): value.strip() for name, _, value in fields}

    def _read_until(self, mark: bytes, limit: int) -> bytearray:
        while (end := self.pending.find(mark)) < 0:
            if len(self.pending) > limit:
                raise Unavailable(f"{self.host} sent an answer head over {limit} bytes")
            if not (data := self.receive()):
                raise Unavailable(f"error during connect: {self.host} closed the connection without an answer")
            self.pending += data
        taken = self.pending[:end]
        del self.pending[: end + len(mark)]
        return taken

    def receive(self) -> bytes:
        """Some bytes off the socket; none at its end."""
        try:
            return self.sock.recv(_RECEIVE)
        except ConnectionResetError:
            return b""

    def read(self, limit: int | None = None) -> bytes:
        """Some bytes of the body, at most `limit`; none at the end of the connection."""
        if self.pending:
            taken = bytes(self.pending[:limit])
            del self.pending[: len(taken)]
            return taken
        data = self.receive()
        if limit is not None and len(data) > limit:
            self.pending += data[limit:]
            return data[:limit]
        return data

    def read_chunks(self) -> Iterator[bytes]:
        """The pieces of a chunked body; Unavailable if the connection ends before the last chunk."""
        while True:
            size = int(bytes(self._read_until(b"\r\n", 1024)).split(b";")[0] or b"0", 16)
            remaining = size
            while remaining:
                if not (data := self.read(remaining)):
                    raise Unavailable(f"{self.host}: unexpected EOF")
                remaining -= len(data)
                yield data
            self._read_until(b"\r\n", 1024)  # the chunk's end, or (trailers are not used) the body's
            if not size:
                return

    def close(self) -> None:
        self.sock.close()
