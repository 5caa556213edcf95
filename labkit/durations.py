"""How long something took or lasts, in words: as docker/go-units' HumanDuration says it, for command and engine."""

from __future__ import annotations


def human_duration(seconds: float) -> str:
    """`Less than a second`, `About an hour`, `3 weeks`."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes, hours = whole // 60, int(seconds / 3600 + 0.5)
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    units = ((48, hours, "hours"), (24 * 14, hours // 24, "days"), (24 * 60, hours // 168, "weeks"))
    for limit, count, unit in units:
        if hours < limit:
            return f"{count} {unit}"
    return f"{hours // 720} months" if hours < 24 * 365 * 2 else f"{int(seconds / 3600) // 8760} years"
