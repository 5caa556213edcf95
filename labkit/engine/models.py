"""A container's configuration and state as data, with the Engine API's own field names (v1.50 definitions).

These structs are at once what clients send, what the daemon stores (container.json) and what inspect shows.
Fields that labkit can't honour yet are read too, so that they can be refused instead of ignored
(`labkit.engine.validation`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from labkit.network.models import Endpoint, NetworkingConfig
from labkit.network.publishing import Binding
from labkit.volumes.models import MountPoint

ZERO_TIME = "0001-01-01T00:00:00Z"
"""How Go's encoding/json writes a time that was never set."""


class Struct(msgspec.Struct, kw_only=True):
    """Base: keyword-only, so that fields may come in the API's order whatever their defaults."""


class HealthConfig(Struct, omit_defaults=True):
    Test: list[str] | None = None
    Interval: int = 0
    Timeout: int = 0
    Retries: int = 0
    StartPeriod: int = 0
    StartInterval: int = 0


class Config(Struct):
    """`ContainerConfig`: what does not depend on the host."""

    Hostname: str = ""
    Domainname: str = ""
    User: str = ""
    AttachStdin: bool = False
    AttachStdout: bool = False
    AttachStderr: bool = False
    ExposedPorts: dict[str, dict[str, Any]] | msgspec.UnsetType | None = msgspec.UNSET
    Tty: bool = False
    OpenStdin: bool = False
    StdinOnce: bool = False
    Env: list[str] | None = None
    Cmd: list[str] | str | None = None
    Healthcheck: HealthConfig | msgspec.UnsetType | None = msgspec.UNSET
    Image: str = ""
    Volumes: dict[str, dict[str, Any]] | None = None
    WorkingDir: str = ""
    Entrypoint: list[str] | str | None = None
    NetworkDisabled: bool | msgspec.UnsetType = msgspec.UNSET
    MacAddress: str | msgspec.UnsetType = msgspec.UNSET
    OnBuild: list[str] | None = None
    Labels: dict[str, str] | None = None
    StopSignal: str | msgspec.UnsetType = msgspec.UNSET
    StopTimeout: int | msgspec.UnsetType | None = msgspec.UNSET
    Shell: list[str] | msgspec.UnsetType | None = msgspec.UNSET


class RestartPolicy(Struct):
    Name: str = "no"
    MaximumRetryCount: int = 0


class LogConfig(Struct):
    """`Type` is empty where nobody has named a driver."""

    Type: str = ""
    Config: dict[str, str] | None = msgspec.field(default_factory=dict)


class Ulimit(Struct):
    Name: str = ""
    Hard: int = 0
    Soft: int = 0


class DeviceMapping(Struct):
    PathOnHost: str = ""
    PathInContainer: str = ""
    CgroupPermissions: str = "rwm"


class WeightDevice(Struct):
    Path: str = ""
    Weight: int = 0


class ThrottleDevice(Struct):
    Path: str = ""
    Rate: int = 0


class DeviceRequest(Struct):
    Driver: str = ""
    Count: int = 0
    DeviceIDs: list[str] | None = None
    Capabilities: list[list[str]] | None = None
    Options: dict[str, str] | None = None


class HostConfig(Struct):
    """`HostConfig`: what depends on the host, `Resources` included."""

    Binds: list[str] | None = None
    ContainerIDFile: str = ""
    LogConfig: LogConfig = msgspec.field(default_factory=LogConfig)
    NetworkMode: str = "default"
    PortBindings: dict[str, list[dict[str, str]] | None] | None = msgspec.field(default_factory=dict)
    RestartPolicy: RestartPolicy = msgspec.field(default_factory=RestartPolicy)
    AutoRemove: bool = False
    VolumeDriver: str = ""
    VolumesFrom: list[str] | None = None
    ConsoleSize: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    Annotations: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET
    CapAdd: list[str] | None = None
    CapDrop: list[str] | None = None
    CgroupnsMode: str = ""
    Dns: list[str] | None = msgspec.field(default_factory=list)
    DnsOptions: list[str] | None = msgspec.field(default_factory=list)
    DnsSearch: list[str] | None = msgspec.field(default_factory=list)
    ExtraHosts: list[str] | None = None
    GroupAdd: list[str] | None = None
    IpcMode: str = ""
    Cgroup: str = ""
    Links: list[str] | None = None
    OomScoreAdj: int = 0
    PidMode: str = ""
    Privileged: bool = False
    PublishAllPorts: bool = False
    ReadonlyRootfs: bool = False
    SecurityOpt: list[str] | None = None
    StorageOpt: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET
    Tmpfs: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET
    UTSMode: str = ""
    UsernsMode: str = ""
    ShmSize: int = 0
    Sysctls: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET
    Runtime: str = ""
    Isolation: str = ""
    CpuShares: int = 0
    Memory: int = 0
    NanoCpus: int = 0
    CgroupParent: str = ""
    BlkioWeight: int = 0
    BlkioWeightDevice: list[WeightDevice] | None = msgspec.field(default_factory=list)
    BlkioDeviceReadBps: list[ThrottleDevice] | None = msgspec.field(default_factory=list)
    BlkioDeviceWriteBps: list[ThrottleDevice] | None = msgspec.field(default_factory=list)
    BlkioDeviceReadIOps: list[ThrottleDevice] | None = msgspec.field(default_factory=list)
    BlkioDeviceWriteIOps: list[ThrottleDevice] | None = msgspec.field(default_factory=list)
    CpuPeriod: int = 0
    CpuQuota: int = 0
    CpuRealtimePeriod: int = 0
    CpuRealtimeRuntime: int = 0
    CpusetCpus: str = ""
    CpusetMems: str = ""
    Devices: list[DeviceMapping] | None = msgspec.field(default_factory=list)
    DeviceCgroupRules: list[str] | None = None
    DeviceRequests: list[DeviceRequest] | None = None
    KernelMemory: int | msgspec.UnsetType = msgspec.UNSET
    MemoryReservation: int = 0
    MemorySwap: int = 0
    MemorySwappiness: int | None = None
    OomKillDisable: bool | None = None
    PidsLimit: int | None = None
    Ulimits: list[Ulimit] | None = msgspec.field(default_factory=list)
    CpuCount: int = 0
    CpuPercent: int = 0
    IOMaximumIOps: int = 0
    IOMaximumBandwidth: int = 0
    Mounts: list[Any] | msgspec.UnsetType | None = msgspec.UNSET
    MaskedPaths: list[str] | None = None
    ReadonlyPaths: list[str] | None = None
    Init: bool | msgspec.UnsetType | None = msgspec.UNSET


