"""A registry of one image that a test has made, for a scripted server; what it answers can be changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from labkit.images.manifests import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from tests.images.tars import config_of, digest
from tests.support.registries import Asked


def manifest_of(config: bytes, *layers: tuple[str, bytes], config_type: str = OCI_CONFIG) -> bytes:
    """A manifest of layers given by media type and blob."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": config_type, "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": kind, "digest": digest(blob), "size": len(blob)} for kind, blob in layers],
        }
    ).encode()


class Honest:
    """Answers for an image of these layers, under any name; ranges too."""

    def __init__(self, layers: Sequence[bytes], pack: Callable[[bytes], bytes] | None = None) -> None:
        self.blobs = [pack(layer) if pack else layer for layer in layers]
        self.config = config_of(layers)
        kind = OCI_LAYER + ("+gzip" if pack else "")
        self.manifest = manifest_of(self.config, *((kind, blob) for blob in self.blobs))

    def answer(self, asked: Asked) -> None:
        wanted = asked.path.rpartition("/")[2]
        found = {digest(blob): blob for blob in (self.config, *self.blobs)}
        if "/manifests/" in asked.path:
            asked.say(200, self.manifest, Content_Type=OCI_MANIFEST)
        elif wanted in found:
            self.blob(asked, found[wanted])
        else:
            asked.say(404)

    def blob(self, asked: Asked, data: bytes) -> None:
        """Answer for a blob."""
        begin = int((asked.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"Content_Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"} if begin else {}
        asked.say(206 if begin else 200, data[begin:], **headers)
