"""Log drivers by name (moby `daemon/logger/factory.go`)."""

from __future__ import annotations

from labkit.engine.logging.logger import Logger, Remote, files
from labkit.engine.models import ContainerRecord
from labkit.errors import InvalidParameter, LabkitError

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
        raise InvalidParameter(f"{FAILURE}: {error}") from error


def remote(record: ContainerRecord) -> Remote | None:
    """Where a container's output is sent; None for drivers that keep it in files."""
    return None
