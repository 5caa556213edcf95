"""`labkit capture`: a container's packets as they pass by, in lines, in a file, or in a notebook in a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO

from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.session import Session
from labkit.cli.streams import STDOUT
from labkit.errors import NotFound
from labkit.explain.captures import Capture, line, names_of, read
from labkit.explain.packets import Packet

_TO_STDOUT = "-"


def capture(session: Session, given: Invocation) -> int:
    """Show or write packets until there were enough, the container ends, or the user interrupts. Always status 0."""
    container, link = given.arguments[0], given.text("interface") or "any"
    query = {
        "link": link,
        "port": given.number("port"),
        "protocol": given.text("protocol"),
        "count": given.number("count"),
        "seconds": given.number("seconds"),
    }
    with _opened(session, given.text("write")) as write:
        try:
            answer = session.client.request("GET", f"/labkit/containers/{container}/capture", query)
        except NotFound as error:
            if "page not found" in str(error):
                raise NotFound(f"The engine at {session.client.host} captures no packets: labkit's own does") from error
            raise
        live = not session.streams.displays
        bounds = "" if query["count"] or query["seconds"] else ", until interrupted"
        (session.err if live else session.out)(f"capturing on {link} of {container}{bounds}\n")
        shown: list[Packet] = []
        try:
            for packet in read(_written(answer.chunks(), write)):
                shown.append(packet)
                if live and not write:
                    session.out(line(packet) + "\n")
        except KeyboardInterrupt:
            session.streams.interrupts += 1  # in a notebook the cells below must not run on
            answer.close()
    if live or write:
        session.err(f"{len(shown)} packet{'' if len(shown) == 1 else 's'} captured\n")
    else:
        names = names_of(session.client.get("/containers/json"))
        session.streams.show(Capture(shown, not given.flag("no-times"), names))
    return 0


def _written(pieces: Iterator[bytes], write: Callable[[bytes], object] | None) -> Iterator[bytes]:
    """The pieces, each written first if there is somewhere to."""
    for piece in pieces:
        if write:
            write(piece)
        yield piece


@contextmanager
def _opened(session: Session, path: str) -> Iterator[Callable[[bytes], object] | None]:
    """What writes to the file that `-w` names; None if there is none."""
    if not path:
        yield None
    elif path == _TO_STDOUT:
        if not session.streams.takes_archives:
            raise StatusError("cowardly refusing to save to a terminal. Use the -w option or redirect")
        yield lambda piece: session.streams.write(STDOUT, piece)
    else:
        with _file(path) as file:
            yield file.write


def _file(path: str) -> FileIO:
    try:
        return FileIO(path, "w")
    except OSError as error:
        raise StatusError(f"can't write {path}: {error.strerror}") from error
