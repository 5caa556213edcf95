"""What a health check is, and what its results say of a container (moby `daemon/health.go`). Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from labkit.engine.clock import parse_rfc3339
from labkit.engine.models import Config, Health, HealthConfig, HealthResult, State
from labkit.errors import InvalidParameter

SECOND = 10**9
INTERVAL = 30 * SECOND
TIMEOUT = 30 * SECOND
START_INTERVAL = 5 * SECOND
RETRIES = 3
KEPT = 5
LEAST_DURATION = 10**6
"""moby's MinimumDuration, a millisecond, in nanoseconds."""


def check(config: HealthConfig) -> None:
    """Raises InvalidParameter in dockerd's words (moby `daemon/container.go`, `validateHealthCheck`)."""
    for name in ("Interval", "Timeout"):
        _check_duration(name, getattr(config, name))
    if config.Retries < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")
    for name in ("StartPeriod", "StartInterval"):
        _check_duration(name, getattr(config, name))


def _check_duration(name: str, value: int) -> None:
    if value != 0 and value < LEAST_DURATION:
        raise InvalidParameter(f"{name} in Healthcheck cannot be less than 1ms")


def merge(config: Config, of_image: dict[str, Any] | None) -> None:
    """Fill a Config's health check with what its image says (moby `daemon/commit.go`, merge)."""
    if of_image is None:
        return
    image = msgspec.convert(of_image, HealthConfig)
    own = config.Healthcheck
    if not isinstance(own, HealthConfig):
        config.Healthcheck = image
        return
    own.Test = own.Test or image.Test
    for name in ("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"):
        setattr(own, name, getattr(own, name) or getattr(image, name))


def command(config: Config) -> list[str] | None:
    """The words of the probe; None if there is none."""
    check = config.Healthcheck
    kind, *words = (check.Test if isinstance(check, HealthConfig) else None) or [""]
    if kind == "CMD" and words:
        return words
    if kind == "CMD-SHELL" and words:
        shell = config.Shell if isinstance(config.Shell, list) and config.Shell else ["/bin/sh", "-c"]
        return [*shell, *words]
    return None


def settings(config: Config) -> HealthConfig:
    """The check with dockerd's defaults where nothing was said."""
    given = config.Healthcheck if isinstance(config.Healthcheck, HealthConfig) else HealthConfig()
    return msgspec.structs.replace(
        given,
        Interval=given.Interval or INTERVAL,
        Timeout=given.Timeout or TIMEOUT,
        Retries=given.Retries if given.Retries > 0 else RETRIES,
        StartInterval=given.StartInterval or START_INTERVAL,
    )


def interval(check: HealthConfig, status: str, since_start: int) -> int:
    """Nanoseconds until the next probe. `since_start` are those since the container's start."""
    return check.StartInterval if status == "starting" and since_start < check.StartPeriod else check.Interval


def judge(health: Health, result: HealthResult, check: HealthConfig, started: int) -> Health:
    """The health after one more result. `started` is when the container did (ns): within the start period the failures
    of one that was never healthy don't count.
    """
    found = Health(Status=health.Status, FailingStreak=health.FailingStreak, Log=[*health.Log, result][-KEPT:])
    if result.ExitCode == 0:
        found.Status, found.FailingStreak = "healthy", 0
    elif health.Status != "starting" or parse_rfc3339(result.Start) - started >= check.StartPeriod:
        found.FailingStreak += 1
        if found.FailingStreak >= check.Retries:
            found.Status = "unhealthy"
    return found


def status_of(state: State) -> str:
    """`starting`, `healthy`, `unhealthy`, or `none` for a container without a check."""
    return state.Health.Status if isinstance(state.Health, Health) else "none"


def go_duration(seconds: float) -> str:
    """A duration as Go's `time.Duration` prints it: 30s, 1m30s, 500ms, 1.5s."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{hours:g}h" if hours else "", f"{minutes:g}m" if hours or minutes else "", f"{rest:g}s"]
    return "".join(parts)
