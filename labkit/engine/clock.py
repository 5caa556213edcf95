"""Times as Docker's API has them: RFC 3339 with nanoseconds, as Go's time.RFC3339Nano writes them."""

from __future__ import annotations

import calendar
import re
import time

from labkit.errors import InvalidParameter

_DAY, _MINUTE, _SECOND = r"(\d{4})-(\d\d)-(\d\d)", r"(\d\d)(?::(\d\d)", r"(?::(\d\d)(?:\.(\d{1,9}))?)?)?"
_RFC3339 = re.compile(rf"{_DAY}(?:[Tt ]{_MINUTE}{_SECOND})?(Z|z|[+-]\d\d:\d\d)?$")
_DURATION = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def rfc3339(ns: int) -> str:
    """Nanoseconds since the epoch as `2026-11-24T18:14:06.123456789Z`, trailing zeros of the fraction left out."""
    seconds, fraction = divmod(ns, 10**9)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    tail = f".{fraction:09d}".rstrip("0").rstrip(".")
    return f"{text}{tail}Z"


def now() -> str:
    return rfc3339(time.time_ns())


def parse_rfc3339(text: str) -> int:
    """The nanoseconds since the epoch of an RFC 3339 time, or of its beginning. Raises InvalidParameter."""
    match = _RFC3339.match(text)
    if not match:
        raise InvalidParameter(f'parsing time "{text}": not RFC 3339')
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    try:
        seconds = calendar.timegm((year, month, day, hour, minute, second))
    except ValueError as error:  # a month 13
        raise InvalidParameter(f'parsing time "{text}": {error}') from error
    zone = match[8] or "Z"
    if zone not in "Zz":
        offset = int(zone[1:3]) * 3600 + int(zone[4:]) * 60
        seconds -= offset if zone[0] == "+" else -offset
    return seconds * 10**9 + int((match[7] or "0").ljust(9, "0"))


def parse_timestamp(text: str, at: int | None = None) -> int:
    """A `since` or `until` parameter in nanoseconds: seconds with a fraction, RFC 3339, or a duration ago ("10m")."""
    if not text:
        return 0
    if re.fullmatch(r"-?\d{1,18}(\.\d+)?", text):
        whole, _, fraction = text.partition(".")
        return int(whole) * 10**9 + int(fraction.ljust(9, "0")[:9] or 0)
    if re.fullmatch(rf"(?:{_DURATION.pattern})+", text):
        ago = sum(int(float(number) * _UNITS[unit]) for number, unit in _DURATION.findall(text))
        return (time.time_ns() if at is None else at) - ago
    if "-" not in text:
        raise InvalidParameter(f'failed to parse value as time or duration: "{text}"')
    return parse_rfc3339(text)
