"""The routes by which files go into a container and come out of it, and of what it has changed: `docker cp`, `diff`.

moby `api/server/router/container/copy.go`. An archive that comes in is read by a thread while it comes
(`labkit.api.uploads`); one that goes out is made piece by piece (`labkit.api.downloads`).
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import msgspec

from labkit.api.downloads import threaded
from labkit.api.http import Answer, Request, Response, Route, Stream, json_response
from labkit.api.uploads import Upload
from labkit.engine import archive, changes
from labkit.engine.container import Container
from labkit.engine.engine import Engine
from labkit.errors import InvalidParameter, LabkitError, NotFound

TAR = "application/x-tar"
STALLED = 60
"""Seconds for which the client of a container that doesn't run may send nothing: it can't be started meanwhile."""


class Archive:
    """The routes, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def stat(self, request: Request) -> Answer:
        """`ContainerArchiveInfo`."""
        container, path = self._find(request)
        with _told(request, path):
            found = await archive.stat_path(self.engine, container, path, request.context)
        return Response(200, content_type="", headers=_stat_header(found))

    async def get(self, request: Request) -> Answer:
        """`ContainerArchive`."""
        container, path = self._find(request)
        with _told(request, path):
            found = await archive.archive_path(self.engine, container, path, request.context)
        return Stream(threaded(found.pieces), TAR, headers=_stat_header(found.stat), length=found.length)

    async def put(self, request: Request) -> Answer:
        """`PutContainerArchive`. All of the body is taken, also when the work fails early."""
        container, path = self._find(request)
        wish = archive.Wish(path, request.flag("noOverwriteDirNonDir"), request.flag("copyUIDGID"))
        upload = Upload()
        feeding = asyncio.ensure_future(upload.feed(patient(container, request.chunks())))
        try:
            with _told(request, path):
                await archive.extract_to(self.engine, container, wish, upload, request.context)
            upload.discard()
            await feeding
        except LabkitError:
            upload.discard()
            await feeding
            raise
        finally:
            feeding.cancel()
        return Response(200, content_type="")

    async def changes(self, request: Request) -> Answer:
        """`ContainerChanges`; null if there are none."""
        container = self.engine.find(request.params["id"])
        return json_response(await asyncio.to_thread(changes.changes, container) or None)

    def _find(self, request: Request) -> tuple[Container, str]:
        path = request.text("path")
        if not path:
            raise InvalidParameter("bad parameter: path cannot be empty")
        return self.engine.find(request.params["id"]), path


@contextmanager
def _told(request: Request, path: str) -> Iterator[None]:
    """Tells of a missing file with the path and the container's name as the client wrote them."""
    try:
        yield
    except archive.FileMissing as error:
        raise NotFound(f"Could not find the file {path} in container {request.params['id']}") from error


async def patient(container: Container, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same chunks. Raises InvalidParameter if a client keeps a container from being started and sends nothing."""
    while True:
        try:
            async with asyncio.timeout(None if container.run.running else STALLED):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise InvalidParameter(
                f"nothing more of the archive came for {STALLED} seconds, and container {container.id} can't be "
                "started before: start it first, or send the archive without a pause"
            ) from error
        yield chunk


def _stat_header(found: archive.PathStat) -> tuple[tuple[str, str], ...]:
    return (("X-Docker-Container-Path-Stat", base64.b64encode(msgspec.json.encode(found)).decode()),)


def routes(engine: Engine) -> list[Route]:
    """All routes about a container's files."""
    one = Archive(engine)
    return [
        Route("HEAD", "/containers/{id}/archive", one.stat),
        Route("GET", "/containers/{id}/archive", one.get),
        Route("PUT", "/containers/{id}/archive", one.put),
        Route("GET", "/containers/{id}/changes", one.changes),
    ]
