"""`cp` and `diff`: files between a container and this machine, and what a container has changed (Engine API `Archive`).

docker/cli `cli/command/container/cp.go`. The engine only archives and extracts; what a path means is decided here, out
of what it tells about the paths in the container.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Iterator
from typing import Any

from labkit.cli.copies import (
    Landing,
    Resource,
    clean,
    destination_of,
    land,
    local,
    rebase,
    source_of,
    split_argument,
    split_entry,
)
from labkit.cli.copy_progress import CopyProgress
from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.runners.archives import open_archive, pieces_of
from labkit.cli.session import Session
from labkit.cli.tars import Chunks, pack, unpack
from labkit.client.engine import Answer
from labkit.errors import LabkitError

_DIRECTORY, _LINK, _DEVICE = 1 << 31, 1 << 27, 1 << 26  # of Go's os.FileMode
_LETTERS = "CAD"


def diff(session: Session, given: Invocation) -> None:
    name = given.arguments[0]
    if not name:
        raise StatusError("invalid container name or ID: value is empty")
    for change in session.client.get(f"/containers/{name}/changes") or ():
        session.out(f"{_LETTERS[change['Kind']]} {change['Path']}\n")


def copy(session: Session, given: Invocation) -> None:
    for role, argument in zip(("source", "destination"), given.arguments, strict=True):
        if not argument:
            raise StatusError(f"{role} can not be empty")
    (source, source_path), (target, target_path) = map(split_argument, given.arguments)
    if source and target:
        raise StatusError("copying between containers is not supported")
    if not source and not target:
        raise StatusError("must specify at least one container source")
    quiet = bool(given.options.get("quiet", not session.streams.stdout_is_terminal))
    if source:
        _copy_from(session, source, source_path, target_path, given.flag("follow-link"), quiet)
    else:
        _copy_to(session, target, source_path, target_path, given, quiet)


def _copy_from(session: Session, container: str, path: str, target: str, follow: bool, quiet: bool) -> None:
    target = target if target == "-" else local(target)
    _check_output(target)
    name = ""
    if follow and (found := _stat(session, container, path)) and found["mode"] & _LINK:
        path, name = rebase(path, _leads_to(path, found))
    answer = session.client.request("GET", f"/containers/{container}/archive", {"path": path})
    if target == "-":
        for chunk in answer.chunks():
            session.streams.write(1, chunk)
        return
    source = Resource(path, True, bool(_stat_of(answer)["mode"] & _DIRECTORY), name)
    try:
        landing = land(source, destination_of(target))
    except StatusError:
        answer.close()
        raise
    with CopyProgress(session.streams, "Copying from container - ", quiet) as progress:
        chunks = answer.chunks()
        try:
            unpack(Chunks(progress.count(chunks)), _named(landing, source))
        except BaseException:
            answer.close()
            raise
    progress.tell(target)


def _named(landing: Landing, source: Resource) -> Landing:
    """The landing of an archive that is named after what a link led to: it gets another name in any case."""
    if not source.name:
        return landing
    return Landing(landing.directory, split_entry(source.path)[1], landing.new or source.name)


def _copy_to(session: Session, container: str, path: str, target: str, given: Invocation, quiet: bool) -> None:
    path = path if path == "-" else local(path)
    destination = _destination(session, container, target)
    query = {"path": destination.path, "noOverwriteDirNonDir": "true", "copyUIDGID": given.flag("archive")}
    if path == "-":
        if not destination.is_directory:
            raise StatusError(f'destination "{container}:{target}" must be a directory')
        with open_archive(session, "-") as archive, CopyProgress(session.streams, _TO, quiet) as progress:
            _put(session, container, query, progress.count(pieces_of(archive)))
    else:
        source = source_of(path, given.flag("follow-link"))
        landing = land(source, destination)
        query["path"] = landing.directory
        with CopyProgress(session.streams, _TO, quiet) as progress:
            _put(session, container, query, progress.count(pack(source, landing.rename)))
    progress.tell(f"{container}:{destination.path}")


_TO = "Copying to container - "


def _put(session: Session, container: str, query: dict[str, Any], pieces: Iterator[bytes]) -> None:
    session.client.request("PUT", f"/containers/{container}/archive", query, pieces).body()


def _destination(session: Session, container: str, path: str) -> Resource:
    """The destination in the container, a link followed. What can't be found out is left to the engine to refuse."""
    found, at = _stat(session, container, path), path
    if found and found["mode"] & _LINK:
        at = _leads_to(path, found)
        found = _stat(session, container, at)
    if found is None:
        return Resource(at)
    if found["mode"] & _DEVICE:
        raise StatusError(f'destination "{container}:{path}" must be a directory or a regular file: got a device')
    return Resource(at, True, bool(found["mode"] & _DIRECTORY))


def _leads_to(path: str, found: dict[str, Any]) -> str:
    target = str(found["linkTarget"])
    return target if target.startswith("/") else clean(os.path.join(split_entry(path)[0], target))


def _stat(session: Session, container: str, path: str) -> dict[str, Any] | None:
    """What the engine says of a path; None if it says nothing good."""
    try:
        answer = session.client.request("HEAD", f"/containers/{container}/archive", {"path": path})
    except LabkitError:
        return None
    answer.body()
    return _stat_of(answer)


def _stat_of(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(answer.headers["x-docker-container-path-stat"]))
    return found


def _check_output(path: str) -> None:
    """Refuses a destination on this machine that can hold no files, in docker's words."""
    folder = os.path.dirname(clean(path))
    if folder and not os.path.exists(folder):
        raise StatusError(f'invalid output path: directory "{folder}" does not exist')
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise StatusError(f"stat {path}: {(error.strerror or '').lower()}") from error
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise StatusError(f'invalid output path: "{path}" must be a directory or a regular file: got a device')
