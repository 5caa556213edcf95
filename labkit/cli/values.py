"""Values of options, read as Docker reads them: sizes, durations, decimals, filters, limits.

Each reader returns the value or raises ValueError with the wording of the Go library that the `docker` command
uses there (strconv, go-units, time, docker/cli `opts`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from labkit.templates.quoting import go_quote

_DURATION_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}
_DURATION_UNITS["h"] = 60 * _DURATION_UNITS["m"]
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}
_BLANKS = " \t\n\v\f\r\x85\xa0"
_LABEL = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)"


def read_bool(text: str) -> bool:
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError(f"strconv.ParseBool: parsing {go_quote(text)}: invalid syntax")


def read_int(text: str, bits: int = 64) -> int:
    if not re.fullmatch(r"[+-]?\d+(_\d+)*|[+-]?0[xX][0-9a-fA-F]+", text):
        raise ValueError(f"strconv.ParseInt: parsing {go_quote(text)}: invalid syntax")
    number = int(text, 16 if "x" in text.lower() else 10)
    if not -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
        raise ValueError(f"strconv.ParseInt: parsing {go_quote(text)}: value out of range")
    return number


def read_unsigned(text: str, bits: int = 64) -> int:
    if not text.isdigit():
        raise ValueError(f"strconv.ParseUint: parsing {go_quote(text)}: invalid syntax")
    if int(text) >= 2**bits:
        raise ValueError(f"strconv.ParseUint: parsing {go_quote(text)}: value out of range")
    return int(text)


def read_bytes(text: str) -> int:
    """A size with binary units, `512m` or `1.5GiB`, in bytes (go-units `RAMInBytes`)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)*) ?([kKmMgGtTpP])?([iI])?[bB]?", text)
    if not match or match[1].count(".") > 1 or (match[3] and not match[2]):
        raise ValueError(f"invalid size: '{text}'")
    return int(float(match[1]) * 1024 ** (" kmgtp".index((match[2] or " ").lower())))


def read_swap(text: str) -> int:
    return -1 if text == "-1" else read_bytes(text)


def read_nano_cpus(text: str) -> int:
    """A number of CPUs in billionths, as `NanoCpus` wants it."""
    match = re.fullmatch(r"([+-]?)(\d*)(?:\.(\d*))?", text)
    if not match or not (match[2] or match[3]):
        raise ValueError(f"failed to parse {text} as a rational number")
    fraction = (match[3] or "").rstrip("0")
    if len(fraction) > 9:
        raise ValueError("value is too precise")
    number = int(match[2] or 0) * 10**9 + int(fraction.ljust(9, "0") or 0)
    return -number if match[1] == "-" else number


def read_duration(text: str) -> int:
    """A duration such as `1m30s` in nanoseconds (Go `time.ParseDuration`)."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    pieces = re.findall(r"(\d+\.?\d*|\.\d+)([a-zµμ]+)", rest)
    if not rest or "".join(number + unit for number, unit in pieces) != rest:
        problem = "missing unit in" if re.fullmatch(r"\d+\.?\d*|\.\d+", rest) else "invalid"
        raise ValueError(f"time: {problem} duration {go_quote(text)}")
    total = 0
    for number, unit in pieces:
        if unit not in _DURATION_UNITS:
            raise ValueError(f"time: unknown unit {go_quote(unit)} in duration {go_quote(text)}")
        total += round(float(number) * _DURATION_UNITS[unit])
    return sign * total


def read_filter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError("bad format of filter (expected name=value)")
    return name.strip().lower(), value.strip()


def read_stream(text: str) -> str:
    if text.lower() not in ("stdin", "stdout", "stderr"):
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return text.lower()


def read_ulimit(text: str) -> dict[str, Any]:
    """`nofile=1024:2048` as the API's Ulimit (setrlimit(2))."""
    name, equals, limits = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in _RLIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    soft_text, colon, hard_text = limits.partition(":")
    soft = read_int(soft_text)
    hard = read_int(hard_text) if colon else soft
    if (soft > hard and hard != -1) or (soft == -1 and hard != -1):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return {"Name": name, "Soft": soft, "Hard": hard}


_RLIMITS = frozenset(
    {"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio"}
    | {"rttime", "sigpending", "stack"}
)


def read_env(text: str) -> str:
    if not text.partition("=")[0]:
        raise ValueError(f"invalid environment variable: {text}")
    return text


def read_sysctl(text: str) -> str:
    if "=" not in text:
        raise ValueError(f"sysctl '{text}' is not allowed")
    return text


def read_device_rule(text: str) -> str:
    if not re.fullmatch(r"[acb] (\d+|\*):(\d+|\*) [rwm]{1,3}", text):
        raise ValueError(f"invalid device cgroup format '{text}'")
    return text


def read_throttle(text: str) -> dict[str, Any]:
    """`/dev/sda:1mb` as the API's ThrottleDevice, in bytes per second."""
    path, rate = _device_path(text)
    try:
        return {"Path": path, "Rate": read_bytes(rate)}
    except ValueError as error:
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. "
            "Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        ) from error


