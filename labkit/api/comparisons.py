"""labkit's own routes about what is in images: `/labkit/images/diff` and `/labkit/images/waste`."""

from __future__ import annotations

import asyncio

from labkit.api.http import Answer, Request, Route, json_response
from labkit.engine.engine import Engine
from labkit.images.differences import Tree, difference, wasted


def routes(engine: Engine) -> list[Route]:
    def tree(name: str) -> Tree:
        image = engine.images.resolve(name)
        return Tree(image, engine.images.lower_dirs(image))

    async def diff(request: Request) -> Answer:
        names, unified = request.query.get("text", []), request.flag("unified")

        def work() -> Answer:
            first, second = tree(request.text("a")), tree(request.text("b"))
            return json_response(difference(first, second, names, unified))

        return await asyncio.to_thread(work)

    async def waste(request: Request) -> Answer:
        return json_response(await asyncio.to_thread(lambda: wasted(tree(request.text("image")))))

    return [Route("GET", "/labkit/images/diff", diff), Route("GET", "/labkit/images/waste", waste)]
