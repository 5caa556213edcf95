"""Where the daemon may listen, and what it wants of certificates."""

from __future__ import annotations

import argparse
import logging
import ssl
from pathlib import Path

import pytest

from labkit.api import listening
from labkit.api.listening import TlsOptions
from labkit.errors import Forbidden, InvalidParameter
from tests.support.keys import make_authority, make_keys

NONE = TlsOptions(None, None, "", "", "")
VERIFIED = TlsOptions(None, True, "", "", "")


def options(*words: str) -> TlsOptions:
    parser = argparse.ArgumentParser()
    listening.add_flags(parser)
    return listening.tls_options(parser.parse_args(words))


@pytest.mark.parametrize(
    ("host", "secure", "found"),
    [
        ("unix:///a/b", False, ("unix", "/a/b", 0)), ("unix://", False, ("unix", "/run/labkit/labkit.sock", 0)),
        ("tcp://1.2.3.4:5", True, ("tcp", "1.2.3.4", 5)), ("tcp://", True, ("tcp", "localhost", 2376)),
        ("tcp://:7", False, ("tcp", "", 7)), ("tcp://name", False, ("tcp", "name", 2375)), (":7", True, ("tcp", "", 7)),
        ("tcp://[::1]:7", True, ("tcp", "::1", 7)), ("tcp://[::1]", True, ("tcp", "::1", 2376)),
    ],
)  # fmt: skip
def test_hosts(host: str, secure: bool, found: tuple[str, str, int]) -> None:
    assert listening.parse_host(host, secure) == found


@pytest.mark.parametrize("host", ["fd://", "npipe:////x", "tcp://a:b", "tcp://a:65536", "tcp://a/b:1", "tcp://a:²"])
def test_hosts_that_are_refused(host: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid bind address"):
        listening.parse_host(host, True)


def test_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_TLS_VERIFY", raising=False)
    monkeypatch.setenv("DOCKER_CERT_PATH", "/keys")
    assert options() == TlsOptions(None, None, "/keys/ca.pem", "/keys/cert.pem", "/keys/key.pem")
    assert (options("--tls").tls, options("--tls=false").tls, options("--tlsverify").verify) == (True, False, True)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    assert options().verify is True
    assert options("--tlsverify=0").verify is False
    with pytest.raises(SystemExit):
        options("--tls=perhaps")


def test_tcp_without_client_certificates_needs_a_word(caplog: pytest.LogCaptureFixture) -> None:
    tcp = ["tcp://127.0.0.1:1"]
    listening.check(["unix:///x"], NONE)
    listening.check(tcp, VERIFIED)
    for refused in (NONE, TlsOptions(True, None, "", "", ""), TlsOptions(None, False, "", "", "")):
        with pytest.raises(Forbidden, match="would be root on this machine"):
            listening.check(tcp, refused)
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        for insisted in (TlsOptions(False, None, "", "", ""), TlsOptions(True, False, "", "", "")):
            caplog.clear()
            listening.check(tcp, insisted)
            assert "insecure and gives root access on this machine" in caplog.text


def test_contexts(tmp_path: Path) -> None:
    keys = make_keys(make_authority(tmp_path / "ca"), tmp_path / "server", "server")
    files = (str(keys.authority), str(keys.certificate), str(keys.key))
    assert listening.tls_context(NONE) is None
    one_sided = listening.tls_context(TlsOptions(True, None, *files))
    both = listening.tls_context(TlsOptions(None, True, *files))
    assert one_sided
    assert both
    assert (one_sided.verify_mode, both.verify_mode) == (ssl.CERT_NONE, ssl.CERT_REQUIRED)
    with pytest.raises(InvalidParameter, match=r"could not load X509 key pair .*No such file"):
        listening.tls_context(TlsOptions(True, None, "/x", "/y", "/z"))
    with pytest.raises(InvalidParameter, match='could not read CA certificate "/x": No such file'):
        listening.tls_context(TlsOptions(None, True, "/x", *files[1:]))


def test_an_address_in_use() -> None:
    (sock,) = listening.open_tcp("tcp://127.0.0.1:0", True)
    sock.listen()
    with pytest.raises(Forbidden, match=r"can't listen on .*: Address already in use"):
        listening.open_tcp(f"tcp://127.0.0.1:{sock.getsockname()[1]}", True)
    sock.close()
