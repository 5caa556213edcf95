"""`docker import`: an image with one layer, from the tar of a root filesystem (Engine API `ImageCreate`, fromSrc)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import BinaryIO

import msgspec

from labkit.images.manifests import ContainerConfig, History, ImageConfig, Platform, RootFS


def now() -> str:
    """This moment as Docker writes times: RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def imported_config(diff_id: str, defaults: ContainerConfig, message: str, platform: Platform, created: str) -> bytes:
    """The configuration of an imported image."""
    comment = message or "Imported from -"
    return msgspec.json.encode(
        ImageConfig(
            architecture=platform.architecture,
            os=platform.os,
            variant=platform.variant,
            rootfs=RootFS(diff_ids=(diff_id,)),
            config=defaults,
            created=created,
            comment=comment,
            history=(History(created=created, comment=comment),),
        )
    )


def written_to(file: BinaryIO, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks; each is also written to the (unbuffered) file."""
    for chunk in chunks:
        written = file.write(chunk)
        while written < len(chunk):
            written += file.write(chunk[written:])
        yield chunk
