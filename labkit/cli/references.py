"""Names of images as people read them: distribution's "familiar" form, and IDs cut short."""

from __future__ import annotations


def short_id(text: str) -> str:
    """The first 12 digits of an ID or digest."""
    return text.rpartition(":")[2][:12] if text.startswith("sha256:") else text[:12]


def familiar(name: str) -> str:
    """`docker.io/library/busybox:latest` as `busybox:latest`."""
    return name.removeprefix("docker.io/library/").removeprefix("docker.io/")


def split_name(reference: str) -> tuple[str, str, str]:
    """(name, tag, digest) of a reference; tag and digest may be empty."""
    rest, _, digest = reference.partition("@")
    name, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        return rest, "", digest
    return name, tag, digest


def ellipsis(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
