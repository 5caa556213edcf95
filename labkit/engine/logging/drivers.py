"""Log drivers by name (moby `daemon/logger/factory.go`)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from labkit.engine.logging import journald, syslog
from labkit.engine.logging.logger import Logger, Remote, files
from labkit.engine.models import ContainerRecord
from labkit.errors import InvalidParameter, LabkitError

log = logging.getLogger("labkit.engine.logging")
FAILURE = "failed to create task for container: failed to initialize logging driver"


def open_logger(record: ContainerRecord, directory: str) -> Logger | None:
    """The log of a container whose files are below `directory`; None for `none`. Raises InvalidParameter.

    Makes files and directories; what the output is sent to is reached later (`Logger.connect`).
    """
    if record.HostConfig.LogConfig.Type == "none":
        return None
    try:
        return Logger(files(record, directory), remote(record))
    except LabkitError as error:
        raise failure(error) from error


def adopt_logger(record: ContainerRecord, directory: str) -> Logger | None:
    """The log of a container that runs already: if it can't be sent away as before, it is still kept."""
    try:
        return open_logger(record, directory)
    except LabkitError as error:
        log.warning("the output of %s is no longer sent away: %s", record.Name, error)
        return Logger(files(record, directory))


async def reach(logger: Logger) -> None:
    """Reach what the output is sent to. Raises InvalidParameter in dockerd's words."""
    try:
        await logger.connect()
    except LabkitError as error:
        raise failure(error) from error


def failure(error: LabkitError) -> InvalidParameter:
    """Why a container can't start, as dockerd says it."""
    return InvalidParameter(f"{FAILURE}: {error}")


def remote(record: ContainerRecord) -> Remote | None:
    """Where a container's output is sent; None for drivers that keep it in files. Raises LabkitError."""
    senders: dict[str, Callable[[ContainerRecord], Remote]] = {"syslog": syslog.sender, "journald": journald.sender}
    make = senders.get(record.HostConfig.LogConfig.Type)
    return make(record) if make else None
