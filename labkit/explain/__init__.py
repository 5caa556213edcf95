"""`labkit explain` and `%explain`: what an action did, down to the kernel calls, told as a tree.

Asks the engine for its traces over HTTP (`/labkit/traces`), and joins them with the spans that the client
itself has. Flags are named as strace(1) and the kernel's headers name them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.cli.commands.system import EXPLAIN
from labkit.cli.grammar import HelpWanted, parse
from labkit.cli.usage import command_help
from labkit.errors import NotFound
from labkit.explain.choice import Choice
from labkit.explain.decode import Style
from labkit.explain.endings import ending_node
from labkit.explain.telling import Data, tell
from labkit.explain.topology import Topology, narrowed
from labkit.explain.tree import Explanation, Usage
from labkit.explain.way import Way, way
from labkit.trace import Span

if TYPE_CHECKING:
    from labkit.client.engine import Client

__all__ = ["Explanation", "explain", "main"]

_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_LAST = "last"


def explain(client: Client, argv: Sequence[str], client_spans: Sequence[Span]) -> Explanation | Usage | Topology | Way:
    """What `argv` asks for: nothing for the last action, else a container, an image that
    was pulled or pushed, a trace ID or a request; with `--topology` the network as it is, with `--way` a packet's way,
    with `--why` the reason of a container's end alone.

    `client_spans` are those of the asker's last action. NotFound if the engine keeps no such trace; StatusError in
    Docker's wording for words that don't fit.
    """
    try:
        given = parse("labkit", EXPLAIN, ("explain",), argv)
    except HelpWanted as wanted:
        return Usage(command_help("labkit", wanted.command, wanted.path))
    if given.flag("topology"):
        return Topology(narrowed(_ask(client, "/labkit/topology"), " ".join(given.arguments)))
    if port := given.text("way"):
        return way(_ask(client, "/labkit/topology"), port)
    stable = given.flag("no-times")
    only = frozenset(filter(None, given.text("only").split(",")))
    calls = bool(given.options.get("calls", True)) and not given.flag("no-calls")
    choice = Choice(Style(stable, given.flag("full")), calls, not stable, only, folded=not only)
    subject = " ".join(given.arguments)
    ending = _ending(client, subject)
    if given.flag("why"):
        return Explanation((ending_node(_known(ending, subject), choice),))
    try:
        traces = _find(client, subject, client_spans)
    except NotFound:
        if ending is None:
            raise
        traces = []
    told = [tell(trace, client_spans, choice) for trace in traces]
    reason = [ending_node(ending, choice)] if ending and not only else []
    return Explanation((*told, *reason))


def _ending(client: Client, wanted: str) -> Data | None:
    """Why a container ended, if it is one that did; an engine of another make doesn't say."""
    if not wanted or "/" in wanted or wanted == _LAST or _TRACE_ID.fullmatch(wanted):
        return None
    try:
        found: Data | None = client.get(f"/labkit/endings/{wanted}")
    except NotFound:
        return None
    return found


def _known(ending: Data | None, subject: str) -> Data:
    if ending is None:
        raise NotFound(f"No end of {subject or 'a container'} is known: --why wants a container that has ended")
    return ending


def _find(client: Client, wanted: str, spans: Sequence[Span]) -> list[Data]:
    if not wanted:
        return [_trace(client, spans[-1].context.trace_id) if spans else _trace(client, _LAST)]
    if wanted == _LAST or _TRACE_ID.fullmatch(wanted):
        return [_trace(client, wanted)]
    listed = _list(client)
    if "/" in wanted:
        found = [line for line in listed if any(wanted in request for request in line["requests"])][:1]
    else:
        found = _about(client, wanted, listed)
    found = found or [line for line in listed if _moved(line, wanted)][:1]
    if not found:
        raise NotFound(f"No trace of {wanted}: the engine keeps the most recent ones only, since it was started")
    return [_trace(client, line["trace_id"]) for line in reversed(found)]


def _moved(line: Data, image: str) -> bool:
    """Whether a trace is of a pull or push of an image; an engine of another make tells of none."""
    references = (told.partition(" ")[2] for told in line.get("transfers", ()))
    return any(f"{reference}:".startswith((f"{image}:", f"{image}@")) for reference in references)


def _about(client: Client, container: str, listed: list[Data]) -> list[Data]:
    """The traces in which something was done for a container; one that was removed is known by its ID only."""
    try:
        return list(client.get("/labkit/traces", {"container": container}))
    except NotFound:
        return [line for line in listed if any(subject.startswith(container) for subject in line["subjects"])]


def _trace(client: Client, identity: str) -> Data:
    found: Data = _ask(client, f"/labkit/traces/{identity}")
    return found


def _list(client: Client) -> list[Data]:
    return list(_ask(client, "/labkit/traces"))


def _ask(client: Client, path: str) -> Any:
    try:
        return client.get(path)
    except NotFound as error:
        if "page not found" in str(error):
            raise NotFound(f"The engine at {client.host} keeps no traces: labkit's own does") from error
        raise


def main(client: Client, argv: Sequence[str]) -> int:
    """The command `labkit explain`: prints the tree. Returns the exit status."""
    print(explain(client, argv, ()).text())
    return 0
