"""Numbers and times for people, as docker/go-units and Go's time package print them."""

from __future__ import annotations

import re
import time

from labkit.cli.values import read_duration
from labkit.durations import human_duration
from labkit.errors import InvalidParameter
from labkit.templates.quoting import go_quote

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


def human_size(size: float, precision: int = 4) -> str:
    """`4.2MB`: decimal units."""
    return _scaled(size, 1000.0, _DECIMAL, precision)


def bytes_size(size: float) -> str:
    """`31.3GiB`: binary units."""
    return _scaled(size, 1024.0, _BINARY, 4)


def _scaled(size: float, base: float, units: tuple[str, ...], precision: int) -> str:
    step = 0
    while size >= base and step < len(units) - 1:
        size /= base
        step += 1
    return f"{size:.{precision}g}{units[step]}"


def ago(created: float) -> str:
    """How long ago a Unix time was."""
    return human_duration(time.time() - created) + " ago"


def go_time(seconds: int) -> str:
    """A Unix time as Go prints a time.Time: `2026-11-24 17:34:00 +0000 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(seconds))


def go_instant(text: str) -> str:
    """An RFC 3339 time as Go prints a time.Time: `2026-11-24 17:34:00.123456789 +0000 UTC`; other text as it is."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    if not match:
        return text
    fraction = (match[3] or "").rstrip("0").rstrip(".")
    offset = "+0000" if match[4] == "Z" else match[4].replace(":", "")
    return f"{match[1]} {match[2]}{fraction} {offset} {'UTC' if match[4] == 'Z' else offset}"


def rfc3339(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def unix_time(text: str) -> float:
    """An RFC 3339 time in seconds since the epoch."""
    from datetime import datetime

    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp()


def ansi_date(text: str) -> str:
    """An RFC 3339 time as `Thu May  7 21:09:36 2026` (Go's ANSIC); other text as it is."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?", text)
    if not match:
        return text
    moment = time.strptime(match[1], "%Y-%m-%dT%H:%M:%S")
    return time.strftime("%a %b ", moment) + f"{moment.tm_mday:2d}" + time.strftime(" %H:%M:%S %Y", moment)


def api_timestamp(text: str, now: float | None = None) -> str:
    """What the API's since and until take: seconds since the epoch, out of a date or a duration back from now.

    InvalidParameter if the text is neither.
    """
    try:
        return str(int((time.time() if now is None else now) - read_duration(text) / 1e9))
    except ValueError:
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return text
        return _date_timestamp(text)


def _date_timestamp(text: str) -> str:
    from datetime import datetime

    match = re.fullmatch(r"(\d{4}-\d\d-\d\d(?:T\d\d(?::\d\d(?::\d\d)?)?)?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", text)
    problem = InvalidParameter(f"failed to parse value as time or duration: {go_quote(text)}")
    if not match:
        raise problem
    try:
        moment = datetime.fromisoformat(match[1] + (match[3] or ""))
    except ValueError as error:
        raise problem from error
    return f"{int(moment.timestamp())}.{(match[2] or '').ljust(9, '0')}"
