"""The hub as a mirror of Docker Hub: a pull of `nginx` is the same with and without the internet.

Mirrors of the settings come first. Then a hub that answers: of the settings (`labkit daemon --hub`), or the one that
`labkit hub serve` runs on this machine, or else the hub's store on disk, served for the time of the pull alone. What
none of them has comes from Docker Hub.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from labkit.errors import InvalidParameter, LabkitError, NotFound, Unavailable
from labkit.images.references import Reference
from labkit.registry.endpoints import HUB, Settings
from labkit.registry.repository import Repository
from labkit.registry.server.application import Registry
from labkit.registry.server.publishing import published_text
from labkit.registry.server.refusals import Refused
from labkit.registry.server.routes import Application
from labkit.registry.server.serving import Server
from labkit.registry.server.storage import Storage
from labkit.registry.server.uploads import Uploads

ADDRESS_FILE = "/run/labkit/hub.url"
_PATIENCE = 2  # seconds for a hub on the local network to take a connection
_POLL = 0.02  # seconds after which the server of a pull notices that it may end


@contextmanager
def with_hub(reference: Reference, settings: Settings, root: Path, address_file: Path) -> Iterator[Settings]:
    """The settings with the hub as the last of the mirrors. `root` is the hub's store of this machine.

    An Unavailable error of the block is told with what the hub has. Raises InvalidParameter for a bad URL.
    """
    if reference.domain != HUB or settings.hub == "none":
        yield settings
        return
    with ExitStack() as stack:
        url = _running(settings, address_file) or stack.enter_context(_served(root, reference))
        try:
            yield replace(settings, mirrors=(*settings.mirrors, url)) if url else settings
        except Unavailable as error:
            raise Unavailable(f"{error}{_offer(url, reference) if url else ''}") from error


def _running(settings: Settings, address_file: Path) -> str:
    """The URL of a hub that takes connections; empty if there is none."""
    for url in filter(None, (settings.hub, published_text(address_file))):
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            address = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise InvalidParameter(f"invalid hub {url!r}: {error}") from error
        with suppress(OSError), socket.create_connection(address, _PATIENCE):
            return parts.geturl()
    return ""


@contextmanager
def _served(root: Path, reference: Reference) -> Iterator[str]:
    """The URL of the store on disk, served on loopback as long as the block runs; empty if it hasn't the repository."""
    with ExitStack() as stack:
        try:
            storage = stack.enter_context(closing(Storage(root, readonly=True)))
            storage.find(reference.path)
        except (NotFound, Refused):
            yield ""
            return
        registry = Registry(storage, Uploads(storage.workspace), readonly=True)
        server = stack.enter_context(Server(("127.0.0.1", 0), Application(registry, None), None))
        thread = threading.Thread(target=server.serve_forever, args=(_POLL,), name="hub", daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield f"http://127.0.0.1:{server.server_address[1]}"


def _offer(url: str, reference: Reference) -> str:
    """What the hub has of the repository, to be said after an error; nothing if it can't be asked."""
    host = urlsplit(url).netloc
    there = Reference(host, reference.path)
    try:
        with Repository(there, Settings(insecure=(host,))) as repository:
            tags = repository.tags()
    except LabkitError:
        return ""
    names = ", ".join(f"{reference.familiar_name}:{tag}" for tag in tags)
    return f" (labkit's hub has {names})" if names else ""
