"""The container routes of the Engine API, a thin border over `labkit.engine` (moby `api/server/router/container`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from labkit.api.http import Answer, Hijack, Hijacked, Request, Response, Route, Stream, json_response
from labkit.engine import (
    attaching,
    legacy_links,
    life,
    pausing,
    processes,
    reading,
    removing,
    restarting,
    stopping,
    updating,
    validation,
    views,
    waiting,
)
from labkit.engine.clock import parse_rfc3339, parse_timestamp
from labkit.engine.container import Container
from labkit.engine.container_filters import Filter
from labkit.engine.engine import Engine
from labkit.engine.logs import Selection
from labkit.engine.models import CreateBody
from labkit.errors import Conflict, InvalidParameter, NotFound
from labkit.images import platforms

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
NO_CONTENT = Response(204)


class Containers:
    """The routes, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._summaries = views.Summaries()

    def listed(self, request: Request) -> Answer:
        engine = self.engine
        filters = request.filters()
        limit = max(0, request.number("limit", 0) or 0)
        wanted = Filter(filters, self._bounds(filters), self._ancestors(filters)) if filters else None
        everything = request.flag("all") or limit > 0 or (wanted is not None and wanted.all_states)
        found = sorted(engine.containers.values(), key=lambda one: one.record.Created, reverse=True)
        if not everything:
            found = [one for one in found if one.record.State.Running]
        if wanted:
            found = [one for one in found if wanted.passes(one)]
        now = time.time()
        found = found[: limit or None]
        if request.flag("size"):
            return json_response([self._sized(one, now) for one in found])
        return json_response([self._summaries.get(one, engine.images.tags, now) for one in found])

    def _bounds(self, filters: dict[str, list[str]]) -> dict[str, float]:
        bounds = {}
        for name in ("before", "since"):
            if filters.get(name):
                try:
                    bounds[name] = parse_rfc3339(self.engine.find(filters[name][0]).record.Created) / 1e9
                except NotFound as error:
                    raise NotFound(f"no such container {filters[name][0]}") from error
        return bounds

    def _ancestors(self, filters: dict[str, list[str]]) -> set[str]:
        found = set()
        for reference in filters.get("ancestor", ()):
            try:
                found.add(self.engine.images.resolve(reference).id)
            except NotFound:
                continue
        return found

    def _sized(self, container: Container, now: float) -> Any:
        image = views.image_name(container, self.engine.images.tags)
        return views.summary(container, image, now) | views.sizes(container)

    async def create(self, request: Request) -> Answer:
        body = await request.json(CreateBody)
        platform = self._platform(body.Image, request.text("platform"))
        name, version = request.text("name"), request.version
        container, warnings = await life.create(self.engine, body, name, request.context, version)
        return json_response({"Id": container.id, "Warnings": platform + warnings}, 201)

    def _platform(self, reference: str, text: str) -> list[str]:
        """See that an image is for the platform that was asked for; or warn if it isn't for this machine."""
        wanted = platforms.read_platform(text)
        if not reference:
            return []
        image = self.engine.images.resolve(reference)
        platforms.check_platform(image, reference, wanted)
        warning = "" if wanted else platforms.mismatch(image)
        return [warning] if warning else []

    async def inspect(self, request: Request) -> Answer:
        container = self._find(request)
        links = legacy_links.shown(self.engine, container)
        if request.flag("size"):
            return json_response(await asyncio.to_thread(views.inspect, container, True, links))
        return json_response(views.inspect(container, False, links))

    async def start(self, request: Request) -> Answer:
        await life.start(self.engine, self._find(request), request.context)
        return NO_CONTENT

    async def stop(self, request: Request) -> Answer:
        await stopping.stop(
            self.engine, self._find(request), request.number("t"), request.text("signal"), request.context
        )
        return NO_CONTENT

    async def restart(self, request: Request) -> Answer:
        container = self._find(request)
        await restarting.restart(self.engine, container, request.number("t"), request.text("signal"), request.context)
        return NO_CONTENT

    async def kill(self, request: Request) -> Answer:
        number = validation.signal_to_send(request.text("signal") or "SIGKILL", request.params["id"])
        try:
            container = self._find(request)
            run = container.run
            await stopping.kill(self.engine, container, number, request.context)
        except (Conflict, NotFound) as error:
            raise type(error)(f"cannot kill container: {request.params['id']}: {error}") from error
        if number == 9:
            await run.exited.wait()
        return NO_CONTENT

    async def pause(self, request: Request) -> Answer:
        await pausing.pause(self.engine, self._find(request), request.context)
        return NO_CONTENT

    async def unpause(self, request: Request) -> Answer:
        await pausing.unpause(self.engine, self._find(request), request.context)
        return NO_CONTENT

    async def rename(self, request: Request) -> Answer:
        await life.rename(self.engine, self._find(request), request.text("name"))
        return NO_CONTENT

    async def update(self, request: Request) -> Answer:
        """`ContainerUpdate`."""
        container = self._find(request)
        body = await request.json(updating.UpdateBody)
        warnings = await updating.update(self.engine, container, body, request.context)
        return json_response({"Warnings": warnings or None})

    async def remove(self, request: Request) -> Answer:
        if request.flag("link"):
            raise InvalidParameter("Conflict, cannot remove the default link name of the container")
        force, volumes = request.flag("force"), request.flag("v")
        await removing.remove(self.engine, self._find(request), force, volumes, request.context)
        return NO_CONTENT

    async def wait(self, request: Request) -> Answer:
        container = self._find(request)
        condition = request.text("condition")
        if condition not in waiting.CONDITIONS:
            raise InvalidParameter(f'invalid condition: "{condition}"')
        return Stream(_wait(asyncio.ensure_future(waiting.wait(container, condition))))

    async def resize(self, request: Request) -> Answer:
        container = self._find(request)
        rows, columns = size_of(request)
        if not container.run.running:
            raise Conflict(f"cannot resize a stopped container: container {container.id} is not running")
        container.run.resize(rows, columns)
        self.engine.events.publish(
            "container", "resize", container.id, container.attributes(height=str(rows), width=str(columns))
        )
        return NO_CONTENT

    async def top(self, request: Request) -> Answer:
        container = self._find(request)
        return json_response(await processes.top(self.engine, container, request.text("ps_args")))

    async def stats(self, request: Request) -> Answer:
        """`ContainerStats`. Streams unless told not to; then one sample, at once if `one-shot` says so."""
        stream, one_shot = request.flag("stream", True), request.flag("one-shot")
        if stream and one_shot:
            raise InvalidParameter("cannot have stream=true and one-shot=true")
        container, sampler = self._find(request), self.engine.sampler
        if stream:
            return Stream(sampler.follow(container), "application/json")
        return Response(200, await sampler.once(container, primed=not one_shot), "application/json")

    async def logs(self, request: Request) -> Answer:
        container = self._find(request)
        if not (request.flag("stdout") or request.flag("stderr")):
            raise InvalidParameter("Bad parameters: you must choose at least one stream")
        selection = Selection(
            stdout=request.flag("stdout"),
            stderr=request.flag("stderr"),
            since=parse_timestamp(request.text("since")),
            until=parse_timestamp(request.text("until")),
            timestamps=request.flag("timestamps"),
            details=request.flag("details"),
        )
        tail = reading.parse_tail(request.text("tail"))
        chunks = reading.read(container, selection, tail, request.flag("follow"))
        return Stream(chunks, RAW if container.record.Config.Tty or request.version < (1, 42) else MULTIPLEXED)

    async def attach(self, request: Request) -> Answer:
        container = self._find(request)
        if container.record.State.Paused:
            raise Conflict(f"container {container.name} is paused, unpause the container before attach")
        pausing.check_not_restarting(container)
        keys = attaching.parse_keys(request.text("detachKeys"))
        streams = frozenset(name for name in ("stdin", "stdout", "stderr") if request.flag(name))
        logs, stream = request.flag("logs"), request.flag("stream")

        async def run(connection: Hijacked) -> None:
            await self._attach(container, connection, streams if stream else frozenset(), keys, logs, stream)

        multiplexed = not container.record.Config.Tty and request.version >= (1, 42)
        return Hijack(run, MULTIPLEXED if multiplexed else RAW)

    async def _attach(
        self, container: Container, connection: Hijacked, streams: frozenset[str], keys: bytes, logs: bool, stream: bool
    ) -> None:
        self.engine.events.publish("container", "attach", container.id, container.attributes())
        run = container.run

        async def replay() -> None:
            async for chunk in reading.read(container, Selection(), None, False):
                connection.write(chunk)
                await connection.drain()

        if not stream:
            await replay()
            connection.close()
            return
        close = self._stdin_closer(container) if "stdin" in streams else _nothing
        if await attaching.attach(run, connection, streams, keys, close, replay if logs else None):
            self.engine.events.publish("container", "detach", container.id, container.attributes())

    def _stdin_closer(self, container: Container) -> Callable[[], None]:
        """What to do at the end of a client's input: close the container's, if it was to be open once only."""
        run, config = container.run, container.record.Config

        def close() -> None:
            if config.StdinOnce and not config.Tty and run.running and run.stdin >= 0:
                run.close_stdin()
                self.engine.spawner.drop(container.id, "stdin")

        return close

    def _find(self, request: Request) -> Container:
        return self.engine.find(request.params["id"])


