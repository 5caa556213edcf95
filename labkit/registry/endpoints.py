"""Where a registry answers: its mirrors, its own address, with or without TLS, with which certificates.

As dockerd does it (`registry/service_v2.go`): mirrors only stand in for Docker Hub, and only for pulls; a registry is
insecure if `--insecure-registry` names it or its address lies in a network named there, or on loopback. Certificates
are those of `/etc/docker/certs.d/HOST[:PORT]` (docs.docker.com, "Verify repository client with certificates").
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from labkit.errors import InvalidParameter

HUB = "docker.io"
_HUB_URL = "https://registry-1.docker.io"
ALWAYS_INSECURE = ("127.0.0.0/8", "::1/128")

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Settings:
    """dockerd's options `--registry-mirror`, `--insecure-registry`, and where certificates are looked for."""

    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    certs: tuple[Path, ...] = (Path("/etc/docker/certs.d"), Path("/etc/labkit/certs.d"))
    hub: str = ""
    """labkit's own option `--hub`: the URL of a `labkit hub` that stands in for Docker Hub; "none" for none at all."""


DEFAULT = Settings()


@dataclass(frozen=True, slots=True)
class Certificates:
    """What `certs.d` holds for a host: authorities to trust besides the system's, certificates to show with keys."""

    authorities: tuple[Path, ...] = ()
    pairs: tuple[tuple[Path, Path], ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address to try. `url` is scheme://host[:port], with a path only where a mirror has one."""

    url: str
    mirror: bool = False
    verified: bool = True
    certificates: Certificates = Certificates()

    @property
    def host(self) -> str:
        """host[:port], as it names the directory in certs.d."""
        return urlsplit(self.url).netloc


def endpoints(domain: str, settings: Settings, push: bool = False) -> tuple[Endpoint, ...]:
    """The endpoints of a registry in the order in which they are to be tried. Reads `certs.d`.

    Raises InvalidParameter for a mirror that isn't a URL, and for half a pair of certificate and key.
    """
    found = [] if push or domain != HUB else [_mirror(mirror, settings) for mirror in settings.mirrors]
    if domain == HUB:
        return (*found, _secure(_HUB_URL, HUB, settings))
    if not is_insecure(domain, settings.insecure):
        return (_secure(f"https://{domain}", domain, settings),)
    return tuple(Endpoint(f"{scheme}://{domain}", verified=False) for scheme in ("https", "http"))


def _secure(url: str, host: str, settings: Settings, mirror: bool = False) -> Endpoint:
    return Endpoint(url, mirror, True, read_certificates(host, settings.certs))


def _mirror(mirror: str, settings: Settings) -> Endpoint:
    url = (mirror if "://" in mirror else f"https://{mirror}").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise InvalidParameter(f'invalid mirror: "{url}" must be http(s)://host[:port] without user, query or fragment')
    if is_insecure(parts.netloc, settings.insecure):
        return Endpoint(url, mirror=True, verified=False)
    return _secure(url, parts.netloc, settings, mirror=True)


def is_insecure(domain: str, insecure: tuple[str, ...]) -> bool:
    """Whether TLS may be missing or unproven at host[:port]; a name is looked up if networks are to be compared."""
    named = {entry.partition("://")[2] if "://" in entry else entry for entry in insecure}
    if domain in named:
        return True
    networks = [network for entry in (*named, *ALWAYS_INSECURE) for network in _network(entry)]
    return any(address in network for address in _addresses(domain) for network in networks)


def _network(entry: str) -> Iterator[_Network]:
    try:
        yield ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return  # a host's name, compared as such


def _addresses(domain: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses of host[:port]; none if the name can't be resolved: it counts as secure then, as in dockerd."""
    host = urlsplit(f"//{domain}").hostname or ""
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass  # a name
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found]


def read_certificates(host: str, directories: tuple[Path, ...]) -> Certificates:
    """What the directories hold for a host: `*.crt` authorities, `*.cert` with `*.key` client certificates.

    Raises InvalidParameter, in dockerd's words, where a certificate or its key is missing.
    """
    authorities: list[Path] = []
    pairs: list[tuple[Path, Path]] = []
    for directory in (top / host for top in directories if host not in ("", ".", "..")):
        names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
        for name in sorted(names):
            stem, _, suffix = name.rpartition(".")
            if suffix == "crt":
                authorities.append(directory / name)
            elif suffix == "cert" and f"{stem}.key" not in names:
                raise InvalidParameter(
                    f"missing key {stem}.key for client certificate {name}. CA certificates must use the extension .crt"
                )
            elif suffix == "cert":
                pairs.append((directory / name, directory / f"{stem}.key"))
            elif suffix == "key" and f"{stem}.cert" not in names:
                raise InvalidParameter(f"missing client certificate {stem}.cert for key {name}")
    return Certificates(tuple(authorities), tuple(pairs))


def load_certificates(context: ssl.SSLContext, endpoint: Endpoint) -> ssl.SSLContext:
    """The context, set up to verify the endpoint as it wants to be, and to show its client certificates.

    Raises InvalidParameter for a file that holds none.
    """
    if not endpoint.verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificates = endpoint.certificates
    try:
        for path in certificates.authorities:
            context.load_verify_locations(path)
        for certificate, key in certificates.pairs:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidParameter(f"unable to use the certificates for {endpoint.host}: {error}") from error
    return context
