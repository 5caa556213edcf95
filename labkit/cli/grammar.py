"""Docker's command-line grammar: commands and flags as data, and the parser that reads words by them.

The rules are those of pflag and cobra, which the `docker` command is built on, down to their messages: the
same words mean the same thing in a shell, in a notebook cell and in a completion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from labkit.cli.values import VALUES
from labkit.errors import InvalidParameter, LabkitError
from labkit.templates.quoting import go_quote


class StatusError(LabkitError):
    """A command ends with this exit status; `str()` is what it says on standard error, if anything."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Flag(NamedTuple):
    """One option. `type` is what the help shows; `value` names its parser in VALUES where the type alone doesn't.

    `complete` says what may follow: container, image, file, env, or the choices themselves ("a|b").
    """

    name: str
    short: str = ""
    type: str = "bool"
    help: str = ""
    value: str = ""
    complete: str = ""
    same_as: str = ""  # an older spelling of that flag: accepted, not shown

    @property
    def repeats(self) -> bool:
        return self.type in REPEATING


REPEATING = frozenset({"list", "map", "ulimit", "filter", "mount", "network", "strings"})


class Command(NamedTuple):
    """One command. `names` are the ways to call it, the long one first; `run` is `module:function`, imported late.

    `arguments` is the usage after the options; `least` and `most` bound their number (most -1: no bound).
    With `interspersed` false options end at the first argument, as for `run` and `exec`.
    """

    names: tuple[tuple[str, ...], ...]
    summary: str
    run: str
    arguments: str = ""
    flags: tuple[Flag, ...] = ()
    least: int = 0
    most: int = 0
    interspersed: bool = True
    complete: tuple[str, ...] = ()  # what each argument is; the last one goes for all that follow
    examples: tuple[str, ...] = ()
    common: int = 0  # its rank under "Common Commands", if it is one
    description: str = ""  # what its own help says instead of the summary
    hides_options: bool = False  # its usage has no [OPTIONS], though there are some: as docker has it


class Invocation(NamedTuple):
    """Words, understood: the command, how it was called, its options by name and its arguments.

    An option that wasn't given is absent; a repeating one is a list, in the order given.
    """

    command: Command
    path: tuple[str, ...]
    options: dict[str, Any]
    arguments: list[str]

    def flag(self, name: str) -> bool:
        return bool(self.options.get(name, False))

    def text(self, name: str, default: str = "") -> str:
        return str(self.options.get(name, default))

    def number(self, name: str) -> int | None:
        value = self.options.get(name)
        return None if value is None else int(value)

    def all(self, name: str) -> list[Any]:
        return list(self.options.get(name, ()))


class HelpWanted(Exception):
    """Not an error: carries the command whose help was asked for."""

    def __init__(self, command: Command, path: tuple[str, ...], notice: str = "") -> None:
        super().__init__(path)
        self.command = command
        self.path = path
        self.notice = notice


class FlagError(LabkitError):
    """Words that the flags don't allow, in pflag's wording."""


def use_line(program: str, path: Sequence[str], command: Command) -> str:
    """`labkit run [OPTIONS] IMAGE [COMMAND] [ARG...]`."""
    shown = not command.hides_options and any(not flag.same_as for flag in command.flags)
    options = "[OPTIONS]" if shown else ""
    return " ".join(word for word in (program, *path, options, command.arguments) if word)


def parse(program: str, command: Command, path: tuple[str, ...], words: Sequence[str]) -> Invocation:
    """Reads a command's words. StatusError in Docker's wording if they don't fit; HelpWanted for --help."""
    called = " ".join((program, *path))
    usage = f"Usage:  {use_line(program, path, command)}"
    try:
        options, arguments = read_flags(command.flags, words, command.interspersed)
    except FlagError as error:
        raise StatusError(f"{error}\n\n{usage}\n\nRun '{called} --help' for more information", 125) from error
    if "help" in options:
        notice = "" if options["help"] == "long" else "Flag shorthand -h has been deprecated, use --help\n"
        raise HelpWanted(command, path, notice)
    if problem := _count_problem(command, len(arguments)):
        see = "See" if problem.startswith("requires at least") and command.most < 0 else "Run"
        text = f"{program}: '{called}' {problem}\n\n{usage}\n\n{see} '{called} --help' for more information"
        raise StatusError(text)
    return Invocation(command, path, options, arguments)


def _count_problem(command: Command, count: int) -> str:
    least, most = command.least, command.most
    if least <= count and (most < 0 or count <= most):
        return ""
    if most == 0:
        return "accepts no arguments"
    if least == most:
        return f"requires {least} argument{'s' if least != 1 else ''}"
    if most < 0:
        return f"requires at least {least} argument{'s' if least != 1 else ''}"
    if least == 0:
        return f"requires at most {most} argument{'s' if most != 1 else ''}"
    return f"requires at least {least} and at most {most} arguments"


def read_flags(
    flags: Sequence[Flag], words: Sequence[str], interspersed: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """Options and the other words, as pflag splits them. FlagError if a flag is unknown or its value wrong."""
    reader = _Reader(flags)
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            rest += queue
            break
        if len(word) < 2 or not word.startswith("-"):
            rest.append(word)
            if not interspersed:
                rest += queue
                break
        elif word.startswith("--"):
            reader.long(word, queue)
        else:
            reader.cluster(word, queue)
    return reader.options, rest


class _Reader:
    def __init__(self, flags: Sequence[Flag]) -> None:
        self.options: dict[str, Any] = {}
        self._long = {flag.name: flag for flag in flags}
        self._short = {flag.short: flag for flag in flags if flag.short}

    def long(self, word: str, queue: list[str]) -> None:
        name, equals, value = word[2:].partition("=")
        if not name or name.startswith("-"):
            raise FlagError(f"bad flag syntax: {word}")
        if name == "help":
            self.options["help"] = "long"
            return
        flag = self._long.get(name)
        if flag is None:
            raise FlagError(f"unknown flag: --{name}")
        if not equals:
            if flag.type == "bool":
                value = "true"
            elif queue:
                value = queue.pop(0)
            else:
                raise FlagError(f"flag needs an argument: --{name}")
        self._set(flag, value)

    def cluster(self, word: str, queue: list[str]) -> None:
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            flag = self._short.get(letter)
            if flag is None:
                if letter == "h":
                    self.options["help"] = "short"
                    return
                raise FlagError(f"unknown shorthand flag: {go_quote(letter, chr(39))} in {word}")
            if letters.startswith("="):
                value, letters = letters[1:], ""
            elif flag.type == "bool":
                value = "true"
            elif letters:
                value, letters = letters, ""
            elif queue:
                value = queue.pop(0)
            else:
                raise FlagError(f"flag needs an argument: {go_quote(letter, chr(39))} in {word}")
            self._set(flag, value)

    def _set(self, flag: Flag, text: str) -> None:
        read: Callable[[str], Any] = VALUES.get(flag.value or flag.type, str)
        try:
            value = read(text)
        except (ValueError, InvalidParameter) as error:
            name = f"-{flag.short}, --{flag.name}" if flag.short else f"--{flag.name}"
            raise FlagError(f"invalid argument {go_quote(text)} for {go_quote(name)} flag: {error}") from error
        key = flag.same_as or flag.name
        if flag.repeats:
            self.options.setdefault(key, []).append(value)
        else:
            self.options[key] = value
