"""What takes up the disk, and what can go: `GET /system/df`, prune of images and containers (moby `disk_usage.go`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from labkit.api.filtering import prunable, prunable_containers, summaries
from labkit.api.http import Answer, Request, Route, json_response
from labkit.api.images import tell_removed
from labkit.api.volumes import VolumeRoutes
from labkit.engine import removing, views
from labkit.engine.engine import Engine
from labkit.errors import Conflict, InvalidParameter, NotFound
from labkit.images.image import Image
from labkit.images.removal import Removed

_TYPES = ("container", "image", "volume", "build-cache")


class Usage:
    """The routes, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._pruning = False

    async def disk_usage(self, request: Request) -> Answer:
        """`SystemDataUsage`. What was not asked for (`type`) is null."""
        asked = set(request.query.get("type", _TYPES))
        for name in asked.difference(_TYPES):
            raise InvalidParameter(f"unknown object type: {name}")
        now, tags = time.time(), self.engine.images.tags
        newest = sorted(self.engine.containers.values(), key=lambda one: one.record.Created, reverse=True)
        containers = [(one, views.image_name(one, tags)) for one in newest]

        def measure() -> dict[str, Any]:
            return {
                "LayersSize": self.engine.images.size() if "image" in asked else 0,
                "Images": self._images(request.version) if "image" in asked else None,
                "Containers": [views.summary(one, name, now) | views.sizes(one) for one, name in containers]
                if "container" in asked
                else None,
                "Volumes": VolumeRoutes(self.engine).usage() if "volume" in asked else None,
                "BuildCache": [] if "build-cache" in asked else None,
            }

        return json_response(await asyncio.to_thread(measure))

    def _images(self, version: tuple[int, int]) -> list[Any]:
        store = self.engine.images
        listed = summaries(store, store.list(), (), True, version)
        return [msgspec.structs.replace(one, containers=len(self.engine.containers_using(one.id))) for one in listed]

    async def prune(self, request: Request) -> Answer:
        """`ImagePrune`: the images without a name, or without a container (dangling=false)."""
        if self._pruning:
            raise Conflict("a prune operation is already running")
        filters = request.filters()
        images, dangling = prunable(self.engine.images, filters)
        sizes = {
            chain: size
            for image in images
            for chain, size in zip(image.chain_ids, self.engine.images.layer_sizes(image), strict=False)
        }
        self._pruning = True
        try:
            removed = [item for image in images for item in await self._remove(image, dangling)]
        finally:
            self._pruning = False
        reclaimed = sum(sizes.get(item.deleted, 0) for item in removed)
        self.engine.events.publish("image", "prune", "", {"reclaimed": str(reclaimed)})
        return json_response({"ImagesDeleted": removed or None, "SpaceReclaimed": reclaimed})

    async def prune_containers(self, request: Request) -> Answer:
        """`ContainerPrune`: the containers that don't run."""
        filters = request.filters()
        passes = prunable_containers(filters)
        removed, reclaimed = [], 0
        for container in list(self.engine.containers.values()):
            if container.record.State.Running or not passes(container):
                continue
            size = await asyncio.to_thread(views.sizes, container)
            try:
                await removing.remove(self.engine, container, force=False)
            except Conflict:
                continue  # it was started meanwhile, or somebody else is removing it
            removed.append(container.id)
            reclaimed += size["SizeRw"]
        self.engine.events.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
        return json_response({"ContainersDeleted": removed or None, "SpaceReclaimed": reclaimed})

    async def prune_cache(self, request: Request) -> Answer:
        """`BuildPrune`. Nothing is built here yet, so nothing is cached: `docker system prune` asks all the same."""
        return json_response({"CachesDeleted": None, "SpaceReclaimed": 0})

    async def _remove(self, image: Image, dangling: bool) -> Sequence[Removed]:
        """What went of an image; nothing, if a container needs it."""
        if dangling and image.repo_tags:
            return ()
        gone: list[Removed] = []
        for name in [str(reference) for reference in image.references] or [image.id]:
            present = {one.id: one for one in self.engine.images.list()}
            uses = {identity: self.engine.containers_using(identity) for identity in present}
            try:
                removed = await asyncio.to_thread(self.engine.images.remove, name, False, uses.__getitem__)
            except (Conflict, NotFound):
                continue  # in use, or gone with a child
            tell_removed(self.engine, image, removed, present)
            gone += removed
        return gone


def routes(engine: Engine) -> list[Route]:
    one = Usage(engine)
    return [
        Route("GET", "/system/df", one.disk_usage),
        Route("POST", "/images/prune", one.prune),
        Route("POST", "/containers/prune", one.prune_containers),
        Route("POST", "/build/prune", one.prune_cache),
    ]
