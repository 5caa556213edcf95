"""Completion, computed from the table of commands and from the names that the engine knows.

Shells ask `labkit __complete WORDS…` (the last word is the one being typed); the magic asks `complete`. A
name is only asked of an engine that answers: completing starts no daemon.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

from labkit.cli.commands import BY_NAME, COMMANDS, GLOBAL_FLAGS, GROUPS
from labkit.cli.grammar import Command, Flag, Invocation
from labkit.cli.references import familiar, short_id
from labkit.cli.session import Session
from labkit.client.engine import Client, encode_filters
from labkit.client.locate import chosen_host, default_socket
from labkit.errors import LabkitError

_STATES = {
    "container": (),
    "running": (("status", "running"),),
    "stopped": (("status", "created"), ("status", "exited")),
}
_CAPABILITIES = (
    "ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE "
    "DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD "
    "NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN "
    "SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG WAKE_ALARM"
)


class Engine:
    """Names that an engine knows, if one answers."""

    def __init__(self, host: str = "") -> None:
        self._host = host or chosen_host() or f"unix://{default_socket()}"

    def _get(self, path: str, query: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            client = Client(self._host)
            objects: list[dict[str, Any]] = client.get(path, query)
            client.close()
        except LabkitError:
            return []  # no engine, no names: completing must not disturb the line being typed
        return objects

    def containers(self, kind: str) -> list[str]:
        filters = encode_filters(_STATES[kind])
        found = self._get("/containers/json", {"all": True, "filters": filters})
        return [name.removeprefix("/") for container in found for name in (container.get("Names") or ())[:1]]

    def images(self) -> list[str]:
        names = []
        for image in self._get("/images/json", {}):
            tags = [familiar(tag) for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]
            names += tags or [short_id(image["Id"])]
        return names

    def networks(self) -> list[str]:
        return sorted(network["Name"] for network in self._get("/networks", {}))

    def volumes(self) -> list[str]:
        found: Any = self._get("/volumes", {})
        return [volume["Name"] for volume in (found.get("Volumes") if found else None) or ()]


def complete(words: Sequence[str], engine: Engine) -> list[str]:
    """What the last of the words may become. A value `file` stands for: complete a file name here."""
    *before, typed = words or [""]
    command, rest = _command_of(before)
    if command is None:
        return _matching(typed, _command_names(rest) + (_flag_names(GLOBAL_FLAGS) if not rest else []), typed)
    flag, count = _position(command, rest)
    if flag is not None:
        return _matching(typed, _values(flag.complete, engine), typed)
    if typed.startswith("--") and "=" in typed:
        name, _, value = typed.partition("=")
        named = next((flag for flag in command.flags if f"--{flag.name}" == name), None)
        return [f"{name}={one}" for one in _matching(value, _values(named.complete if named else "", engine), value)]
    if typed.startswith("-") and count >= 0:
        return _matching(typed, [*_flag_names(command.flags), "--help"], typed)
    kinds = command.complete
    kind = "" if not kinds or count < 0 else kinds[min(count, len(kinds) - 1)]
    return _matching(typed, _values(kind, engine), typed)


def _command_of(words: list[str]) -> tuple[Command | None, list[str]]:
    """The command that the finished words name, and the words after it (or the group, if only that is there)."""
    rest = list(words)
    while rest and rest[0].startswith("-"):
        takes_value = rest[0] in ("-H", "--host")
        del rest[: 2 if takes_value else 1]
    for length in (2, 1):
        command = BY_NAME.get(tuple(rest[:length]))
        if command and len(rest) >= length:
            return command, rest[length:]
    return None, rest[:1]


def _command_names(group: list[str]) -> list[str]:
    if group:
        return sorted({name[1] for command in COMMANDS for name in command.names if name[0] == group[0] and name[1:]})
    single = {name[0] for command in COMMANDS for name in command.names if len(name) == 1}
    return sorted(single | GROUPS.keys())


def _position(command: Command, words: list[str]) -> tuple[Flag | None, int]:
    """Where the typed word stands: the value of a flag, or argument number n (-1: beyond the command's own words)."""
    flags = {f"--{flag.name}": flag for flag in command.flags} | {f"-{flag.short}": flag for flag in command.flags}
    count = 0
    pending: Flag | None = None
    for word in words:
        if pending is not None:
            pending = None
        elif count and not command.interspersed:
            return None, -1 if count >= len(command.complete) - 1 else count
        elif word.startswith("-") and word != "-" and "=" not in word:
            flag = flags.get(word if word.startswith("--") else f"-{word[-1]}")
            pending = flag if flag is not None and flag.type != "bool" else None
        elif not word.startswith("-"):
            count += 1
    if pending is None and count and not command.interspersed and count >= len(command.complete) - 1:
        return None, -1
    return pending, count


def _flag_names(flags: Sequence[Flag]) -> list[str]:
    shown = [flag for flag in flags if not flag.same_as]
    return [f"--{flag.name}" for flag in shown] + [f"-{flag.short}" for flag in shown if flag.short]


def _values(kind: str, engine: Engine) -> list[str]:
    if kind in _STATES:
        return engine.containers(kind)
    if kind == "image":
        return engine.images()
    if kind == "network":
        return engine.networks() or ["bridge", "host", "none"]
    if kind == "object":
        return engine.containers("container") + engine.images() + engine.networks() + engine.volumes()
    if kind == "volume":
        return engine.volumes()
    if kind == "registry":
        from labkit.client.credentials import load

        return load().servers()
    if kind == "env":
        return [f"{name}=" for name in sorted(os.environ)]
    if kind == "signal":
        return sorted(one.name for one in signal.Signals)
    if kind == "capability":
        return _CAPABILITIES.split()
    if kind == "file":
        return ["file"]
    return kind.split("|") if kind else []


def _matching(typed: str, candidates: Sequence[str], default: str) -> list[str]:
    if list(candidates) == ["file"]:
        return _files(default)
    return [candidate for candidate in candidates if candidate.startswith(typed)]


def _files(typed: str) -> list[str]:
    directory, _, start = typed.rpartition("/")
    prefix = f"{directory}/" if "/" in typed else ""
    try:
        entries = list(os.scandir(prefix or "."))
    except OSError:
        return []  # not readable, or not there (yet): nothing to offer
    shown = [entry for entry in entries if entry.name.startswith(start) and (start or not entry.name.startswith("."))]
    return sorted(f"{prefix}{entry.name}{'/' if entry.is_dir() else ''}" for entry in shown)


def print_candidates(words: Sequence[str]) -> int:
    """`labkit __complete WORDS…`: one candidate a line."""
    from labkit.cli.streams import TerminalStreams

    TerminalStreams().out("".join(f"{candidate}\n" for candidate in complete(words, Engine())))
    return 0


_BASH = r"""# bash completion for labkit
_labkit() {
    local IFS=$'\n' line="${COMP_LINE:0:COMP_POINT}"
    local -a words
    # COMP_WORDS is split at : and =, which are part of names here; the line itself is split at blanks.
    IFS=$' \t\n' read -ra words <<< "$line"
    [[ $line =~ [[:space:]]$ ]] && words+=("")
    local typed="${words[-1]}"
    COMPREPLY=($(labkit __complete "${words[@]:1}" 2>/dev/null))
    local kept="${typed%"${typed##*[:=]}"}" i
    if [[ -n $kept && $COMP_WORDBREAKS == *[:=]* ]]; then
        for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]="${COMPREPLY[i]#"$kept"}"; done
    fi
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/] ]] && compopt -o nospace
}
complete -F _labkit labkit
"""

_ZSH = r"""#compdef labkit
_labkit() {
    local -a candidates
    candidates=(${(f)"$(labkit __complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    compadd -S ' ' -- ${candidates:#*[=/]}
    compadd -S '' -- ${(M)candidates:#*[=/]}
}
if [ "$funcstack[1]" = "_labkit" ]; then _labkit; else compdef _labkit labkit; fi
"""

_FISH = r"""# fish completion for labkit
function __labkit_candidates
    set -l words (commandline -opc) (commandline -ct)
    labkit __complete $words[2..-1] 2>/dev/null
end
complete -c labkit -f -a '(__labkit_candidates)'
"""


def print_bash(session: Session, _given: Invocation) -> None:
    session.out(_BASH)


def print_zsh(session: Session, _given: Invocation) -> None:
    session.out(_ZSH)


def print_fish(session: Session, _given: Invocation) -> None:
    session.out(_FISH)
