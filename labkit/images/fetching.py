"""`docker import URL`: the tar of a root filesystem from a web server (moby `builder/remotecontext`).

HTTP and HTTPS only, also after redirects: a server must not lead the daemon to files or sockets of its own machine.
"""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.request
from typing import IO
from urllib.parse import urlsplit

from labkit.errors import InvalidParameter, LabkitError, Unavailable

_PATIENCE = 60  # seconds without a byte
_EXPLANATION = 1 << 10  # bytes of an error's body that are told


def check_url(text: str) -> str:
    """The URL to fetch; `http://` goes without saying. Raises InvalidParameter for another scheme."""
    url = text if "://" in text else f"http://{text}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidParameter(f"can't import from {text!r}: only http:// and https:// URLs")
    return url


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        try:
            check_url(newurl)
        except InvalidParameter:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Fetch:
    """A download, as a file to read from on a thread; `cancel` may be called from another one.

    `size` is what the server says, 0 if it doesn't. Raises Unavailable, InvalidParameter, LabkitError.
    """

    def __init__(self, url: str) -> None:
        self.url = check_url(url)
        self.size = 0
        self._cancelled = threading.Event()
        self._answer: http.client.HTTPResponse | None = None

    def open(self) -> None:
        """Asks for the file; returns when the server has answered."""
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            _Redirects(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
        ):
            opener.add_handler(handler)
        try:
            self._answer = opener.open(self.url, timeout=_PATIENCE)
        except urllib.error.HTTPError as error:
            with error:
                body = error.read(_EXPLANATION).decode("utf-8", "replace").strip()
            raise LabkitError(f"failed to GET {self.url} with status {error.code} {error.reason}: {body}") from error
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"can't import from {self.url}: {error}") from error
        self.size = self._answer.length or 0

    def read(self, size: int, /) -> bytes:
        """What has come, at most `size` bytes; b"" at the end. Half a file is an error."""
        if self._cancelled.is_set():
            raise InvalidParameter("the client is gone")
        assert self._answer is not None
        try:
            piece = self._answer.read1(size)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"can't import from {self.url}: {error}") from error
        if not piece and self._answer.length:
            raise Unavailable(f"can't import from {self.url}: unexpected EOF")
        return piece

    def cancel(self) -> None:
        """Ends the download at its next piece."""
        self._cancelled.set()

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
