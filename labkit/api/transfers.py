"""The routes that move images between registries and the store: pull and push (moby `api/server/router/image`).

What speaks to a registry runs on threads and is imported with the first request that needs it: its HTTP client is
half as big as the daemon.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from labkit.api.http import Request, Route, Stream
from labkit.api.uploads import Message, messages
from labkit.engine.settings import Settings
from labkit.engine.traces import Traces, TransferSpan
from labkit.errors import InvalidParameter, LabkitError, NotFound, Unauthorized
from labkit.images.manifests import Platform, decode, parse_platform
from labkit.images.progress import Progress, Report
from labkit.images.references import Reference, parse
from labkit.images.store import ImageStore
from labkit.registry.cancelling import Cancelled
from labkit.registry.credentials import decode_auth
from labkit.registry.endpoints import Settings as Registries
from labkit.registry.transfers import Transfer

if TYPE_CHECKING:
    from labkit.registry.repository import Repository

T = TypeVar("T")


class Publisher(Protocol):
    """Where events go."""

    def publish(self, kind: str, action: str, identity: str, attributes: dict[str, str], /) -> None: ...


class Engine(Protocol):
    """What these routes need of the engine."""

    @property
    def images(self) -> ImageStore: ...
    @property
    def events(self) -> Publisher: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def traces(self) -> Traces: ...


def routes(engine: Engine) -> list[Route]:
    """The routes of this module; a pull is a case of `POST /images/create`, which `labkit.api.images` has."""
    return [Route("POST", "/images/{name:.*}/push", lambda request: push(engine, request))]


async def pull(engine: Engine, request: Request) -> Stream:
    """POST /images/create?fromImage=… (`ImageCreate`): one tag or digest, or all tags of a repository."""
    reference = _reference(request.text("fromImage"), request.text("tag"))
    platform = parse_platform(request.text("platform")) if request.text("platform") else None

    def work(repository: Repository, report: Report, transfer: Transfer) -> bool:
        from labkit.registry.pulling import pull as pull_one

        single = reference.tag or reference.digest
        tags = [] if single else [replace(reference, tag=tag) for tag in repository.tags()]
        newer = False
        for one in tags or [reference]:
            newer |= pull_one(engine.images, repository, one, platform, report, transfer).newer
        return newer

    def results(newer: bool) -> Iterable[Message]:
        attributes = {"name": reference.familiar_name}
        engine.events.publish("image", "pull", reference.familiar, attributes)
        done = "Downloaded newer image" if newer else "Image is up to date"
        yield {"status": f"Status: {done} for {reference.familiar}"}

    return await _transfer(engine, request, "pull", reference, work, results)


async def push(engine: Engine, request: Request) -> Stream:
    """POST /images/{name}/push (`ImagePush`): one tag, or all tags of a repository."""
    reference = _reference(request.params["name"], request.text("tag"))
    if reference.digest:
        raise InvalidParameter("cannot push a digest reference")
    if request.text("platform"):
        _check_platform(engine.images, reference, request.text("platform"))

    def work(repository: Repository, report: Report, transfer: Transfer) -> None:
        from labkit.registry.pushing import push as push_one

        report(Progress(f"The push refers to repository [{reference.name}]", message=True))
        names = [name for image in engine.images.list() for name in image.references if name.name == reference.name]
        tagged = [reference] if reference.tag else sorted(name for name in names if name.tag)
        for one in tagged or [reference]:
            push_one(engine.images, repository, one, report, transfer)

    def results(done: None) -> Iterable[Message]:
        engine.events.publish("image", "push", reference.familiar, {"name": reference.familiar_name})
        return ()

    return await _transfer(engine, request, "push", reference, work, results)


def _check_platform(images: ImageStore, reference: Reference, wanted: str) -> None:
    """Raises NotFound, as dockerd words it, if the image to push is one for another platform."""
    image = images.resolve(str(reference.tagged()))
    platform, config = decode(wanted.encode(), Platform, "platform"), image.config
    parts = ((platform.os, config.os), (platform.architecture, config.architecture), (platform.variant, config.variant))
    if any(part and part != own for part, own in parts):
        told, own = ("/".join(filter(None, side)) for side in zip(*parts, strict=True))
        raise NotFound(
            f"image with reference {reference.familiar} was found but its platform ({own}) "
            f"does not match the specified platform ({told})"
        )


def _reference(name: str, tag_or_digest: str) -> Reference:
    """The reference of the parameters `fromImage` and `tag`."""
    reference = parse(name)
    if not tag_or_digest:
        return reference
    part = "digest" if ":" in tag_or_digest else "tag"
    return parse(str(replace(reference, **{part: tag_or_digest})))


def not_asked_again(error: LabkitError) -> LabkitError:
    """A registry's 401 as dockerd passes it on: with 500, because at a 401 the docker command asks for a password."""
    return LabkitError(str(error)) if isinstance(error, Unauthorized) else error


async def _transfer(
    engine: Engine,
    request: Request,
    verb: str,
    reference: Reference,
    work: Callable[[Repository, Report, Transfer], T],
    results: Callable[[T], Iterable[Message]],
) -> Stream:
    """Work with a repository on a thread, as a stream of its progress; it is ended when the client goes.

    What goes wrong before the first message gets an answer with its own status.
    """
    credentials = decode_auth(request.headers.get("x-registry-auth", ""))
    cancelled, context, transfer = Cancelled(), request.context.child(), Transfer(verb, reference.familiar)

    def on_thread(report: Report) -> T:
        from labkit.registry.repository import Repository

        began, error = time.time_ns(), ""
        push, observe = verb == "push", transfer.exchanges.append
        try:
            with (
                _registries(engine.settings, reference, push) as registries,
                Repository(reference, registries, credentials, observe, cancelled, context, push) as repository,
            ):
                return work(repository, report, transfer)
        except LabkitError as raised:
            error = str(raised)
            raise not_asked_again(raised) from raised
        finally:
            engine.traces.transfer(TransferSpan(context, transfer, began, time.time_ns(), error))

    lines = messages(on_thread, results)
    first = await _first(lines, request, cancelled)
    return Stream(_rest(first, lines, cancelled))


def _registries(settings: Settings, reference: Reference, push: bool) -> AbstractContextManager[Registries]:
    """The settings for registries; for pulls labkit's hub is one of the mirrors, if there is one."""
    from labkit.registry.hub.mirrors import with_hub

    if push:
        return nullcontext(settings.registries)
    return with_hub(reference, settings.registries, Path(settings.hub), Path(settings.hub_address))


async def _first(lines: AsyncGenerator[bytes, None], request: Request, cancelled: Cancelled) -> bytes:
    """The first line, or what went wrong instead. A client that goes before doesn't want it any more."""
    step = asyncio.ensure_future(anext(lines))
    gone = asyncio.ensure_future(request.gone.wait())
    try:
        await asyncio.wait((step, gone), return_when=asyncio.FIRST_COMPLETED)
        if not step.done():
            cancelled.cancel()
        return await step
    finally:
        gone.cancel()


async def _rest(first: bytes, lines: AsyncGenerator[bytes, None], cancelled: Cancelled) -> AsyncIterator[bytes]:
    try:
        yield first
        async for line in lines:
            yield line
    finally:
        cancelled.cancel()
        await lines.aclose()
