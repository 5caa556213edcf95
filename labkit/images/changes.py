"""The `--change` option of `docker import` and `commit`: Dockerfile instructions that alter a configuration.

Only those that need no container: see Docker's Dockerfile reference, and `daemon/builder/dockerfile` of moby for the
wording. Each instruction is a pure function from configuration to configuration.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from typing import Any

import msgspec

from labkit.errors import InvalidParameter
from labkit.images.manifests import ContainerConfig, Healthcheck

_VARIABLE = re.compile(r"\\(\$)|\$(?:\{(\w+)(?::([-+])([^}]*))?\}|(\w+))")
_PORT = re.compile(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_HEALTH_TIMES = {
    "interval": "interval",
    "timeout": "timeout",
    "start-period": "start_period",
    "start-interval": "start_interval",
}
_DEFAULT_SHELL = ["/bin/sh", "-c"]


def apply_changes(config: ContainerConfig, changes: list[str]) -> ContainerConfig:
    """The configuration after the instructions, in order. Raises InvalidParameter for one that can't be a change."""
    for line in "\n".join(changes).splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            config = _apply(config, line.strip())
    return config


def _apply(config: ContainerConfig, line: str) -> ContainerConfig:
    word, _, rest = line.partition(" ")
    instruction, argument = word.upper(), rest.strip()
    change = _CHANGES.get(instruction)
    if change is None:
        raise InvalidParameter(f"{word.lower()} is not a valid change command")
    if not argument:
        raise InvalidParameter(f"{instruction} requires at least one argument")
    if instruction in _EXPANDED:
        argument = _expand(argument, config.env or [])
    return change(config, argument)


def _replace(config: ContainerConfig, **fields: Any) -> ContainerConfig:
    return msgspec.structs.replace(config, **fields)


def _expand(text: str, env: list[str]) -> str:
    """`$NAME`, `${NAME}`, `${NAME:-word}` and `${NAME:+word}`, as the Dockerfile reference defines them."""
    values = dict(item.split("=", 1) for item in env if "=" in item)

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        found = values.get(match[2] or match[5], "")
        if match[3] == "-":
            return found or match[4]
        if match[3] == "+":
            return match[4] if found else ""
        return found

    return _VARIABLE.sub(value, text)


def _array(argument: str) -> list[str] | None:
    """The exec form, a JSON array of strings; None for anything else, which is the shell form."""
    if not argument.startswith("["):
        return None
    try:
        found = json.loads(argument)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, list) and all(isinstance(item, str) for item in found) else None


def _command(config: ContainerConfig, argument: str) -> list[str]:
    array = _array(argument)
    return [*(config.shell or _DEFAULT_SHELL), argument] if array is None else array


def _words(argument: str) -> list[str]:
    try:
        return shlex.split(argument)
    except ValueError as error:
        raise InvalidParameter(f"syntax error in {argument!r}: {error}") from error


