"""`manifest`: lists of manifests made by hand, one image for several platforms (docker/cli `command/manifest`).

Lists under work are kept where docker keeps them, in `manifests/` of its configuration. The engine fetches and stores
what docker's command would fetch and store itself: `/labkit/registry/manifests` carries the bytes as they are.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from labkit.cli.authorizing import registry_headers
from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.manifest_lists import Entry, ManifestLists
from labkit.cli.naming import Name, read_name
from labkit.cli.runners.inspect import indent_json
from labkit.cli.session import Session
from labkit.client.engine import Query
from labkit.errors import LabkitError, NotFound

_OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
_ROUTE = "/labkit/registry/manifests"
_ARCHITECTURES = {
    "darwin": "386 amd64 arm arm64",
    "dragonfly": "amd64",
    "freebsd": "386 amd64 arm",
    "linux": "386 amd64 arm arm64 loong64 mips64 mips64le ppc64le riscv64 s390x",
    "netbsd": "386 amd64 arm",
    "openbsd": "386 amd64 arm",
    "plan9": "386 amd64",
    "solaris": "amd64",
    "windows": "386 amd64 arm arm64",
}
"""What docker takes for a platform."""


class Fetched(NamedTuple):
    """A manifest or index as the registry has it."""

    media_type: str
    digest: str
    body: bytes

    @property
    def is_index(self) -> bool:
        return self.media_type in (_OCI_INDEX, _DOCKER_INDEX)

    def descriptor(self, platform: Mapping[str, Any] | None) -> dict[str, Any]:
        found = {"mediaType": self.media_type, "digest": self.digest, "size": len(self.body)}
        return {**found, "platform": dict(platform)} if platform else found


class _Registry:
    """The registries, as the engine reaches them."""

    def __init__(self, session: Session, insecure: bool) -> None:
        self._session = session
        self._insecure = insecure

    def fetch(self, name: Name) -> Fetched:
        """StatusError in docker's words if there is no such manifest."""
        query: Query = {"name": str(name), "insecure": self._insecure}
        headers = registry_headers(self._session, str(name))
        try:
            answer = self._session.client.request("GET", _ROUTE, query, headers=headers)
        except NotFound as error:
            raise StatusError(f"no such manifest: {name}") from error
        body = answer.body()
        return Fetched(answer.headers["content-type"], answer.headers["docker-content-digest"], body)

    def entry(self, name: Name) -> Entry:
        """One image, ready to be part of a list."""
        fetched = self.fetch(name)
        if fetched.is_index:
            raise StatusError(f"{name} is a manifest list")
        headers = registry_headers(self._session, str(name))
        path, query = f"/distribution/{name._replace(tag='', digest=fetched.digest)}/json", {"insecure": self._insecure}
        platforms = self._session.client.request("GET", path, query, headers=headers).json()["Platforms"]
        return Entry(str(name), fetched.descriptor(platforms[0]), fetched.body)

    def entries(self, name: Name, index: Fetched) -> list[Entry]:
        """The images of an index, each with its manifest."""
        found = []
        for descriptor in json.loads(index.body)["manifests"]:
            member = self.fetch(name._replace(tag="", digest=descriptor["digest"]))
            reference = (
                f"{name.repository}:{name.tag}@{member.digest}" if name.tag else f"{name.repository}@{member.digest}"
            )
            found.append(Entry(reference, member.descriptor(descriptor.get("platform")), member.body))
        return found

    def put(self, name: Name, media_type: str, body: bytes, source: Name | None = None) -> str:
        """Stores a manifest; the digest that it has now. Its blobs come from `source`, if they have to come."""
        query: Query = {"name": str(name), "insecure": self._insecure, "from": source.repository if source else None}
        headers = {"Content-Type": media_type, **registry_headers(self._session, str(name))}
        return str(self._session.client.request("PUT", _ROUTE, query, body, headers).json()["Digest"])


def create(session: Session, given: Invocation) -> None:
    target, *members = (read_name(word).tagged() for word in given.arguments)
    lists, registry = ManifestLists(), _Registry(session, given.flag("insecure"))
    if lists.entries(target) and not given.flag("amend"):
        raise StatusError("refusing to amend an existing manifest list with no --amend flag")
    for member in members:
        lists.save(target, member, lists.entry(target, member) or registry.entry(member))
    session.out(f"Created manifest list {target}\n")


def annotate(session: Session, given: Invocation) -> None:
    target, member = (read_name(word).tagged() for word in given.arguments)
    lists = ManifestLists()
    entry = lists.entry(target, member)
    if entry is None:
        raise StatusError(f"manifest for image {given.arguments[1]} does not exist in {given.arguments[0]}")
    lists.save(target, member, entry._replace(descriptor={**entry.descriptor, "platform": _platform(entry, given)}))


