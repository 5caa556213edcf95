"""An image made piece by piece: the layer's tar, the documents that name it, and the archive that holds them.

For lessons and experiments. Each function gives plain bytes or plain JSON values of the OCI image specification
(`layer.md`, `config.md`, `manifest.md`, `image-layout.md`), so that what it made can be looked at and changed.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from typing import Any

from labkit.images.layout import FULL_NAME, LAYOUT_FILE, REF_NAME
from labkit.images.manifests import OCI_MANIFEST, chain_id
from labkit.images.references import parse
from labkit.images.streams import digest_of

__all__ = ["archive", "as_json", "blob", "chain_id", "contents", "descriptor", "digest_of", "layer"]


def layer(files: Mapping[str, str | bytes], executable: Iterable[str] = ()) -> bytes:
    """The tar of a layer with these files, by path. The same files give the same bytes: no times, no owners."""
    buffer, programs = io.BytesIO(), set(executable)
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in sorted(files.items()):
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o755 if path in programs else 0o644
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def contents(tar: bytes) -> dict[str, bytes]:
    """The regular files in a tar, by path."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        files = ((entry, opened.extractfile(entry)) for entry in opened if entry.isreg())
        return {entry.name: file.read() for entry, file in files if file}


def blob(files: Mapping[str, bytes], named: Mapping[str, Any]) -> bytes:
    """The blob that a descriptor names, among the files of an image layout."""
    return files["blobs/" + str(named["digest"]).replace(":", "/")]


def as_json(document: Any) -> bytes:
    """A document as the bytes that its digest is made of."""
    return json.dumps(document, indent=1).encode()


def descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    """How one document names another blob: by type, digest and size (image-spec `descriptor.md`)."""
    return {"mediaType": media_type, "digest": digest_of(blob), "size": len(blob)}


def archive(name: str, manifest: bytes, blobs: Iterable[bytes]) -> bytes:
    """An OCI image layout in a tar, with one image in it, as `docker load` takes it. Raises InvalidParameter."""
    reference = parse(name).tagged()
    named = {**descriptor(OCI_MANIFEST, manifest), "annotations": _names(str(reference), reference.familiar)}
    members = {f"blobs/sha256/{digest_of(blob)[7:]}": blob for blob in (manifest, *blobs)}
    members |= {"oci-layout": LAYOUT_FILE, "index.json": as_json({"schemaVersion": 2, "manifests": [named]})}
    return layer(members)


def _names(full: str, familiar: str) -> dict[str, str]:
    return {FULL_NAME: full, REF_NAME: familiar}
