"""OCI spec to plan: which operations, in which order, make the process that a bundle's config.json describes.

Pure functions: they read nothing from the machine but what `Machine` tells. runtime-spec config.md and
config-linux.md say what each field means, runtime.md the order.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from labkit.kernel import cgroups
from labkit.kernel import constants as c
from labkit.kernel.capabilities import NUMBERS, DropBounding, KeepCapabilities, SetCapabilities, names
from labkit.kernel.devices import DEFAULT, LINKS, MakeDevice, MakeLink
from labkit.kernel.foreign_mounts import OpenForeignTree
from labkit.kernel.links import BringUpLoopback
from labkit.kernel.mounts import (
    OPPOSITES,
    OPTIONS,
    PROPAGATION,
    AttachTree,
    BindMount,
    DetachOldRoot,
    MakeReadOnly,
    MaskPath,
    Mount,
    OpenTree,
    PivotRoot,
    SetPropagation,
)
from labkit.kernel.namespaces import (
    CloneInit,
    CloneInitInto,
    CloneIntoPidNamespace,
    JoinNamespaceFile,
    JoinNamespaces,
    SetDomainname,
    SetHostname,
    Unshare,
)
from labkit.kernel.overlay import MountOverlay
from labkit.kernel.process import (
    EnterDirectory,
    Execute,
    InstallSeccomp,
    NewSession,
    NoNewPrivileges,
    ResetSignals,
    SealDescriptors,
    SetOomScore,
    SetRlimit,
    SetUser,
    WriteSysctl,
)
from labkit.kernel.stdio import ConnectStdio, OpenTerminal
from labkit.plan import Operation, Plan, Step

Spec = dict[str, Any]
_NONE: Mapping[str, str] = MappingProxyType({})

_FOREIGN = re.compile(r"/proc/([0-9]+)/root(/.+)")
"""A source of a bind mount in another process's mount namespace (`--ipc container:ID`)."""

OVERLAY_OPTIONS = "redirect_dir=off,metacopy=off"
"""Some kernels do without: layers would then hold renames and changes that only overlayfs itself can read back."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan depends on besides the spec: the cgroup trees and the capabilities that can be given at most."""

    cgroups: cgroups.Layout
    bounding: int


@dataclass(frozen=True, slots=True)
class Layers:
    """The directories of a container's root: read-only ones (topmost first, relative to `base`), a writable one."""

    base: str
    lower: tuple[str, ...]
    upper: str
    work: str


def start_plan(
    spec: Spec,
    machine: Machine,
    layers: Layers | None,
    files: frozenset[str],
    seccomp: bytes,
    size: tuple[int, int],
    streams: tuple[str, ...] = ("stdin", "stdout", "stderr"),
    prelude: tuple[Operation, ...] = (),
    network: tuple[Operation, ...] = (),
    bases: Mapping[str, str] = _NONE,
    cgroup_parent: str = "",
) -> Plan:
    """The plan that starts a container.

    `prelude` is what the daemon does first, `network` what gives the container's namespace its links.

    `layers` are mounted over each other at `root.path`; None takes what is there. `files` are the bind sources
    that aren't directories, `seccomp` is the compiled filter (empty: none), `size` the terminal's rows and columns,
    `streams` the standard streams that are given as descriptors. `bases` are the directories that the bind sources of
    these names may not lead out of; `cgroup_parent` is a cgroup that may have to be made for it. The daemon takes hold
    of trees whose mounts shall pass back to the host.
    """
    linux = spec.get("linux", {})
    namespaces = {entry["type"]: entry.get("path", "") for entry in linux.get("namespaces", ())}
    host = [
        *ensure_cgroup(cgroup_parent, machine.cgroups),
        *create_cgroups(linux, machine.cgroups),
        clone_init(namespaces, linux, machine.cgroups),
    ]
    foreign = brings_devices(spec)
    init: list[Operation] = [
        *settle_in(spec, namespaces, machine),
        *join_cgroups(linux, machine.cgroups),
        *join_namespaces(namespaces),
        *network,
        *enter_root(spec, layers, files, machine.cgroups, bases),
        *([] if foreign else make_devices(linux)),
        stdio(spec["process"], size, True, streams),
        *name_host(spec, namespaces),
        *(WriteSysctl(key, value) for key, value in sorted(linux.get("sysctl", {}).items())),
        *(MaskPath(path, foreign) for path in linux.get("maskedPaths", ())),
        *(MakeReadOnly(path) for path in linux.get("readonlyPaths", ())),
        *share_root(linux),
        *([MakeReadOnly("/", mounted=True)] if spec["root"].get("readonly") else []),
        *become(spec["process"], seccomp),
    ]
    return _plan("start", host, init, (*prelude, *shared_trees(spec, bases)))


