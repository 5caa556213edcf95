"""What is asked of registries besides images: login, search, distribution, and manifests as such (moby `router/system`,
`router/image`, `router/distribution`).

The routes under /labkit/registry are labkit's own: they carry `labkit manifest`, which reads and writes manifests where
`docker manifest` talks to the registry itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import msgspec

from labkit.api.http import Request, Response, Route, json_response
from labkit.api.transfers import not_asked_again
from labkit.engine.settings import Settings
from labkit.engine.traces import Traces, TransferSpan
from labkit.errors import InvalidParameter, LabkitError
from labkit.images.manifests import (
    DOCKER_INDEX,
    INDEXES,
    MANIFESTS,
    Descriptor,
    Index,
    Manifest,
    Platform,
    decode,
    decode_config,
    decode_manifest,
)
from labkit.images.references import Reference, parse
from labkit.registry.cancelling import Cancelled
from labkit.registry.credentials import Credentials, decode_auth, decode_auth_body
from labkit.registry.endpoints import Settings as Registries
from labkit.registry.transfers import Transfer
from labkit.trace import TraceContext

if TYPE_CHECKING:
    from labkit.registry.repository import Repository
    from labkit.registry.uploading import Uploader

T = TypeVar("T")


class Engine(Protocol):
    """What these routes need of the engine."""

    @property
    def settings(self) -> Settings: ...
    @property
    def traces(self) -> Traces: ...


class Talk(NamedTuple):
    """One conversation with a registry: how, as whom, what ends it, and where it is noted."""

    settings: Registries
    credentials: Credentials
    cancelled: Cancelled
    context: TraceContext
    transfer: Transfer

    def repository(self, reference: Reference, push: bool = False) -> Repository:
        from labkit.registry.repository import Repository

        observe = self.transfer.exchanges.append
        return Repository(reference, self.settings, self.credentials, observe, self.cancelled, self.context, push=push)


class _Inspected(msgspec.Struct, frozen=True, rename="pascal"):
    """Engine API `DistributionInspect`."""

    descriptor: Descriptor
    platforms: tuple[Platform, ...]


def routes(engine: Engine) -> list[Route]:
    """The routes of this module."""
    table: tuple[tuple[str, str, Callable[[Engine, Request], Awaitable[Response]]], ...] = (
        ("POST", "/auth", login),
        ("GET", "/images/search", search),
        ("GET", "/distribution/{name:.*}/json", inspect),
        ("GET", "/labkit/registry/manifests", get_manifest),
        ("PUT", "/labkit/registry/manifests", put_manifest),
    )
    return [Route(method, pattern, _bound(engine, answer)) for method, pattern, answer in table]


def _bound(
    engine: Engine, answer: Callable[[Engine, Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    return lambda request: answer(engine, request)


async def login(engine: Engine, request: Request) -> Response:
    """POST /auth (`SystemAuth`)."""
    credentials = decode_auth_body(await request.body())

    def work(talk: Talk) -> tuple[str, str]:
        from labkit.registry.searching import login as log_in

        observe = talk.transfer.exchanges.append
        return log_in(credentials.server, credentials, talk.settings, observe, talk.cancelled, talk.context)

    status, token = await _talk(engine, request, "login", credentials.server, credentials, work)
    return json_response({"Status": status, "IdentityToken": token})


async def search(engine: Engine, request: Request) -> Response:
    """GET /images/search (`ImageSearch`)."""
    term, limit, filters = request.text("term"), request.number("limit", 0) or 0, request.filters()

    def work(talk: Talk) -> list[object]:
        from labkit.registry.searching import search as find

        observe = talk.transfer.exchanges.append
        found = find(term, limit, filters, talk.settings, talk.credentials, observe, talk.cancelled, talk.context)
        return list(found)

    return json_response(await _talk(engine, request, "search", term, _credentials(request), work))


async def inspect(engine: Engine, request: Request) -> Response:
    """GET /distribution/{name}/json (`DistributionInspect`)."""
    reference = parse(request.params["name"]).tagged()

    def work(talk: Talk) -> _Inspected:
        with talk.repository(reference) as repository:
            document = repository.manifest(reference.digest or reference.tag)
            descriptor = Descriptor(
                document.descriptor.media_type, document.descriptor.digest, document.descriptor.size
            )
            return _Inspected(descriptor, _platforms(repository, descriptor, document.body))

    credentials = _credentials(request)
    return json_response(await _talk(engine, request, "inspect", reference.familiar, credentials, work))


def _platforms(repository: Repository, descriptor: Descriptor, body: bytes) -> tuple[Platform, ...]:
    """What the images under a name run on."""
    if descriptor.media_type in INDEXES:
        entries = decode(body, Index, "image index").manifests
        return tuple(entry.platform for entry in entries if entry.platform)
    config = decode_config(repository.document(decode_manifest(body).config))
    return (Platform(config.architecture, config.os, config.variant, config.os_version),)


async def get_manifest(engine: Engine, request: Request) -> Response:
    """GET /labkit/registry/manifests?name=…: a manifest or index as the registry has it, byte for byte."""
    reference = _reference(request)

    def work(talk: Talk) -> Response:
        with talk.repository(reference) as repository:
            document = repository.manifest(reference.digest or reference.tag)
        digest = (("Docker-Content-Digest", document.descriptor.digest),)
        return Response(200, document.body, document.descriptor.media_type, digest)

    return await _talk(engine, request, "inspect", reference.familiar, _credentials(request), work)


async def put_manifest(engine: Engine, request: Request) -> Response:
    """PUT /labkit/registry/manifests?name=…&from=…: stores a manifest or index, of which the body is every byte.

    With `from`, the blobs that a manifest names are first taken over from that repository of the same registry.
    """
    reference, source = _reference(request), request.text("from")
    body, media_type = await request.body(), request.headers.get("content-type", "").partition(";")[0].strip()
    if media_type not in INDEXES | MANIFESTS:
        raise InvalidParameter(f"unsupported manifest media type: {media_type!r} is none of {DOCKER_INDEX}, …")
    named = decode_manifest(body) if media_type in MANIFESTS else None
    origin = parse(source) if source else None

    def work(talk: Talk) -> str:
        from labkit.registry.uploading import Uploader

        with talk.repository(reference, push=True) as repository:
            uploader = Uploader(repository)
            if named and origin:
                _take_over(repository, uploader, talk, origin, named)
            return uploader.put_manifest(reference.digest or reference.tag, media_type, body)

    digest = await _talk(engine, request, "push", reference.familiar, _credentials(request), work)
    return json_response({"Digest": digest}, 201)


def _take_over(repository: Repository, uploader: Uploader, talk: Talk, origin: Reference, manifest: Manifest) -> None:
    """Have the blobs of a manifest in a repository, out of another one of its registry."""
    with talk.repository(origin) as source:
        for blob in {blob.digest: blob for blob in (manifest.config, *manifest.layers)}.values():
            if not repository.has(blob.digest) and not uploader.mount(blob.digest, origin):
                uploader.upload(blob, partial(source.blob, blob))


def _reference(request: Request) -> Reference:
    if not request.text("name"):
        raise InvalidParameter("name is required: the reference of a manifest")
    return parse(request.text("name")).tagged()


def _credentials(request: Request) -> Credentials:
    return decode_auth(request.headers.get("x-registry-auth", ""))


async def _talk(
    engine: Engine, request: Request, verb: str, about: str, credentials: Credentials, work: Callable[[Talk], T]
) -> T:
    """Work with a registry on a thread; it is ended when the client goes. Noted in the request's trace."""
    settings = engine.settings.registries
    if request.flag("insecure"):
        settings = replace(settings, insecure=(*settings.insecure, parse(about).domain))
    talk = Talk(settings, credentials, Cancelled(), request.context.child(), Transfer(verb, about))

    def on_thread() -> T:
        began, error = time.time_ns(), ""
        try:
            return work(talk)
        except LabkitError as raised:
            error = str(raised)
            if verb == "login":
                raise
            raise not_asked_again(raised) from raised
        finally:
            engine.traces.transfer(TransferSpan(talk.context, talk.transfer, began, time.time_ns(), error))

    working = asyncio.ensure_future(asyncio.to_thread(on_thread))
    gone = asyncio.ensure_future(request.gone.wait())
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            talk.cancelled.cancel()
        return await working
    finally:
        gone.cancel()