def _nothing() -> None:
    return


async def _wait(ending: asyncio.Future[tuple[int, str]]) -> AsyncIterator[bytes]:
    """The answer of wait: its headers go out at once, the status when there is one."""
    try:
        code, error = await ending
        told = {"Error": {"Message": error}} if error else {}
        yield msgspec.json.encode({"StatusCode": code, **told}) + b"\n"
    finally:
        ending.cancel()


def size_of(request: Request) -> tuple[int, int]:
    """The rows and columns of a resize request."""
    rows, columns = request.number("h"), request.number("w")
    if rows is None or columns is None or not (0 <= rows < 65536 and 0 <= columns < 65536):
        raise InvalidParameter(f"invalid terminal size: h={request.text('h')!r}, w={request.text('w')!r}")
    return rows, columns


def routes(engine: Engine) -> list[Route]:
    """All routes about containers."""
    one = Containers(engine)
    table: list[tuple[str, str, Callable[[Request], Awaitable[Answer]]]] = [
        ("POST", "/containers/create", one.create),
        ("GET", "/containers/{id}/json", one.inspect),
        ("POST", "/containers/{id}/start", one.start),
        ("POST", "/containers/{id}/stop", one.stop),
        ("POST", "/containers/{id}/restart", one.restart),
        ("POST", "/containers/{id}/kill", one.kill),
        ("POST", "/containers/{id}/pause", one.pause),
        ("POST", "/containers/{id}/unpause", one.unpause),
        ("POST", "/containers/{id}/rename", one.rename),
        ("POST", "/containers/{id}/update", one.update),
        ("POST", "/containers/{id}/wait", one.wait),
        ("POST", "/containers/{id}/resize", one.resize),
        ("GET", "/containers/{id}/top", one.top),
        ("GET", "/containers/{id}/stats", one.stats),
        ("GET", "/containers/{id}/logs", one.logs),
        ("POST", "/containers/{id}/attach", one.attach),
        ("DELETE", "/containers/{id}", one.remove),
    ]
    listed = Route("GET", "/containers/json", one.listed, immediate=True)
    return [listed, *(Route(method, pattern, answer) for method, pattern, answer in table)]
