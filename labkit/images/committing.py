"""The image that `docker commit` makes: its configuration and manifest, from its parent's and a container's.

moby `image/image.go` (NewChildImage): architecture, operating system and history come from the parent; a layer that
changes nothing is not added, and its step of the history says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

import labkit
from labkit.errors import InvalidParameter
from labkit.images.archives import Incoming, StagedBlob
from labkit.images.image import Image
from labkit.images.manifests import OCI_CONFIG, OCI_LAYER, Descriptor, Manifest
from labkit.images.references import Reference
from labkit.images.streams import digest_of

EMPTY_LAYER = digest_of(bytes(1024))  # a tar without members
_DEPTH = 127  # layers of an image
_INHERITED = ("architecture", "variant", "os", "os.version", "os.features")


class Commit(msgspec.Struct, frozen=True):
    """What is known of a commit besides its layer; the configurations have the Engine API's form.

    `config` is what containers of the image will get, `container_config` what the container had.
    """

    container: str
    config: dict[str, Any]
    container_config: dict[str, Any]
    command: Sequence[str] = ()
    author: str = ""
    comment: str = ""


def child_config(parent: Image, commit: Commit, diff_id: str, created: str) -> bytes:
    """The configuration of the new image."""
    inherited = parent.raw_config
    empty = diff_id == EMPTY_LAYER
    step = {
        "created": created,
        "author": commit.author,
        "created_by": " ".join(commit.command),
        "comment": commit.comment,
        "empty_layer": empty,
    }
    document = {
        **{key: inherited[key] for key in _INHERITED if inherited.get(key)},
        "author": commit.author,
        "config": commit.config,
        "container": commit.container,
        "container_config": commit.container_config,
        "created": created,
        "docker_version": labkit.__version__,
        "history": [*(inherited.get("history") or ()), {key: value for key, value in step.items() if value}],
        "rootfs": {"type": "layers", "diff_ids": [*parent.config.rootfs.diff_ids, *([] if empty else [diff_id])]},
    }
    return msgspec.json.encode({key: value for key, value in sorted(document.items()) if value != ""})


def committed(
    parent: Image,
    commit: Commit,
    below: tuple[StagedBlob, ...],
    layer: StagedBlob,
    reference: Reference | None,
    created: str,
) -> Incoming:
    """The new image, to be stored: the parent's layers, which are `below`, and its own, an uncompressed tar.

    Raises InvalidParameter if these are more layers than Docker stacks.
    """
    if len(below) >= _DEPTH and layer.digest != EMPTY_LAYER:
        raise InvalidParameter("max depth exceeded")
    config = child_config(parent, commit, layer.digest, created)
    empty = layer.digest == EMPTY_LAYER
    added = () if empty else (Descriptor(OCI_LAYER, layer.digest, layer.size),)
    manifest = Manifest(Descriptor(OCI_CONFIG, digest_of(config), len(config)), (*parent.layers, *added))
    blobs = below if empty else (*below, layer)
    references = (reference,) if reference else ()
    return Incoming(config, msgspec.json.encode(manifest), manifest.media_type, blobs, references, parent.id)
