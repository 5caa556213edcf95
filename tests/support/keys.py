"""An authority and the certificates that it signs, made with openssl for one test."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import PATIENCE


@dataclass(frozen=True)
class Keys:
    """A directory with ca.pem, cert.pem and key.pem, as Docker's clients and daemon look for them."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    def flags(self) -> list[str]:
        return ["--tlscacert", str(self.authority), "--tlscert", str(self.certificate), "--tlskey", str(self.key)]


def openssl(*words: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr


_NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def make_authority(folder: Path, bare: bool = False) -> Keys:
    """An authority: certificate `ca.pem`, key `key.pem`. A `bare` one is as Docker's instructions make it."""
    folder.mkdir()
    keys = Keys(folder)
    usage = () if bare else ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    files = ("-keyout", keys.key, "-out", keys.authority)
    openssl("req", "-x509", *_NEW, *usage, "-days", "2", "-subj", "/CN=authority", *files)
    return keys


def make_keys(authority: Keys, folder: Path, name: str) -> Keys:
    """A certificate for `name` (and 127.0.0.1), for a server or a client."""
    folder.mkdir()
    keys, request, extra = Keys(folder), folder / "request.pem", folder / "extensions"
    openssl("req", *_NEW, "-subj", f"/CN={name}", "-keyout", keys.key, "-out", request)
    known = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    extra.write_text(f"subjectAltName=DNS:{name},IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n{known}")
    signing = ("-CA", authority.authority, "-CAkey", authority.key, "-CAcreateserial", "-days", "2")
    openssl("x509", "-req", "-in", request, *signing, "-extfile", extra, "-out", keys.certificate)
    keys.authority.write_bytes(authority.authority.read_bytes())
    return keys
