"""Blobs and uploads: the endpoints that carry an image's bytes (OCI distribution-spec `spec.md`, Pull and Push)."""

from __future__ import annotations

import re

from labkit.registry.server.application import Registry
from labkit.registry.server.names import check_digest, check_name
from labkit.registry.server.refusals import Refused
from labkit.registry.server.serving import Answer, Content, FilePart, Request
from labkit.registry.server.storage import Repository
from labkit.registry.server.uploads import range_of

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_CONTENT_RANGE = re.compile(r"(?:bytes )?(\d{1,18})-(\d{1,18})(?:/(?:\d+|\*))?")


def get_blob(registry: Registry, request: Request, named: dict[str, str]) -> Answer:
    """end-2: a blob or a range of it, or with HEAD whether it is here."""
    name, digest = check_name(named["name"]), check_digest(named["digest"])
    if registry.origin:
        return _blob_answer(request, digest, registry.origin.blob(name, digest, request.method == "GET"))
    blob = registry.storage.find(name).open_blob(digest)
    return _blob_answer(request, digest, FilePart(blob.descriptor, 0, blob.size))


def _blob_answer(request: Request, digest: str, part: Content) -> Answer:
    headers = (
        ("Docker-Content-Digest", digest),
        ("ETag", f'"{digest}"'),
        ("Cache-Control", "max-age=31536000"),
        ("Accept-Ranges", "bytes"),
        ("Content-Type", "application/octet-stream"),
    )
    if is_known(request, digest):
        part.close()
        return Answer(304, headers[:3])
    wanted = _range(request, digest)
    if wanted is None:
        return Answer(200, headers, part)
    start, end = positions(*wanted, part.size)
    if start >= end:
        part.close()
        whole = (("Content-Range", f"bytes */{part.size}"),)
        raise Refused("SIZE_INVALID", "the blob has no such range", status=416, headers=whole)
    return Answer(206, (*headers, ("Content-Range", f"bytes {start}-{end - 1}/{part.size}")), part.narrowed(start, end))


def is_known(request: Request, digest: str) -> bool:
    """Whether the client says that it has this content already (RFC 9110, If-None-Match)."""
    return f'"{digest}"' in request.headers.get("If-None-Match", "")


def _range(request: Request, digest: str) -> tuple[str, str] | None:
    """First and last byte as the header has them; None where it asks for all, or for what a server may ignore."""
    match = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    condition = request.headers.get("If-Range", f'"{digest}"')
    if not match or request.method != "GET" or condition != f'"{digest}"':
        return None
    first, last = match.groups()
    backwards = first and last and int(last) < int(first)
    return None if backwards or not (first or last) else (first, last)


def positions(first: str, last: str, size: int) -> tuple[int, int]:
    """Where a range of a blob starts and ends (exclusive); not before it where there is none (RFC 9110, 14.1.2)."""
    if not first:
        return max(size - int(last), 0), size if int(last) else 0
    return int(first), min(int(last) + 1, size) if last else size


def delete_blob(registry: Registry, request: Request, named: dict[str, str]) -> Answer:
    """end-10: removes a blob from this repository; others keep theirs."""
    digest = check_digest(named["digest"])
    registry.storage.find(named["name"]).remove_blob(digest)
    return Answer(202)


def start_upload(registry: Registry, request: Request, named: dict[str, str]) -> Answer:
    """end-4a: begins an upload; end-4b: takes a blob at once; end-11: or from another repository, if it has it."""
    name, query = check_name(named["name"]), request.query
    if "mount" in query and _mounted(registry, name, check_digest(query["mount"]), query.get("from")):
        return _created(name, query["mount"])
    if "digest" not in query:
        return _accepted(name, registry.uploads.start(), 0)
    digest = check_digest(query["digest"])
    upload = registry.uploads.start()
    try:
        registry.uploads.append(upload, request.body)
        return _finish(registry, name, upload, digest)
    finally:
        registry.uploads.cancel(upload)  # nobody was told its name


def _mounted(registry: Registry, name: str, digest: str, source: str | None) -> bool:
    """Whether the blob could be taken over; from any repository where the request names none."""
    origin: Repository | None = None
    if source is not None:
        try:
            origin = registry.storage.find(source)
        except Refused:
            return False  # the specification has the client upload it then
    elif not registry.storage.pooled(digest).exists():
        return False
    return registry.storage.make(name).mount(digest, origin)


def append_upload(registry: Registry, request: Request, named: dict[str, str]) -> Answer:
    """end-5: takes the next bytes; 416 with what is here if others come first."""
    name = check_name(named["name"])
    size = registry.uploads.append(named["upload"], request.body, _start(request))
    return _accepted(name, named["upload"], size)


def _start(request: Request) -> int | None:
    """Where the request's bytes begin. Raises Refused: SIZE_INVALID, BLOB_UPLOAD_INVALID."""
    text = request.headers.get("Content-Range")
    if text is None:
        return None
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if not match or int(match[2]) + 1 < int(match[1]):
        raise Refused("BLOB_UPLOAD_INVALID", f"invalid Content-Range: {text!r}", status=416)
    if request.body.size is not None and int(match[2]) - int(match[1]) + 1 != request.body.size:
        raise Refused("SIZE_INVALID", detail={"Content-Range": text, "Content-Length": request.body.size})
    return int(match[1])


def finish_upload(registry: Registry, request: Request, named: dict[str, str]) -> Answer:
    """end-6: takes the last bytes, if any, and makes the upload a blob if its digest is right."""
    name = check_name(named["name"])
    if "digest" not in request.query:
        raise Refused("DIGEST_INVALID", "the parameter digest is missing")
    digest = check_digest(request.query["digest"])
    if request.body.size != 0:
        registry.uploads.append(named["upload"], request.body, _start(request))
    return _finish(registry, name, named["upload"], digest)


def _finish(registry: Registry, name: str, upload: str, digest: str) -> Answer:
    with registry.uploads.finished(upload, digest) as file:
        registry.storage.make(name).adopt(file, digest)
    return _created(name, digest)


def upload_status(registry: Registry, request: Request, named: dict[str, str]) -> Answer:
    """end-13: how much of an upload is here."""
    name = check_name(named["name"])
    return Answer(204, _upload_headers(name, named["upload"], registry.uploads.size(named["upload"])))


def cancel_upload(registry: Registry, request: Request, named: dict[str, str]) -> Answer:
    """Forgets an upload."""
    registry.uploads.size(named["upload"])
    registry.uploads.cancel(named["upload"])
    return Answer(204)


def _accepted(name: str, upload: str, size: int) -> Answer:
    return Answer(202, _upload_headers(name, upload, size))


def _upload_headers(name: str, upload: str, size: int) -> tuple[tuple[str, str], ...]:
    return (
        ("Location", f"/v2/{name}/blobs/uploads/{upload}"),
        ("Range", range_of(size)),
        ("Docker-Upload-UUID", upload),
    )


def _created(name: str, digest: str) -> Answer:
    return Answer(201, (("Location", f"/v2/{name}/blobs/{digest}"), ("Docker-Content-Digest", digest)))
