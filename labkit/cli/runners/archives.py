"""`load`, `save`, `import`: images that come and go as streams (Engine API `ImageLoad`, …)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.progress import show_progress
from labkit.cli.references import split_name
from labkit.cli.runners.images import platform_json
from labkit.cli.session import Session
from labkit.client.engine import Query

_PIECE = 1024 * 1024


def load(session: Session, given: Invocation) -> None:
    source = given.text("input")
    if not source and session.streams.stdin_is_terminal:
        raise StatusError("requested load from stdin, but stdin is empty")
    with open_archive(session, source) as archive:
        query = {
            "quiet": given.flag("quiet") or not session.streams.stdout_is_terminal,
            "platform": platform_json(given),
        }
        show_progress(session, session.client.request("POST", "/images/load", query, pieces_of(archive)))


def open_archive(session: Session, path: str) -> BinaryIO:
    """A file, or standard input for none or `-`."""
    if path and path != "-":
        try:
            return open(path, "rb", buffering=0)
        except OSError as error:
            raise StatusError(f"open {path}: {(error.strerror or '').lower()}") from error
    if session.streams.stdin is None:
        raise StatusError("there is no standard input here: name a file")
    return open(session.streams.stdin, "rb", buffering=0, closefd=False)


def pieces_of(file: BinaryIO) -> Iterator[bytes]:
    """A file's bytes as they come, for a body."""
    while piece := file.read(_PIECE):
        yield piece


def _platform(given: Invocation) -> str | None:
    return given.text("platform") or None


def save(session: Session, given: Invocation) -> None:
    names, platform = given.arguments, platform_json(given)
    target = "/images/get" if len(names) > 1 else f"/images/{names[0]}/get"
    query: Query = {"names": names if len(names) > 1 else None, "platform": platform}
    write_archive(session, given.text("output"), "failed to save image", target, query)


def write_archive(session: Session, path: str, failure: str, target: str, query: Query | None = None) -> None:
    """Writes the archive that a GET answers into a file, or to standard output where `path` is empty."""
    if not path and not session.streams.takes_archives:
        raise StatusError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    if path and (problem := _output_problem(path)):
        raise StatusError(f"{failure}: {problem}")
    chunks = session.client.request("GET", target, query).chunks()
    if path:
        _write_file(path, chunks)
        return
    for chunk in chunks:
        session.streams.write(1, chunk)


def _output_problem(path: str) -> str:
    """What keeps an archive from being written there, in docker's words."""
    directory = os.path.dirname(path) or "."
    if not os.path.exists(directory):
        return f"invalid output path: stat {directory}: no such file or directory"
    kinds = (
        (os.path.isdir(path), "directory"),
        (os.path.exists(path) and stat.S_ISCHR(os.stat(path).st_mode), "character device file"),
        (os.path.exists(path) and stat.S_ISBLK(os.stat(path).st_mode), "device file"),
    )
    return next((f"cannot write to a {name}" for found, name in kinds if found), "")


def _write_file(path: str, chunks: Iterable[bytes]) -> None:
    """Writes beside the name and renames, so that a failed save leaves no half an archive."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}")
    try:
        with open(temporary, "xb", buffering=0) as file:
            for chunk in chunks:
                _write_all(file, chunk)
        os.replace(temporary, path)
    except OSError as error:
        raise StatusError(f"open {path}: {(error.strerror or '').lower()}") from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def import_(session: Session, given: Invocation) -> None:
    source, *reference = given.arguments
    name, tag, _ = split_name(reference[0]) if reference else ("", "", "")
    remote = source.startswith(("http://", "https://"))
    query = {
        "fromSrc": source if remote else "-",
        "repo": name or None,
        "tag": tag or None,
        "message": given.text("message") or None,
        "changes": given.all("change"),
        "platform": _platform(given),
    }
    if remote:
        show_progress(session, session.client.request("POST", "/images/create", query))
        return
    with open_archive(session, source) as archive:
        show_progress(session, session.client.request("POST", "/images/create", query, pieces_of(archive)))
