"""Where the daemon listens: unix sockets, and TCP with certificates on both sides (moby `cmd/dockerd`).

Who can speak to the daemon is root on this machine. So TCP without client certificates needs an explicit word.
"""

from __future__ import annotations

import argparse
import grp
import logging
import os
import socket
import ssl
from dataclasses import dataclass
from typing import Any

from labkit.errors import Forbidden, InvalidParameter

log = logging.getLogger("labkit.daemon")

TLS_PORT, PLAIN_PORT = 2376, 2375
_DANGER = (
    "Binding to IP address without --tlsverify is insecure and gives root access on this machine to everyone who has "
    "access to your network.",
    "Binding to an IP address, even on localhost, can also give access to scripts run in a browser. Be safe out there!",
)


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """The flags about TLS; None where nobody has said yes or no."""

    tls: bool | None
    verify: bool | None
    authority: str
    certificate: str
    key: str

    @property
    def wanted(self) -> bool:
        return bool(self.verify or self.tls)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """dockerd's flags, with its defaults in DOCKER_CERT_PATH or ~/.docker."""
    folder = os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
    add = parser.add_argument
    add(
        "-H",
        "--host",
        action="append",
        default=[],
        metavar="unix://PATH|tcp://ADDRESS:PORT",
        help="socket to listen on; TCP needs --tlsverify",
    )
    add("--tls", **_BOOL, help="use TLS; implied by --tlsverify (=false: insist on TCP without it)")
    add("--tlsverify", **_BOOL, help="use TLS and verify the client (=false: insist on doing without)")
    add("--tlscacert", default=f"{folder}/ca.pem", metavar="FILE", help="trust certificates signed by this authority")
    add("--tlscert", default=f"{folder}/cert.pem", metavar="FILE", help="the daemon's certificate")
    add("--tlskey", default=f"{folder}/key.pem", metavar="FILE", help="its key")


def _boolean(text: str) -> bool:
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


_BOOL: dict[str, Any] = {"nargs": "?", "const": True, "default": None, "type": _boolean, "metavar": "true|false"}


def tls_options(given: argparse.Namespace) -> TlsOptions:
    verify = given.tlsverify
    if verify is None and os.environ.get("DOCKER_TLS_VERIFY"):
        verify = True
    return TlsOptions(given.tls, verify, given.tlscacert, given.tlscert, given.tlskey)


def tls_context(options: TlsOptions) -> ssl.SSLContext | None:
    """The server's side of TLS; None without it. Raises InvalidParameter for files that can't be used."""
    if not options.wanted:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(options.certificate, options.key)
    except (OSError, ssl.SSLError) as error:
        pair = f'(cert: "{options.certificate}", key: "{options.key}")'
        raise InvalidParameter(f"could not load X509 key pair {pair}: {error.strerror or error}") from error
    if options.verify:
        try:
            context.load_verify_locations(options.authority)
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter(
                f'could not read CA certificate "{options.authority}": {error.strerror or error}'
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def parse_host(host: str, secure: bool) -> tuple[str, str, int]:
    """Kind (unix or tcp), path or address, and port of a `-H`. Raises InvalidParameter in dockerd's words."""
    scheme, sign, rest = host.partition("://")
    if not sign:
        scheme, rest = "tcp", host
    if scheme == "unix":
        return "unix", rest or "/run/labkit/labkit.sock", 0
    if scheme != "tcp":
        raise InvalidParameter(f"invalid bind address ({host}): unsupported proto '{scheme}': use unix:// or tcp://")
    usual = TLS_PORT if secure else PLAIN_PORT
    if not rest:
        return "tcp", "localhost", usual
    name, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        name, port = rest, str(usual)
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16) or "/" in name:
        raise InvalidParameter(f"invalid bind address ({host}): it needs to be tcp://ADDRESS:PORT")
    return "tcp", name.strip("[]"), int(port)


def check(hosts: list[str], options: TlsOptions) -> None:
    """Refuse TCP that everybody may use, unless the user insists; warn then. Raises Forbidden."""
    for host in hosts:
        kind, _, _ = parse_host(host, options.wanted)
        if kind != "tcp" or options.verify:
            continue
        insisted = options.verify is False if options.tls else options.tls is False
        if not insisted:
            word = "--tlsverify=false" if options.tls else "--tls=false"
            raise Forbidden(
                f"{host}: everyone who reaches this address would be root on this machine: give --tlsverify with "
                f"--tlscacert, --tlscert and --tlskey, or insist with {word}"
            )
        for line in (f"API is accessible on {host} without client certificates.", *_DANGER):
            log.warning(line)


def open_tcp(host: str, secure: bool) -> list[socket.socket]:
    """Bound sockets for a `tcp://` host: one for each address that its name has. Raises Forbidden."""
    _, name, port = parse_host(host, secure)
    flags = socket.AI_PASSIVE
    try:
        found = socket.getaddrinfo(name or None, port, type=socket.SOCK_STREAM, flags=flags)
        families = dict.fromkeys((family, address) for family, _, _, _, address in found)
        return [_bound(family, address) for family, address in families]
    except OSError as error:
        raise Forbidden(f"can't listen on {host}: {error.strerror or error}") from error


def _bound(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def open_unix(path: str) -> socket.socket:
    """A bound unix socket for root and the group `docker` (or `labkit`). Raises Forbidden."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    if os.path.lexists(path):
        os.unlink(path)
    mask = os.umask(0o117)
    try:
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise Forbidden(f"can't listen on {path}: {os.strerror(error.errno or 0)}") from error
    finally:
        os.umask(mask)
    os.chown(path, 0, group())
    return sock


def group() -> int:
    """Whose members may use the socket: docker's if there is such a group, else labkit's, else root's."""
    for name in ("docker", "labkit"):
        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            continue
    return 0
