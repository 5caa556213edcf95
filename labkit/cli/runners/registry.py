"""`labkit registry`. The server's package is imported by name, late: other commands must not load it, and the layers
above the API don't depend on it."""

from __future__ import annotations

from importlib import import_module

from labkit.cli.grammar import Invocation
from labkit.cli.session import Session


def serve(session: Session, given: Invocation) -> int:
    """Serves a registry until it is told to end."""
    server = import_module("labkit.registry.server.main")
    words = {name: given.text(name.replace("_", "-")) for name in ("addr", "root", "htpasswd", "tls_cert", "tls_key")}
    words |= {"proxy": given.text("proxy"), "log_level": given.text("log-level")}
    options = server.Options(
        readonly=given.flag("readonly"),
        deletable=not given.flag("no-delete"),
        **{name: text for name, text in words.items() if text},
    )
    return int(server.serve(options))
