"""A TLS connection that can be half-closed (RFC 8446, 6.1): attach and exec say the end of their input so.

It has the few methods of a socket that `labkit.client` uses. The standard library's own SSLSocket closes both
directions at once.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import NamedTuple

from labkit import certificates
from labkit.errors import Unavailable

_PIECE = 16 << 10
_RECEIVE = 64 << 10


class Security(NamedTuple):
    """How a connection is secured: whether the server's name is verified; files of authority, certificate and key."""

    verify: bool
    authority: str = ""
    certificate: str = ""
    key: str = ""


def usual(verify: bool) -> Security:
    """The files that Docker's clients look for: ca.pem, cert.pem and key.pem in DOCKER_CERT_PATH (or ~/.docker)."""
    directory = os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
    paths = (os.path.join(directory, name) for name in ("ca.pem", "cert.pem", "key.pem"))
    return Security(verify, *(path if os.path.exists(path) else "" for path in paths))


def connect(sock: socket.socket, security: Security, name: str) -> TlsSocket:
    """Shake hands over a connected socket. Raises OSError (ssl.SSLError is one)."""
    context = certificates.trusting(security.authority)
    if not security.verify:  # --tls alone: encrypted, the server not verified
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if security.certificate:
        context.load_cert_chain(security.certificate, security.key or None)
    found = TlsSocket(sock, context, name)
    try:
        found.handshake()
    except BaseException:
        sock.close()
        raise
    return found


class TlsSocket:
    """Plain bytes in and out; `unsent` are encrypted bytes that a non-blocking socket hasn't taken yet."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._ended = False
        self.unsent = b""

    def handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                return self.flush()
            except ssl.SSLWantReadError:
                self.flush()
                self._take()

    def _take(self) -> None:
        if data := self._sock.recv(_RECEIVE):
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def recv(self, size: int) -> bytes:
        """Some bytes, all that one read of the socket brought (as long as `size` is larger); none at the end."""
        while True:
            data = self._decrypt(size)
            if data is not None:
                return data
            self._take()

    def _decrypt(self, size: int) -> bytes | None:
        """What can be read of what has arrived; None if that is nothing yet."""
        pieces: list[bytes] = []
        try:
            while size > 0 and (piece := self._tls.read(min(size, _PIECE))):
                pieces.append(piece)
                size -= len(piece)
        except ssl.SSLWantReadError:
            return b"".join(pieces) or None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass  # both directions have ended, or the connection has without a word: the end, as with TCP
        except ssl.SSLError as error:  # with TLS 1.3 a server refuses a client's certificate after the handshake
            raise Unavailable(f"error during connect: {error}") from error
        return b"".join(pieces)

    def send(self, data: bytes | bytearray) -> int:
        """Encrypt and send as much as one piece. Raises BlockingIOError while the last one hasn't gone out."""
        self.flush()
        if self.unsent:
            raise BlockingIOError
        size = self._tls.write(memoryview(data)[:_PIECE])
        self.flush()
        return size

    def sendall(self, data: bytes) -> None:
        sent = 0
        while sent < len(data):
            sent += self.send(data[sent : sent + _PIECE])

    def flush(self) -> None:
        """Send what is encrypted, as far as the socket takes it."""
        self.unsent += self._outgoing.read()
        try:
            while self.unsent:
                self.unsent = self.unsent[self._sock.send(self.unsent) :]
        except BlockingIOError:
            return

    def shutdown(self, how: int) -> None:
        """End our direction (SHUT_WR): the server sees the end of the input, and goes on with its output."""
        if self._ended or how != socket.SHUT_WR:
            return
        self._ended = True
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # the alert is written; the server's own comes when its output has ended
        self.flush()

    def setblocking(self, flag: bool) -> None:
        self._sock.setblocking(flag)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()
