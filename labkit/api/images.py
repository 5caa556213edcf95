"""The image routes of the Engine API: a thin border over the image store (reference: Engine API v1.50, "Image").

Store calls run on threads: they read and write disks. Events are published here, with dockerd's actions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from labkit.api import transfers
from labkit.api.downloads import threaded
from labkit.api.filtering import ImageSummary, select, summaries
from labkit.api.http import Request, Response, Route, Stream, json_response
from labkit.api.uploads import Message, Upload, begun, line, messages, with_upload
from labkit.errors import InvalidParameter
from labkit.images.changes import apply_changes
from labkit.images.fetching import Fetch
from labkit.images.image import Image
from labkit.images.manifests import ContainerConfig, parse_platform
from labkit.images.platforms import ManifestSummary, check_platform, described, read_platform, summarize
from labkit.images.progress import Report, silent
from labkit.images.references import parse_repository
from labkit.images.removal import ContainerUse, Removed
from labkit.images.streams import Readable

_TAR = "application/x-tar"


class Engine(transfers.Engine, Protocol):
    """What these routes need of the engine."""

    def containers_using(self, image: str, /) -> Sequence[ContainerUse]: ...


def routes(engine: Engine) -> list[Route]:
    """The routes under /images."""
    table: tuple[tuple[str, str, Callable[[Engine, Request], Awaitable[Response | Stream]]], ...] = (
        ("GET", "/images/json", list_images),
        ("GET", "/images/get", save),
        ("POST", "/images/load", load),
        ("POST", "/images/create", create),
        ("GET", "/images/{name:.*}/json", inspect),
        ("GET", "/images/{name:.*}/history", history),
        ("GET", "/images/{name:.*}/get", save),
        ("POST", "/images/{name:.*}/tag", tag),
        ("DELETE", "/images/{name:.*}", remove),
    )
    return [Route(method, pattern, _bound(engine, answer)) for method, pattern, answer in table]


def _bound(
    engine: Engine, answer: Callable[[Engine, Request], Awaitable[Response | Stream]]
) -> Callable[[Request], Awaitable[Response | Stream]]:
    return lambda request: answer(engine, request)


def _publish(engine: Engine, action: str, image: Image, name: str = "") -> None:
    engine.events.publish("image", action, image.id, {**image.labels, "name": name or image.id})


async def list_images(engine: Engine, request: Request) -> Response:
    """GET /images/json (`ImageList`)."""
    filters = request.filters()
    found = select(engine.images, filters, request.flag("all"))
    patterns, shared = filters.get("reference", []), request.flag("shared-size")
    listed: list[ImageSummary] = summaries(engine.images, found, patterns, shared, request.version)
    if request.flag("manifests"):
        listed = [
            msgspec.structs.replace(one, manifests=_manifests(engine, image))
            for one, image in zip(listed, found, strict=True)
        ]
    return json_response(listed)


def _manifests(engine: Engine, image: Image) -> list[ManifestSummary]:
    return summarize(image, [use.id for use in engine.containers_using(image.id)])


async def inspect(engine: Engine, request: Request) -> Response:
    """GET /images/{name}/json (`ImageInspect`)."""
    if request.flag("manifests") and request.text("platform"):
        raise InvalidParameter("conflicting options: manifests and platform options cannot both be set")
    image = _for_platform(engine, request)
    found = engine.images.inspect(image)
    if request.version < (1, 45):  # docker-compose 1 can't do without
        made = image.raw_config.get("container_config") or {}
        found = msgspec.structs.replace(found, container_config=made)
    if request.version >= (1, 48):
        found = msgspec.structs.replace(found, descriptor=described(image))
    if request.flag("manifests"):
        found = msgspec.structs.replace(found, manifests=_manifests(engine, image))
    return json_response(found)


async def history(engine: Engine, request: Request) -> Response:
    """GET /images/{name}/history (`ImageHistory`)."""
    return json_response(engine.images.history(_for_platform(engine, request)))


def _for_platform(engine: Engine, request: Request) -> Image:
    """The image of the path, if it is for the platform that was asked for. Raises NotFound."""
    image = engine.images.resolve(request.params["name"])
    check_platform(image, request.params["name"], read_platform(request.text("platform")))
    return image


async def tag(engine: Engine, request: Request) -> Response:
    """POST /images/{name}/tag (`ImageTag`)."""
    reference = parse_repository(request.text("repo"), request.text("tag"))
    image = engine.images.resolve(request.params["name"])
    await asyncio.to_thread(engine.images.tag, image, reference)
    _publish(engine, "tag", image, reference.familiar)
    return Response(201)


async def remove(engine: Engine, request: Request) -> Response:
    """DELETE /images/{name} (`ImageDelete`)."""
    present = {image.id: image for image in engine.images.list()}
    uses = {identifier: engine.containers_using(identifier) for identifier in present}
    target = engine.images.resolve(request.params["name"])
    removed: Sequence[Removed] = await asyncio.to_thread(
        engine.images.remove,
        request.params["name"],
        request.flag("force"),
        lambda identifier: uses.get(identifier, ()),
        request.flag("noprune"),
    )
    tell_removed(engine, target, removed, present)
    return json_response(removed)


def tell_removed(engine: Engine, target: Image, removed: Iterable[Removed], present: dict[str, Image]) -> None:
    """The events of a removal; `present` are the images that there were before it, by ID."""
    for item in removed:
        if item.untagged:
            _publish(engine, "untag", target)
        elif item.deleted in present:
            engine.events.publish("image", "delete", item.deleted, {"name": item.deleted})


async def save(engine: Engine, request: Request) -> Stream:
    """GET /images/{name}/get and /images/get?names=… (`ImageGet`, `ImageGetAll`)."""
    names = [request.params["name"]] if "name" in request.params else request.query.get("names", [])
    if not names:
        raise InvalidParameter("no images to save: names is empty")
    platform = read_platform(request.text("platform"))
    pieces = await asyncio.to_thread(engine.images.save, names, platform)
    for image in pieces.images:
        _publish(engine, "save", image)
    return Stream(threaded(pieces), _TAR)


async def load(engine: Engine, request: Request) -> Stream:
    """POST /images/load (`ImageLoad`)."""
    quiet, platform = request.flag("quiet", True), read_platform(request.text("platform"))
    before = {name: image for image in engine.images.list() for name in image.repo_tags}

    def work(upload: Upload, report: Report) -> Sequence[str]:
        return engine.images.load(upload, silent if quiet else report, platform)

    def results(names: Sequence[str]) -> Iterable[Message]:
        loaded = {name: engine.images.resolve(name) for name in names}
        for image in {image.id: image for image in loaded.values()}.values():
            _publish(engine, "load", image)
        for name, image in loaded.items():
            if name in before and before[name].id != image.id:
                renamed = f"The image {name} already exists, renaming the old one with ID {before[name].id}"
                yield {"stream": f"{renamed} to empty string\n"}
            yield {"stream": f"Loaded image ID: {name}\n" if name == image.id else f"Loaded image: {name}\n"}

    return Stream(with_upload(await begun(request.chunks()), work, results))


async def create(engine: Engine, request: Request) -> Stream:
    """POST /images/create (`ImageCreate`): pull, or import of a root filesystem."""
    if request.text("fromImage"):
        return await transfers.pull(engine, request)
    return await _import(engine, request)


async def _import(engine: Engine, request: Request) -> Stream:
    """Of the request's body (fromSrc=-), or from a web server."""
    repository, changes = request.text("repo"), request.query.get("changes", [])
    reference = parse_repository(repository, request.text("tag")) if repository else None
    apply_changes(ContainerConfig(), changes)  # what is wrong with them is told before any of the body is read
    parse_platform(request.text("platform"))
    source = request.text("fromSrc")
    message, platform = request.text("message") or f"Imported from {source}", request.text("platform")

    def work(archive: Readable, report: Report) -> str:
        return engine.images.import_(archive, reference, changes, message, platform, report)

    def results(identifier: str) -> Iterable[Message]:
        image = engine.images.resolve(identifier)
        if reference:
            _publish(engine, "tag", image, reference.familiar)
        _publish(engine, "import", image)
        yield {"status": identifier}

    if source == "-":
        return Stream(with_upload(await begun(request.chunks()), work, results))
    return Stream(_downloaded(Fetch(source), work, results))


async def _downloaded(
    fetch: Fetch, work: Callable[[Readable, Report], str], results: Callable[[str], Iterable[Message]]
) -> AsyncIterator[bytes]:
    """`messages` of work that reads a download, which ends when the client goes."""

    def download(report: Report) -> str:
        try:
            fetch.open()
            return work(fetch, report)
        finally:
            fetch.close()

    yield line({"status": f"Downloading from {fetch.url}"})
    lines = messages(download, results)
    try:
        async for sent in lines:
            yield sent
    finally:
        fetch.cancel()
        await lines.aclose()
