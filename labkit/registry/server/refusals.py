"""What a registry says no with: the error codes of the OCI distribution-spec (`spec.md`, Error Codes).

Clients match on the code and the status; the message is for people.
"""

from __future__ import annotations

from typing import Any

import msgspec

from labkit.errors import LabkitError

# code: (status, what people read where a request doesn't say it better; the spec's and Distribution's wording)
_CODES = {
    "BLOB_UNKNOWN": (404, "blob unknown to registry"),
    "BLOB_UPLOAD_INVALID": (400, "blob upload invalid"),
    "BLOB_UPLOAD_UNKNOWN": (404, "blob upload unknown to registry"),
    "DENIED": (403, "requested access to the resource is denied"),
    "DIGEST_INVALID": (400, "provided digest did not match uploaded content"),
    "MANIFEST_BLOB_UNKNOWN": (404, "manifest references a manifest or blob unknown to registry"),
    "MANIFEST_INVALID": (400, "manifest invalid"),
    "MANIFEST_UNKNOWN": (404, "manifest unknown to registry"),
    "NAME_INVALID": (400, "invalid repository name"),
    "NAME_UNKNOWN": (404, "repository name not known to registry"),
    "PAGINATION_NUMBER_INVALID": (400, "invalid number of results requested"),
    "SIZE_INVALID": (400, "provided length did not match content length"),
    "TAG_INVALID": (400, "manifest tag did not match URI"),
    "UNAUTHORIZED": (401, "authentication required"),
    "UNKNOWN": (500, "unknown error"),
    "UNSUPPORTED": (405, "The operation is unsupported."),
}


class Refused(LabkitError):
    """A request that isn't carried out, with the specification's code for it, and headers that belong to the answer."""

    def __init__(
        self,
        code: str,
        message: str = "",
        detail: Any = None,
        *,
        status: int = 0,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        usual, wording = _CODES[code]
        super().__init__(message or wording)
        self.status = status or usual
        self.code = code
        self.detail = detail
        self.headers = headers

    def document(self) -> bytes:
        """The body of the answer: `{"errors": [{"code", "message", "detail"}]}`."""
        error = {"code": self.code, "message": str(self)}
        return msgspec.json.encode({"errors": [error if self.detail is None else error | {"detail": self.detail}]})
