"""A transfer that nobody wants any more ends at once: waits wake up, and reads that are blocked return."""

from __future__ import annotations

import socket
import threading
import weakref

from labkit.errors import Unavailable


class Cancelled:
    """An event that also ends the connections which were made for it. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def cancel(self) -> None:
        """Ends it all. Threads that work for it raise Unavailable("context canceled")."""
        with self._lock:
            self._event.set()
            sockets = list(self._sockets)
        for sock in sockets:
            _shut(sock)

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        """A pause. Raises Unavailable when it is cancelled, before or meanwhile."""
        self._event.wait(seconds)
        self.check()

    def check(self) -> None:
        """Raises Unavailable if it is cancelled."""
        if self._event.is_set():
            raise Unavailable("context canceled")

    def watch(self, sock: socket.socket) -> None:
        """Shuts this connection down when it is cancelled, or now if that is so already."""
        with self._lock:
            self._sockets.add(sock)
            late = self._event.is_set()
        if late:
            _shut(sock)


def _shut(sock: socket.socket) -> None:
    """Ends a connection that another thread reads from. The TLS layer is passed by: its state isn't ours to touch."""
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass  # it isn't connected (any more)
