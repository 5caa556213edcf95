"""What LogConfig may say: names of options, checked when a container is created, and values, read at its start.

moby `daemon/logger/*/`, `ValidateLogOpt` of each driver. As with dockerd a wrong name keeps a container from being
made, and a wrong value from starting. The daemon's own defaults (`--log-driver`, `--log-opt`) fill up what is not said.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from labkit.engine.models import LogConfig
from labkit.errors import InvalidParameter

DRIVERS = ("json-file", "local", "none", "journald", "syslog")
_SHARED = {"mode", "max-buffer-size"}
_EXTRA = {"labels", "labels-regex", "env", "env-regex", "tag"}
_CACHE = {"cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}
_SYSLOG = {"syslog-address", "syslog-facility", "syslog-format"} | {
    f"syslog-tls-{name}" for name in ("ca-cert", "cert", "key", "skip-verify")
}
_KNOWN = {
    "json-file": {"max-size", "max-file", "compress"} | _EXTRA,
    "local": {"max-size", "max-file", "compress"},
    "journald": _EXTRA,
    "syslog": _SYSLOG | _EXTRA,
}
FACILITIES = {
    name: number
    for number, name in enumerate(
        ["kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"]
        + [""] * 4
        + [f"local{number}" for number in range(8)]
    )
    if name
}
SYSLOG_FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")
_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_BINARY = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?", re.IGNORECASE)
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}
BUFFER = 1_000_000  # moby: 1e6


@dataclass(frozen=True, slots=True)
class Rotation:
    """How a log's files are rotated: bytes in each (0: no bound), how many, whether the older are compressed."""

    capacity: int = 0
    count: int = 1
    compress: bool = False


def settle(asked: LogConfig, default: LogConfig) -> None:
    """Fill up a container's LogConfig with the daemon's, and check its options. Raises InvalidParameter."""
    asked.Type = asked.Type or default.Type
    if asked.Type == default.Type:
        asked.Config = {**(default.Config or {}), **(asked.Config or {})}
    check(asked)


def check(config: LogConfig) -> None:
    """Refuse unknown drivers and options in dockerd's words."""
    if config.Type == "none":
        return
    if config.Type not in DRIVERS:
        raise InvalidParameter(
            f'error looking up logging plugin {config.Type}: plugin "{config.Type}" not found: '
            f"labkit has the drivers {', '.join(DRIVERS)}"
        )
    options = config.Config or {}
    _check_mode(options)
    if "cache-disabled" in options and options["cache-disabled"] not in _TRUE | _FALSE:
        raise InvalidParameter(f"invalid value for option cache-disabled: {options['cache-disabled']}")
    for name in options:
        if name not in _KNOWN[config.Type] | _SHARED | _CACHE:
            where = "log driver local" if config.Type == "local" else f"{config.Type} log driver"
            raise InvalidParameter(f"unknown log opt '{name}' for {where}")
    if config.Type == "syslog":
        _check_syslog(options)


def _check_mode(options: Mapping[str, str]) -> None:
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidParameter("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        try:
            size(options["max-buffer-size"], binary=True)
        except InvalidParameter as error:
            raise InvalidParameter(f"error parsing option max-buffer-size: {error}") from error


def _check_syslog(options: Mapping[str, str]) -> None:
    kind, target = syslog_address(options.get("syslog-address", ""))
    if kind.startswith("unix") and not os.path.exists(target):
        raise InvalidParameter(f"stat {target}: no such file or directory")
    facility(options.get("syslog-facility", ""))
    if options.get("syslog-format", "") not in SYSLOG_FORMATS:
        raise InvalidParameter("Invalid syslog format")


def syslog_address(text: str) -> tuple[str, str]:
    """The transport and the target of an address such as `udp://HOST:PORT`, `unix:///PATH`; two times "" for none."""
    if not text:
        return "", ""
    kind, sign, target = text.partition("://")
    if not sign or kind not in ("tcp", "udp", "tcp+tls", "unix", "unixgram"):
        raise InvalidParameter(f"syslog-address should be in form proto://address, got {text}")
    if kind.startswith("unix"):
        return kind, target
    host, colon, port = target.rpartition(":") if not target.endswith("]") else (target, "", "")
    return kind, target if colon and port.isdigit() else f"{target or host}:514"


def facility(text: str) -> int:
    """A syslog facility by name or number; `daemon` by default."""
    if not text:
        return FACILITIES["daemon"]
    if text in FACILITIES:
        return FACILITIES[text]
    if text.isascii() and text.isdigit() and int(text) in FACILITIES.values():
        return int(text)
    raise InvalidParameter("invalid syslog facility")


def size(text: str, binary: bool) -> int:
    """A size such as `10m` in bytes (docker/go-units, FromHumanSize or RAMInBytes). Raises InvalidParameter."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise InvalidParameter(f"invalid size: '{text}'")
    return int(float(match[1]) * (_BINARY if binary else _DECIMAL)[match[2].lower()])


def buffer(options: Mapping[str, str]) -> int:
    """How many bytes may wait in the daemon for who takes output: 0 unless the mode is `non-blocking`."""
    if options.get("mode") != "non-blocking":
        return 0
    return size(options["max-buffer-size"], binary=True) if "max-buffer-size" in options else BUFFER


def boolean(text: str) -> bool:
    """A boolean as Go's strconv.ParseBool reads it."""
    if text not in _TRUE | _FALSE:
        raise InvalidParameter(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return text in _TRUE


def _number(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        raise InvalidParameter(f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


def json_rotation(options: Mapping[str, str]) -> Rotation:
    """The rotation that the options of `json-file` ask for."""
    capacity = 0
    if "max-size" in options:
        capacity = size(options["max-size"], binary=False)
        if capacity <= 0:
            raise InvalidParameter("max-size must be a positive number")
    count = _number(options.get("max-file", "1"))
    if count < 1:
        raise InvalidParameter("max-file cannot be less than 1")
    compress = boolean(options.get("compress", "false"))
    if compress and (count < 2 or not capacity):
        raise InvalidParameter("compress cannot be true when max-file is less than 2 or max-size is not set")
    return Rotation(capacity, count, compress)


def local_rotation(options: Mapping[str, str], prefix: str = "") -> Rotation:
    """The rotation of `local`: five files of 20 MB, compressed. Prefix `cache-`: of what other drivers keep."""
    capacity = 20 << 20
    if text := options.get(f"{prefix}max-size"):
        try:
            capacity = size(text, binary=True) or capacity
        except InvalidParameter as error:
            raise InvalidParameter(f"invalid value for max-size: {text}: {error}") from error
    try:
        count = _number(options.get(f"{prefix}max-file", "5"))
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid value for max-file: {options[f'{prefix}max-file']}: {error}") from error
    try:
        compress = boolean(options.get(f"{prefix}compress", "true"))
    except InvalidParameter as error:
        raise InvalidParameter(f"error reading compress log option: {error}") from error
    if compress and count <= 1:
        raise InvalidParameter("compression cannot be enabled when max file count is 1")
    return Rotation(capacity, max(1, count), compress)
