"""Lists that a registry gives in pages: tags of a repository, repositories of a registry.

OCI distribution-spec, "Listing Tags": the next page is where the Link header (RFC 8288) says, or after `last`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from labkit.errors import LabkitError
from labkit.images.references import Reference
from labkit.registry.faults import registry_error
from labkit.registry.session import Session
from labkit.registry.transport import resolved

_PAGE_LIMIT = 16 << 20  # bytes of one page
_LONGEST = 1_000_000  # names in all pages together
_LINK = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next"?', re.IGNORECASE)


def pages(
    session: Session, path: str, key: str, scopes: tuple[str, ...], reference: Reference | None = None
) -> Iterator[list[str]]:
    """The names below `key` of each page. Raises LabkitError for a list that has no end."""
    seen: set[str] = set()
    count = 0
    while path:
        if path in seen or count > _LONGEST:
            raise LabkitError(f"the registry's list of {key} has no end")
        seen.add(path)
        with session.ask("GET", path, f"list of {key}", scopes) as answer:
            if answer.status != 200:
                raise registry_error(answer, reference)
            body = answer.read(_PAGE_LIMIT, f"the list of {key}")
            following = _LINK.search(answer.headers.get("Link", ""))
        names = _names(body, key)
        count += len(names)
        yield names
        path = resolved(answer.request.url, following[1]) if following else ""


def _names(body: bytes, key: str) -> list[str]:
    try:
        page = msgspec.json.decode(body, type=dict[str, Any])
        return msgspec.convert(page.get(key), list[str] | None) or []
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise LabkitError(f"the registry's list of {key} can't be read: {error}") from error


def catalog(session: Session) -> Iterator[list[str]]:
    """The names of a registry's repositories, by page (distribution's `_catalog`)."""
    return pages(session, "/v2/_catalog?n=1000", "repositories", ("registry:catalog:*",))