def exec_plan(
    process: Spec,
    init: int,
    spec: Spec,
    machine: Machine,
    seccomp: bytes,
    size: tuple[int, int],
    streams: tuple[str, ...],
    guarded: bool = False,
) -> Plan:
    """The plan that runs one more process in a container whose init has the pid `init` (`docker exec`).

    `guarded` says that a process in there may trace it.
    """
    linux = spec.get("linux", {})
    own = {entry["type"] for entry in linux.get("namespaces", ())}
    flags = sum(c.NAMESPACES[name] for name in own - {"pid", "user"})
    v2 = machine.cgroups.directories(linux.get("cgroupsPath", ""))[0] if machine.cgroups.version == 2 else ""
    host: list[Operation] = [CloneIntoPidNamespace(init, "pid" in own, v2, guarded)]
    joining, connecting = JoinNamespaces(init, flags), stdio(process, size, False, streams)
    inside: list[Operation] = [
        ResetSignals(),
        NewSession(),
        *drop_bounding(process.get("capabilities"), machine),
        *join_cgroups(linux, machine.cgroups),
        # A terminal is of the container's devpts; /dev/null is the host's, since the container's may be gone.
        *([joining, connecting] if process.get("terminal") else [connecting, joining]),
        *become(process, seccomp, make_directory=False),
    ]
    return _plan("exec", host, inside)


def _plan(name: str, host: list[Operation], init: list[Operation], prelude: tuple[Operation, ...] = ()) -> Plan:
    parts = (("daemon", prelude), ("spawner", host), ("init", init))
    return Plan(name, tuple(Step(actor, operation) for actor, part in parts for operation in part))


def settle_in(spec: Spec, namespaces: dict[str, str], machine: Machine) -> list[Operation]:
    """What a process in new namespaces does first. It depends on the container in little, so it may be done ahead."""
    wanted = spec.get("linux", {}).get("rootfsPropagation") or "rslave"
    return [
        ResetSignals(),
        NewSession(),
        SetPropagation("/", PROPAGATION["rslave" if "shared" in wanted else wanted]),
        *([BringUpLoopback()] if namespaces.get("network") == "" else []),
        *drop_bounding(spec["process"].get("capabilities"), machine),
    ]


def ensure_cgroup(path: str, layout: cgroups.Layout) -> list[Operation]:
    """Make the cgroup that a container shall be put below, in each tree."""
    if not path:
        return []
    roots = dict.fromkeys(root for _, root in layout.v1) if layout.version == 1 else (layout.unified,)
    return [cgroups.EnsureCgroup(root, path, layout.version == 2) for root in roots]


def create_cgroups(linux: Spec, layout: cgroups.Layout) -> list[Operation]:
    """Make the container's cgroups and set their limits, before anything is in them."""
    path = linux.get("cgroupsPath", "")
    resources = linux.get("resources", {})
    operations: list[Operation] = [cgroups.CreateCgroup(directory) for directory in layout.directories(path)]
    for controller, file, value in cgroups.limit_files(layout, resources):
        if directory := layout.directory(controller, path):
            operations.append(cgroups.WriteCgroup(f"{directory}/{file}", value))
    return operations + _device_rules(resources.get("devices", ()), layout, path)


