"""What the daemon is told: its flags, and a file like dockerd's `daemon.json` (moby `daemon/config`, dockerd(8)).

A directive of the file has the name of its flag, in the plural where that one may be repeated. What is said twice is
refused; only runtimes are put together. At SIGHUP the file is read again: `reloaded` says what can change.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from labkit.api import flags
from labkit.engine import runtimes
from labkit.engine.models import LogConfig
from labkit.engine.settings import Settings
from labkit.errors import InvalidParameter
from labkit.registry.endpoints import Settings as Registries

Given = dict[str, Any]
"""Flags by their name in the namespace of argparse."""


class Runtime(msgspec.Struct, forbid_unknown_fields=True):
    """One of `runtimes`: what `--add-runtime` says."""

    path: str


class File(msgspec.Struct, rename="kebab", omit_defaults=True):
    """The directives that a file may have."""

    data_root: str | UnsetType = UNSET
    exec_root: str | UnsetType = UNSET
    pidfile: str | UnsetType = UNSET
    hosts: list[str] | UnsetType = UNSET
    tls: bool | UnsetType = UNSET
    tlsverify: bool | UnsetType = UNSET
    tlscacert: str | UnsetType = UNSET
    tlscert: str | UnsetType = UNSET
    tlskey: str | UnsetType = UNSET
    bip: str | UnsetType = UNSET
    cgroup_parent: str | UnsetType = UNSET
    live_restore: bool | UnsetType = UNSET
    registry_mirrors: list[str] | UnsetType = UNSET
    insecure_registries: list[str] | UnsetType = UNSET
    hub: str | UnsetType = UNSET
    runtimes: dict[str, Runtime] | UnsetType = UNSET
    default_runtime: str | UnsetType = UNSET
    log_driver: str | UnsetType = UNSET
    log_opts: dict[str, str] | UnsetType = UNSET
    log_level: str | UnsetType = UNSET
    debug: bool | UnsetType = UNSET
    labels: list[str] | UnsetType = UNSET


_DIRECTIVES = {field.encode_name: field.name for field in msgspec.structs.fields(File)}
_FLAGS = {
    "hosts": "host",
    "labels": "label",
    "registry_mirrors": "registry_mirror",
    "insecure_registries": "insecure_registry",
    "log_opts": "log_opt",
    "runtimes": "add_runtime",
}
"""Directives whose flag has another name."""


def options(argv: list[str]) -> tuple[argparse.Namespace, Given]:
    """All options, from flags, file and defaults; and what the flags gave. Raises InvalidParameter."""
    parser = flags.parser()
    defaults = vars(parser.parse_args([]))
    unsaid = argparse.Namespace(**dict.fromkeys(defaults))
    given = {name: value for name, value in vars(parser.parse_args(argv, unsaid)).items() if value is not None}
    path = given.get("config_file", defaults["config_file"])
    file = _as_flags(read(path, given))
    file["add_runtime"] = [*file.get("add_runtime", []), *given.get("add_runtime", [])]
    found = argparse.Namespace(**(defaults | given | file))
    if found.log_level not in flags.LEVELS:
        raise InvalidParameter(f"unable to parse logging level: {found.log_level}")
    return found, given


def read(path: str, given: Given) -> File:
    """The file, which need not be there unless a flag names it. Raises InvalidParameter in dockerd's words."""
    try:
        with open(path, "rb") as file:
            found = _parse(file.read())
        _check_conflicts(found, given)
        if found.labels:
            check_labels(found.labels)
        return found
    except FileNotFoundError as error:
        if "config_file" not in given:
            return File()
        reason = f"open {path}: {os.strerror(error.errno or 0).lower()}"
    except OSError as error:
        reason = f"open {path}: {os.strerror(error.errno or 0).lower()}"
    except InvalidParameter as error:
        reason = str(error)
    raise InvalidParameter(f"unable to configure the daemon with file {path}: {reason}")


def _parse(text: bytes) -> File:
    if not text.strip():
        return File()
    try:
        directives = msgspec.json.decode(text, type=dict[str, Any])
        if unknown := sorted(set(directives) - set(_DIRECTIVES)):
            raise InvalidParameter(
                f"the following directives don't match any configuration option: {', '.join(unknown)}"
            )
        return msgspec.convert(directives, File)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidParameter(str(error)) from error


def _check_conflicts(file: File, given: Given) -> None:
    twice = [
        f"{directive}: (from flag: {_shown(given[flag])}, from file: {_shown(value)})"
        for directive, name in sorted(_DIRECTIVES.items())
        if (value := getattr(file, name)) is not UNSET and (flag := _FLAGS.get(name, name)) in given
        if name != "runtimes"
    ]
    if twice:
        raise InvalidParameter(
            "the following directives are specified both as a flag and in the configuration file: " + ", ".join(twice)
        )


def _shown(value: Any) -> str:
    """A value as Go prints it."""
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{one}' for key, one in sorted(value.items()))}]"
    if isinstance(value, list):
        return f"[{' '.join(value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_labels(labels: list[str]) -> None:
    """Raises InvalidParameter for what isn't NAME=VALUE, and for two values of one name."""
    known: dict[str, str] = {}
    for label in labels:
        name, sign, value = label.partition("=")
        if not sign:
            raise InvalidParameter(f"bad attribute format: {label}")
        if known.setdefault(name, value) != value:
            raise InvalidParameter(f"conflict labels for {label} and {name}={known[name]}")


def _as_flags(file: File) -> Given:
    """What the file says, in the form of flags."""
    found: Given = {}
    for name in _DIRECTIVES.values():
        value = getattr(file, name)
        if name == "runtimes" and value:
            value = [f"{runtime}={one.path}" for runtime, one in value.items()]
        elif name == "log_opts" and value:
            value = [f"{option}={one}" for option, one in value.items()]
        if value is not UNSET:
            found[_FLAGS.get(name, name)] = value
    return found


def settings_of(found: argparse.Namespace) -> Settings:
    """The engine's settings. Raises InvalidParameter."""
    check_labels(found.label)
    return Settings(
        os.path.abspath(found.data_root),
        os.path.abspath(found.exec_root),
        found.cgroup_parent.strip("/"),
        found.live_restore,
        Registries(tuple(found.registry_mirror), tuple(found.insecure_registry), hub=found.hub),
        found.bip,
        LogConfig(Type=found.log_driver, Config=dict(one.partition("=")[::2] for one in found.log_opt)),
        runtimes.parse(found.add_runtime),
        found.default_runtime,
        found.debug,
        tuple(found.label),
    )


def reloaded(settings: Settings, given: Given, path: str) -> Settings:
    """The settings after the file has changed: what it says of debug, labels, live-restore, registries and runtimes.

    What it doesn't say stays as it is, and so do other directives, as with dockerd. Raises InvalidParameter.
    """
    said = _as_flags(read(path, given))
    registries = settings.registries
    found = replace(
        settings,
        debug=said.get("debug", settings.debug),
        labels=tuple(said.get("label", settings.labels)),
        live_restore=said.get("live_restore", settings.live_restore),
        registries=replace(
            registries,
            mirrors=tuple(said.get("registry_mirror", registries.mirrors)),
            insecure=tuple(said.get("insecure_registry", registries.insecure)),
        ),
        default_runtime=said.get("default_runtime", settings.default_runtime),
    )
    if "add_runtime" in said:
        found = replace(found, runtimes=runtimes.parse([*said["add_runtime"], *given.get("add_runtime", [])]))
    runtimes.check(found)
    return found
