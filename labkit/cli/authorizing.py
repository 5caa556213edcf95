"""What a command shows the engine for a registry: the credentials that `labkit login` stored, if there are any."""

from __future__ import annotations

from labkit.cli.session import Session
from labkit.client.credentials import Configuration, HelperError, load, server_of


def registry_headers(session: Session, image: str) -> dict[str, str]:
    """The headers of a request about an image (or a search term) that its registry's credentials go with.

    Where they can't be had the request goes without, and it is said why.
    """
    try:
        return configuration(session).get(server_of(image)).headers()
    except HelperError as error:
        session.err(f"WARNING: {error}\n")
        return {}


def configuration(session: Session) -> Configuration:
    """The configuration file; what is wrong with it is said."""
    found = load()
    if found.problem:
        session.err(f"WARNING: {found.problem}\n")
    return found
