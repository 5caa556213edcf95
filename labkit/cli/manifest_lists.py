"""Manifest lists under work, in `~/.docker/manifests`: a folder a list, in it a file an image (docker/cli
`manifest/store`). docker's own command goes on with what was begun here, and the other way round."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from labkit.cli.naming import Name
from labkit.client.credentials import directory
from labkit.errors import InvalidParameter, NotFound


class Entry(NamedTuple):
    """One image of a list: its reference, its descriptor (with the platform), and the bytes of its manifest."""

    reference: str
    descriptor: Mapping[str, Any]
    manifest: bytes


class ManifestLists:
    """The lists of this user."""

    def __init__(self) -> None:
        folder = directory()
        if not folder:
            raise InvalidParameter("there is no home directory to keep manifest lists in: set HOME or DOCKER_CONFIG")
        self._root = os.path.join(folder, "manifests")

    def _folder(self, target: Name) -> str:
        return os.path.join(self._root, _file_name(target))

    def entry(self, target: Name, member: Name) -> Entry | None:
        """One image of a list, if it is there."""
        path = os.path.join(self._folder(target), _file_name(member))
        return _read(path) if os.path.exists(path) else None

    def entries(self, target: Name) -> list[Entry]:
        """The images of a list; none if there is no such list."""
        folder = self._folder(target)
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        return [_read(os.path.join(folder, name)) for name in names]

    def save(self, target: Name, member: Name, entry: Entry) -> None:
        """Puts an image into a list, which is made if there is none."""
        path = os.path.join(self._folder(target), _file_name(member))
        kind = "SchemaV2Manifest" if ".docker." in entry.descriptor["mediaType"] else "OCIManifest"
        document = {
            "Ref": entry.reference,
            "Descriptor": dict(entry.descriptor),
            "Raw": base64.b64encode(entry.manifest).decode(),
            kind: json.loads(entry.manifest),
        }
        try:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                json.dump(document, file, separators=(",", ":"), ensure_ascii=False)
        except OSError as error:
            raise InvalidParameter(f"{error.filename}: {(error.strerror or '').lower()}") from error

    def remove(self, target: Name) -> None:
        """Takes a list away. NotFound in docker's words if there is none."""
        folder = self._folder(target)
        if not os.path.isdir(folder):
            raise NotFound(f"No such manifest: {target}")
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)


def _file_name(name: Name) -> str:
    return str(name).replace(":", "-").replace("/", "_")


def _read(path: str) -> Entry:
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
        return Entry(document["Ref"], document["Descriptor"], base64.b64decode(document["Raw"], validate=True))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidParameter(f"{path} is no entry of a manifest list: {error}") from error
