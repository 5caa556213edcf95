"""What registries that lie have in common: a manifest, a blob, and ways to break them off."""

from __future__ import annotations

import os
from collections.abc import Callable

from labkit.images.manifests import (
    OCI_MANIFEST,
)
from labkit.images.references import parse
from labkit.images.streams import digest_of
from labkit.registry.repository import Repository
from labkit.registry.transport import Patience
from tests.registry.pushing import manifest_of
from tests.support.registries import Asked

QUICK = Patience(connect=5, read=5, attempts=3, pause=0.001)
MISSING = "sha256:" + "a" * 64
BLOB = os.urandom(3 << 20)
MANIFEST = manifest_of(b"{}", b"layer")


def reading(host: str, patience: Patience = QUICK, **options: object) -> Repository:
    return Repository(parse(f"{host}/team/app"), patience=patience, **options)  # type: ignore[arg-type]  # any option


def lying(asked: Asked, body: bytes, **headers: str) -> None:
    """Answer as a registry does; a test changes what it lies about."""
    asked.say(200, body, **{"Content_Type": OCI_MANIFEST, "Docker_Content_Digest": digest_of(body), **headers})


Cut = Callable[[Asked, int], None]


def serving_blob(cut: Cut) -> Callable[[Asked], None]:
    """A blob server that understands Range, and hands out what `cut` wants: by the number of the try, from 1."""
    tries = [0]

    def answer(asked: Asked) -> None:
        if not asked.path.startswith("/v2"):
            return asked.say(400)
        tries[0] += 1
        return cut(asked, tries[0])

    return answer


def ranged(asked: Asked, upto: int | None = None) -> None:
    """The rest of the blob from where it was asked for; only so many bytes of it, if the connection is to break."""
    start = int((asked.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
    rest = BLOB[start:]
    headers = {"Content_Length": str(len(rest))}
    if start:
        headers["Content_Range"] = f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}"
    asked.say(206 if start else 200, rest[:upto], **headers)
    if upto is not None:
        asked.end()
