"""Names in requests: repositories, tags and digests, by the grammar of the OCI distribution-spec (`spec.md`, Pull).

What passes here is safe as part of a path: no empty, no `..`, no hidden component.
"""

from __future__ import annotations

import re

from labkit.registry.server.refusals import Refused

NAME_LIMIT = 255
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")
# What an image layout consists of can't be the directory of another repository, whose name may well have that word.
_LAYOUT_FILES = frozenset(("blobs", "index.json", "oci-layout"))


def check_name(name: str) -> str:
    """The repository's name. Raises Refused (NAME_INVALID)."""
    if len(name) > NAME_LIMIT:
        raise Refused("NAME_INVALID", f"repository name must not be more than {NAME_LIMIT} characters")
    if not _NAME.fullmatch(name):
        raise Refused("NAME_INVALID", detail={"name": name})
    return name


def check_digest(digest: str) -> str:
    """The digest, of a kind that is known here. Raises Refused (DIGEST_INVALID)."""
    if not _DIGEST.fullmatch(digest):
        raise Refused("DIGEST_INVALID", f"invalid digest (sha256 and sha512 are known): {digest!r}")
    return digest


def is_tag(text: str) -> bool:
    return bool(_TAG.fullmatch(text))


def is_digest(text: str) -> bool:
    return bool(_DIGEST.fullmatch(text))


def directory_of(name: str) -> str:
    """Where a repository is below the root: its name, but for components that its parent's layout needs itself."""
    return "/".join(f"_{part}" if part in _LAYOUT_FILES else part for part in name.split("/"))


def name_of(directory: str) -> str:
    """The repository's name of a directory below the root; "" if it can't be one's."""
    name = "/".join(part.removeprefix("_") for part in directory.split("/"))
    return name if len(name) <= NAME_LIMIT and _NAME.fullmatch(name) and directory_of(name) == directory else ""


def blob_path(digest: str) -> str:
    """Where a layout has a blob (image-spec `image-layout.md`). Raises Refused (DIGEST_INVALID)."""
    algorithm, _, encoded = check_digest(digest).partition(":")
    return f"blobs/{algorithm}/{encoded}"