def _device_rules(rules: tuple[Spec, ...], layout: cgroups.Layout, path: str) -> list[Operation]:
    if layout.version == 2:
        return (
            [cgroups.AttachDeviceFilter(layout.directory("", path), tuple(map(_device_rule, rules)))] if rules else []
        )
    directory = layout.directory("devices", path)
    if not directory:
        return []
    return [
        cgroups.WriteCgroup(f"{directory}/devices.{'allow' if rule['allow'] else 'deny'}", _device_line(rule))
        for rule in rules
    ]


def _device_rule(rule: Spec) -> tuple[bool, str, int, int, str]:
    numbers = (-1 if rule.get(key) is None else rule[key] for key in ("major", "minor"))
    major, minor = numbers
    return bool(rule["allow"]), rule.get("type", "a"), major, minor, rule.get("access", "rwm")


def _device_line(rule: Spec) -> str:
    """A line of devices.allow and devices.deny (cgroup-v1/devices.rst); `a` alone stands for all."""
    if rule.get("type", "a") == "a":
        return "a"
    major, minor = ("*" if rule.get(key) in (None, -1) else rule[key] for key in ("major", "minor"))
    return f"{rule['type']} {major}:{minor} {rule.get('access', 'rwm')}"


def clone_init(namespaces: dict[str, str], linux: Spec, layout: cgroups.Layout) -> Operation:
    """The fork. The cgroup namespace comes later: it takes the cgroup of that moment as its root."""
    flags = sum(c.NAMESPACES[name] for name, path in namespaces.items() if not path and name != "cgroup")
    cgroup = layout.directory("", linux.get("cgroupsPath", "")) if layout.version == 2 else ""
    if shared := namespaces.get("pid"):
        return CloneInitInto(shared, flags, cgroup)
    return CloneInit(flags, cgroup)


def join_cgroups(linux: Spec, layout: cgroups.Layout) -> list[Operation]:
    """Join the v1 cgroups, one a tree; on v2 the process is born in its cgroup."""
    if layout.version == 2:
        return []
    return [cgroups.JoinCgroup(f"{directory}/tasks") for directory in layout.directories(linux.get("cgroupsPath", ""))]


def join_namespaces(namespaces: dict[str, str]) -> list[Operation]:
    """Join the namespaces that the spec names by path, but for pid (`clone_init`), and make the cgroup namespace."""
    named = {name: path for name, path in namespaces.items() if path and name != "pid"}
    joined: list[Operation] = [JoinNamespaceFile(path, c.NAMESPACES[name]) for name, path in named.items()]
    fresh = "cgroup" in namespaces and not namespaces["cgroup"]
    return joined + ([Unshare(c.CLONE_NEWCGROUP)] if fresh else [])


def share_root(linux: Spec) -> list[Operation]:
    """Share the new root, if so wished: not before, or the host would see the mounts that make it."""
    wanted = linux.get("rootfsPropagation", "")
    return [SetPropagation("/", PROPAGATION[wanted])] if "shared" in wanted else []


def shared_trees(spec: Spec, bases: Mapping[str, str]) -> list[OpenTree | OpenForeignTree]:
    """The bind mounts that stay peers of the host's: in the container's namespace they would be slaves already."""
    entries = ((entry, mount_options(entry.get("options", ()))) for entry in spec.get("mounts", ()))
    return [
        take_hold(entry["source"], entry["destination"], flags, bases)
        for entry, (flags, propagation, _) in entries
        if flags & c.MS_BIND and propagation & c.MS_SHARED
    ]


def take_hold(source: str, target: str, flags: int, bases: Mapping[str, str]) -> OpenTree | OpenForeignTree:
    """Take hold of a bind mount's source where it is: beneath its base, or in another process's mount namespace."""
    if elsewhere := _FOREIGN.fullmatch(source):
        return OpenForeignTree(int(elsewhere[1]), elsewhere[2], target)
    return OpenTree(source, bool(flags & c.MS_REC), target, bases.get(source, ""))


def is_guarded(source: str, bases: Mapping[str, str]) -> bool:
    """Whether containers have a say in where a bind mount's source leads, so that nobody else must follow it."""
    return source in bases or bool(_FOREIGN.fullmatch(source))


