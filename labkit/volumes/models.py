"""Volumes and mount points as data, with the Engine API's own field names (v1.50, `Volume`, `Mount`, `MountPoint`).

A `Mount` is what a client asks for in HostConfig.Mounts, a `MountPoint` what became of it: a part of the container's
record, shown by inspect. moby `volume/mounts/mounts.go`.
"""

from __future__ import annotations

import msgspec

LOCAL = "local"
"""The only driver: directories of this machine, on which it may mount a filesystem while they are in use."""

ANONYMOUS = "com.docker.volume.anonymous"
"""The label of a volume that was given no name: those are what `docker volume prune` removes by default."""


class Volume(msgspec.Struct, kw_only=True):
    """What `volumes/NAME/volume.json` holds. `CreatedAt` is RFC 3339, in seconds; null is what wasn't given."""

    Name: str
    CreatedAt: str
    Driver: str = LOCAL
    Labels: dict[str, str] | None = None
    Options: dict[str, str] | None = None

    @property
    def mounts(self) -> bool:
        """Whether a filesystem of its own is mounted while it is in use (the options `type` and `device`)."""
        return bool(self.Options and (self.Options.get("type") or self.Options.get("device")))


class BindOptions(msgspec.Struct, kw_only=True, omit_defaults=True):
    Propagation: str = ""
    NonRecursive: bool = False
    CreateMountpoint: bool = False
    ReadOnlyNonRecursive: bool = False
    ReadOnlyForceRecursive: bool = False


class DriverConfig(msgspec.Struct, kw_only=True, omit_defaults=True):
    Name: str = ""
    Options: dict[str, str] | None = None


class VolumeOptions(msgspec.Struct, kw_only=True, omit_defaults=True):
    NoCopy: bool = False
    Labels: dict[str, str] | None = None
    Subpath: str = ""
    DriverConfig: DriverConfig | None = None


class ImageOptions(msgspec.Struct, kw_only=True, omit_defaults=True):
    Subpath: str = ""


class TmpfsOptions(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`Mode` is a number as in chmod(2)."""

    SizeBytes: int = 0
    Mode: int = 0
    Options: list[list[str]] | None = None


class Mount(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One of HostConfig.Mounts."""

    Type: str = ""
    Source: str = ""
    Target: str = ""
    ReadOnly: bool = False
    Consistency: str = ""
    BindOptions: BindOptions | None = None
    VolumeOptions: VolumeOptions | None = None
    ImageOptions: ImageOptions | None = None
    TmpfsOptions: TmpfsOptions | None = None


class MountPoint(msgspec.Struct, kw_only=True):
    """What is mounted at `Destination` of a container. `Spec` is what was asked for.

    `Name` and `Driver` are a volume's, and empty for everything else. `CopyData` says that an empty volume is filled
    with what the image has there, `CreateSource` that a missing bind source is made (as `-v` does).
    """

    Type: str
    Destination: str
    Name: str = ""
    Source: str = ""
    Driver: str = ""
    Mode: str = ""
    RW: bool = True
    Propagation: str = ""
    CopyData: bool = False
    CreateSource: bool = False
    Spec: Mount = msgspec.field(default_factory=Mount)

    @property
    def is_anonymous(self) -> bool:
        """Whether it is a volume that goes with its container if the user wants that (`rm -v`, `--rm`)."""
        return self.Type == "volume" and not self.Spec.Source
