"""The rules of `docker cp`: what a path means as source and as destination, and what entries are called on the way.

moby `pkg/archive/copy.go`. A trailing `/` says "a directory", a trailing `/.` "what is in it". Pure, but for what
`source_of` and `destination_of` look up on this machine.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from labkit.cli.grammar import StatusError

_LINKS = 10  # that a destination may lead through


class Resource(NamedTuple):
    """A source or destination: its path, whether it is there, and as a directory; `name` is what to call it instead."""

    path: str
    exists: bool = False
    is_directory: bool = False
    name: str = ""


class Landing(NamedTuple):
    """Where an archive is extracted, and what its entries' first name becomes (`old` to `new`; both empty: nothing)."""

    directory: str
    old: str = ""
    new: str = ""

    def rename(self, name: str) -> str:
        if not self.old and not self.new:
            return name
        return name.replace("" if self.old == "/" else self.old, self.new, 1)


def split_argument(argument: str) -> tuple[str, str]:
    """Container and path of `CONTAINER:PATH`; no container for a path of this machine (`/a:b`, `./a:b`)."""
    container, colon, path = argument.partition(":")
    if argument.startswith("/") or not colon or container.startswith("."):
        return "", argument
    return container, path


def clean(path: str) -> str:
    """Go's filepath.Clean."""
    cleaned = os.path.normpath(path or ".")
    return "/" + cleaned.lstrip("/") if cleaned.startswith("/") else cleaned


def base(path: str) -> str:
    """Go's filepath.Base."""
    if not path:
        return "."
    return path.rstrip("/").rpartition("/")[2] or "/"


def keep_ending(cleaned: str, path: str) -> str:
    """A cleaned path with the `/.` or `/` that the path had at its end."""
    if base(cleaned) != "." and base(path) == ".":
        cleaned = cleaned.rstrip("/") + "/."
    return cleaned.rstrip("/") + "/" if path.endswith("/") else cleaned


def local(path: str) -> str:
    """A path of this machine, absolute, its ending kept."""
    return keep_ending(clean(os.path.join(os.getcwd(), path)), path)


def split_entry(path: str) -> tuple[str, str]:
    """A path's directory and last name; `.` is a name if the path ends in it."""
    cleaned = clean(path)
    if base(path) == ".":
        return cleaned, "."
    return clean(os.path.dirname(cleaned)), base(cleaned)


def rebase(path: str, resolved: str) -> tuple[str, str]:
    """What a link led to, with the ending of the path; and the link's own name, if that is another one."""
    resolved = keep_ending(resolved, path)
    return resolved, base(path) if base(path) != base(resolved) else ""


def source_of(path: str, follow: bool) -> Resource:
    """A source on this machine. StatusError if there is none."""
    if follow:
        _check_followed(path)
        resolved, name = rebase(path, os.path.realpath(path))
    else:
        folder, _, last = path.rpartition("/")
        if folder and not _is_directory(os.path.realpath(folder)):
            raise StatusError("not a directory")
        resolved = os.path.realpath(folder or "/").rstrip("/") + "/" + last
        name = base(path) if path.endswith("/") and base(path) != base(resolved) else ""
    return Resource(resolved, True, _is_directory(resolved), name)


def _check_followed(path: str) -> None:
    try:
        os.stat(path)
    except FileNotFoundError as error:
        missing = os.path.realpath(path)
        while not os.path.lexists(os.path.dirname(missing)):
            missing = os.path.dirname(missing)
        raise StatusError(f"lstat {missing}: no such file or directory") from error
    except OSError as error:
        raise StatusError((error.strerror or "").lower()) from error


def _is_directory(path: str) -> bool:
    """As lstat(2) has it: with a slash at its end a path is what the link leads to. StatusError if nothing is there."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError as error:
        raise StatusError(f"lstat {path}: {(error.strerror or '').lower()}") from error


def destination_of(path: str) -> Resource:
    """A destination on this machine, links followed. It need not exist, its directory must. StatusError."""
    original, links = path, 0
    while os.path.lexists(path) and os.path.islink(path):
        links += 1
        if links > _LINKS:
            raise StatusError(f"too many symlinks in {original}")
        path = clean(os.path.join(split_entry(path)[0], os.readlink(path)))
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        _check_parent(split_entry(path)[0])
        return Resource(path)
    except OSError as error:
        raise StatusError(f"lstat {path}: {(error.strerror or '').lower()}") from error
    return Resource(path, True, stat.S_ISDIR(found.st_mode))


def _check_parent(parent: str) -> None:
    if not os.path.exists(parent):
        raise StatusError(f"stat {parent}: no such file or directory")
    if not os.path.isdir(parent):
        raise StatusError("not a directory")


def land(source: Resource, destination: Resource) -> Landing:
    """Where the archive of a source goes so that it becomes the destination. StatusError if it can't."""
    directory, new = split_entry(destination.path)
    old = source.name or split_entry(source.path)[1]
    if destination.exists and destination.is_directory:
        return Landing(destination.path)
    if destination.exists and source.is_directory:
        raise StatusError("cannot copy directory")
    asserted = destination.path.endswith("/") or base(destination.path) == "."
    if not destination.exists and not source.is_directory and asserted:
        raise StatusError("no such directory")
    return Landing(directory, old, new)
