"""TLS under a connection of the Engine API (RFC 8446), with a half-closed state: Docker's clients need it.

`docker run -i` ends its input with a close_notify and reads on. asyncio's own TLS closes both directions then, so this
one stands in its place: a protocol of the TCP transport below, and a transport of the connection above.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable
from typing import Any, cast

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 30
_PIECE = 256 << 10


class SecureTransport(asyncio.Transport):
    """What the connection above writes to. Both directions end each by itself."""

    def __init__(self, raw: asyncio.Transport, context: ssl.SSLContext) -> None:
        super().__init__()
        self._raw = raw
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._context = context
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._ended = False

    def handshake(self, data: bytes) -> bool:
        """Go on with the handshake; True when it is done. Raises ssl.SSLError, after the client was told."""
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._flush()
        return True

    def receive(self, data: bytes) -> bytes | None:
        """What encrypted bytes say; None after them if the client has ended its direction. Raises ssl.SSLError."""
        self._incoming.write(data)
        try:
            return self._tls.read(_PIECE) or None
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLZeroReturnError:
            return None  # ours had ended before
        finally:
            self._flush()

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._raw.write(data)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._ended or not data:
            return
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        self._flush()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        for data in list_of_data:
            self.write(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Tell the client that no more comes (close_notify); what it still sends is read."""
        if self._ended:
            return
        self._ended = True
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # the alert is written; what unwrap goes on to wait for, the client's own, may come much later
        self._flush()

    def close(self) -> None:
        if not self._raw.is_closing():
            self.write_eof()
            self._raw.close()

    def abort(self) -> None:
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._raw.is_closing()

    def is_reading(self) -> bool:
        return self._raw.is_reading()

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sslcontext":
            return self._context
        return self._raw.get_extra_info(name, default)


class Secured(asyncio.Protocol):
    """One accepted connection: its handshake, then what it carries, for the protocol that `accept` makes."""

    def __init__(
        self, context: ssl.SSLContext, accept: Callable[[], asyncio.Protocol], handshakes: set[Secured]
    ) -> None:
        self._context = context
        self._accept = accept
        self._handshakes = handshakes
        self._above: asyncio.Protocol | None = None
        self._eof = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast("asyncio.Transport", transport)
        self._transport = SecureTransport(self._raw, self._context)
        self._handshakes.add(self)
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(HANDSHAKE_SECONDS, self._refuse, "it takes too long")

    def data_received(self, data: bytes) -> None:
        try:
            if self._above is None:
                if not self._transport.handshake(data):
                    return
                self._begin()
                data = b""
            self._pass_on(data)
        except ssl.SSLError as error:
            self._refuse(error.reason or str(error))

    def _begin(self) -> None:
        self._patience.cancel()
        self._handshakes.discard(self)
        self._above = self._accept()
        self._above.connection_made(self._transport)

    def _pass_on(self, data: bytes) -> None:
        """All that was encrypted in `data`, and perhaps the end of the client's direction."""
        assert self._above
        plain = self._transport.receive(data)
        while plain:
            self._above.data_received(plain)
            plain = self._transport.receive(b"")
        if plain is None and not self._eof:
            self._eof = True
            self._above.eof_received()

    def eof_received(self) -> bool:
        """The client has closed its side of the TCP connection. Without a close_notify before, as some do to end
        their input, the output is still wanted; after one it is gone.
        """
        if self._above is None or self._eof:
            return False
        self._eof = True
        return bool(self._above.eof_received())

    def _refuse(self, reason: str) -> None:
        peer = self._raw.get_extra_info("peername")
        log.info("TLS error from %s: %s", peer[0] if isinstance(peer, tuple) else peer or "a client", reason)
        self._raw.close()

    def abort(self) -> None:
        """End a handshake."""
        self._raw.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        self._handshakes.discard(self)
        if self._above is not None:
            self._above.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        if self._above is not None:
            self._above.resume_writing()
