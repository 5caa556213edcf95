"""What registries say when they refuse, in the words that dockerd has for it.

OCI distribution-spec, "Error codes"; dockerd's sentences are those of `distribution/errors.go` and of the Distribution
project's client.
"""

from __future__ import annotations

import http
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from labkit.errors import Forbidden, InvalidParameter, LabkitError, NotFound, Unauthorized, Unavailable
from labkit.images.references import Reference
from labkit.registry.transport import Answer

_MESSAGES = {
    "DENIED": "requested access to the resource is denied",
    "UNAUTHORIZED": "authentication required",
    "TOOMANYREQUESTS": "too many requests",
    "MANIFEST_UNKNOWN": "manifest unknown",
    "NAME_UNKNOWN": "repository name not known to registry",
}
_CLASSES: dict[str, type[LabkitError]] = {
    "BLOB_UNKNOWN": NotFound,
    "BLOB_UPLOAD_INVALID": InvalidParameter,
    "BLOB_UPLOAD_UNKNOWN": NotFound,
    "DENIED": Forbidden,
    "DIGEST_INVALID": InvalidParameter,
    "MANIFEST_BLOB_UNKNOWN": InvalidParameter,
    "MANIFEST_INVALID": InvalidParameter,
    "MANIFEST_UNKNOWN": NotFound,
    "NAME_INVALID": InvalidParameter,
    "NAME_UNKNOWN": NotFound,
    "SIZE_INVALID": InvalidParameter,
    "TOOMANYREQUESTS": Unavailable,
    "UNAUTHORIZED": Unauthorized,
    "UNAVAILABLE": Unavailable,
    "UNSUPPORTED": Forbidden,
}
_BY_STATUS = {401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}
_LONGEST = 1000  # characters of a registry's message that are repeated


class _Fault(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Faults(msgspec.Struct, frozen=True):
    errors: tuple[_Fault, ...] = ()
    details: Any = None


def fault(status: int, headers: Mapping[str, str], body: bytes) -> tuple[str, str]:
    """The code and message that a refusal carries; the code is empty where it carries none that is known."""
    try:
        said = msgspec.json.decode(body, type=_Faults)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = _Faults()
    if said.errors:
        code = said.errors[0].code.upper()
        message = said.errors[0].message or _MESSAGES.get(code, "unknown error")
    elif isinstance(said.details, str) and said.details:
        code, message = _BY_STATUS.get(status, "UNKNOWN"), said.details
    else:
        code = _BY_STATUS.get(status, "")
        message = _MESSAGES.get(code, "")
    if 'error="insufficient_scope"' in headers.get("WWW-Authenticate", ""):
        code, message = "DENIED", _MESSAGES["DENIED"]
    return code, _printable(message)[:_LONGEST]


def _printable(text: str) -> str:
    """The text without what could steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def registry_error(answer: Answer, reference: Reference | None = None) -> LabkitError:
    """The error for an answer that refuses; its body is read. With a reference, as dockerd tells it for a pull."""
    body = answer.drain()
    return error_of(answer.status, answer.headers, body, reference)


def error_of(status: int, headers: Mapping[str, str], body: bytes, reference: Reference | None = None) -> LabkitError:
    """The error for a refusal."""
    code, message = fault(status, headers, body)
    if not code:
        return _unexpected(status)
    said = f"{code.lower().replace('_', ' ')}: {message}"
    if reference and code in _OF_A_PULL:
        return NotFound(f"{_OF_A_PULL[code](reference)}: {said}")
    return _CLASSES.get(code, LabkitError)(said)


_OF_A_PULL: dict[str, Callable[[Reference], str]] = {
    "DENIED": lambda reference: (
        f"pull access denied for {reference.familiar_name}, repository does not exist or may require 'docker login'"
    ),
    "MANIFEST_UNKNOWN": lambda reference: f"manifest for {reference.familiar} not found",
    "NAME_UNKNOWN": lambda reference: f"repository {reference.familiar_name} not found",
}


def _unexpected(status: int) -> LabkitError:
    known = {entry.value: entry.phrase for entry in http.HTTPStatus}
    text = f"received unexpected HTTP status: {status} {known.get(status, '')}".rstrip()
    if status == 404:
        return NotFound(text)
    return Unavailable(text) if status >= 500 else LabkitError(text)
