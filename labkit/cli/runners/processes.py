"""`start`, `attach`, `exec`, `logs`: a container's processes and their streams (Engine API `ContainerAttach`, …)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labkit.cli.attaching import Attached, exit_status, join, resize
from labkit.cli.attaching import attach as attached_stream
from labkit.cli.container_body import environment
from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.runners.run import check_tty
from labkit.cli.session import Session
from labkit.cli.units import api_timestamp
from labkit.client.engine import Query
from labkit.client.streams import parse_detach_keys, write_stream
from labkit.client.terminal import terminal_size
from labkit.errors import LabkitError


def start(session: Session, given: Invocation) -> int | None:
    if not given.flag("attach") and not given.flag("interactive"):
        _start_all(session, given.arguments)
        return None
    if len(given.arguments) > 1:
        raise StatusError("you cannot start and attach multiple containers at once")
    container = session.client.get(f"/containers/{given.arguments[0]}/json")
    tty, stdin = container["Config"]["Tty"], given.flag("interactive") and container["Config"]["OpenStdin"]
    streams = {"stdin": stdin, "stdout": True, "stderr": True}
    removes = container["HostConfig"].get("AutoRemove", False)
    wanted = Attached(container["Id"], streams, tty, given.text("detach-keys"), proxy=not tty)
    with attached_stream(session, wanted) as stream:
        path = f"/containers/{container['Id']}"
        condition = "removed" if removes else "next-exit"
        waiting = session.client.request("POST", f"{path}/wait", {"condition": condition})
        try:
            session.client.post(f"{path}/start")
        except LabkitError:
            waiting.close()
            raise
        if tty:
            resize(session, path)
        if stream.pump():
            waiting.close()
            return 0
    return exit_status(session, waiting)


def _start_all(session: Session, names: list[str]) -> None:
    failed = []
    for name in names:
        try:
            session.client.post(f"/containers/{name}/start")
        except LabkitError as error:
            session.err(f"{error}\n")
            failed.append(name)
        else:
            session.out(f"{name}\n")
    if failed:
        raise StatusError(f"Error: failed to start containers: {', '.join(failed)}")


def attach(session: Session, given: Invocation) -> int:
    container = _running(session, given.arguments[0])
    path = f"/containers/{container['Id']}"
    tty = container["Config"]["Tty"]
    check_tty(session, not given.flag("no-stdin"), tty)
    stdin = not given.flag("no-stdin") and container["Config"]["OpenStdin"]
    streams = {"stdin": stdin, "stdout": True, "stderr": True}
    proxy = given.options.get("sig-proxy", True) and not tty
    waiting = session.client.request("POST", f"{path}/wait")
    with attached_stream(session, Attached(container["Id"], streams, tty, given.text("detach-keys"), proxy)) as stream:
        if tty:
            _redraw(session, path)
        if stream.pump():
            waiting.close()
            raise StatusError("read escape sequence")
    return exit_status(session, waiting)


def _running(session: Session, name: str) -> Mapping[str, Any]:
    container: Mapping[str, Any] = session.client.get(f"/containers/{name}/json")
    state = container["State"]
    if not state["Running"]:
        raise StatusError("You cannot attach to a stopped container, start it first")
    if state["Paused"]:
        raise StatusError("You cannot attach to a paused container, unpause it first")
    if state["Restarting"]:
        raise StatusError("You cannot attach to a restarting container, wait until it is running")
    return container


def _redraw(session: Session, path: str) -> None:
    """Resizes twice: a shell paints its prompt again only when the size has changed, as docker/cli found."""
    size = terminal_size(1) if session.streams.stdout_is_terminal else None
    if size:
        session.client.post(f"{path}/resize", {"h": size[0] + 1, "w": size[1] + 1})
        resize(session, path)


def exec_(session: Session, given: Invocation) -> int:
    container, *command = given.arguments
    detach, tty, stdin = given.flag("detach"), given.flag("tty"), given.flag("interactive")
    env = environment(given)
    session.client.get(f"/containers/{container}/json")  # "No such container" comes before anything about the tty
    if not detach:
        check_tty(session, stdin, tty)
    body: dict[str, Any] = {
        "User": given.text("user"),
        "Privileged": given.flag("privileged"),
        "Tty": tty,
        "AttachStdin": stdin and not detach,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "DetachKeys": given.text("detach-keys"),
        "Env": env or None,
        "WorkingDir": given.text("workdir"),
        "Cmd": command,
    }
    start_body: dict[str, Any] = {"Detach": detach, "Tty": tty}
    size = terminal_size(1) if tty and session.streams.stdout_is_terminal else None
    if size:
        body["ConsoleSize"] = start_body["ConsoleSize"] = list(size)
    path = f"/exec/{session.client.post(f'/containers/{container}/exec', None, body)['Id']}"
    if detach:
        session.client.post(f"{path}/start", None, start_body)
        return 0
    return _exec_attached(session, given, path, start_body, stdin)


def _exec_attached(session: Session, given: Invocation, path: str, body: Mapping[str, Any], stdin: bool) -> int:
    tty = body["Tty"]
    sequence = parse_detach_keys(given.text("detach-keys") or "ctrl-p,ctrl-q")
    answer = session.client.hijack(f"{path}/start", None, body)
    # An exec has no kill: an interrupt ends the command, as docker's does, and leaves the process.
    with join(session, answer, stdin, tty, sequence, path, False) as stream:
        if tty:
            resize(session, path)
        if stream.pump():
            raise StatusError("exec attach failed: read escape sequence")
    return int(session.client.get(f"{path}/json")["ExitCode"] or 0)


def logs(session: Session, given: Invocation) -> None:
    container = session.client.get(f"/containers/{given.arguments[0]}/json")
    since, until = given.text("since"), given.text("until")
    query: Query = {
        "stdout": True,
        "stderr": True,
        "follow": given.flag("follow"),
        "timestamps": given.flag("timestamps"),
        "details": given.flag("details"),
        "tail": given.text("tail", "all"),
        "since": _timestamp("since", since),
        "until": _timestamp("until", until),
    }
    answer = session.client.request("GET", f"/containers/{container['Id']}/logs", query)
    write_stream(answer, not container["Config"]["Tty"], session.streams.write)


def _timestamp(option: str, text: str) -> str | None:
    try:
        return api_timestamp(text) if text else None
    except LabkitError as error:
        raise StatusError(f'invalid value for "{option}": {error}') from error