class CreateBody(Config):
    """What `POST /containers/create` takes: a Config with the rest beside it."""

    HostConfig: HostConfig | None = None
    NetworkingConfig: NetworkingConfig | None = None


class HealthResult(Struct):
    """One probe's result (`HealthcheckResult`). Exit code -1: it could not be run, or took too long."""

    Start: str
    End: str
    ExitCode: int
    Output: str


class Health(Struct):
    """`Health`: what the last probes said, oldest first."""

    Status: str = "starting"
    FailingStreak: int = 0
    Log: list[HealthResult] = msgspec.field(default_factory=list)


class State(Struct):
    """`ContainerState`. `Running` is true of a container that waits for its restart, too, as with dockerd."""

    Status: str = "created"
    Running: bool = False
    Paused: bool = False
    Restarting: bool = False
    OOMKilled: bool = False
    Dead: bool = False
    Pid: int = 0
    ExitCode: int = 0
    Error: str = ""
    StartedAt: str = ZERO_TIME
    FinishedAt: str = ZERO_TIME
    Health: Health | msgspec.UnsetType = msgspec.UNSET


class MemoryAtEnd(Struct):
    """What the memory cgroup had counted when its container ended: bytes; 0 where the kernel doesn't tell."""

    Limit: int = 0
    Peak: int = 0
    Failures: int = 0
    Kills: int = 0


class Ending(Struct):
    """Why a container's process ended (`GET /labkit/endings/{id}`).

    `By` is `itself`, `client`, `daemon`, `memory`, `signal` (of somebody whom the engine doesn't know), `lost` or
    `start`; `Verb` and `Trace` name a client's request. `Next` says what the restart policy made of it.
    """

    By: str
    ExitCode: int
    At: str
    Signal: int = 0
    Verb: str = ""
    Trace: str = ""
    Error: str = ""
    Next: str = ""
    Memory: MemoryAtEnd | None = None
    Health: HealthResult | None = None


class Sandbox(Struct):
    """What a running container has been given of its networks: links by network, and ports of the host.

    `OwnMac` names the networks for which nobody asked for a MAC address, `Changing` the one that the container is just
    being connected to or disconnected from: a daemon that finds it after a crash takes the container off that network.
    """

    Interfaces: dict[str, str] = msgspec.field(default_factory=dict)
    Ports: list[Binding] = msgspec.field(default_factory=list)
    OwnMac: list[str] = msgspec.field(default_factory=list)
    Changing: str = ""


_Configuration = HostConfig  # the record has a field of that name


class ContainerRecord(Struct):
    """What `containers/ID/container.json` holds: all that the daemon must know after a crash."""

    Id: str
    Created: str
    Path: str
    Args: list[str]
    State: State
    Image: str
    Name: str
    Config: Config
    HostConfig: HostConfig
    Layers: list[str] = msgspec.field(default_factory=list)
    """The image's snapshots, topmost first, below the image store: they stay even if the image is removed by force."""
    MountPoints: dict[str, MountPoint] = msgspec.field(default_factory=dict)
    """By destination, see `labkit.engine.mountpoints`."""
    Platform: str = "linux"
    RestartCount: int = 0
    HasBeenManuallyStopped: bool = False
    """Somebody asked it to end: `unless-stopped` holds until somebody starts it again, over restarts of the daemon."""
    Ending: Ending | None = None
    """Why its last run ended."""
    MountLabel: str = ""
    ProcessLabel: str = ""
    AppArmorProfile: str = ""
    Networks: dict[str, Endpoint] = msgspec.field(default_factory=dict)
    """The endpoints, by the names of their networks; the one of HostConfig.NetworkMode first."""
    Sandbox: Sandbox = msgspec.field(default_factory=Sandbox)
    Starting: bool = False
    """A start is under way: a daemon that finds this after a crash settles it by what the spawner has."""
    Updating: _Configuration | None = None
    """What an update that is under way makes of HostConfig: a daemon that finds this after a crash finishes it."""


class ExecCreateBody(Struct):
    """What `POST /containers/{id}/exec` takes (`ExecConfig`)."""

    AttachStdin: bool = False
    AttachStdout: bool = False
    AttachStderr: bool = False
    ConsoleSize: list[int] | None = None
    DetachKeys: str = ""
    Tty: bool = False
    Env: list[str] | None = None
    Cmd: list[str] | None = None
    Privileged: bool = False
    User: str = ""
    WorkingDir: str = ""
    Detach: bool = False


class ExecStartBody(Struct):
    """What `POST /exec/{id}/start` takes."""

    Detach: bool = False
    Tty: bool = False
    ConsoleSize: list[int] | None = None


def words(value: list[str] | str | None) -> list[str]:
    """A Cmd or Entrypoint as a list: the API takes a single string too, and null."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
