"""One run of one command: its words looked up in the table, its runner imported and called.

The `labkit` command and the `%docker` magic both end here; they differ in their streams and in what they
make of an exit status.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from labkit.cli.commands import BY_NAME, GLOBAL_FLAGS, GROUPS
from labkit.cli.grammar import Command, FlagError, HelpWanted, StatusError, parse, read_flags
from labkit.cli.streams import Streams
from labkit.cli.usage import command_help, group_help, root_help
from labkit.client.engine import Client
from labkit.client.locate import locate
from labkit.errors import LabkitError

if TYPE_CHECKING:
    from labkit.client.tls import Security


class Session:
    """What a runner works with: the streams, the engine (looked for when first needed), the command's own name."""

    def __init__(self, program: str, streams: Streams, host: str = "") -> None:
        self.program = program
        self.streams = streams
        self.host = host
        self.security: Security | None = None
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = locate(self.host, self.security)
        return self._client

    @property
    def asked(self) -> Client | None:
        """The client, if the command has asked an engine at all."""
        return self._client

    def out(self, text: str) -> None:
        self.streams.out(text)

    def err(self, text: str) -> None:
        self.streams.err(text)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


class Found(NamedTuple):
    """What the words before a command's own say."""

    options: dict[str, Any]
    command: Command | None
    path: tuple[str, ...]
    rest: list[str]


def find(program: str, words: Sequence[str]) -> Found:
    """Reads the global options and looks the command up. StatusError in Docker's wording if there is none."""
    try:
        options, rest = read_flags(GLOBAL_FLAGS, words, interspersed=False)
    except FlagError as error:
        usage = f"Usage:  {program} [OPTIONS] COMMAND [ARG...]"
        raise StatusError(f"{error}\n\n{usage}\n\nRun '{program} --help' for more information", 125) from error
    if not rest:
        return Found(options, None, (), [])
    if rest[0] in GROUPS:
        return _find_in_group(program, options, rest)
    command = BY_NAME.get((rest[0],))
    if command is None:
        raise StatusError(
            f"{program}: unknown command: {program} {rest[0]}\n\nRun '{program} --help' for more information"
        )
    return Found(options, command, (rest[0],), rest[1:])


_USES = {"volume": " COMMAND"}
"""How Docker writes the use of a group, where that isn't its bare name."""


def _find_in_group(program: str, options: dict[str, Any], rest: list[str]) -> Found:
    group = rest[0]
    if len(rest) == 1 or rest[1] in ("--help", "-h"):
        return Found(options, None, (group,), [])
    command = BY_NAME.get((group, rest[1]))
    if command is None:
        called = f"{program} {group}"
        raise StatusError(
            f"{program}: unknown command: {called} {rest[1]}\n\nUsage:  {called}{_USES.get(group, '')}\n\n"
            f"Run '{called} --help' for more information"
        )
    return Found(options, command, command.names[0], rest[2:])


def invoke(session: Session, words: Sequence[str]) -> int:
    """Runs a command and returns its exit status. LabkitError (a StatusError has the status) if it fails."""
    if words and words[0] == "help":
        words = [*words[1:], "--help"]
    found = find(session.program, words)
    session.host = found.options.get("host", session.host)
    session.security = _security(found.options) or session.security
    try:
        if found.command is None:
            return _without_command(session, found)
        if not found.command.run:
            return _run_own(session, found)
        given = parse(session.program, found.command, found.path, found.rest)
    except HelpWanted as wanted:
        session.out(wanted.notice)
        session.out(command_help(session.program, wanted.command, wanted.path, session.streams.width))
        return 0
    return _runner(found.command.run)(session, given) or 0


def _security(options: dict[str, Any]) -> Security | None:
    """TLS as the global options have it; None if none speaks of it."""
    files = (("authority", "tlscacert"), ("certificate", "tlscert"), ("key", "tlskey"))
    asked = any(os.environ.get(name) for name in ("DOCKER_TLS_VERIFY", "DOCKER_TLS"))
    given = asked and any(flag in options for _, flag in files)
    if not (options.get("tls") or options.get("tlsverify") or given):
        return None
    from labkit.client.tls import usual

    found = usual(bool(options.get("tlsverify")) or bool(os.environ.get("DOCKER_TLS_VERIFY")))
    return found._replace(**{field: options[name] for field, name in files if options.get(name)})


def _without_command(session: Session, found: Found) -> int:
    if found.options.get("version"):
        from labkit import __version__

        session.out(f"labkit version {__version__}\n")
        return 0
    if found.path:
        session.out(group_help(session.program, found.path[0]))
        return 0
    help_text = root_help(session.program, session.streams.width)
    session.out(help_text) if "help" in found.options else session.err(help_text)
    return 0


def _run_own(session: Session, found: Found) -> int:
    """The commands that read their own words. Their packages are imported by name, late: the daemon's libraries
    must not load for the others, and the layers above the API may not depend on it."""
    from importlib import import_module

    if found.path == ("daemon",):
        return int(import_module("labkit.api.daemon").main(found.rest))
    return int(import_module("labkit.explain").main(session.client, found.rest))


def _runner(reference: str) -> Any:
    from importlib import import_module

    module, _, function = reference.partition(":")
    return getattr(import_module(module), function)


def report(session: Session, error: LabkitError) -> int:
    """Says an error where errors are said; the exit status that it stands for."""
    if text := str(error):
        session.err(text + "\n")
    return error.exit_code if isinstance(error, StatusError) else 1