def _platform(entry: Entry, given: Invocation) -> dict[str, Any]:
    """An entry's platform with what the options change. StatusError if docker takes no such platform."""
    before: dict[str, Any] = dict(entry.descriptor.get("platform") or {})
    changes = {
        "architecture": given.text("arch"),
        "os": given.text("os"),
        "os.version": given.text("os-version"),
        "variant": given.text("variant"),
    }
    platform = before | {name: value for name, value in changes.items() if value}
    if features := [feature for words in given.all("os-features") for feature in words.split(",")]:
        platform["os.features"] = list(dict.fromkeys([*platform.get("os.features", ()), *features]))
    if platform.get("architecture", "") not in _ARCHITECTURES.get(platform.get("os", ""), "").split():
        wrong = f"{given.text('os')}/{given.text('arch')}"
        raise StatusError(f"manifest entry for image has unsupported os/arch combination: {wrong}")
    return platform


def inspect(session: Session, given: Invocation) -> None:
    lists, registry, verbose = ManifestLists(), _Registry(session, given.flag("insecure")), given.flag("verbose")
    name = read_name(given.arguments[-1]).tagged()
    if len(given.arguments) == 2:
        entry = lists.entry(read_name(given.arguments[0]).tagged(), name) or registry.entry(name)
        session.out(_one(entry, verbose))
    elif entries := lists.entries(name):
        session.out(_several(entries, verbose))
    elif (fetched := registry.fetch(name)).is_index:
        session.out(_several(registry.entries(name, fetched), verbose))
    elif verbose:
        session.out(_one(registry.entry(name), verbose))
    else:
        session.out(_one(Entry(str(name), fetched.descriptor(None), fetched.body), verbose))


def _one(entry: Entry, verbose: bool) -> str:
    return indent_json(_told(entry) if verbose else entry.manifest.decode(), "\t") + "\n"


def _several(entries: Sequence[Entry], verbose: bool) -> str:
    if verbose:
        return indent_json(f"[{','.join(map(_told, entries))}]", "\t") + "\n"
    return index_of(entries)[1] + "\n"


def _told(entry: Entry) -> str:
    """An entry with its manifest twice, as docker tells it: the bytes, and what is in them."""
    kind = "OCIManifest" if entry.descriptor["mediaType"] == _OCI_MANIFEST else "SchemaV2Manifest"
    head = {
        "Ref": entry.reference,
        "Descriptor": _ordered(entry.descriptor, "mediaType", "digest", "size"),
        "Raw": base64.b64encode(entry.manifest).decode(),
    }
    return f'{json.dumps(head, ensure_ascii=False)[:-1]},"{kind}":{entry.manifest.decode()}}}'


def _ordered(descriptor: Mapping[str, Any], *first: str) -> dict[str, Any]:
    """A descriptor with its fields in the order in which docker writes them: what is pushed has a digest."""
    found = {name: descriptor[name] for name in first}
    if platform := descriptor.get("platform"):
        names = ("architecture", "os", "os.version", "os.features", "variant")
        found["platform"] = {name: platform.get(name, "") for name in names if platform.get(name) or name in names[:2]}
    return found


def index_of(entries: Sequence[Entry]) -> tuple[str, str]:
    """The media type and the text of a list, byte for byte as docker writes it."""
    oci = bool(entries) and entries[0].descriptor["mediaType"] == _OCI_MANIFEST
    media_type = _OCI_INDEX if oci else _DOCKER_INDEX
    members = [_ordered(entry.descriptor, "mediaType", "size", "digest") for entry in entries]
    document = {"schemaVersion": 2, "mediaType": media_type, "manifests": members}
    return media_type, json.dumps(document, indent=3, ensure_ascii=False)


def push(session: Session, given: Invocation) -> None:
    target = read_name(given.arguments[0]).tagged()
    lists, registry = ManifestLists(), _Registry(session, given.flag("insecure"))
    entries = lists.entries(target)
    if not entries:
        raise StatusError(f"No such manifest: {target}")
    for entry in entries:
        _check(entry, target)
    for entry in entries:
        source = read_name(entry.reference)
        member = target._replace(tag="", digest=entry.descriptor["digest"])
        other = source if source.repository != target.repository else None
        digest = registry.put(member, entry.descriptor["mediaType"], entry.manifest, other)
        session.out(f"Pushed ref {member} with digest: {digest}\n")
    media_type, text = index_of(entries)
    session.out(f"{registry.put(target, media_type, text.encode())}\n")
    if given.flag("purge"):
        lists.remove(target)


def _check(entry: Entry, target: Name) -> None:
    """StatusError in docker's words if an entry can't be pushed as part of this list."""
    domain, platform = read_name(entry.reference).domain, entry.descriptor.get("platform") or {}
    if domain != target.domain:
        raise StatusError(
            f"cannot use source images from a different registry than the target image: {domain} != {target.domain}"
        )
    if not platform.get("architecture") or not platform.get("os"):
        raise StatusError(f"manifest {entry.reference} must have an OS and Architecture to be pushed to a registry")


def remove(session: Session, given: Invocation) -> None:
    lists, failures = ManifestLists(), []
    for word in given.arguments:
        try:
            lists.remove(read_name(word).tagged())
        except LabkitError as error:
            failures.append(str(error))
    if failures:
        raise StatusError("\n".join(failures))
