"""`create` and `run`: a container made, and for `run` started, attached and waited for, in docker/cli's order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from labkit.cli.attaching import Attached, attach, exit_status, resize
from labkit.cli.container_body import container_body
from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.references import split_name
from labkit.cli.session import Session
from labkit.cli.streams import STDERR
from labkit.client.terminal import terminal_size
from labkit.errors import InvalidParameter, LabkitError, NotFound
from labkit.templates.quoting import go_quote

DAEMON_FAILED, CANNOT_INVOKE, NOT_FOUND = 125, 126, 127


def create(session: Session, given: Invocation) -> None:
    session.out(_create(session, given, _body(session, given)) + "\n")


def run(session: Session, given: Invocation) -> int:
    body = _body(session, given)
    detach = given.flag("detach")
    if detach:
        if given.all("attach"):
            raise StatusError("conflicting options: cannot specify both --attach and --detach")
        body.update(AttachStdin=False, AttachStdout=False, AttachStderr=False, StdinOnce=False)
    else:
        check_tty(session, body["AttachStdin"], body["Tty"])
    with _reported(session, DAEMON_FAILED):
        container = _create(session, given, body)
    if detach:
        _start(session, container, given.flag("rm"), None)
        session.out(container + "\n")
        return 0
    return _run_attached(session, given, body, container)


def _run_attached(session: Session, given: Invocation, body: dict[str, Any], container: str) -> int:
    streams = {name: body[f"Attach{name.capitalize()}"] for name in ("stdin", "stdout", "stderr")}
    attached = Attached(
        container, streams, body["Tty"], given.text("detach-keys"), given.options.get("sig-proxy", True)
    )
    with attach(session, attached) as stream:
        condition = "removed" if given.flag("rm") else "next-exit"
        waiting = session.client.request("POST", f"/containers/{container}/wait", {"condition": condition})
        _start(session, container, given.flag("rm"), waiting)
        if body["Tty"]:
            resize(session, f"/containers/{container}")
        if not streams["stdout"] and not streams["stderr"]:
            session.out(container + "\n")
        if stream.pump():
            waiting.close()
            return 0
        if not streams["stdout"] and not streams["stderr"]:
            waiting.close()
            return 0
    return exit_status(session, waiting)


def _start(session: Session, container: str, removes: bool, waiting: Any) -> None:
    try:
        session.client.post(f"/containers/{container}/start")
    except LabkitError as error:
        if waiting is not None and removes:
            waiting.body()  # the engine removes what could not be started; only then is it over
        elif waiting is not None:
            waiting.close()
        raise _report(session, error, _start_status(str(error))) from error


def _start_status(message: str) -> int:
    """The exit status for a container whose process could not be started: as a shell has it."""
    if any(text in message for text in ("executable file not found", "no such file or directory")):
        return NOT_FOUND
    if any(text in message for text in ("permission denied", "is a directory")):
        return CANNOT_INVOKE
    return DAEMON_FAILED


def _body(session: Session, given: Invocation) -> dict[str, Any]:
    with _reported(session, DAEMON_FAILED):
        if given.text("pull", "missing") not in ("always", "missing", "never", ""):
            raise InvalidParameter(
                f"invalid pull option: '{given.text('pull')}': must be one of "
                + ", ".join(go_quote(value) for value in ("always", "missing"))
                + ' or "never"'
            )
        return container_body(given)


@contextmanager
def _reported(session: Session, status: int) -> Iterator[None]:
    """Turns an error into `run`'s own report of it, with this exit status."""
    try:
        yield
    except LabkitError as error:
        raise _report(session, error, status) from error


def _report(session: Session, error: LabkitError, status: int) -> StatusError:
    if isinstance(error, StatusError):
        return error
    name = session.program
    return StatusError(f"{name}: {error}\n\nRun '{name} run --help' for more information", status)


def check_tty(session: Session, attach_stdin: bool, tty: bool) -> None:
    """StatusError if a tty is wanted where there is none, or standard input is to be one and isn't."""
    streams = session.streams
    if tty and (not streams.has_terminal or (attach_stdin and not streams.stdin_is_terminal)):
        raise StatusError(session.streams.no_tty)


def _create(session: Session, given: Invocation, body: dict[str, Any]) -> str:
    """Creates the container, having pulled the image if it is missing (or always), and returns its ID."""
    image = given.arguments[0]
    pull = given.text("pull", "missing") or "missing"
    _warn(session, body["HostConfig"])
    size = terminal_size(1) if body["Tty"] and session.streams.stdout_is_terminal else None
    body["HostConfig"]["ConsoleSize"] = list(size or (0, 0))
    query = {"name": given.text("name") or None, "platform": given.text("platform") or None}
    with _cidfile(given.text("cidfile")) as write_id:
        if pull == "always":
            _pull(session, given, image)
        try:
            answer = session.client.post("/containers/create", query, body)
        except NotFound:
            if pull != "missing" or not _is_name(image):
                raise
            if not given.flag("quiet"):
                session.err(f"Unable to find image '{_tagged(image)}' locally\n")
            _pull(session, given, image)
            answer = session.client.post("/containers/create", query, body)
        write_id(answer["Id"])
    for warning in answer.get("Warnings") or ():
        session.err(f"WARNING: {warning}\n")
    return str(answer["Id"])


def _is_name(image: str) -> bool:
    digits = image.removeprefix("sha256:")
    return not (len(digits) == 64 and all(digit in "0123456789abcdef" for digit in digits))


def _tagged(image: str) -> str:
    name, tag, digest = split_name(image)
    return image if tag or digest else f"{name}:latest"


def _pull(session: Session, given: Invocation, image: str) -> None:
    name, tag, digest = split_name(image)
    query = {"fromImage": name, "tag": digest or tag or "latest", "platform": given.text("platform") or None}
    from labkit.cli.authorizing import registry_headers  # here: most runs pull nothing
    from labkit.cli.progress import show_progress

    answer = session.client.request("POST", "/images/create", query, headers=registry_headers(session, image))
    show_progress(session, answer, given.flag("quiet"), STDERR)


def _warn(session: Session, host: dict[str, Any]) -> None:
    if host.get("OomKillDisable") and not host.get("Memory"):
        session.err(
            "WARNING: Disabling the OOM killer on containers without setting a '-m/--memory' limit may be dangerous.\n"
        )
    for server in host["Dns"]:
        if server.startswith("127.") or server == "::1":
            session.err(f"WARNING: Localhost DNS setting (--dns={server}) may fail in containers.\n")
            return


@contextmanager
def _cidfile(path: str) -> Iterator[Any]:
    """Claims the file of --cidfile before anything is made; nothing of it stays if the container isn't created."""
    if not path:
        yield lambda _: None
        return
    try:
        file = open(path, "x", encoding="ascii")  # noqa: SIM115 - closed below, with the file's fate
    except FileExistsError as error:
        raise InvalidParameter(
            f"container ID file found, make sure the other container isn't running or delete {path}"
        ) from error
    except OSError as error:
        raise InvalidParameter(f"failed to create the container ID file: open {path}: {error.strerror}") from error
    try:
        yield file.write
    finally:
        empty = not file.tell()
        file.close()
        if empty:
            os.unlink(path)
