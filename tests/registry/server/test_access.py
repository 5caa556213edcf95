"""Passwords: the file's format, what lets in, and that a right one costs bcrypt once."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from labkit.errors import InvalidParameter, Unavailable
from labkit.registry.server import access
from labkit.registry.server.access import Passwords, credentials, read_htpasswd
from tests.registry.server.clients import Client, serving


def hashed(password: bytes) -> bytes:
    return bcrypt.hashpw(password[:72], bcrypt.gensalt(4)).replace(b"$2b$", b"$2y$")  # as htpasswd -B writes it


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    path.write_bytes(b"# class of 2026\n\nann:" + hashed(b"pa:ss") + b"\nbob:" + hashed(b"word" * 25) + b"\n")
    return path


@pytest.fixture
def client(file: Path, tmp_path: Path) -> Iterator[Client]:
    with serving(tmp_path / "registry", Passwords(file)) as served, Client(served.port) as found:
        yield found


def test_challenge(client: Client) -> None:
    """401 with the scheme, on everything, before a body is read; also then this is a registry."""
    for method, path in (("GET", "/v2/"), ("GET", "/"), ("POST", "/v2/a/blobs/uploads/"), ("GET", "/none")):
        reply = client.send(method, path, b"x" * 100 if method == "POST" else None)
        assert (reply.status, reply.code) == (401, "UNAUTHORIZED")
        assert reply.headers["WWW-Authenticate"] == 'Basic realm="labkit registry"'
        assert reply.headers["Docker-Distribution-API-Version"] == "registry/2.0"


def test_who_may_come_in(client: Client) -> None:
    given = [("ann", "pa:ss", 200), ("bob", "word" * 25, 200), ("ann", "word" * 25, 401), ("ann", "", 401)]
    given += [("eve", "pa:ss", 401), ("", "", 401), ("ann", "pa:ss\0", 401), ("# class of 2026", "", 401)]
    for _ in range(2):
        for user, password, status in given:
            assert client.send("GET", "/v2/", Authorization=basic(user, password)).status == status


@pytest.mark.parametrize("header", [None, "", "Basic", "Basic !!!", "Bearer x", "Basic " + "YQ==", "Basic \xff"])
def test_headers_that_are_none(header: str | None) -> None:
    assert credentials(header) is None


def test_bcrypt_is_asked_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A right password is remembered, a wrong one is not, and a stranger's costs as much as a known user's."""
    asked: list[bytes] = []

    def check(password: bytes, wanted: bytes) -> bool:
        asked.append(password)
        return bcrypt.checkpw(password, wanted)

    monkeypatch.setattr(access, "_bcrypt_check", lambda: check)
    passwords = Passwords(file)
    assert all(passwords.allows(basic("ann", "pa:ss")) for _ in range(5))
    assert asked == [b"pa:ss"]
    assert not any(passwords.allows(basic(user, "wrong")) for user in ("ann", "ann", "eve", "eve"))
    assert len(asked) == 5


def test_file_that_changes(file: Path) -> None:
    """A password that was changed is over, though it was remembered."""
    passwords = Passwords(file)
    assert passwords.allows(basic("ann", "pa:ss"))
    new = file.with_suffix(".new")
    new.write_bytes(b"ann:" + hashed(b"new"))
    os.replace(new, file)
    assert not passwords.allows(basic("ann", "pa:ss"))
    assert passwords.allows(basic("ann", "new"))


@pytest.mark.parametrize("data", [b"ann", b"ann:", b":$2y$x", b"ann:$apr1$x$y", b"ann:{SHA}x", b"ok:$2y$x\nann:plain"])
def test_other_kinds_of_hashes(data: bytes) -> None:
    with pytest.raises(InvalidParameter, match="not USER:BCRYPT"):
        read_htpasswd(data)


def test_nobody(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="has no users"):
        read_htpasswd(b"\n# none\n")
    with pytest.raises(Unavailable, match="No such file"):
        Passwords(tmp_path / "none")
