"""Compression of layers that are stored as plain tars (loaded, imported, committed), for registries.

Which blob a tar became is remembered, so that a second push finds it in the registry without compressing it again.
gzip (RFC 1952) by ISA-L, which compresses several hundred MB/s a core and releases the interpreter lock meanwhile.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
from isal import isal_zlib

from labkit.errors import InvalidParameter
from labkit.images.content import read_document, write_durably
from labkit.images.faults import disk_errors
from labkit.images.manifests import Descriptor, decode
from labkit.images.references import check_digest
from labkit.images.streams import file_chunks

_LEVEL = 2
_GZIP_WINDOW = 31  # zlib's number for a 32 KiB window in a gzip frame
_SUFFIX = {"application/vnd.docker.image.rootfs.diff.tar": ".gzip"}


class CompressedLayers:
    """What layers became when they were compressed: one small file a tar, below `directory`."""

    def __init__(self, directory: Path, workspace: Path) -> None:
        self._directory = directory
        self._workspace = workspace
        directory.mkdir(mode=0o700, exist_ok=True)

    def _file(self, digest: str) -> Path:
        return self._directory / check_digest(digest).removeprefix("sha256:")

    def find(self, digest: str) -> Descriptor | None:
        """The compressed form of the tar with this digest, if there was one."""
        file = self._file(digest)
        if not file.exists():
            return None
        try:
            return decode(read_document(file), Descriptor, str(file))
        except InvalidParameter:
            return None  # damaged: it is made anew

    def remember(self, digest: str, descriptor: Descriptor) -> None:
        write_durably(self._file(digest), msgspec.json.encode(descriptor), self._workspace)

    def keep_only(self, digests: set[str]) -> None:
        """Forget those of tars that are gone."""
        for name in os.listdir(self._directory):
            if f"sha256:{name}" not in digests:
                (self._directory / name).unlink()


def compress(layer: Descriptor, tar: Path, target: Path, passed: Callable[[int], None]) -> Descriptor:
    """Write a layer's gzip to `target` and describe it. `passed` is told how many bytes of the tar are done.

    The same tar gives the same bytes, as long as the library is the same.
    """
    digest, size, done = hashlib.sha256(), 0, 0
    packer = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
    with disk_errors(f"compressing layer {layer.digest}"), open(tar, "rb") as source, open(target, "xb") as file:
        for chunk in file_chunks(source.fileno()):
            piece = packer.compress(chunk)
            digest.update(piece)
            file.write(piece)
            size += len(piece)
            done += len(chunk)
            passed(done)
        rest = packer.flush()
        digest.update(rest)
        file.write(rest)
    media_type = layer.media_type + _SUFFIX.get(layer.media_type, "+gzip")
    return msgspec.structs.replace(
        layer, media_type=media_type, digest=f"sha256:{digest.hexdigest()}", size=size + len(rest)
    )


def is_plain(layer: Descriptor) -> bool:
    """Whether a layer's blob is a tar without compression."""
    return layer.media_type.endswith(".tar")
