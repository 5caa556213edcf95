"""What `docker rmi` may do: Docker's rules for names, users and children of an image, as pure functions.

They follow `daemon/images/image_delete.go` of moby, with its wording. The store carries out what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from labkit.errors import Conflict
from labkit.images.image import Image, short_id
from labkit.images.references import Reference


class ContainerUse(msgspec.Struct, frozen=True):
    """A container that was made from an image."""

    id: str
    running: bool


class Removed(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """One line of the answer (Engine API `ImageDeleteResponseItem`): a name or an ID, one of both."""

    untagged: str = ""
    deleted: str = ""


@dataclass(frozen=True, slots=True)
class Removal:
    """What to do: names to take away, in this order, and whether the image itself goes."""

    references: tuple[Reference, ...]
    image: bool


def plan_removal(
    image: Image, named: Reference | None, force: bool, uses: Sequence[ContainerUse], children: bool
) -> Removal:
    """What removing an image means that was given by `named`, or by its ID (None). Raises Conflict."""
    if named is None:
        return _by_id(image, force, uses, children)
    if not force and is_single(image.references) and uses:
        raise Conflict(
            f'conflict: unable to remove repository reference "{named.familiar}" (must force) - '
            f"container {short_id(uses[0].id)} is using its referenced image {short_id(image.id)}"
        )
    gone = [named]
    left = [reference for reference in image.references if reference != named]
    same = [reference for reference in left if reference.name == named.name]
    if not named.digest and all(reference.digest for reference in same):  # only digests are left of the repository
        gone += same
        left = [reference for reference in left if reference not in same]
    # With the last name gone, the image goes too, unless something needs it: then it stays, without a name.
    needed = children or any(use.running for use in uses) or (bool(uses) and not force)
    return Removal(tuple(gone), not left and not needed)


def _by_id(image: Image, force: bool, uses: Sequence[ContainerUse], children: bool) -> Removal:
    running = next((use for use in uses if use.running), None)
    stopped = next((use for use in uses if not use.running), None)
    if children:
        raise _conflict(image, "cannot be forced", "image has dependent child images")
    if running:
        raise _conflict(image, "cannot be forced", f"image is being used by running container {short_id(running.id)}")
    if not force and not is_single(image.references):
        raise _conflict(image, "must be forced", "image is referenced in multiple repositories")
    if not force and stopped:
        raise _conflict(image, "must be forced", f"image is being used by stopped container {short_id(stopped.id)}")
    return Removal(image.references, True)


def _conflict(image: Image, force: str, why: str) -> Conflict:
    return Conflict(f"conflict: unable to delete {short_id(image.id)} ({force}) - {why}")


def is_single(references: Sequence[Reference]) -> bool:
    """Whether all names are in effect one: at most one tag, and digests only of the same repository."""
    tags = [reference for reference in references if not reference.digest]
    repositories = {reference.name for reference in references}
    return len(tags) <= 1 and len(repositories) <= 1
