"""The routes by which a container's files leave it: commit and export (moby `router/image`, `router/container`)."""

from __future__ import annotations

from labkit.api import bodies
from labkit.api.downloads import threaded
from labkit.api.http import Answer, Request, Route, Stream, json_response
from labkit.engine import commit
from labkit.engine.engine import Engine
from labkit.engine.models import Config
from labkit.images.references import parse_repository


def routes(engine: Engine) -> list[Route]:
    """`ImageCommit` and `ContainerExport`."""

    async def make_image(request: Request) -> Answer:
        repository = request.text("repo")
        wish = commit.Wish(
            reference=parse_repository(repository, request.text("tag")) if repository else None,
            author=request.text("author"),
            comment=request.text("comment"),
            changes=request.query.get("changes", []),
            pause=request.flag("pause", True) if request.text("pause") else True,
            config=await _config(request),
        )
        container = engine.find(request.text("container"))
        return json_response({"Id": await commit.commit(engine, container, wish)}, 201)

    async def export(request: Request) -> Answer:
        container = engine.find(request.params["id"])
        pieces = commit.export(container)
        engine.events.publish("container", "export", container.id, container.attributes())
        return Stream(threaded(pieces), "application/octet-stream")

    return [
        Route("POST", "/commit", make_image),
        Route("GET", "/containers/{id}/export", export),
    ]


async def _config(request: Request) -> Config | None:
    """The body: a configuration that takes the place of the container's, or `null`, or nothing."""
    body = await request.body()
    return bodies.decode(body, Config) if body.strip() not in (b"", b"null") else None
