"""The plan of a container that another OCI runtime makes: what is done before `RUNTIME create` (`kernel.oci_runtime`).

The cgroups are labkit's, so that their end and an out-of-memory kill are known as ever; limits and all else are the
runtime's. It works in a cgroup beside them, so that it ends as well when a start is taken back after a crash.
`docker exec` is labkit's own: it joins what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labkit.kernel import cgroups
from labkit.kernel import constants as c
from labkit.kernel.links import BringUpLoopback
from labkit.kernel.mounts import PROPAGATION, AttachTree, SetPropagation
from labkit.kernel.namespaces import CloneInit
from labkit.kernel.oci_runtime import CreateByRuntime, HideTree, HoldNetwork, HoldRuntime, ListenForTerminal
from labkit.kernel.overlay import MountOverlay
from labkit.kernel.process import NewSession, ResetSignals, SealDescriptors
from labkit.kernel.stdio import ConnectStdio
from labkit.kernel.storage import MakeDirectory
from labkit.plan import Operation, Plan, Step
from labkit.runtime.plans import (
    OVERLAY_OPTIONS,
    Layers,
    Machine,
    ensure_cgroup,
    is_guarded,
    mount_options,
    take_hold,
)

Spec = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Runtime:
    """The runtime's program, and for one container: its ID, its bundle, a directory for the runtime's state."""

    program: str
    identity: str
    bundle: str
    state: str

    @property
    def network(self) -> str:
        """Where the container's own network namespace is mounted."""
        return f"{self.state}/network"


def spec_for(spec: Spec, runtime: Runtime) -> Spec:
    """The spec as the runtime gets it: the network namespace, if it is the container's own, is made before."""
    linux = spec["linux"]
    joined = [
        entry | {"path": runtime.network} if entry["type"] == "network" and not entry.get("path") else entry
        for entry in linux["namespaces"]
    ]
    return spec | {"linux": linux | {"namespaces": joined}}


def stage(
    spec: Spec, runtime: Runtime, files: frozenset[str], bases: Mapping[str, str]
) -> tuple[Spec, tuple[Operation, ...]]:
    """The spec with other sources for some bind mounts, and the operations that show there what was meant.

    The runtime would follow whatever path it is given: of what is in another container's mount namespace, or in a
    volume's subpath, it gets a place beside its state. See `plans.start_plan` for `files` and `bases`.
    """
    operations: list[Operation] = []
    mounts = []
    for number, entry in enumerate(spec["mounts"]):
        source, flags = entry.get("source", ""), mount_options(entry.get("options", ()))[0]
        if source in files:  # nothing is mounted below a file, and crun opens what is `rro` as a directory
            entry = entry | {"options": ["ro" if option == "rro" else option for option in entry["options"]]}
        if flags & c.MS_BIND and is_guarded(source, bases):
            place = f"{runtime.state}/mount-{number}"
            operations += [take_hold(source, place, flags, bases), AttachTree(source, place, source not in files)]
            entry = entry | {"source": place}
        mounts.append(entry)
    return spec | {"mounts": mounts}, tuple(operations)


def runtime_cgroup(path: str, layout: cgroups.Layout) -> str:
    """The directory of the cgroup for the runtime that makes the container in cgroup `path`.

    In one tree only: cpuset's takes nobody before it has CPUs (cpuset(7)).
    """
    if layout.version == 2:
        return layout.directory("", f"{path}.runtime")
    return layout.directory(next(name for name, _ in layout.v1 if name != "cpuset"), f"{path}.runtime")


def start_plan(
    spec: Spec,
    machine: Machine,
    layers: Layers,
    runtime: Runtime,
    streams: tuple[str, ...],
    prelude: tuple[Operation, ...] = (),
    network: tuple[Operation, ...] = (),
    staging: tuple[Operation, ...] = (),
    cgroup_parent: str = "",
) -> Plan:
    """The plan that starts a container by a runtime. `spec` is labkit's, before `spec_for`; `staging` is `stage`'s."""
    linux, layout = spec["linux"], machine.cgroups
    own = any(entry["type"] == "network" and not entry.get("path") for entry in linux["namespaces"])
    terminal = bool(spec["process"].get("terminal"))
    hidden = layout.unified if layout.version == 1 else ""
    create = CreateByRuntime(runtime.program, runtime.state, runtime.bundle, runtime.identity, terminal, hidden)
    host: list[Operation] = [
        *ensure_cgroup(cgroup_parent, layout),
        *(cgroups.CreateCgroup(directory) for directory in layout.directories(linux["cgroupsPath"])),
        HoldRuntime(held := runtime_cgroup(linux["cgroupsPath"], layout)),
        MakeDirectory(runtime.state, 0o700),
        *([ListenForTerminal(create.console)] if terminal else []),
        CloneInit(c.CLONE_NEWNS | (c.CLONE_NEWNET if own else 0)),
    ]
    root = spec["root"]["path"]
    init: list[Operation] = [
        ResetSignals(),
        NewSession(),
        SetPropagation("/", PROPAGATION["rslave"]),
        *([BringUpLoopback()] if own else []),
        cgroups.JoinCgroup(f"{held}/{'tasks' if layout.version == 1 else 'cgroup.procs'}"),
        *([*network, HoldNetwork(runtime.network)] if own else []),
        *([HideTree(hidden)] if hidden else []),
        *staging,
        MountOverlay(layers.base, layers.lower, layers.upper, layers.work, root, OVERLAY_OPTIONS),
        ConnectStdio(() if terminal else streams),
        SealDescriptors(),
        create,
    ]
    parts = (("daemon", prelude), ("spawner", host), ("init", init))
    return Plan("start", tuple(Step(actor, operation) for actor, part in parts for operation in part))