def enter_root(
    spec: Spec,
    layers: Layers | None,
    files: frozenset[str],
    layout: cgroups.Layout,
    bases: Mapping[str, str] = _NONE,
) -> list[Operation]:
    """Mount the root, make it the root, let go of the host's, mount the rest inside."""
    root = spec["root"]["path"]
    bottom: Operation = BindMount(root, root, c.MS_BIND | c.MS_REC)
    if layers:
        bottom = MountOverlay(layers.base, layers.lower, layers.upper, layers.work, root, OVERLAY_OPTIONS)
    before: list[Operation] = [bottom]
    after: list[Operation] = []
    for entry in spec.get("mounts", ()):
        held, attached = mount(entry, files, spec, layout, bases)
        before += held
        after += attached
    return [*before, PivotRoot(root), DetachOldRoot(), *after]


def mount(
    entry: Spec, files: frozenset[str], spec: Spec, layout: cgroups.Layout, bases: Mapping[str, str] = _NONE
) -> tuple[list[Operation], list[Operation]]:
    """One mount of the spec: what to take hold of before the root changes, and what to mount after."""
    flags, propagation, data = mount_options(entry.get("options", ()))
    target, source, fstype = entry["destination"], entry.get("source", ""), entry.get("type", "")
    if fstype == "cgroup":
        return _mount_cgroups(target, flags, spec.get("linux", {}), layout)
    if flags & c.MS_BIND:
        kept = flags & ~(c.MS_BIND | c.MS_REC)
        everywhere = c.MS_RDONLY if "rro" in entry.get("options", ()) else 0
        attach = AttachTree(source, target, source not in files, kept, propagation, everywhere)
        return [] if propagation & c.MS_SHARED else [take_hold(source, target, flags, bases)], [attach]
    mounted: list[Operation] = [Mount(source or fstype, target, fstype, flags, data, make=True)]
    return [], mounted + ([SetPropagation(target, propagation)] if propagation else [])


def mount_options(options: list[str] | tuple[str, ...]) -> tuple[int, int, str]:
    """Options of an OCI mount: flags of mount(2), propagation, data for the filesystem. The last word counts."""
    flags = propagation = 0
    data = []
    for option in options:
        if option in PROPAGATION:
            propagation = PROPAGATION[option]
        elif option in OPTIONS:
            flags |= OPTIONS[option]
        elif option in OPPOSITES:
            flags &= ~OPTIONS[OPPOSITES[option]]
        elif option not in ("defaults", "rro"):  # rro is about a tree of mounts: see `mount`
            data.append(option)
    return flags, propagation, ",".join(data)


def _mount_cgroups(
    target: str, flags: int, linux: Spec, layout: cgroups.Layout
) -> tuple[list[Operation], list[Operation]]:
    """The container's view of its own cgroups: on v1 one bind a tree, on v2 the tree from its cgroup namespace."""
    private = any(entry["type"] == "cgroup" and not entry.get("path") for entry in linux.get("namespaces", ()))
    path = linux.get("cgroupsPath", "")
    if layout.version == 2:
        if private:
            return [], [Mount("cgroup", target, "cgroup2", flags, make=True)]
        own = layout.directory("", path)
        return [OpenTree(own)], [AttachTree(own, target, True, flags)]
    held: list[Operation] = []
    attached: list[Operation] = [Mount("tmpfs", target, "tmpfs", flags & ~c.MS_RDONLY, "mode=755", make=True)]
    for directory in layout.directories(path):
        name = directory.removesuffix("/" + path.strip("/")).rsplit("/", 1)[1]
        held.append(OpenTree(directory))
        attached.append(AttachTree(directory, f"{target}/{name}", True, flags))
        members = [controller for controller in name.split(",") if controller != name]
        attached += [MakeLink(name, f"{target}/{member}") for member in members]
    return held, attached + ([MakeReadOnly(target, mounted=True)] if flags & c.MS_RDONLY else [])


def brings_devices(spec: Spec) -> bool:
    """Whether a directory of the host is mounted at /dev: nothing is made in there (as with runc)."""
    at_dev = [entry for entry in spec.get("mounts", ()) if entry["destination"].rstrip("/") == "/dev"]
    return any(mount_options(entry.get("options", ()))[0] & c.MS_BIND for entry in at_dev)


