"""The `platform` parameter of requests about one image, and what of an image there is for a platform.

Engine API v1.48: an OCI platform (image-spec `image-index.md`) as JSON; older ones say `os/architecture/variant`.
"""

from __future__ import annotations

import os

import msgspec

from labkit.errors import InvalidParameter, NotFound
from labkit.images.image import Image
from labkit.images.manifests import Descriptor, ImageConfig, Platform, parse_platform

_IMPLIED = {"arm64": "v8", "arm": "v7"}  # variants that go without saying


class Size(msgspec.Struct, frozen=True, rename="pascal"):
    """Bytes: of the blobs, and of these with the unpacked layers."""

    content: int
    total: int


class Unpacked(msgspec.Struct, frozen=True, rename="pascal"):
    unpacked: int


class ImageData(msgspec.Struct, frozen=True, rename="pascal"):
    platform: Platform
    containers: list[str]
    size: Unpacked


class ManifestSummary(msgspec.Struct, frozen=True, rename="pascal"):
    """One manifest of an image (Engine API `ImageManifestSummary`)."""

    id: str = msgspec.field(name="ID")
    descriptor: Descriptor
    available: bool
    size: Size
    kind: str
    image_data: ImageData


def read_platform(text: str) -> Platform | None:
    """The platform that a parameter asks for; None where it is empty. Raises InvalidParameter."""
    if not text.startswith("{"):
        return parse_platform(text) if text else None
    try:
        found = msgspec.json.decode(text, type=Platform)
    except msgspec.MsgspecError as error:
        raise InvalidParameter(f"failed to parse platform: {error}") from error
    if not found.os or not found.architecture:
        raise InvalidParameter("both OS and Architecture must be provided")
    return found


def platform_of(config: ImageConfig) -> Platform:
    return Platform(config.architecture, config.os, config.variant, config.os_version)


def runs_on(config: ImageConfig, wanted: Platform) -> bool:
    """Whether an image is for a platform; a variant that is not said matches its usual one only."""
    found = platform_of(config)
    if (found.os, found.architecture) != (wanted.os, wanted.architecture):
        return False
    return _variant(found) == _variant(wanted)


def _variant(platform: Platform) -> str:
    return platform.variant or _IMPLIED.get(platform.architecture, "")


def formatted(platform: Platform) -> str:
    """`os/architecture/variant`."""
    return "/".join(filter(None, (platform.os, platform.architecture, platform.variant)))


def check_platform(image: Image, name: str, wanted: Platform | None) -> None:
    """Raises NotFound, in dockerd's words, if an image isn't for the platform that was asked for."""
    if wanted and not runs_on(image.config, wanted):
        raise NotFound(
            f"image with reference {name} was found but its platform ({formatted(platform_of(image.config))}) "
            f"does not match the specified platform ({formatted(wanted)})"
        )


def mismatch(image: Image) -> str:
    """A warning, in dockerd's words, if an image isn't for this machine; empty if it is."""
    host = Platform({"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine), "linux")
    found = platform_of(image.config)
    if not found.architecture or (found.os, found.architecture) == (host.os, host.architecture):
        return ""
    return (
        f"The requested image's platform ({formatted(found)}) does not match the detected host platform "
        f"({formatted(host)}) and no specific platform was requested"
    )


def summarize(image: Image, containers: list[str]) -> list[ManifestSummary]:
    """What there is of an image: the manifest that labkit keeps. `containers` are the IDs of those that use it."""
    content = image.manifest.size + len(image.document) + sum(layer.size for layer in image.layers)
    data = ImageData(platform_of(image.config), containers, Unpacked(image.size))
    size = Size(content, content + image.size)
    return [ManifestSummary(image.manifest.digest, described(image), True, size, "image", data)]


def described(image: Image) -> Descriptor:
    """The image's manifest, with the platform that it is for."""
    return msgspec.structs.replace(image.manifest, platform=platform_of(image.config), annotations=None)
