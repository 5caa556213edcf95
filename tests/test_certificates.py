"""Which certificates are trusted: those that Go trusts."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from labkit.certificates import trusting
from tests.support.keys import make_authority, make_keys


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """A handshake in memory; raises what the client has against it."""
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(one, other, server_hostname="server"), server.wrap_bio(other, one, server_side=True)
    for end in (*ends, ends[0]):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            assert end is not ends[0] or not ends[0].version()


def test_an_authority_without_a_key_usage_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such are made by Docker's instructions. Python 3.13 is the first that refuses them by default."""
    default = ssl.create_default_context

    def strict(*arguments: Any, **named: Any) -> ssl.SSLContext:
        context = default(*arguments, **named)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    authority = make_authority(tmp_path / "authority", bare=True)
    keys = make_keys(authority, tmp_path / "server", "server")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(keys.certificate, keys.key)
    shake_hands(trusting(str(authority.authority)), server)
    with pytest.raises(ssl.SSLCertVerificationError, match="key usage"):
        shake_hands(strict(cafile=str(authority.authority)), server)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(trusting(), server)
