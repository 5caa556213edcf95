"""`container prune`, `network prune`, `volume prune`, `image prune`, `system prune` (docker/cli `…/prune.go`).

Each kind says what it removed and how many bytes that were; `system prune` goes through all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.prompts import confirmed
from labkit.cli.session import Session
from labkit.cli.units import human_size
from labkit.client.engine import encode_filters

Filters = list[tuple[str, str]]
Pruned = tuple[int, str]
"""Bytes, and the text that names what was removed; empty if nothing was."""

_SURE = "Are you sure you want to continue?"
_CONTAINERS = "WARNING! This will remove all stopped containers."
_NETWORKS = "WARNING! This will remove all custom networks not used by at least one container."
_ANONYMOUS = "WARNING! This will remove anonymous local volumes not used by at least one container."
_VOLUMES = "WARNING! This will remove all local volumes not used by at least one container."
_DANGLING = "WARNING! This will remove all dangling images."
_IMAGES = "WARNING! This will remove all images without at least one container associated to them."


def containers(session: Session, given: Invocation) -> None:
    if _sure(session, given, _CONTAINERS):
        _tell(session, *_prune_containers(session, given.all("filter")))


def networks(session: Session, given: Invocation) -> None:
    if _sure(session, given, _NETWORKS) and (text := _prune_networks(session, given.all("filter"))[1]):
        session.out(f"{text}\n")


def volumes(session: Session, given: Invocation) -> None:
    filters, everything = list(given.all("filter")), given.flag("all")
    if everything and any(name == "all" for name, _ in filters):
        raise StatusError("conflicting options: cannot specify both --all and --filter all=1")
    if _sure(session, given, _VOLUMES if everything else _ANONYMOUS):
        filters += [("all", "true")] if everything else []
        _tell(session, *_prune_volumes(session, filters))


def images(session: Session, given: Invocation) -> None:
    everything = given.flag("all")
    if _sure(session, given, _IMAGES if everything else _DANGLING):
        _tell(session, *_prune_images(session, given.all("filter"), everything))


def system(session: Session, given: Invocation) -> None:
    filters, everything, with_volumes = given.all("filter"), given.flag("all"), given.flag("volumes")
    if with_volumes and any(name == "until" for name, _ in filters):
        raise StatusError('ERROR: The "until" filter is not supported with "--volumes"')
    if not given.flag("force") and not confirmed(session, _system_warning(filters, everything, with_volumes)):
        return
    steps: list[Callable[[], Pruned]] = [
        lambda: _prune_containers(session, filters),
        lambda: _prune_networks(session, filters),
        *([lambda: _prune_volumes(session, filters)] if with_volumes else []),
        lambda: _prune_images(session, filters, everything),
        lambda: _prune_cache(session, filters, everything),
    ]
    total = 0
    for step in steps:
        size, text = step()
        total += size
        session.out(f"{text}\n" if text else "")
    session.out(f"Total reclaimed space: {human_size(total)}\n")


def _system_warning(filters: Filters, everything: bool, with_volumes: bool) -> str:
    what = [
        "all stopped containers",
        "all networks not used by at least one container",
        *(["all anonymous volumes not used by at least one container"] if with_volumes else []),
        "all images without at least one container associated to them" if everything else "all dangling images",
        "all build cache" if everything else "unused build cache",
    ]
    limits = [f"  - {name}={value}\n" for name, value in filters]
    told = f"\n  Items to be pruned will be filtered with:\n{''.join(limits)}" if limits else ""
    return "WARNING! This will remove:\n" + "".join(f"  - {one}\n" for one in what) + f"{told}\n{_SURE}"


def _sure(session: Session, given: Invocation, warning: str) -> bool:
    return given.flag("force") or confirmed(session, f"{warning}\n{_SURE}")


def _tell(session: Session, size: int, text: str) -> None:
    session.out((f"{text}\n" if text else "") + f"Total reclaimed space: {human_size(size)}\n")


def _ask(session: Session, kind: str, filters: Filters, **query: Any) -> Any:
    return session.client.post(f"/{kind}/prune", {**query, "filters": encode_filters(filters)})


def _listed(title: str, names: Iterable[str], size: int) -> Pruned:
    """Nothing removed is nothing reclaimed, as docker has it."""
    lines = "".join(f"{name}\n" for name in names)
    return (size, f"{title}:\n{lines}") if lines else (0, "")


def _prune_containers(session: Session, filters: Filters) -> Pruned:
    report = _ask(session, "containers", filters)
    return _listed("Deleted Containers", report.get("ContainersDeleted") or (), report["SpaceReclaimed"])


def _prune_networks(session: Session, filters: Filters) -> Pruned:
    return _listed("Deleted Networks", _ask(session, "networks", filters).get("NetworksDeleted") or (), 0)


def _prune_volumes(session: Session, filters: Filters) -> Pruned:
    report = _ask(session, "volumes", filters)
    return _listed("Deleted Volumes", report.get("VolumesDeleted") or (), report["SpaceReclaimed"])


def _prune_images(session: Session, filters: Filters, everything: bool) -> Pruned:
    report = _ask(session, "images", [*filters, ("dangling", "false" if everything else "true")])
    lines = (
        f"untagged: {one['Untagged']}" if one.get("Untagged") else f"deleted: {one['Deleted']}"
        for one in report.get("ImagesDeleted") or ()
    )
    return _listed("Deleted Images", lines, report["SpaceReclaimed"])


def _prune_cache(session: Session, filters: Filters, everything: bool) -> Pruned:
    report = _ask(session, "build", filters, all="1" if everything else None)
    removed = report.get("CachesDeleted") or ()
    return _listed("Deleted build cache objects", removed, report["SpaceReclaimed"])
