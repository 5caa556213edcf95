"""labkit's own route for images that need no registry: POST /labkit/hub/build?name=busybox&name=nginx.

It answers as a load does, in JSON lines, and says what the images were made of. They go into the hub's store, from
which pulls come when Docker Hub can't be reached, and those that were asked for by name are loaded, too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.api.http import Request, Route, Stream
from labkit.api.images import Engine
from labkit.api.uploads import Message, human_size, messages
from labkit.engine.settings import Settings
from labkit.errors import InvalidParameter
from labkit.images.progress import Progress, Report
from labkit.registry.hub import recipes

if TYPE_CHECKING:
    from labkit.registry.hub.building import Made, Workshop


@dataclass(frozen=True, slots=True)
class _Order:
    """What to build: from which mirrors, into which store, and whether to load it."""

    recipes: Sequence[recipes.Recipe]
    mirrors: Sequence[str]
    root: Path
    load: bool


def routes(engine: Engine) -> list[Route]:
    """The routes under /labkit/hub."""

    async def build(request: Request) -> Stream:
        order = _order(request, engine.settings)
        return Stream(
            messages(
                lambda report: _build(engine, order, report),
                lambda done: (message for made, names in done for message in _told(engine, made, names)),
            )
        )

    return [Route("POST", "/labkit/hub/build", build)]


def _order(request: Request, settings: Settings) -> _Order:
    """Raises NotFound for a name that there is no recipe for."""
    names, root = request.query.get("name", []), request.text("into")
    if root and not Path(root).is_absolute():
        raise InvalidParameter(f"{root!r} is no absolute path")
    everything = request.flag("all")
    wanted = recipes.ordered(recipes.RECIPES if everything else names)
    if not wanted:
        raise InvalidParameter(f"which image? There are {', '.join(recipes.RECIPES)}")
    return _Order(wanted, request.query.get("mirror", []), Path(root or settings.hub), not (root or everything))


def _build(engine: Engine, order: _Order, report: Report) -> list[tuple[Made, Sequence[str]]]:
    """On a thread."""
    from labkit.registry.hub.building import Workshop

    def tell(name: str, line: str) -> None:
        report(Progress(line, name, message=True))

    with Workshop(order.root, order.mirrors, tell) as workshop:
        made = [workshop.make(recipe) for recipe in order.recipes]
        return [(one, _loaded(engine, workshop, one) if order.load else ()) for one in made]


def _loaded(engine: Engine, workshop: Workshop, made: Made) -> Sequence[str]:
    """Loads an image from the hub's store under its first tag; the names that it has then."""
    from labkit.registry.hub import carrying

    wanted = [image for image in carrying.images(workshop.storage) if image.reference.familiar == made.name]
    with tempfile.TemporaryDirectory(dir=workshop.storage.workspace, prefix="load-") as work:
        archive = Path(work, "archive")
        carrying.export(workshop.storage, wanted, archive)
        with open(archive, "rb") as file:
            return engine.images.load(file)


def _told(engine: Engine, made: Made, names: Sequence[str]) -> Iterator[Message]:
    for line in (*_origins(made), *_sizes(made)):
        yield {"stream": f"{line}\n"}
    for name in names:
        image = engine.images.resolve(name)
        engine.events.publish("image", "load", image.id, {**image.labels, "name": image.id})
        yield {"stream": f"Loaded image: {name}\n"}
    if not names:
        yield {"stream": f"In the hub: {made.name}\n"}


def _origins(made: Made) -> Iterable[str]:
    for taken in made.taken:
        origin = f"{taken.source} ({taken.package})" if taken.package else taken.source
        yield f"{taken.path} from {origin}"
    if made.applets:
        yield f"{made.applets} links to it, one an applet"


def _sizes(made: Made) -> Iterable[str]:
    """Of what was not only copied from this machine."""
    if made.packages:
        yield f"{made.recipe.name}: {len(made.packages)} Debian packages: {', '.join(made.packages)}"
    if not made.taken:
        *below, own = made.image.manifest.layers
        shared = f", on the {len(below)} of {made.recipe.base}" if below else ""
        yield f"{made.recipe.name}: a layer of {human_size(own.size)}{shared}"