def make_devices(linux: Spec) -> list[Operation]:
    """The default devices and links in /dev, and those that the spec adds."""
    default = [MakeDevice(f"/dev/{name}", "c", major, minor) for name, major, minor in DEFAULT]
    added = [
        MakeDevice(
            device["path"],
            device["type"],
            device.get("major", 0),
            device.get("minor", 0),
            device.get("fileMode", 0o666),
            device.get("uid", 0),
            device.get("gid", 0),
        )
        for device in linux.get("devices", ())
        if device["path"] not in {f"/dev/{name}" for name, _, _ in DEFAULT}
    ]
    return [*default, *added, *(MakeLink(target, path) for target, path in LINKS)]


def stdio(process: Spec, size: tuple[int, int], console: bool, streams: tuple[str, ...]) -> Operation:
    return OpenTerminal(*size, console) if process.get("terminal") else ConnectStdio(streams)


def name_host(spec: Spec, namespaces: dict[str, str]) -> list[Operation]:
    """The host's name, if the namespace is the container's own."""
    operations: list[Operation] = []
    if namespaces.get("uts") == "" and spec.get("hostname"):
        operations.append(SetHostname(spec["hostname"]))
    if namespaces.get("uts") == "" and spec.get("domainname"):
        operations.append(SetDomainname(spec["domainname"]))
    return operations


def become(process: Spec, seccomp: bytes, make_directory: bool = True) -> list[Operation]:
    """From root in a container to the program: limits, directory, user, capabilities, filter, execve.

    Without no_new_privs the filter must be installed while CAP_SYS_ADMIN is still there; with it, it comes
    as late as can be, so that it needs to permit less.
    """
    user = process.get("user", {})
    quiet = bool(process.get("noNewPrivileges"))
    install: list[Operation] = [InstallSeccomp(b64encode(seccomp).decode())] if seccomp else []
    limits = [
        SetRlimit(limit["type"], _limit(limit["soft"]), _limit(limit["hard"])) for limit in process.get("rlimits", ())
    ]
    score = process.get("oomScoreAdj")
    return [
        *([SetOomScore(score)] if score is not None else []),
        *limits,
        *([NoNewPrivileges()] if quiet else install),
        EnterDirectory(process.get("cwd") or "/", make_directory),
        SealDescriptors(),
        *change_user(user, process.get("capabilities")),
        *(install if quiet else []),
        Execute(tuple(process["args"]), tuple(process.get("env", ()))),
    ]


def drop_bounding(capabilities: Spec | None, machine: Machine) -> list[Operation]:
    """Give up what no program of the container shall ever have. This process keeps what it needs until its exec."""
    if capabilities is None:
        return []
    dropped = tuple(name for name in names(machine.bounding) if name not in capabilities.get("bounding", ()))
    return [DropBounding(dropped)] if dropped else []


def change_user(user: Spec, capabilities: Spec | None) -> list[Operation]:
    """The user, then the capabilities that stay."""
    become_user = SetUser(
        user.get("uid", 0), user.get("gid", 0), tuple(user.get("additionalGids", ())), user.get("umask", 0o022)
    )
    if capabilities is None:
        return [become_user]
    sets = {key: tuple(value) for key, value in capabilities.items()}
    keep = [sets.get(key, ()) for key in ("effective", "permitted", "inheritable", "ambient")]
    return [
        KeepCapabilities(True),
        become_user,
        KeepCapabilities(False),
        SetCapabilities(*keep),
    ]


def _limit(value: int) -> int:
    """RLIM_INFINITY is 2^64-1 in the spec and -1 in Python."""
    return -1 if value >= 1 << 63 else value


def known_capabilities(wanted: tuple[str, ...], machine: Machine) -> tuple[str, ...]:
    """Those of the wanted capabilities that this machine can give, by number."""
    return tuple(name for name, number in NUMBERS.items() if name in wanted and machine.bounding >> number & 1)
