"""Which addresses are tried, in which order, with which certificates: dockerd's rules."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from labkit.errors import InvalidParameter
from labkit.registry.endpoints import (
    Certificates,
    Endpoint,
    Settings,
    endpoints,
    is_insecure,
    load_certificates,
    read_certificates,
)
from tests.support.registries import KeyPair


def urls(domain: str, settings: Settings, push: bool = False) -> list[str]:
    return [endpoint.url for endpoint in endpoints(domain, settings, push)]


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    (tmp_path / "certs.d").mkdir()
    return tmp_path / "certs.d"


def settings(certs: Path, *mirrors: str, insecure: tuple[str, ...] = ()) -> Settings:
    return Settings(mirrors, insecure, (certs,))


def test_docker_io_is_registry_1(certs: Path) -> None:
    assert endpoints("docker.io", settings(certs)) == (Endpoint("https://registry-1.docker.io"),)


def test_mirrors_come_first_in_their_order(certs: Path) -> None:
    found = endpoints("docker.io", settings(certs, "https://mirror.example.com/hub/", "http://127.0.0.1:5000"))
    assert [(endpoint.url, endpoint.mirror, endpoint.verified) for endpoint in found] == [
        ("https://mirror.example.com/hub", True, True),
        ("http://127.0.0.1:5000", True, False),
        ("https://registry-1.docker.io", False, True),
    ]


def test_mirrors_are_for_docker_io_and_for_pulls_only(certs: Path) -> None:
    mirrored = settings(certs, "https://mirror.example.com")
    assert urls("docker.io", mirrored, push=True) == ["https://registry-1.docker.io"]
    assert urls("registry.example.com", mirrored) == ["https://registry.example.com"]


@pytest.mark.parametrize("mirror", ["ftp://x", "https://", "https://u:p@x", "https://x?q=1", "https://x#f"])
def test_what_is_no_mirror_is_refused(certs: Path, mirror: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid mirror"):
        endpoints("docker.io", settings(certs, mirror))


def test_an_insecure_registry_is_tried_with_tls_first(certs: Path) -> None:
    found = endpoints("r.example.com:5000", settings(certs, insecure=("http://r.example.com:5000",)))
    assert [(endpoint.url, endpoint.verified) for endpoint in found] == [
        ("https://r.example.com:5000", False),
        ("http://r.example.com:5000", False),
    ]


@pytest.mark.parametrize(
    ("domain", "insecure", "expected"),
    [
        ("127.0.0.1:5000", (), True),
        ("127.3.2.1", (), True),
        ("[::1]:5000", (), True),
        ("localhost:5000", (), True),
        ("192.0.2.7:5000", (), False),
        ("192.0.2.7:5000", ("192.0.2.0/24",), True),
        ("192.0.2.7:5000", ("192.0.2.7:5000",), True),
        ("192.0.2.7:5001", ("192.0.2.7:5000",), False),
        ("no-such-host.invalid", ("192.0.2.0/24",), False),
        ("[2001:db8::1]:5000", ("2001:db8::/32",), True),
    ],
)
def test_insecure_are_loopback_and_what_is_named(domain: str, insecure: tuple[str, ...], expected: bool) -> None:
    assert is_insecure(domain, insecure) is expected


def test_certificates_of_a_host_with_its_port(certs: Path) -> None:
    host = certs / "r.example.com:5000"
    host.mkdir()
    for name in ("ca.crt", "b.crt", "client.cert", "client.key", "README"):
        (host / name).touch()
    expected = Certificates((host / "b.crt", host / "ca.crt"), ((host / "client.cert", host / "client.key"),))
    (endpoint,) = endpoints("r.example.com:5000", settings(certs))
    assert endpoint.certificates == expected
    assert endpoints("r.example.com", settings(certs))[0].certificates == Certificates()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.cert", "missing key a.key for client certificate a.cert. CA certificates must use the extension .crt"),
        ("a.key", "missing client certificate a.cert for key a.key"),
    ],
)
def test_half_a_pair_is_refused_in_dockers_words(certs: Path, name: str, message: str) -> None:
    (certs / "h").mkdir()
    (certs / "h" / name).touch()
    with pytest.raises(InvalidParameter) as raised:
        read_certificates("h", (certs,))
    assert str(raised.value) == message


def test_a_file_without_certificate_is_refused(certs: Path) -> None:
    (certs / "ca.crt").write_text("nothing")
    endpoint = Endpoint("https://h", certificates=Certificates((certs / "ca.crt",)))
    with pytest.raises(InvalidParameter, match="unable to use the certificates for h"):
        load_certificates(ssl.create_default_context(), endpoint)


def test_an_authority_is_added_to_the_systems(key_pair: KeyPair) -> None:
    context = ssl.create_default_context()
    before = context.cert_store_stats()["x509_ca"]
    endpoint = Endpoint("https://h", certificates=Certificates((key_pair.certificate,)))
    load_certificates(context, endpoint)
    assert context.cert_store_stats()["x509_ca"] == before + 1
    assert context.verify_mode == ssl.CERT_REQUIRED
