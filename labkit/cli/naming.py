"""Image references as the `docker` command reads them, before it asks the engine (distribution's `reference` package).

`busybox` means `docker.io/library/busybox:latest`. The engine has a reader of its own (`labkit.images.references`), as
Docker's engine and command have one each: this side can't see that one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from labkit.errors import InvalidParameter

HUB = "docker.io"
_OFFICIAL = "library/"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"({_HOST})/({_COMPONENT}(?:/{_COMPONENT})*)(?::([A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?(?:@([a-z0-9]+:[0-9a-f]{{32,}}))?"
)


class Name(NamedTuple):
    """A complete reference; tag and digest are empty where not given."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        return f"{self.domain}/{self.path}"

    @property
    def is_bare(self) -> bool:
        return not self.tag and not self.digest

    def tagged(self) -> Name:
        return self._replace(tag="latest") if self.is_bare else self

    def __str__(self) -> str:
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def read_name(text: str) -> Name:
    """The reference that the words of a user stand for. InvalidParameter, in Docker's words."""
    if re.fullmatch(r"[a-f0-9]{64}", text):
        raise InvalidParameter(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    first, slash, rest = text.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first)
    domain, remainder = (first, rest) if is_host else (HUB, text)
    domain = HUB if domain == "index.docker.io" else domain
    if domain == HUB and "/" not in remainder:
        remainder = _OFFICIAL + remainder
    path = remainder.partition(":")[0]
    if path.lower() != path:
        raise InvalidParameter(f"invalid reference format: repository name ({path}) must be lowercase")
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if not match:
        raise InvalidParameter("invalid reference format")
    return Name(*(part or "" for part in match.groups()))
