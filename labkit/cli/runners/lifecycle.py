"""`stop`, `kill`, `restart`, `rm`, …: one action on one or more containers, as Docker reports them."""

from __future__ import annotations

import json
from collections.abc import Callable

from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.session import Session
from labkit.client.engine import Exchange, Query
from labkit.errors import LabkitError


def each(
    session: Session,
    names: list[str],
    begin: Callable[[str], Exchange],
    result: Callable[[str, bytes], str] = lambda name, _: name,
) -> None:
    """Begins the action on all, then says how each ended. StatusError with the failures, when all are done."""
    begun = [(name, begin(name)) for name in names]
    failures = []
    for name, exchange in begun:
        try:
            body = session.client.answer(exchange).body()
        except LabkitError as error:
            failures.append(str(error))
        else:
            session.out(result(name, body) + "\n")
    if failures:
        raise StatusError("\n".join(failures))


def _post(session: Session, names: list[str], action: str, query: Query | None = None) -> None:
    each(session, names, lambda name: session.client.begin("POST", f"/containers/{name}/{action}", query))


def stop(session: Session, given: Invocation) -> None:
    _post(session, given.arguments, "stop", {"t": given.number("timeout"), "signal": given.text("signal") or None})


def restart(session: Session, given: Invocation) -> None:
    _post(session, given.arguments, "restart", {"t": given.number("timeout"), "signal": given.text("signal") or None})


def kill(session: Session, given: Invocation) -> None:
    _post(session, given.arguments, "kill", {"signal": given.text("signal") or None})


def pause(session: Session, given: Invocation) -> None:
    _post(session, given.arguments, "pause")


def unpause(session: Session, given: Invocation) -> None:
    _post(session, given.arguments, "unpause")


def rm(session: Session, given: Invocation) -> None:
    query = {"force": given.flag("force"), "link": given.flag("link"), "v": given.flag("volumes")}
    names = [name.strip("/") for name in given.arguments]
    each(session, names, lambda name: session.client.begin("DELETE", f"/containers/{name}", query))


def wait(session: Session, given: Invocation) -> None:
    each(
        session,
        given.arguments,
        lambda name: session.client.begin("POST", f"/containers/{name}/wait"),
        lambda _, body: str(json.loads(body)["StatusCode"]),
    )


def rename(session: Session, given: Invocation) -> None:
    old, new = (word.strip() for word in given.arguments)
    if not old or not new:
        raise StatusError("Error: Neither old nor new names may be empty")
    try:
        session.client.post(f"/containers/{old}/rename", {"name": new})
    except LabkitError as error:
        raise StatusError(f"{error}\nError: failed to rename container named {old}") from error
