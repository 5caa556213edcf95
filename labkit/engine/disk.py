"""State on disk: one JSON file an object, readable with ls and jq, and never seen half-written.

A file is written under a temporary name, synced, and renamed over the old one (rename(2)); the directory is
synced after, so that the name survives a power loss too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from labkit.errors import LabkitError

T = TypeVar("T")


def write_json(path: str, value: Any, durable: bool = True) -> None:
    """Replace `path` by `value` as JSON."""
    data = msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, path)
    if durable:
        sync_directory(os.path.dirname(path))


def read_json(path: str, kind: type[T]) -> T:
    """The value in `path`. Raises LabkitError that names the file if it isn't what it should be."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise LabkitError(f"{path} is damaged: {error}") from error


def sync_directory(path: str) -> None:
    """Make what was renamed or made in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_tree(path: str) -> None:
    """Remove a directory with all that is in it. It is renamed first, so that it is gone at once or not at all."""
    doomed = f"{path}.removed"
    with suppress(FileNotFoundError):
        os.rename(path, doomed)
    if os.path.lexists(doomed):
        shutil.rmtree(doomed)


def remove_trees(paths: Iterable[str]) -> None:
    """Remove directories that nothing leads to any more; one that isn't there is fine."""
    for path in paths:
        if os.path.lexists(path):
            shutil.rmtree(path)
