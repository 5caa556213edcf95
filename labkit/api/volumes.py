"""The volume routes of the Engine API (Engine API `Volume…`; moby `api/server/router/volume`, `volume/service`)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from labkit.api.http import Answer, Request, Response, Route, json_response
from labkit.engine import disk
from labkit.engine.engine import Engine
from labkit.engine.volumes import is_anonymous, view
from labkit.errors import Conflict, InvalidParameter, LabkitError, NotFound
from labkit.images.layers import size_of
from labkit.volumes.models import Volume

_TRUTH = {"1": True, "true": True, "0": False, "false": False}
_ALL_PRUNED_BEFORE = (1, 42)
"""Before this API version a prune removed named volumes too."""

Filters = dict[str, list[str]]


class CreateBody(msgspec.Struct, kw_only=True):
    """What `POST /volumes/create` takes. Cluster volumes are Swarm's."""

    Name: str | None = None
    Driver: str | None = None
    DriverOpts: dict[str, str] | None = None
    Labels: dict[str, str] | None = None
    ClusterVolumeSpec: dict[str, Any] | None = None


class VolumeRoutes:
    """The routes, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.volumes = engine.volumes
        self._pruning = False

    async def create(self, request: Request) -> Answer:
        """`VolumeCreate`: a volume that is there already is given as it is."""
        body = await request.json(CreateBody)
        if body.ClusterVolumeSpec is not None:
            raise InvalidParameter("labkit has no cluster volumes: they are part of Swarm")
        volume = self.volumes.create(body.Name or "", body.Driver or "", body.DriverOpts, body.Labels)
        return json_response(view(self.volumes, volume), 201)

    async def listed(self, request: Request) -> Answer:
        """`VolumeList`."""
        filters = request.filters()
        check_filters(filters, ("dangling", "driver", "label", "name"))
        found = [view(self.volumes, volume) for volume in self.volumes.store if self._passes(volume, filters)]
        return json_response({"Volumes": found, "Warnings": None})

    async def inspect(self, request: Request) -> Answer:
        """`VolumeInspect`."""
        return json_response(view(self.volumes, self.volumes.store.get(request.params["name"])))

    async def remove(self, request: Request) -> Answer:
        """`VolumeDelete`. With force it is fine if there is none of that name."""
        try:
            doomed = self.volumes.remove(request.params["name"])
        except NotFound:
            if request.flag("force"):
                return Response(204)
            raise
        await asyncio.to_thread(disk.remove_trees, [doomed])
        return Response(204)

    async def prune(self, request: Request) -> Answer:
        """`VolumePrune`: the anonymous volumes that no container uses, or (all) all that none uses."""
        filters = request.filters()
        check_filters(filters, ("all", "label", "label!"))
        everything = truth(filters, "all", request.version < _ALL_PRUNED_BEFORE)
        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        try:
            removed, reclaimed = await self._prune(filters, everything)
        finally:
            self._pruning = False
        self.volumes.tell("prune", "", reclaimed=str(reclaimed))
        return json_response({"VolumesDeleted": removed, "SpaceReclaimed": reclaimed})

    async def _prune(self, filters: Filters, everything: bool) -> tuple[list[str], int]:
        removed, reclaimed = [], 0
        for volume in list(self.volumes.store):
            if not (everything or is_anonymous(volume)) or not self._passes(volume, filters):
                continue
            size = await asyncio.to_thread(measure, self.volumes.store.mountpoint(volume.Name))
            try:
                doomed = self.volumes.remove(volume.Name)
            except (Conflict, NotFound):
                continue  # in use, or gone meanwhile
            await asyncio.to_thread(disk.remove_trees, [doomed])
            removed.append(volume.Name)
            reclaimed += size
        return removed, reclaimed

    def _passes(self, volume: Volume, filters: Filters) -> bool:
        labels = volume.Labels or {}
        names, drivers = filters.get("name"), filters.get("driver")
        tests = (
            not names or any(name in volume.Name for name in names),
            not drivers or volume.Driver in drivers,
            all(has_label(labels, wanted) for wanted in filters.get("label", ())),
            not any(has_label(labels, unwanted) for unwanted in filters.get("label!", ())),
            not filters.get("dangling") or truth(filters, "dangling", False) != bool(self._users(volume)),
        )
        return all(tests)

    def _users(self, volume: Volume) -> int:
        return len(self.volumes.users.get(volume.Name, ()))

    def usage(self) -> list[dict[str, Any]]:
        """The volumes of `GET /system/df`: bytes, and how many containers use each. To be called on a thread."""
        found = []
        for volume in list(self.volumes.store):
            size = measure(self.volumes.store.mountpoint(volume.Name))
            usage = {"RefCount": self._users(volume), "Size": size}
            found.append(view(self.volumes, volume) | {"UsageData": usage})
        return found


def check_filters(filters: Filters, known: tuple[str, ...]) -> None:
    """Raises InvalidParameter, in moby's words."""
    for name in filters:
        if name not in known:
            raise InvalidParameter(f"invalid filter '{name}'")
    if filters.get("dangling"):
        truth(filters, "dangling", False)


def truth(filters: Filters, name: str, default: bool) -> bool:
    """A filter that is true or false. Raises InvalidParameter for anything else, and for both at once."""
    values = filters.get(name)
    if not values:
        return default
    found = {_TRUTH.get(value.lower()) for value in values}
    if len(found) != 1 or None in found:
        raise InvalidParameter(f"invalid filter '{name}=[{' '.join(values)}]'")
    return True in found


def has_label(labels: dict[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def measure(path: str) -> int:
    """Bytes of files below a directory; 0 if it has gone. Raises LabkitError."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise LabkitError(f"can't measure {path}: {error.strerror}") from error
    try:
        return size_of(directory)
    finally:
        os.close(directory)


def routes(engine: Engine) -> list[Route]:
    """The routes under /volumes."""
    one = VolumeRoutes(engine)
    table: tuple[tuple[str, str, Callable[[Request], Awaitable[Answer]]], ...] = (
        ("GET", "/volumes", one.listed),
        ("POST", "/volumes/create", one.create),
        ("POST", "/volumes/prune", one.prune),
        ("GET", "/volumes/{name:.*}", one.inspect),
        ("DELETE", "/volumes/{name:.*}", one.remove),
    )
    return [Route(method, pattern, answer) for method, pattern, answer in table]
