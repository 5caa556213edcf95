"""The help of commands, laid out as cobra and pflag lay out that of `docker`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from labkit.cli.commands import COMMANDS, GLOBAL_FLAGS, GROUPS
from labkit.cli.grammar import Command, Flag, use_line

_SLOP = 5  # how far pflag lets a line run over rather than break it
_LEAST = 24  # narrower than this it doesn't wrap


def command_help(program: str, command: Command, path: Sequence[str], width: int = 80) -> str:
    """What `labkit COMMAND --help` prints."""
    parts = [f"Usage:  {use_line(program, path, command)}", command.description or command.summary]
    if len(command.names) > 1:
        parts.append("Aliases:\n  " + ", ".join(" ".join((program, *name)) for name in command.names))
    if command.examples:
        parts.append("Examples:\n" + "\n".join(f"  {program} {example}" for example in command.examples))
    if command.flags:
        parts.append("Options:\n" + flag_help(command.flags, width))
    return "\n\n".join(parts) + "\n"


def group_help(program: str, group: str) -> str:
    """What `labkit container` prints."""
    members = sorted(
        (name[1], command.summary) for command in COMMANDS for name in command.names[:1] if name[0] == group
    )
    return (
        f"Usage:  {program} {group} COMMAND\n\n{GROUPS[group]}\n\nCommands:\n{_columns(members)}\n\n"
        f"Run '{program} {group} COMMAND --help' for more information on a command.\n"
    )


def root_help(program: str, width: int = 80) -> str:
    """What `labkit` alone prints."""
    single = [(name[0], command) for command in COMMANDS for name in command.names if len(name) == 1]
    ranked = sorted((command.common, name, command.summary) for name, command in single if command.common)
    common = [(name, summary) for _, name, summary in ranked]
    others = sorted((name, command.summary) for name, command in single if not command.common)
    return (
        f"Usage:  {program} [OPTIONS] COMMAND\n\nA container engine that you can open up\n\n"
        f"Common Commands:\n{_columns(common)}\n\nManagement Commands:\n{_columns(sorted(GROUPS.items()))}\n\n"
        f"Commands:\n{_columns(others)}\n\nGlobal Options:\n{flag_help(GLOBAL_FLAGS, width)}\n\n"
        f"Run '{program} COMMAND --help' for more information on a command.\n"
    )


def _columns(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"  {name:<11} {summary}" for name, summary in rows)


def flag_help(flags: Iterable[Flag], width: int) -> str:
    """The options, sorted, their descriptions wrapped into the room beside them (pflag `FlagUsagesWrapped`)."""
    shown = sorted((flag for flag in flags if not flag.same_as), key=lambda flag: flag.name)
    names = [_flag_name(flag) for flag in shown]
    column = max(map(len, names)) + 3
    return "\n".join(
        f"{name:<{column}}{wrap(flag.help, column, width - 1)}".rstrip()
        for name, flag in zip(names, shown, strict=True)
    )


def _flag_name(flag: Flag) -> str:
    short = f"-{flag.short}, " if flag.short else "    "
    kind = "" if flag.type == "bool" else f" {_shown_type(flag)}"
    return f"  {short}--{flag.name}{kind}"


def _shown_type(flag: Flag) -> str:
    return "uint" if flag.type == "uint64" else flag.type


def wrap(text: str, indent: int, width: int) -> str:
    """The text broken into lines of at most `width` columns, those after the first indented."""
    lead = ""
    if width - indent < _LEAST:
        indent = 16
        lead = "\n" + " " * indent
    if width - indent < _LEAST:
        return text.replace("\n", lead)
    lines: list[str] = []
    while text or not lines:
        line, text = _break(text, width - indent - _SLOP)
        lines.append(line)
    return lead + "\n".join(lines).replace("\n", "\n" + " " * indent)


def _break(text: str, room: int) -> tuple[str, str]:
    """One line of the text, and the rest: broken at a newline if there is one, else at the last space that fits."""
    if room + _SLOP > len(text):
        return text, ""
    space = max(text.rfind(char, 0, room) for char in " \t\n")
    if space <= 0:
        return text, ""
    newline = text.rfind("\n", 0, room)
    at = newline if 0 < newline < space else space
    return text[:at], text[at + 1 :]
