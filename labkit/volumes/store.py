"""Named volumes on disk: `volumes/NAME/_data` is what containers see, `volumes/NAME/volume.json` the record.

moby `volume/service/store.go`, `volume/local`. A volume comes to be, and goes, by a rename: what is found under a name
that starts with a dot is what a killed daemon had not finished. Standing content is never touched.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator

import msgspec

from labkit.errors import LabkitError, NotFound
from labkit.volumes.copying import finish_moving
from labkit.volumes.models import Volume
from labkit.volumes.options import check_driver, check_name, check_options

RECORD = "volume.json"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class VolumeStore:
    """The volumes of one data root. Methods raise LabkitError; what they say begins as moby's errors do."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._volumes: dict[str, Volume] = {}

    def load(self) -> None:
        """Read what is there, after finishing what a killed daemon had begun. Raises LabkitError."""
        os.makedirs(self.root, mode=0o701, exist_ok=True)
        for name in sorted(os.listdir(self.root)):
            folder = os.path.join(self.root, name)
            if name.startswith("."):
                shutil.rmtree(folder)
            elif os.path.isdir(folder):
                finish_moving(folder)
                self._volumes[name] = _read(os.path.join(folder, RECORD))

    def __iter__(self) -> Iterator[Volume]:
        return iter(sorted(self._volumes.values(), key=lambda volume: volume.Name))

    def find(self, name: str) -> Volume | None:
        return self._volumes.get(name)

    def get(self, name: str) -> Volume:
        """Raises NotFound."""
        if found := self._volumes.get(name):
            return found
        raise NotFound(f"get {name}: no such volume")

    def mountpoint(self, name: str) -> str:
        """The directory that containers see."""
        return os.path.join(self.root, name, "_data")

    def create(
        self, name: str, driver: str, options: dict[str, str] | None, labels: dict[str, str] | None
    ) -> tuple[Volume, bool]:
        """The volume of that name, and whether it was made. One that is there stays as it is, as with dockerd."""
        try:
            check_driver(driver)
            if found := self._volumes.get(name):
                return found, False
            check_name(name)
            check_options(options or {})
        except LabkitError as error:
            raise type(error)(f"create {name}: {error}") from None
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        volume = Volume(Name=name, CreatedAt=now, Labels=labels, Options=options)
        self._write(volume)
        self._volumes[name] = volume
        return volume, True

    def _write(self, volume: Volume) -> None:
        """Make the directory under another name, and give it its own when all of it is on the disk."""
        temporary = os.path.join(self.root, f".{volume.Name}.new")
        try:
            if os.path.lexists(temporary):
                shutil.rmtree(temporary)
            os.mkdir(temporary, 0o701)
            os.mkdir(os.path.join(temporary, "_data"), 0o755)
            _write_record(os.path.join(temporary, RECORD), volume)
            _sync(temporary)
            os.rename(temporary, os.path.join(self.root, volume.Name))
            _sync(self.root)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise LabkitError(f"create {volume.Name}: {error.strerror}: {error.filename or self.root}") from error

    def remove(self, name: str) -> None:
        """Remove a volume that nobody uses, with all that is in it. Raises NotFound; LabkitError if the disk fails.

        It is gone at once or not at all: what takes long comes after its name is free. May run on a thread.
        """
        doomed = self.take_away(name)
        try:
            shutil.rmtree(doomed)
        except OSError as error:
            raise LabkitError(f"remove {name}: {error.strerror}: {error.filename}") from error

    def take_away(self, name: str) -> str:
        """Free a volume's name; returns the directory that is left to be removed. Raises NotFound."""
        self.get(name)
        doomed = os.path.join(self.root, f".{name}.removed")
        try:
            if os.path.lexists(doomed):
                shutil.rmtree(doomed)
            os.rename(os.path.join(self.root, name), doomed)
            _sync(self.root)
        except OSError as error:
            raise LabkitError(f"remove {name}: {error.strerror}: {error.filename}") from error
        del self._volumes[name]
        return doomed


def _read(path: str) -> Volume:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=Volume)
    except (OSError, msgspec.MsgspecError) as error:
        raise LabkitError(f"{path} is damaged ({error}): mend it, or move the volume's directory away") from error


def _write_record(path: str, volume: Volume) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(volume), indent=1) + b"\n")
        file.flush()
        os.fsync(fd)


def _sync(path: str) -> None:
    fd = os.open(path, _DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
