"""Commit and export: a container's files leave it as a layer or as a whole tree.

moby `daemon/commit.go`, `daemon/export.go`. No mount is needed: the layers are read as overlayfs would show them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from labkit.engine import pausing, validation
from labkit.engine.container import Container
from labkit.engine.models import Config, words
from labkit.errors import Conflict
from labkit.images.changes import apply_changes
from labkit.images.committing import Commit
from labkit.images.manifests import ContainerConfig
from labkit.images.references import Reference
from labkit.images.stack import LayerStack
from labkit.images.writing import layer_tar, root_tar

if TYPE_CHECKING:
    from labkit.engine.engine import Engine

MOUNT_POINTS = frozenset((b"dev", b"proc", b"sys", b"etc/hostname", b"etc/hosts", b"etc/resolv.conf"))
"""What the runtime makes below a root to mount on: no change of the container's."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What `POST /commit` asks for. `config` takes the place of the container's."""

    reference: Reference | None = None
    author: str = ""
    comment: str = ""
    changes: Sequence[str] = ()
    pause: bool = True
    config: Config | None = None


async def commit(engine: Engine, container: Container, wish: Wish) -> str:
    """Make an image of a container; returns its ID. Its processes are frozen meanwhile, if so wished."""
    config = image_config(wish.config or container.record.Config, container.record.Config, wish.changes)
    parent = engine.images.resolve(container.record.Image)
    own = container.record.Config
    details = Commit(
        container.id, _builtins(config), _builtins(own), words(own.Cmd), author=wish.author, comment=wish.comment
    )

    def work() -> str:
        with LayerStack((container.upper, *container.lower)) as stack:
            layer = layer_tar(stack, MOUNT_POINTS)
            return engine.images.commit(parent, _while_there(engine, container, layer), details, wish.reference)

    frozen = wish.pause and await _pause(engine, container)
    try:
        identity = await asyncio.to_thread(work)
        _tell(engine, container, identity, wish)
    finally:
        if frozen:
            await _unpause(engine, container)
    return identity


def _tell(engine: Engine, container: Container, identity: str, wish: Wish) -> None:
    name = wish.reference.familiar if wish.reference else ""
    if name:
        labels = engine.images.resolve(identity).labels
        engine.events.publish("image", "tag", identity, {**labels, "name": name})
    attributes = container.attributes(comment=wish.comment, imageID=identity, imageRef=name)
    engine.events.publish("container", "commit", container.id, attributes)


def image_config(asked: Config, own: Config, changes: Sequence[str]) -> Config:
    """The configuration of the image: what was asked for, changed, and filled up with the container's own."""
    fields = _builtins(asked)
    known = {name: value for name, value in fields.items() if value is not None}
    for name in ("Cmd", "Entrypoint"):
        if name in known:
            known[name] = words(known[name])
    changed = apply_changes(msgspec.convert(known, ContainerConfig), list(changes))
    config = msgspec.convert(fields | _builtins(changed), Config)
    validation.merge_image(config, _builtins(own))
    return config


def _builtins(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(value)
    return found


def _while_there(engine: Engine, container: Container, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces. Raises Conflict if the container was removed meanwhile: they are not all of it then."""
    yield from pieces
    if container.id not in engine.containers or container.record.State.Dead:
        raise Conflict(f"You cannot commit container {container.id} which is being removed")


async def _pause(engine: Engine, container: Container) -> bool:
    """Freeze the container, if it runs and isn't frozen; whether that was done."""
    if not container.run.running or container.record.State.Paused:
        return False
    try:
        await pausing.pause(engine, container)
    except Conflict:
        return False  # it ended, or somebody else paused it, at this moment
    return True


async def _unpause(engine: Engine, container: Container) -> None:
    try:
        await pausing.unpause(engine, container)
    except Conflict:
        return  # it was killed or let go on meanwhile


def export(container: Container) -> Generator[bytes, None, None]:
    """The container's whole tree as a tar, in pieces, whether it runs or not. To be read on a thread.

    A container that is removed meanwhile ends in an error, not in half an archive that looks whole.
    """
    with LayerStack((container.upper, *container.lower)) as stack:
        yield from root_tar(stack)
    if container.record.State.Dead:
        raise Conflict(f"container {container.id} was removed while it was exported")
