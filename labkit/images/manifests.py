"""The documents of an image: descriptors, manifests, indexes, configurations, and IDs derived from them.

OCI image-spec `descriptor.md`, `manifest.md`, `image-index.md`, `config.md`; Docker's schema 2 has the same shape under
other media types. Structs name what the engine reads; the blobs on disk keep every byte, unknown fields too.
"""

from __future__ import annotations

import platform as host
from collections.abc import Callable
from itertools import chain
from typing import Any, TypeVar

import msgspec

from labkit.errors import InvalidParameter, NotFound
from labkit.images.references import check_digest
from labkit.images.streams import digest_of

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
INDEXES = frozenset((OCI_INDEX, DOCKER_INDEX))
MANIFESTS = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
_NESTING = 4  # indexes within indexes
DOCUMENT_LIMIT = 4 << 20  # bytes of a manifest, index or configuration; what registries take

_T = TypeVar("_T")

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "riscv64": "riscv64"}


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an image runs on."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A pointer to a blob: type, digest and size in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    artifact_type: str = ""


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """One image: its configuration and its layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    schema_version: int = 2
    media_type: str = OCI_MANIFEST


class Index(msgspec.Struct, frozen=True, rename="camel"):
    """Several manifests: of platforms, or of a layout's names (`index.json`)."""

    manifests: tuple[Descriptor, ...] = ()
    schema_version: int = 2
    media_type: str = OCI_INDEX


class Healthcheck(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """How to probe a container; times in nanoseconds (Engine API `HealthConfig`)."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """What containers of an image get unless they say otherwise (image-spec `config.md`, Engine API `ImageConfig`)."""

    user: str = ""
    exposed_ports: dict[str, Any] | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    shell: list[str] | None = None
    on_build: list[str] | None = None
    args_escaped: bool = False


class RootFS(msgspec.Struct, frozen=True):
    """The layers by the digests of their uncompressed tars, lowest first."""

    type: str = "layers"
    diff_ids: tuple[str, ...] = ()


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step of how an image was made."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image's configuration; its digest is the image's ID."""

    architecture: str = ""
    os: str = ""
    rootfs: RootFS = RootFS()
    config: ContainerConfig | None = None
    created: str | None = None
    author: str = ""
    comment: str = ""
    docker_version: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    history: tuple[History, ...] | None = None

    @property
    def defaults(self) -> ContainerConfig:
        """The container defaults, also of an image that has none."""
        return self.config or ContainerConfig()


def decode(document: bytes, kind: type[_T], what: str) -> _T:
    """The document as a struct. Raises InvalidParameter; `what` names it there."""
    try:
        return msgspec.json.decode(document, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"invalid {what}: {error}") from error


def decode_config(document: bytes) -> ImageConfig:
    """An image configuration with layers that can be named. Raises InvalidParameter."""
    config = decode(document, ImageConfig, "image configuration")
    if config.rootfs.type != "layers":
        raise InvalidParameter(f"invalid image configuration: rootfs type {config.rootfs.type!r}")
    for diff_id in config.rootfs.diff_ids:
        check_digest(diff_id)
    return config


def decode_manifest(document: bytes) -> Manifest:
    """An image manifest whose digests are safe to use as names. Raises InvalidParameter."""
    manifest = decode(document, Manifest, "image manifest")
    for descriptor in (manifest.config, *manifest.layers):
        check_digest(descriptor.digest)
    return manifest


def chain_id(parent: str, diff_id: str) -> str:
    """The name of a layer on top of the stack `parent`; of the lowest layer, where that is empty."""
    return digest_of(f"{parent} {diff_id}".encode()) if parent else diff_id


def chain_ids(diff_ids: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the layer stacks, lowest first: each stands for a layer and all below (image-spec `config.md`)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(chain_id(chain[-1] if chain else "", diff_id))
    return tuple(chain)


def host_platform() -> Platform:
    """What images for this machine say."""
    machine = host.machine()
    return Platform(architecture=_ARCHITECTURES.get(machine, machine), os="linux")


def parse_platform(text: str) -> Platform:
    """`os[/architecture[/variant]]`, the host's where empty. Raises InvalidParameter."""
    own = host_platform()
    parts = text.lower().split("/")
    if not text:
        return own
    if len(parts) > 3 or not all(parts):
        raise InvalidParameter(f'"{text}": invalid platform: must be in the form os[/arch[/variant]]')
    if len(parts) == 1 and parts[0] != own.os:
        raise InvalidParameter(f'"{text}": unknown operating system or architecture: invalid argument')
    return Platform(
        os=parts[0],
        architecture=parts[1] if len(parts) > 1 else own.architecture,
        variant=parts[2] if len(parts) > 2 else "",
    )


def choose(candidates: tuple[Descriptor, ...], wanted: Platform) -> Descriptor | None:
    """The manifest (or nested index) for a platform, best of its variant; else one that names no platform."""
    fitting = [one for one in candidates if one.platform and _runs(one.platform, wanted)]
    exact = (one for one in fitting if one.platform and one.platform.variant == wanted.variant)
    unnamed = (one for one in candidates if one.platform is None)
    return next(chain(exact, fitting, unnamed), None)


def _runs(platform: Platform, wanted: Platform) -> bool:
    return (platform.os, platform.architecture) == (wanted.os, wanted.architecture)


def resolve_platform(
    descriptor: Descriptor, read: Callable[[Descriptor], bytes], wanted: Platform | None = None
) -> Descriptor:
    """The manifest for a platform (this machine's) that a descriptor leads to, through indexes.

    Raises InvalidParameter, and NotFound if there is none.
    """
    wanted = wanted or host_platform()
    for _ in range(_NESTING):
        if descriptor.media_type in MANIFESTS:
            return descriptor
        if descriptor.media_type not in INDEXES:
            raise InvalidParameter(f"invalid image: {descriptor.digest} has the media type {descriptor.media_type!r}")
        chosen = choose(decode(read(descriptor), Index, "image index").manifests, wanted)
        if chosen is None:
            name = "/".join(filter(None, (wanted.os, wanted.architecture, wanted.variant)))
            raise NotFound(f"no matching manifest for {name} in the manifest list entries")
        descriptor = chosen
    raise InvalidParameter(f"invalid image: more than {_NESTING} image indexes within each other")
