"""The endpoints of the OCI distribution-spec (`spec.md`, Endpoints), by method and path, and what each may do.

Here are the version check, manifests, tags, catalogue and referrers; blobs and uploads are in `blobs.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

import msgspec

from labkit.images.manifests import DOCUMENT_LIMIT, OCI_INDEX, Descriptor, Index
from labkit.registry.server import blobs
from labkit.registry.server.access import Passwords
from labkit.registry.server.application import Registry
from labkit.registry.server.documents import read_document
from labkit.registry.server.names import check_digest, check_name, is_digest, is_tag
from labkit.registry.server.page import page
from labkit.registry.server.refusals import Refused
from labkit.registry.server.serving import Answer, Request
from labkit.registry.server.storage import Repository, Stored

Endpoint = Callable[[Registry, Request, dict[str, str]], Answer]

_JSON = ("Content-Type", "application/json")


def version(registry: Registry, request: Request, named: dict[str, str]) -> Answer:
    """end-1: says that this is a registry."""
    return Answer(200, (_JSON,), b"{}")


def overview(registry: Registry, request: Request, named: dict[str, str]) -> Answer:
    """The page for browsers."""
    policy = ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
    text = page(registry.storage, request.headers.get("Host", ""))
    return Answer(200, (("Content-Type", "text/html; charset=utf-8"), policy), text.encode())


def get_manifest(registry: Registry, request: Request, named: dict[str, str]) -> Answer:
    """end-3: a manifest by tag or digest, in the bytes that were pushed."""
    stored = _find_manifest(registry, check_name(named["name"]), named["reference"])
    headers = (
        ("Docker-Content-Digest", stored.digest),
        ("ETag", f'"{stored.digest}"'),
        ("Content-Type", stored.media_type),
    )
    if blobs.is_known(request, stored.digest):
        return Answer(304, headers[:2])
    return Answer(200, headers, stored.data)


def _find_manifest(registry: Registry, name: str, reference: str) -> Stored:
    if registry.origin:
        return registry.origin.manifest(name, reference)
    return registry.storage.find(name).manifest(reference)


def put_manifest(registry: Registry, request: Request, named: dict[str, str]) -> Answer:
    """end-7: stores a manifest whose parts are here, under a tag or its digest."""
    name, reference = check_name(named["name"]), named["reference"]
    data = request.body.read(DOCUMENT_LIMIT)
    document = read_document(data, request.headers.get("Content-Type", ""))
    if not is_tag(reference) and not is_digest(reference):
        raise Refused("TAG_INVALID", f"invalid tag: {reference!r}")
    if document.targets and _known(registry, name) is None:  # a push that is refused makes no repository
        raise Refused("MANIFEST_BLOB_UNKNOWN", detail={"digest": document.targets[0].digest})
    digest = registry.storage.make(name).put_manifest(reference, document, data)
    headers = [("Location", f"/v2/{name}/manifests/{digest}"), ("Docker-Content-Digest", digest)]
    if document.subject:
        headers.append(("OCI-Subject", document.subject.digest))
    return Answer(201, tuple(headers))


def delete_manifest(registry: Registry, request: Request, named: dict[str, str]) -> Answer:
    """end-9: a tag, or with its digest a manifest and all its tags."""
    repository, reference = registry.storage.find(named["name"]), named["reference"]
    if is_digest(reference):
        repository.remove_manifest(reference)
    else:
        repository.remove_tag(reference)
    return Answer(202)


def list_tags(registry: Registry, request: Request, named: dict[str, str]) -> Answer:
    """end-8: the tags of a repository, in order, by pages if the client wants so."""
    name = check_name(named["name"])
    found = registry.origin.tags(name) if registry.origin else registry.storage.find(name).listing().tags
    shown, link = _paged(sorted(found), request, f"/v2/{name}/tags/list")
    return Answer(200, (_JSON, *link), msgspec.json.encode({"name": name, "tags": shown}))


def catalog(registry: Registry, request: Request, named: dict[str, str]) -> Answer:
    """The repositories, as Distribution's registry lists them."""
    shown, link = _paged(registry.storage.names(), request, "/v2/_catalog")
    return Answer(200, (_JSON, *link), msgspec.json.encode({"repositories": shown}))


