"""The system routes of the Engine API: ping, version, info, events (moby `api/server/router/system`)."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import labkit
from labkit.api.http import API_VERSION, MIN_API_VERSION, Answer, Request, Response, Route, Stream, json_response
from labkit.engine import runtimes
from labkit.engine.clock import now, parse_timestamp
from labkit.engine.engine import Engine
from labkit.engine.logging.options import DRIVERS
from labkit.errors import InvalidParameter
from labkit.registry.endpoints import ALWAYS_INSECURE, HUB
from labkit.registry.endpoints import Settings as Registries

_DOTTED = ".".join(map(str, API_VERSION))
_LEAST = ".".join(map(str, MIN_API_VERSION))
_PING_HEADERS = (
    ("Cache-Control", "no-cache, no-store, must-revalidate"),
    ("Pragma", "no-cache"),
    ("Builder-Version", "1"),
    ("Swarm", "inactive"),
)


class System:
    """The routes, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._pong = Response(200, b"OK", "text/plain; charset=utf-8", _PING_HEADERS)

    def ping(self, request: Request) -> Answer:
        return self._pong

    async def version(self, request: Request) -> Answer:
        return json_response(version())

    async def info(self, request: Request) -> Answer:
        return json_response(info(self.engine))

    async def events(self, request: Request) -> Answer:
        since, until = (parse_timestamp(request.text(name)) for name in ("since", "until"))
        if until and since > until:
            raise InvalidParameter("`since` time cannot be after `until` time")
        return Stream(self.engine.events.follow(since, until, request.filters()))


def version() -> dict[str, Any]:
    """`GET /version`."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    details = {
        "ApiVersion": _DOTTED,
        "Arch": architecture(),
        "BuildTime": "",
        "Experimental": "false",
        "GitCommit": "",
        "GoVersion": f"python{python}",
        "KernelVersion": platform.release(),
        "MinAPIVersion": _LEAST,
        "Os": "linux",
    }
    component = {"Name": "Engine", "Version": labkit.__version__, "Details": details}
    return {
        "Platform": {"Name": "labkit"},
        "Components": [component],
        "Version": labkit.__version__,
        "ApiVersion": _DOTTED,
        "MinAPIVersion": _LEAST,
        "GitCommit": "",
        "GoVersion": f"python{python}",
        "Os": "linux",
        "Arch": architecture(),
        "KernelVersion": platform.release(),
        "BuildTime": "",
    }


def architecture() -> str:
    """The machine's architecture as Go calls it."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def info(engine: Engine) -> dict[str, Any]:
    """`GET /info`."""
    states = [one.record.State for one in engine.containers.values()]
    layout = engine.machine.cgroups
    controllers = {name for name, _ in layout.v1} or set(_v2_controllers(layout.unified))
    memory, cpu = "memory" in controllers, "cpu" in controllers
    return {
        "ID": engine.id,
        "Containers": len(states),
        "ContainersRunning": sum(state.Status == "running" for state in states),
        "ContainersPaused": sum(state.Paused for state in states),
        "ContainersStopped": sum(state.Status not in ("running", "paused") for state in states),
        "Images": len(engine.images.list()),
        "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", filesystem(engine.settings.data_root)]],
        "Plugins": {"Volume": ["local"], "Network": ["bridge", "host", "macvlan", "null"], "Authorization": None,
                    "Log": sorted(set(DRIVERS) - {"none"})},
        "MemoryLimit": memory,
        "SwapLimit": memory and _has_swap_limit(layout.directory("memory", "")),
        "CpuCfsPeriod": cpu,
        "CpuCfsQuota": cpu,
        "CPUShares": cpu,
        "CPUSet": "cpuset" in controllers,
        "PidsLimit": "pids" in controllers,
        "IPv4Forwarding": _read("/proc/sys/net/ipv4/ip_forward") == "1",
        "BridgeNfIptables": False,
        "BridgeNfIp6tables": False,
        "Debug": engine.settings.debug,
        "NFd": len(os.listdir("/proc/self/fd")),
        "OomKillDisable": layout.version == 1,
        "NGoroutines": len(engine.tasks),
        "SystemTime": now(),
        "LoggingDriver": engine.settings.log.Type,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": str(layout.version),
        "NEventsListener": len(engine.events.listeners),
        "KernelVersion": platform.release(),
        "OperatingSystem": os_release("PRETTY_NAME") or "Linux",
        "OSVersion": os_release("VERSION_ID"),
        "OSType": "linux",
        "Architecture": platform.machine(),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": registry_config(engine.settings.registries),
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "GenericResources": None,
        "DockerRootDir": engine.settings.data_root,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": os.uname().nodename,
        "Labels": list(engine.settings.labels),
        "ExperimentalBuild": False,
        "ServerVersion": labkit.__version__,
        "Runtimes": {
            name: {"path": path or "labkit-runtime"} for name, path in runtimes.known(engine.settings).items()
        },
        "DefaultRuntime": engine.settings.default_runtime,
        "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False, "Error": "",
                  "RemoteManagers": None},
        "LiveRestoreEnabled": engine.settings.live_restore,
        "Isolation": "",
        "InitBinary": "docker-init",
        "ContainerdCommit": {"ID": "", "Expected": ""},
        "RuncCommit": {"ID": "", "Expected": ""},
        "InitCommit": {"ID": "", "Expected": ""},
        "SecurityOptions": ["name=seccomp,profile=builtin", *(["name=cgroupns"] if layout.version == 2 else [])],
        "Warnings": None,
    }  # fmt: skip


def registry_config(settings: Registries) -> dict[str, Any]:
    """RegistryServiceConfig: networks and registries that may do without TLS, and what stands in for Docker Hub."""
    networks = [entry for entry in settings.insecure if "/" in entry]
    mirrors = [f"{mirror.rstrip('/')}/" for mirror in settings.mirrors]
    named: dict[str, tuple[list[str], bool]] = {entry: ([], False) for entry in settings.insecure if "/" not in entry}
    return {
        "IndexConfigs": {
            name: {"Name": name, "Mirrors": urls, "Secure": secure, "Official": name == HUB}
            for name, (urls, secure) in {**named, HUB: (mirrors, True)}.items()
        },
        "InsecureRegistryCIDRs": [*networks, *ALWAYS_INSECURE],
        "Mirrors": mirrors,
    }


def _v2_controllers(unified: str) -> list[str]:
    return _read(f"{unified}/cgroup.controllers").split()


def _has_swap_limit(directory: str) -> bool:
    return any(os.path.exists(f"{directory}/{name}") for name in ("memory.memsw.limit_in_bytes", "memory.swap.max"))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def os_release(name: str) -> str:
    """What the host says of its operating system (os-release(5)); empty if it doesn't."""
    found = [line for line in _read("/etc/os-release").splitlines() if line.startswith(f"{name}=")]
    return found[0].split("=", 1)[1].strip("\"'") if found else ""


def filesystem(path: str) -> str:
    """The type of the filesystem that a directory is on (mountinfo in proc(5))."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            return right.split()[0]
    return "unknown"


def routes(engine: Engine) -> list[Route]:
    """All routes about the daemon itself."""
    one = System(engine)
    return [
        Route("GET", "/_ping", one.ping, immediate=True, constant=True),
        Route("HEAD", "/_ping", one.ping),
        Route("GET", "/version", one.version),
        Route("GET", "/info", one.info),
        Route("GET", "/events", one.events),
    ]
