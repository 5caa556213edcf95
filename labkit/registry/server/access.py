"""Who may use a registry: HTTP basic authentication (RFC 7617) by a file as `htpasswd -B` writes it.

bcrypt takes tens of milliseconds by intention, so a password that was right is remembered, under a key of this process.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from labkit.errors import InvalidParameter, Unavailable

_BCRYPT = (b"$2a$", b"$2b$", b"$2y$")
_REMEMBERED = 1024
_PASSWORD_LIMIT = 72  # bytes that bcrypt looks at


class Passwords:
    """The users of an htpasswd file, which is read again when it has changed.

    Raises InvalidParameter if it is none, Unavailable if it can't be read or there is no bcrypt to check it with.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._check = _bcrypt_check()
        self._key = os.urandom(32)
        self._right: dict[bytes, bytes] = {}
        self._lock = threading.Lock()
        self._version, self._hashes = (0, 0), dict[str, bytes]()
        self._reload()

    def allows(self, authorization: str | None) -> bool:
        """Whether the `Authorization` header of a request has a user of the file with the right password."""
        given = credentials(authorization)
        if given is None:
            return False
        self._reload()
        user, password = given
        # A stranger's password is checked too, against some user's hash: the time doesn't tell who is in the file.
        known = self._hashes.get(user)
        wanted = known or next(iter(self._hashes.values()))
        mark = hmac.digest(self._key, hashlib.sha256(wanted).digest() + password, "sha256")
        with self._lock:
            if known and hmac.compare_digest(self._right.get(mark, b""), wanted):
                return True
            right = self._check(password[:_PASSWORD_LIMIT], wanted) and known is not None
            if right:
                if len(self._right) >= _REMEMBERED:
                    self._right.clear()
                self._right[mark] = wanted
            return right

    def _reload(self) -> None:
        with self._lock:
            try:
                status = self._file.stat()
                version = (status.st_ino, status.st_mtime_ns)
                if version != self._version:
                    self._hashes = read_htpasswd(self._file.read_bytes())
                    self._version = version
            except OSError as error:
                raise Unavailable(f"can't read {self._file}: {error.strerror}") from error


def read_htpasswd(data: bytes) -> dict[str, bytes]:
    """The bcrypt hash of each user. Raises InvalidParameter, naming the line, for any other kind of hash."""
    found: dict[str, bytes] = {}
    for number, line in enumerate(data.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(b"#"):
            continue
        user, _, digest = line.partition(b":")
        if not user or not digest.startswith(_BCRYPT):
            raise InvalidParameter(f"htpasswd line {number}: not USER:BCRYPT (make it with `htpasswd -B`)")
        found[user.decode(errors="surrogateescape")] = digest
    if not found:
        raise InvalidParameter("the htpasswd file has no users: nobody could use the registry")
    return found


def credentials(authorization: str | None) -> tuple[str, bytes] | None:
    """User and password of a basic `Authorization` header; None if it isn't one."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (user.decode(errors="surrogateescape"), password) if colon and b"\0" not in password else None


def _bcrypt_check() -> Callable[[bytes, bytes], bool]:
    try:
        check: Callable[[bytes, bytes], bool] = import_module("bcrypt").checkpw
    except ImportError as error:
        raise Unavailable("--htpasswd needs the package bcrypt: pip install bcrypt") from error
    return check
