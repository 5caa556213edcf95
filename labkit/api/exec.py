"""The exec routes of the Engine API (moby `api/server/router/container/exec.go`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from labkit.api.containers import MULTIPLEXED, NO_CONTENT, RAW, size_of
from labkit.api.http import Answer, Hijack, Hijacked, Request, Response, Route, json_response
from labkit.engine import attaching, execs, validation, views
from labkit.engine.engine import Engine
from labkit.engine.execs import Exec
from labkit.engine.models import ExecCreateBody, ExecStartBody
from labkit.engine.output import frame
from labkit.errors import Conflict, InvalidParameter, LabkitError

READY_SECONDS = 10
"""How long a resize waits for its exec to run, as in dockerd."""


class Execs:
    """The routes, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def create(self, request: Request) -> Answer:
        container = self.engine.find(request.params["id"])
        made = execs.create(self.engine, container, await request.json(ExecCreateBody))
        return json_response({"Id": made.id}, 201)

    async def start(self, request: Request) -> Answer:
        one = self.engine.find_exec(request.params["id"])
        body = await request.json(ExecStartBody)
        validation.check_size(body.ConsoleSize)
        rows, columns = body.ConsoleSize or one.body.ConsoleSize or (0, 0)
        if body.Detach or one.body.Detach:
            await one.start(self.engine, (rows, columns), False, request.context)
            return Response(200)
        if one.started:
            raise Conflict(
                f"exec command {one.id} is already running" if one.code is None else f"exec {one.id} has ended"
            )
        execs.check_running(one.container)
        keys = attaching.parse_keys(one.body.DetachKeys)

        async def run(connection: Hijacked) -> None:
            await self._run(one, connection, (rows, columns), keys, request)

        multiplexed = not one.body.Tty and request.version >= (1, 42)
        return Hijack(run, MULTIPLEXED if multiplexed else RAW)

    async def _run(self, one: Exec, client: Hijacked, size: tuple[int, int], keys: bytes, request: Request) -> None:
        """Join the client first, then start: no output is missed. A failure is told as output, as dockerd does."""
        body = one.body
        wanted = (("stdin", body.AttachStdin), ("stdout", body.AttachStdout), ("stderr", body.AttachStderr))
        streams = frozenset(name for name, asked in wanted if asked)
        joined = asyncio.create_task(attaching.attach(one.run, client, streams, keys, self._stdin_closer(one)))
        try:
            await one.start(self.engine, size, True, request.context)
        except LabkitError as error:
            text = f"{error}\r\n".encode()
            client.write(text if body.Tty else frame("stdout", text))
        await joined

    def _stdin_closer(self, one: Exec) -> Callable[[], None]:
        def close() -> None:
            if not one.body.Tty and one.run.running and one.run.stdin >= 0:
                one.run.close_stdin()
                self.engine.spawner.drop(one.id, "stdin")

        return close

    async def inspect(self, request: Request) -> Answer:
        return json_response(views.inspect_exec(self.engine.find_exec(request.params["id"])))

    async def resize(self, request: Request) -> Answer:
        one = self.engine.find_exec(request.params["id"])
        rows, columns = size_of(request)
        await _under_way(one)
        one.run.resize(rows, columns)
        return NO_CONTENT


async def _under_way(one: Exec) -> None:
    """Wait until an exec runs: docker resizes as soon as it has asked for the start. Raises InvalidParameter."""
    events = [asyncio.ensure_future(event.wait()) for event in (one.run.began, one.run.exited)]
    try:
        done, _ = await asyncio.wait(events, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for event in events:
            event.cancel()
    if not done:
        raise InvalidParameter("timeout waiting for exec session ready")
    if not one.run.running:
        raise InvalidParameter("exec process is not started")


def routes(engine: Engine) -> list[Route]:
    """All routes about execs."""
    one = Execs(engine)
    return [
        Route("POST", "/containers/{id}/exec", one.create),
        Route("POST", "/exec/{id}/start", one.start),
        Route("GET", "/exec/{id}/json", one.inspect),
        Route("POST", "/exec/{id}/resize", one.resize),
    ]