def _paged(found: Sequence[str], request: Request, path: str) -> tuple[Sequence[str], tuple[tuple[str, str], ...]]:
    """What comes after `last`, at most `n`, and the header that leads to the next page."""
    if last := request.query.get("last"):
        found = [name for name in found if name > last]
    wanted = request.query.get("n", "")
    if not wanted:
        return found, ()
    if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 10):
        raise Refused("PAGINATION_NUMBER_INVALID", detail={"n": wanted})
    count = int(wanted)
    if not count or len(found) <= count:
        return found[:count], ()
    following = urlencode({"n": count, "last": found[count - 1]})
    return found[:count], (("Link", f'<{path}?{following}>; rel="next"'),)


def referrers(registry: Registry, request: Request, named: dict[str, str]) -> Answer:
    """end-12: the manifests whose subject is this digest. None, also of what isn't here, is an empty index:
    404 would tell the client to fall back to tags."""
    digest, name = check_digest(named["digest"]), check_name(named["name"])
    found = _find_referrers(registry, name, digest)
    headers = [("Content-Type", OCI_INDEX)]
    if wanted := request.query.get("artifactType"):
        found = [descriptor for descriptor in found if descriptor.artifact_type == wanted]
        headers.append(("OCI-Filters-Applied", "artifactType"))
    return Answer(200, tuple(headers), msgspec.json.encode(Index(tuple(found))))


def _find_referrers(registry: Registry, name: str, digest: str) -> list[Descriptor]:
    if registry.origin:
        return registry.origin.referrers(name, digest)
    repository = _known(registry, name)
    return repository.referrers(digest) if repository else []


def _known(registry: Registry, name: str) -> Repository | None:
    try:
        return registry.storage.find(name)
    except Refused:
        return None


@dataclass(frozen=True, slots=True)
class Route:
    """One path, and what its methods do."""

    pattern: re.Pattern[str]
    methods: dict[str, Endpoint]


def _route(path: str, **methods: Endpoint) -> Route:
    """`{name}` takes slashes, as a repository's name has them; anything else is one component."""
    pattern = re.sub(r"\{(\w+)\}", lambda match: f"(?P<{match[1]}>{'.+' if match[1] == 'name' else '[^/]+'})", path)
    return Route(re.compile(pattern), methods)


ROUTES = (
    _route("/v2/?", GET=version, HEAD=version),
    _route("/", GET=overview, HEAD=overview),
    _route("/v2/_catalog", GET=catalog, HEAD=catalog),
    _route("/v2/{name}/blobs/uploads/?", POST=blobs.start_upload),
    _route(
        "/v2/{name}/blobs/uploads/{upload}",
        GET=blobs.upload_status,
        PATCH=blobs.append_upload,
        PUT=blobs.finish_upload,
        DELETE=blobs.cancel_upload,
    ),
    _route("/v2/{name}/blobs/{digest}", GET=blobs.get_blob, HEAD=blobs.get_blob, DELETE=blobs.delete_blob),
    _route(
        "/v2/{name}/manifests/{reference}",
        GET=get_manifest,
        HEAD=get_manifest,
        PUT=put_manifest,
        DELETE=delete_manifest,
    ),
    _route("/v2/{name}/tags/list", GET=list_tags, HEAD=list_tags),
    _route("/v2/{name}/referrers/{digest}", GET=referrers, HEAD=referrers),
)


class Application:
    """The registry as a function from requests to answers."""

    def __init__(self, registry: Registry, passwords: Passwords | None = None) -> None:
        self._registry = registry
        self._passwords = passwords

    def __call__(self, request: Request) -> Answer:
        """Raises Refused, and other LabkitErrors as the disk gives cause."""
        if self._passwords and not self._passwords.allows(request.headers.get("Authorization")):
            raise Refused("UNAUTHORIZED", headers=(("WWW-Authenticate", 'Basic realm="labkit registry"'),))
        endpoint, named = find(request.method, request.path)
        self._registry.check_allowed(request.method, endpoint in (delete_manifest, blobs.delete_blob))
        return endpoint(self._registry, request, named)


def find(method: str, path: str) -> tuple[Endpoint, dict[str, str]]:
    """The endpoint of a request, and the names in its path. Raises Refused: 404 and 405."""
    for route in ROUTES:
        if match := route.pattern.fullmatch(path):
            if endpoint := route.methods.get(method):
                return endpoint, match.groupdict()
            raise Refused("UNSUPPORTED", headers=(("Allow", ", ".join(route.methods)),))
    raise Refused("UNSUPPORTED", f"no such endpoint: {path}", status=404)
