"""The volumes of a daemon: who uses them, what happens to them (moby `volume/service/service.go`).

A volume is used by the containers whose records name it, running or not. One with options is a filesystem that is
mounted while one of them runs.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from labkit.engine import disk
from labkit.engine.execution import carry_out
from labkit.errors import Conflict, KernelError, LabkitError
from labkit.kernel import constants as c
from labkit.kernel import mountinfo
from labkit.kernel.mounts import Unmount
from labkit.plan import Context, Plan, Step
from labkit.trace import TraceContext, new_trace
from labkit.volumes.models import ANONYMOUS, Volume
from labkit.volumes.options import mount_of
from labkit.volumes.store import VolumeStore

if TYPE_CHECKING:
    from labkit.engine.container import Container
    from labkit.engine.engine import Engine

log = logging.getLogger("labkit.engine")
ASIDE = "volumes"
"""In a container's directory: its anonymous volumes, while they come to be or go together with it."""


class Volumes:
    """The store, and the containers (by ID) that use each volume and that have it mounted."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.store = VolumeStore(engine.settings.volumes)
        self.users: dict[str, set[str]] = {}
        self.mounted: dict[str, set[str]] = {}

    def create(
        self,
        name: str = "",
        driver: str = "",
        options: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
        anonymous: bool = False,
    ) -> Volume:
        """The volume of that name, made if there is none; without a name a new, anonymous one. Raises LabkitError."""
        if anonymous or not name:
            name, labels = name or os.urandom(32).hex(), {**(labels or {}), ANONYMOUS: ""}
        volume, made = self.store.create(name, driver, options, labels)
        if made:
            self.tell("create", volume.Name, driver=volume.Driver)
        return volume

    def remove(self, name: str) -> str:
        """Free the name of a volume that nobody uses; returns the directory that is left. Raises NotFound, Conflict."""
        volume = self.store.get(name)
        if users := self.users.get(name):
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(sorted(users))}]")
        doomed = self.store.take_away(name)
        self.tell("destroy", name, driver=volume.Driver)
        return doomed

    def tell(self, action: str, name: str, **attributes: str) -> None:
        self.engine.events.publish("volume", action, name, attributes)

    def use(self, name: str, container: str) -> None:
        self.users.setdefault(name, set()).add(container)

    def part(self, container: str) -> None:
        """A container doesn't use any volume any more."""
        for name in [name for name, users in self.users.items() if container in users]:
            self.users[name].discard(container)
            if not self.users[name]:
                del self.users[name]

    def mount(self, names: Iterable[str], container: str, trace: TraceContext) -> None:
        """Mount what these volumes are, unless it is mounted already. Raises LabkitError, having mounted nothing."""
        wanted = [self.store.get(name) for name in dict.fromkeys(names)]
        fresh = [volume for volume in wanted if volume.mounts and not self.mounted.get(volume.Name)]
        steps = [Step("daemon", op) for volume in fresh for op in self._mounts(volume)]
        if steps:
            try:
                carry_out(self.engine, Plan("mount volumes", tuple(steps)), container, trace)
            except KernelError as error:
                raise LabkitError(_mount_failure(error, fresh, self.store)) from error
        for volume in wanted:
            self.mounted.setdefault(volume.Name, set()).add(container)

    def _mounts(self, volume: Volume) -> Sequence[Any]:
        return mount_of(volume.Options or {}, self.store.mountpoint(volume.Name))

    def unmount(self, container: str, trace: TraceContext | None = None) -> list[str]:
        """A container runs no more; what only it had mounted is unmounted. Returns the volumes that it had."""
        mine = [name for name, holders in self.mounted.items() if container in holders]
        steps = []
        for name in mine:
            self.mounted[name].discard(container)
            if not self.mounted[name]:
                del self.mounted[name]
                volume = self.store.find(name)
                steps += [self._unmount(name)] if volume and volume.mounts else []
        try:
            if steps:
                carry_out(self.engine, Plan("unmount volumes", tuple(steps)), container, trace or new_trace())
        except LabkitError as error:
            log.warning("a volume stays mounted: %s", error)
        return mine

    def _unmount(self, name: str) -> Step:
        return Step("daemon", Unmount(self.store.mountpoint(name), c.MNT_DETACH))

    def unmount_strays(self) -> None:
        """Unmount what a killed daemon had mounted for a container that doesn't run.

        What lies at volumes without options is somebody else's doing, and stays.
        """
        free = [volume.Name for volume in self.store if volume.mounts and not self.mounted.get(volume.Name)]
        strays = {os.path.realpath(self.store.mountpoint(name)) for name in free}
        for target in [one.target for one in mountinfo.read() if one.target in strays] if strays else ():
            log.info("unmounting %s, which no container uses", target)
            Unmount(target, c.MNT_DETACH).run(Context())

    def take_container_away(self, container: Container, names: Sequence[str]) -> list[str]:
        """Free the place of a removed container, and of these volumes, if no other container uses them.

        Returns the directories that are left to be removed. A daemon that is killed on the way leaves a list, by which
        the next one goes on (`remove_aside`).
        """
        self.part(container.id)
        gone = [name for name in names if not self.users.get(name) and self.store.find(name)]
        write_aside(container.directory, gone)
        doomed = f"{container.directory}.removed"
        disk.remove_trees([doomed])
        with suppress(FileNotFoundError):
            os.rename(container.directory, doomed)
        return [doomed, *(self.remove(name) for name in gone)]

    def remove_aside(self, directory: str, used: set[str]) -> None:
        """Remove the volumes that were to come to be, or to go, with a container. Unless it is in use by another."""
        for name in read_aside(directory):
            if name not in used and self.store.find(name):
                self.store.remove(name)


def write_aside(directory: str, names: Sequence[str]) -> None:
    """Note which volumes go if this directory goes; none if the list is empty."""
    path = os.path.join(directory, ASIDE)
    if names and os.path.isdir(directory):
        disk.write_json(path, list(names), durable=False)
    elif os.path.lexists(path):
        os.unlink(path)


def read_aside(directory: str) -> list[str]:
    path = os.path.join(directory, ASIDE)
    return disk.read_json(path, list[str]) if os.path.exists(path) else []


def _mount_failure(error: KernelError, volumes: Sequence[Volume], store: VolumeStore) -> str:
    """moby's words for a mount that failed (`volume/local/local_unix.go`), without a password that its options have."""
    failed = next((one for one in volumes if store.mountpoint(one.Name) in error.call), volumes[0])
    options, target = failed.Options or {}, store.mountpoint(failed.Name)
    words = re.sub(r"\bpassword=[^,]*", "password=********", options.get("o", ""))
    data = f", data: {words}" if words else ""
    reason = os.strerror(error.errno).lower() + (f" ({error.hint})" if error.hint else "")
    mounted = f"mount {options.get('device')}:{target}{data}: {reason}"
    return f"error while mounting volume '{target}': failed to mount local volume: {mounted}"


def view(volumes: Volumes, volume: Volume) -> dict[str, Any]:
    """`GET /volumes/{name}`."""
    return {
        "CreatedAt": volume.CreatedAt,
        "Driver": volume.Driver,
        "Labels": _sorted(volume.Labels),
        "Mountpoint": volumes.store.mountpoint(volume.Name),
        "Name": volume.Name,
        "Options": _sorted(volume.Options),
        "Scope": "local",
    }


def _sorted(pairs: dict[str, str] | None) -> dict[str, str] | None:
    return None if pairs is None else dict(sorted(pairs.items()))


def is_anonymous(volume: Volume) -> bool:
    return ANONYMOUS in (volume.Labels or {})
