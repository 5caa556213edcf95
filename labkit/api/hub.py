"""labkit's own route for base images that need no registry: POST /labkit/hub/build?name=busybox.

It answers as a load does, in JSON lines, and says first what the image was made of.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from labkit.api.http import Request, Route, Stream
from labkit.api.images import Engine
from labkit.api.uploads import Message, messages
from labkit.images.progress import Report
from labkit.registry import hub


def routes(engine: Engine) -> list[Route]:
    """The routes under /labkit/hub."""

    async def build(request: Request) -> Stream:
        name = request.text("name")
        hub.check(name)

        def work(report: Report) -> tuple[hub.Built, Sequence[str]]:
            built = hub.build(name)
            return built, engine.images.load(io.BytesIO(built.archive), report)

        def results(done: tuple[hub.Built, Sequence[str]]) -> Iterable[Message]:
            built, names = done
            for taken in built.taken:
                origin = f"{taken.source} ({taken.package})" if taken.package else taken.source
                yield {"stream": f"{taken.path} from {origin}\n"}
            if built.applets:
                yield {"stream": f"{built.applets} links to it, one an applet\n"}
            for loaded in names:
                image = engine.images.resolve(loaded)
                engine.events.publish("image", "load", image.id, {**image.labels, "name": image.id})
                yield {"stream": f"Loaded image: {loaded}\n"}

        return Stream(messages(work, results))

    return [Route("POST", "/labkit/hub/build", build)]
