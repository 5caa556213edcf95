"""Where a daemon keeps its things and what it is called: the flags of `labkit daemon`, named as dockerd's."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from labkit.engine.models import LogConfig
from labkit.registry.endpoints import DEFAULT
from labkit.registry.endpoints import Settings as Registries


@dataclass(frozen=True, slots=True)
class Settings:
    """`data_root` outlives the machine's power, `exec_root` (a tmpfs by default) does not."""

    data_root: str = "/var/lib/labkit"
    exec_root: str = "/run/labkit"
    cgroup_parent: str = "labkit"
    live_restore: bool = False
    registries: Registries = DEFAULT
    bip: str = ""
    log: LogConfig = field(default_factory=lambda: LogConfig(Type="json-file"))
    """The log driver, with its options, of containers that name none."""

    runtimes: tuple[tuple[str, str], ...] = ()
    """Names and programs of `--add-runtime`."""
    default_runtime: str = "labkit"
    debug: bool = False
    labels: tuple[str, ...] = ()
    """The daemon's own, NAME=VALUE."""

    @property
    def runtime_states(self) -> str:
        """What other runtimes keep of their containers, a directory for each."""
        return os.path.join(self.exec_root, "runtimes")

    @property
    def containers(self) -> str:
        return os.path.join(self.data_root, "containers")

    @property
    def networks(self) -> str:
        return os.path.join(self.data_root, "networks")

    @property
    def journals(self) -> str:
        """The journals of plans that the daemon itself carries out; the spawner has its own."""
        return os.path.join(self.exec_root, "daemon-journal")

    @property
    def images(self) -> str:
        return os.path.join(self.data_root, "images")

    @property
    def volumes(self) -> str:
        return os.path.join(self.data_root, "volumes")

    @property
    def hub(self) -> str:
        """The store of `labkit hub`, a stand-in for Docker Hub."""
        return os.path.join(self.data_root, "hub")

    @property
    def hub_address(self) -> str:
        """Where `labkit hub serve` leaves its URL."""
        return os.path.join(self.exec_root, "hub.url")

    @property
    def bundles(self) -> str:
        return os.path.join(self.exec_root, "bundles")

    @property
    def marks(self) -> str:
        return os.path.join(self.exec_root, "marks")

    def cgroup(self, identity: str, parent: str = "") -> str:
        """The path of a container's cgroup, as in `linux.cgroupsPath`."""
        return f"/{(parent or self.cgroup_parent).strip('/')}/{identity}"
