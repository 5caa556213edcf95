"""`labkit registry`: the process that serves a registry, in the foreground (Distribution's `registry serve`)."""

from __future__ import annotations

import logging
import os
import resource
import signal
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from labkit.errors import Forbidden, InvalidParameter
from labkit.registry.credentials import Credentials
from labkit.registry.server.access import Passwords
from labkit.registry.server.application import Registry
from labkit.registry.server.proxy import Proxy
from labkit.registry.server.publishing import published
from labkit.registry.server.routes import Application
from labkit.registry.server.serving import Server
from labkit.registry.server.storage import Storage
from labkit.registry.server.sweeping import sweep
from labkit.registry.server.uploads import Uploads

DEFAULT_ROOT = "/var/lib/labkit-registry"
PROXY_USER = "LABKIT_PROXY_USER"
"""The environment's variable with USER:PASSWORD for the registry that is cached."""
_GRACE = 5  # seconds for the requests under way when the registry ends; uploads go on after a restart
_ENDING = frozenset((signal.SIGTERM, signal.SIGINT))
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    addr: str = "127.0.0.1:5000"
    root: str = DEFAULT_ROOT
    readonly: bool = False
    deletable: bool = True
    htpasswd: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    proxy: str = ""
    log_level: str = "info"
    address_file: str = ""
    """Where programs of this machine find the address: a file, locked as long as the registry serves."""


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `[IPV6]:PORT` or `:PORT`, which is all interfaces. Raises InvalidParameter."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidParameter(f"invalid address {text!r}: HOST:PORT is needed, such as 127.0.0.1:5000")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)


def serve(options: Options) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status. Raises LabkitError if it can't begin."""
    if options.log_level not in _LEVELS:
        raise InvalidParameter(f"invalid log level {options.log_level!r}: one of {', '.join(_LEVELS)}")
    logging.basicConfig(level=_LEVELS[options.log_level], format="%(asctime)s %(levelname)s %(message)s")
    _raise_limits()
    with _signals_held():
        _serve(options)
    return 0


def _serve(options: Options) -> None:
    address, tls = parse_address(options.addr), _tls(options)
    passwords = Passwords(Path(options.htpasswd)) if options.htpasswd else None
    root = Path(options.root).absolute()
    storage = Storage(root, readonly=options.readonly and not options.proxy)
    with closing(storage), ExitStack() as stack:
        origin = stack.enter_context(closing(Proxy(storage, options.proxy, _proxy_user()))) if options.proxy else None
        registry = Registry(storage, Uploads(storage.workspace), options.readonly, options.deletable, origin)
        if options.deletable and not options.readonly:
            sweep(storage)
        with _listening(address, Application(registry, passwords), tls) as server:
            url = _url(server, options)
            with published(Path(options.address_file), url) if options.address_file else nullcontext():
                _announce(server, options, root, url)
                _run(server)


def _proxy_user() -> Credentials:
    """Who a cache is to the registry behind it: from the environment, which other users of the machine don't see."""
    user, _, password = os.environ.get(PROXY_USER, "").partition(":")
    return Credentials(user, password)


def _listening(address: tuple[str, int], application: Application, tls: ssl.SSLContext | None) -> Server:
    try:
        return Server(address, application, tls)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise Forbidden(f"can't listen on {address[0]}:{address[1]}: {reason}") from error


@contextmanager
def _signals_held() -> Iterator[None]:
    """Keeps the signals that end a registry for `_run`, also those that come while it begins."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(server: Server) -> None:
    """Serves on another thread while this one waits for the signal to end."""
    thread = threading.Thread(target=server.serve_forever, name="accept", daemon=True)
    thread.start()
    signal.sigwait(_ENDING)
    server.shutdown()
    thread.join()
    server.drain(_GRACE)


def _raise_limits() -> None:
    """A descriptor or two for each client: as many as the machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _tls(options: Options) -> ssl.SSLContext | None:
    if not options.tls_cert and not options.tls_key:
        return None
    if not options.tls_cert or not options.tls_key:
        raise InvalidParameter("TLS needs both --tls-cert and --tls-key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except OSError as error:
        raise InvalidParameter(f"can't use {options.tls_cert} and {options.tls_key}: {error.strerror}") from error
    return context


def _url(server: Server, options: Options) -> str:
    host, port = server.server_address[:2]
    shown = f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"
    return f"{'https' if options.tls_cert else 'http'}://{shown}"


def _announce(server: Server, options: Options, root: Path, url: str) -> None:
    """Where it listens, what it has, and who may use it: the first lines of its output."""
    host, shown = server.server_address[0], url.partition("://")[2]
    print(f"labkit registry listens on {url}")
    print(f"  images: {root}, an OCI image layout for each repository")
    if options.proxy:
        print(f"  it is a cache of {options.proxy}: what isn't here is fetched there")
    elif options.readonly:
        print("  it is read-only")
    loopback = ip_address(str(host).partition("%")[0]).is_loopback
    if options.htpasswd and not options.tls_cert and not loopback:
        print("  passwords can be read on the way: --tls-cert and --tls-key encrypt them")
    if not options.htpasswd and not loopback:
        risk = "pull" if options.readonly or options.proxy else "pull, push and delete"
        print(f"  it is open to all: whoever reaches {shown} can {risk} (--htpasswd FILE asks for a password)")
    sys.stdout.flush()