def _pairs(argument: str, instruction: str) -> list[tuple[str, str]]:
    """`NAME=value ...`, or the old form `NAME value` with all of the rest as value."""
    first, _, rest = argument.partition(" ")
    if "=" not in first:
        if not rest.strip():
            raise InvalidParameter(f"{instruction} must have two arguments")
        return [(first, rest.strip())]
    pairs = []
    for word in _words(argument):
        name, equals, value = word.partition("=")
        if not equals:
            raise InvalidParameter(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value")
        if not name:
            raise InvalidParameter(f"{instruction} names can not be blank")
        pairs.append((name, value))
    return pairs


def _env(config: ContainerConfig, argument: str) -> ContainerConfig:
    env = list(config.env or [])
    for name, value in _pairs(argument, "ENV"):
        at = next((at for at, item in enumerate(env) if item.partition("=")[0] == name), len(env))
        env[at : at + 1] = [f"{name}={value}"]
    return _replace(config, env=env)


def _label(config: ContainerConfig, argument: str) -> ContainerConfig:
    return _replace(config, labels=(config.labels or {}) | dict(_pairs(argument, "LABEL")))


def _expose(config: ContainerConfig, argument: str) -> ContainerConfig:
    ports = dict(config.exposed_ports or {})
    for word in argument.split():
        match = _PORT.fullmatch(word.lower())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if match is None or not 0 < first <= last < 65536:
            raise InvalidParameter(f"invalid containerPort: {word}")
        ports |= {f"{port}/{match[3] or 'tcp'}": {} for port in range(first, last + 1)}
    return _replace(config, exposed_ports=ports)


def _volume(config: ContainerConfig, argument: str) -> ContainerConfig:
    array = _array(argument)
    paths = argument.split() if array is None else array
    if not all(path.strip() for path in paths):
        raise InvalidParameter("VOLUME specified can not be an empty string")
    return _replace(config, volumes=(config.volumes or {}) | {path: {} for path in paths})


def _workdir(config: ContainerConfig, argument: str) -> ContainerConfig:
    """Relative ones count from the last; `..` is taken out, as Docker does with filepath.Join."""
    base = "" if argument.startswith("/") else config.working_dir
    parts: list[str] = []
    for part in f"{base}/{argument}".split("/"):
        if part == "..":
            parts[-1:] = []
        elif part not in ("", "."):
            parts.append(part)
    return _replace(config, working_dir="/" + "/".join(parts))


def _shell(config: ContainerConfig, argument: str) -> ContainerConfig:
    array = _array(argument)
    if not array:
        raise InvalidParameter("SHELL requires the arguments to be in JSON form")
    return _replace(config, shell=array)


def _onbuild(config: ContainerConfig, argument: str) -> ContainerConfig:
    trigger = argument.split()[0].upper()
    if trigger == "ONBUILD":
        raise InvalidParameter("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise InvalidParameter(f"{trigger} isn't allowed as an ONBUILD trigger")
    return _replace(config, on_build=[*(config.on_build or []), argument])


def duration(text: str) -> int:
    """A Go duration (`1m30s`) in nanoseconds."""
    parts = list(_DURATION.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        raise InvalidParameter(f'time: invalid duration "{text}"')
    return int(sum(float(part[1]) * _UNITS[part[2]] for part in parts))


def _healthcheck(config: ContainerConfig, argument: str) -> ContainerConfig:
    fields: dict[str, Any] = {}
    while option := re.match(r"--([\w-]+)=(\S+)\s+", argument):
        argument = argument[option.end() :]
        if option[1] in _HEALTH_TIMES:
            fields[_HEALTH_TIMES[option[1]]] = duration(option[2])
        elif option[1] == "retries" and option[2].isdigit():
            fields["retries"] = int(option[2])
        else:
            raise InvalidParameter(f"unknown flag or bad value in HEALTHCHECK: --{option[1]}={option[2]}")
    kind, _, command = argument.partition(" ")
    if kind.upper() == "NONE":
        return _replace(config, healthcheck=Healthcheck(test=["NONE"]))
    if kind.upper() != "CMD" or not command.strip():
        raise InvalidParameter(f"Unknown type {kind!r} in HEALTHCHECK (try CMD)")
    array = _array(command.strip())
    test = ["CMD-SHELL", command.strip()] if array is None else ["CMD", *array]
    return _replace(config, healthcheck=Healthcheck(test=test, **fields))


_Change = Callable[[ContainerConfig, str], ContainerConfig]
_CHANGES: dict[str, _Change] = {
    "CMD": lambda config, argument: _replace(config, cmd=_command(config, argument)),
    "ENTRYPOINT": lambda config, argument: _replace(config, entrypoint=_command(config, argument)),
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "SHELL": _shell,
    "STOPSIGNAL": lambda config, argument: _replace(config, stop_signal=argument),
    "USER": lambda config, argument: _replace(config, user=argument),
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
_EXPANDED = frozenset(("ENV", "EXPOSE", "LABEL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"))
