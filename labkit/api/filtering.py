"""Which images `GET /images/json` lists, and how (Engine API `ImageList`, `ImageSummary`; moby `daemon/images`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from labkit.engine.clock import parse_rfc3339, parse_timestamp
from labkit.engine.container import Container
from labkit.errors import InvalidParameter
from labkit.images.image import Image
from labkit.images.inspecting import seconds
from labkit.images.manifests import Descriptor
from labkit.images.platforms import ManifestSummary, described
from labkit.images.references import matches
from labkit.images.store import ImageStore

_TRUTH = {"1": True, "true": True, "t": True, "0": False, "false": False, "f": False}

Test = Callable[[Image], bool]


class ImageSummary(msgspec.Struct, frozen=True, rename="pascal"):
    """One line of `docker images`. `created` in seconds, sizes in bytes; -1: not computed."""

    id: str
    parent_id: str
    repo_tags: list[str]
    repo_digests: list[str]
    created: int
    size: int
    shared_size: int
    labels: dict[str, str] | None
    containers: int = -1
    virtual_size: int | msgspec.UnsetType = msgspec.UNSET
    descriptor: Descriptor | msgspec.UnsetType = msgspec.UNSET
    manifests: list[ManifestSummary] | msgspec.UnsetType = msgspec.UNSET


def select(store: ImageStore, filters: dict[str, list[str]], everything: bool) -> list[Image]:
    """The images that pass all filters; steps of local builds only if `everything`. Raises InvalidParameter."""
    images = store.list()
    tests = [_test(store, name, values) for name, values in filters.items() if values]
    parents = {image.parent for image in images if image.parent}
    return [
        image
        for image in images
        if (everything or image.references or image.id not in parents) and all(test(image) for test in tests)
    ]


def prunable(store: ImageStore, filters: dict[str, list[str]]) -> tuple[list[Image], bool]:
    """The images that a prune with these filters looks at, and whether only nameless ones may go.

    Raises InvalidParameter.
    """
    for name in filters:
        if name not in ("dangling", "label", "label!", "until"):
            raise InvalidParameter(f"invalid filter '{name}'")
    if len(filters.get("until", ())) > 1:
        raise InvalidParameter("more than one until filter specified")
    dangling = _truth(filters["dangling"]) if filters.get("dangling") else True
    return select(store, {name: values for name, values in filters.items() if name != "dangling"}, False), dangling


def prunable_containers(filters: dict[str, list[str]]) -> Callable[[Container], bool]:
    """Whether a prune with these filters takes a container. Raises InvalidParameter."""
    for name in filters:
        if name not in ("label", "label!", "until"):
            raise InvalidParameter(f"invalid filter '{name}'")
    if len(filters.get("until", ())) > 1:
        raise InvalidParameter("more than one until filter specified")
    end = parse_timestamp(filters["until"][0]) if filters.get("until") else math.inf

    def passes(container: Container) -> bool:
        labels = container.record.Config.Labels or {}
        wanted, unwanted = filters.get("label", ()), filters.get("label!", ())
        has_all = all(_labelled(labels, one) for one in wanted)
        has_unwanted = bool(unwanted) and all(_labelled(labels, one) for one in unwanted)
        return has_all and not has_unwanted and parse_rfc3339(container.record.Created) <= end

    return passes


def _labelled(labels: dict[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _test(store: ImageStore, name: str, values: list[str]) -> Test:
    if name == "dangling":
        wanted = _truth(values)
        return lambda image: wanted == (not image.repo_tags)
    if name in ("label", "label!"):
        return lambda image: all(_has_label(image, value) for value in values) == (name == "label")
    if name == "reference":
        return lambda image: any(matches(value, reference) for value in values for reference in image.references)
    if name in ("before", "since"):
        limits = [seconds(store.resolve(value).config.created) for value in values]
        if name == "before":
            return lambda image: seconds(image.config.created) < min(limits)
        return lambda image: seconds(image.config.created) > max(limits)
    if name == "until":
        end = min(parse_timestamp(value) / 1e9 for value in values)
        return lambda image: seconds(image.config.created) < end
    raise InvalidParameter(f"invalid filter '{name}'")


def _truth(values: list[str]) -> bool:
    found = {_TRUTH.get(value.lower()) for value in values}
    if len(found) != 1 or None in found:
        raise InvalidParameter(f"invalid filter 'dangling=[{' '.join(values)}]'")
    return True in found


def _has_label(image: Image, wanted: str) -> bool:
    return _labelled(image.labels, wanted)


def summaries(
    store: ImageStore, images: Sequence[Image], patterns: Sequence[str], shared: bool, version: tuple[int, int]
) -> list[ImageSummary]:
    """The lines for these images, in the form that the client's API version has.

    With `patterns` (of a `reference` filter), an image shows only those of its names that match one.
    """
    users = Counter(chain for image in store.list() for chain in image.chain_ids) if shared else Counter[str]()

    def summary(image: Image) -> ImageSummary:
        nameless = version < (1, 43) and not image.references
        sizes = zip(image.chain_ids, store.layer_sizes(image), strict=False) if shared else ()
        return ImageSummary(
            image.id,
            image.parent,
            _matching(image, patterns) or (["<none>:<none>"] if nameless else []),
            image.repo_digests or (["<none>@<none>"] if nameless else []),
            seconds(image.config.created),
            image.size,
            sum(size for chain, size in sizes if users[chain] > 1) if shared else -1,
            image.labels or None,
            virtual_size=image.size if version < (1, 44) else msgspec.UNSET,
            descriptor=described(image) if version >= (1, 48) else msgspec.UNSET,
        )

    return [summary(image) for image in images]


def _matching(image: Image, patterns: Sequence[str]) -> list[str]:
    if not patterns:
        return image.repo_tags
    tagged = [reference for reference in image.references if not reference.digest]
    return [reference.familiar for reference in tagged if any(matches(pattern, reference) for pattern in patterns)]