def read_iops(text: str) -> dict[str, Any]:
    path, rate = _device_path(text)
    if not rate.isdigit():
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>. "
            "Number must be a positive integer"
        )
    return {"Path": path, "Rate": int(rate)}


def read_weight_device(text: str) -> dict[str, Any]:
    path, weight = _device_path(text)
    if not weight.isdigit() or (int(weight) and not 10 <= int(weight) <= 1000):
        raise ValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(weight)}


def _device_path(text: str) -> tuple[str, str]:
    path, colon, value = text.partition(":")
    if not colon or not path:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    return path, value


def read_csv(text: str) -> list[str]:
    """The fields of one line of comma-separated values; a field in double quotes may contain commas."""
    fields, field, quoted = [], "", False
    for char in text:
        if char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            fields.append(field)
            field = ""
        else:
            field += char
    return [*fields, field]


def read_extra_host(text: str) -> str:
    """`--add-host NAME:IP` (or `NAME=IP`) as the API wants it."""
    name, separator, address = text.partition("=" if "=" in text else ":")
    if not name or not separator or ":" in name:
        raise ValueError(f"bad format for add-host: {go_quote(text)}")
    if address == "host-gateway":
        return f"{name}:{address}"
    bare = address[1:-1] if len(address) > 2 and address[0] == "[" and address[-1] == "]" else address
    try:
        read_address(bare)
    except ValueError as error:
        raise ValueError(f"invalid IP address in add-host: {go_quote(bare)}") from error
    return f"{name}:{bare}"


def read_address(text: str) -> str:
    """An IP address, written as Go writes it."""
    import socket

    text = text.strip()
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_ntop(family, socket.inet_pton(family, text))
        except OSError:
            continue  # the other family, then
    raise ValueError(f"IP address is not correctly formatted: {text}")


def read_domain(text: str) -> str:
    """A search domain (resolv.conf(5)); `.` stands for none."""
    text = text.strip(" ")
    if text == ".":
        return text
    match = re.fullmatch(rf"({_LABEL}(?:\.{_LABEL})*)\.?\s*", text)
    if not match or not re.search("[a-zA-Z]", text) or len(match[1]) >= 255:
        raise ValueError(f"{text} is not a valid domain")
    return match[1]


def read_link(text: str) -> str:
    """`NAME[:ALIAS]`."""
    if not text:
        raise ValueError("empty string specified for links")
    if text.count(":") > 1:
        raise ValueError(f"bad format for links: {text}")
    return text


def read_label(text: str) -> str:
    name = text.partition("=")[0].lstrip(_BLANKS)
    if not name:
        raise ValueError(f"invalid label '{text}': empty name")
    if any(blank in name for blank in _BLANKS):
        raise ValueError(f"label '{name}' contains whitespaces")
    return text


def read_gpus(text: str) -> dict[str, Any]:
    """`all`, a number, or `device=…,driver=…` as the API's DeviceRequest."""
    request: dict[str, Any] = {"Driver": "", "Count": 0, "Capabilities": [["gpu"]], "Options": {}}
    for item in read_csv(text):
        name, equals, value = item.partition("=")
        if not equals:
            name, value = "count", item
        if name == "count":
            if value != "all" and not value.isdigit():
                raise ValueError(f"invalid count ({value}): value must be either 'all' or an integer")
            request["Count"] = -1 if value == "all" else int(value)
        elif name == "device":
            request["DeviceIDs"] = value.split(",")
        elif name == "driver":
            request["Driver"] = value
        elif name == "capabilities":
            request["Capabilities"] = [["gpu", *value.split(",")]]
        else:
            raise ValueError(f"unexpected key '{name}' in '{item}'")
    return request


def _read_network(text: str) -> dict[str, Any]:
    from labkit.cli.endpoint_options import read_network

    return read_network(text)


def _read_mount(text: str) -> dict[str, Any]:
    from labkit.cli.mounts import mount

    return mount(text)


VALUES: dict[str, Callable[[str], Any]] = {
    "bool": read_bool,
    "int": read_int,
    "uint": read_unsigned,
    "uint16": lambda text: read_unsigned(text, 16),
    "bytes": read_bytes,
    "swap": read_swap,
    "decimal": read_nano_cpus,
    "duration": read_duration,
    "filter": read_filter,
    "stream": read_stream,
    "ulimit": read_ulimit,
    "env": read_env,
    "sysctl": read_sysctl,
    "device-rule": read_device_rule,
    "throttle": read_throttle,
    "iops": read_iops,
    "weight-device": read_weight_device,
    "extra-host": read_extra_host,
    "gpu-request": read_gpus,
    "mount": _read_mount,
    "network": _read_network,
    "address": read_address,
    "domain": read_domain,
    "link": read_link,
    "label": read_label,
}
