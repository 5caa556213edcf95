"""The errors of labkit: one small hierarchy, and with it the HTTP status of each.

Docker's clients match on status and message, so messages follow dockerd's wording where it has one.
Elsewhere a message says what was wrong, with which value, and what to do about it.
"""

from __future__ import annotations

import errno as errno_table
import os


class LabkitError(Exception):
    """Base of all errors that labkit raises on purpose; answered with HTTP 500 (Engine API `ErrorResponse`)."""

    status = 500


class NotModified(LabkitError):
    """The object is already in the state that was asked for."""

    status = 304


class InvalidParameter(LabkitError):
    """The request can't be carried out as it was written."""

    status = 400


class Unauthorized(LabkitError):
    """A registry or the engine wants (other) credentials."""

    status = 401


class Forbidden(LabkitError):
    """The request is understood and refused: missing privilege, read-only store."""

    status = 403


class NotFound(LabkitError):
    """No such container, image, exec, trace or file."""

    status = 404


class Conflict(LabkitError):
    """The request contradicts the object's present state, or a name is in use."""

    status = 409


class NotImplementedByLabkit(LabkitError):
    """Docker can do this and labkit can't (yet)."""

    status = 501


class Unavailable(LabkitError):
    """A part that the request needs (spawner, registry, daemon) doesn't answer."""

    status = 503


class KernelError(LabkitError):
    """A system call failed. Says which call, on what, with which errno, and what usually mends it."""

    def __init__(self, call: str, errno: int, hint: str = "", operation: str = "") -> None:
        self.call = call
        self.errno = errno
        self.hint = hint
        self.operation = operation
        self.record: object = None  # the failed operation's plan.Record, where a plan was being executed
        super().__init__(call, errno, hint, operation)

    @property
    def errno_name(self) -> str:
        """The symbolic errno, such as ``EPERM`` (errno(3))."""
        return errno_table.errorcode.get(self.errno, str(self.errno))

    def __str__(self) -> str:
        operation = f"{self.operation}: " if self.operation else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{operation}{self.call}: {self.errno_name}: {os.strerror(self.errno)}{hint}"
