"""What `docker image inspect` and `docker history` show (Engine API `ImageInspect`, `ImageHistoryResponseItem`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from labkit.images.image import Image
from labkit.images.manifests import Descriptor
from labkit.images.platforms import ManifestSummary

_EPOCH_OF_GO = "0001-01-01T00:00:00Z"


class ImageInspect(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """The API's answer about one image; empty fields that Docker always sends are sent too."""

    id: str
    repo_tags: list[str]
    repo_digests: list[str]
    parent: str
    comment: str
    created: str | msgspec.UnsetType
    docker_version: str
    author: str
    config: dict[str, Any]
    architecture: str
    os: str
    size: int
    graph_driver: dict[str, Any]
    root_fs: dict[str, Any] = msgspec.field(name="RootFS")
    metadata: dict[str, Any]
    variant: str = ""
    os_version: str = ""
    descriptor: Descriptor | None = None
    manifests: list[ManifestSummary] | None = None
    container_config: dict[str, Any] | None = None


class HistoryItem(msgspec.Struct, frozen=True, rename="pascal"):
    """One step of an image's making, newest first. `created` is in seconds, `size` in bytes."""

    id: str
    created: int
    created_by: str
    tags: list[str] | None
    size: int
    comment: str


def inspect(image: Image, lower: Iterable[str]) -> ImageInspect:
    """Everything about an image; `lower` are its snapshots' directories, topmost first."""
    config, directories = image.config, list(lower)
    graph = {"LowerDir": ":".join(directories[1:])} if len(directories) > 1 else {}
    return ImageInspect(
        id=image.id,
        repo_tags=image.repo_tags,
        repo_digests=image.repo_digests,
        parent=image.parent,
        comment=config.comment or next((step.comment for step in reversed(config.history or ()) if step.comment), ""),
        created=config.created or msgspec.UNSET,
        docker_version=config.docker_version,
        author=config.author,
        config=image.raw_config.get("config") or {},
        architecture=config.architecture,
        os=config.os,
        size=image.size,
        graph_driver={"Name": "overlay2", "Data": graph | ({"UpperDir": directories[0]} if directories else {})},
        root_fs={"Type": "layers", "Layers": list(config.rootfs.diff_ids)},
        metadata={"LastTagTime": image.tagged or _EPOCH_OF_GO},
        variant=config.variant,
        os_version=config.os_version,
    )


def history(image: Image, sizes: Iterable[int], find: Callable[[str], Image | None]) -> list[HistoryItem]:
    """How an image was made, newest step first. `sizes` are its layers', lowest first; `find` gives images by ID.

    Only steps whose image is here have an ID; the others say `<missing>`, as Docker does.
    """
    left, items = iter(sizes), []
    for step in image.config.history or ():
        size = 0 if step.empty_layer else next(left, 0)
        items.append(HistoryItem("<missing>", seconds(step.created), step.created_by, None, size, step.comment))
    items.extend(HistoryItem("<missing>", seconds(image.config.created), "", None, size, "") for size in left)
    items.reverse()
    present: Image | None = image
    for at, item in enumerate(items):
        if present is None:
            break
        tags = present.repo_tags or None
        items[at] = msgspec.structs.replace(item, id=present.id, tags=tags)
        present = find(present.parent) if present.parent else None
    return items


def seconds(created: str | None) -> int:
    """An RFC 3339 time in seconds since the epoch; Go's zero time where there is none, as Docker's API has it."""
    if not created:
        return -62135596800
    text, _, rest = created.partition(".")
    if rest:  # nanoseconds are more than datetime takes, and not wanted here
        text += rest.lstrip("0123456789")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return -62135596800
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
