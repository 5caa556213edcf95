"""What a container may do: `--security-opt`, capabilities, sysctls, devices by rule (moby `parseSecurityOpt`, runc).

Pure functions; wording as dockerd's and runc's. A kernel without AppArmor or SELinux has nothing to apply their
options to: they are kept and shown, as dockerd does there.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from labkit.engine.models import HostConfig
from labkit.errors import InvalidParameter
from labkit.kernel.capabilities import NUMBERS

_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))  # strconv.ParseBool
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))
_SYSCTLS = ("net.", "fs.mqueue.")
_IPC_SYSCTLS = {
    "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
    "kernel.shmmni", "kernel.shm_rmid_forced",
}  # fmt: skip
_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})", re.ASCII)


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    """What `--security-opt` asks for. `seccomp` is the text of a profile, `unconfined`, or empty for the default."""

    no_new_privileges: bool = False
    writable_cgroups: bool = False
    seccomp: str = ""
    apparmor: str = ""
    labels: tuple[str, ...] = ()


def parse(options: list[str] | None) -> SecurityOptions:
    """The options; the last of a kind counts. Raises InvalidParameter."""
    found: dict[str, Any] = {"labels": ()}
    for option in options or ():
        if option == "no-new-privileges":
            found["no_new_privileges"] = True
            continue
        name, value = ("label", "disable") if option == "disable" else _split(option)
        if name == "label":
            found["labels"] += (value,)
        elif name in ("apparmor", "seccomp"):
            found[name] = value
        elif name in ("no-new-privileges", "writable-cgroups") and value in _TRUE | _FALSE:
            found[name.replace("-", "_")] = value in _TRUE
        else:
            raise InvalidParameter(f'invalid --security-opt 2: "{option}"')
    return SecurityOptions(**found)


def _split(option: str) -> tuple[str, str]:
    sign = "=" if "=" in option else ":"
    name, there, value = option.partition(sign)
    if not there:
        raise InvalidParameter(f'invalid --security-opt 1: "{option}"')
    return name, value


def check(host: HostConfig) -> list[str]:
    """Refuse what can't be; warnings of what this kernel has and labkit doesn't use. Raises InvalidParameter."""
    for field in ("CapAdd", "CapDrop"):
        for name in getattr(host, field) or []:
            upper = name.upper()
            full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
            if full != "CAP_ALL" and full not in NUMBERS:
                raise InvalidParameter(f'invalid {field}: unknown capability: "{full}"')
    options = parse(host.SecurityOpt)
    _check_sysctls(host)
    if "" in (host.Annotations or {}):
        raise InvalidParameter("invalid Annotations: the empty string is not permitted as an annotation key")
    return _unused(options)


def _unused(options: SecurityOptions) -> list[str]:
    warnings = []
    if options.apparmor not in ("", "unconfined") and os.path.exists("/sys/kernel/security/apparmor"):
        warnings.append(f"labkit applies no AppArmor profiles: the container runs without {options.apparmor}.")
    if set(options.labels) - {"disable"} and os.path.exists("/sys/fs/selinux/enforce"):
        warnings.append("labkit sets no SELinux labels: the container runs without them.")
    return warnings


def _check_sysctls(host: HostConfig) -> None:
    """Sysctls of the container's own namespaces only (runc `libcontainer/configs/validate`)."""
    for key in host.Sysctls or {}:
        dotted = key.replace("/", ".")
        if ".." in dotted or not dotted.isascii():
            raise InvalidParameter(f'sysctl "{key}" is not in a separate kernel namespace')
        in_ipc = dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue.")
        if not (in_ipc or dotted.startswith(_SYSCTLS) or dotted == "kernel.domainname"):
            raise InvalidParameter(f'sysctl "{key}" is not in a separate kernel namespace')
        if dotted.startswith("net.") and host.NetworkMode == "host":
            raise InvalidParameter(f'sysctl "{key}" not allowed in host network namespace')
        if in_ipc and host.IpcMode == "host":
            raise InvalidParameter(f'sysctl "{key}" is not allowed in the hosts ipc namespace')
        if dotted == "kernel.domainname" and host.UTSMode == "host":
            raise InvalidParameter(f'sysctl "{key}" is not allowed in the hosts UTS namespace')


def device_rule(text: str) -> dict[str, Any]:
    """A rule of `--device-cgroup-rule`, such as `c 42:* rmw`, in OCI's form. Raises InvalidParameter."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise InvalidParameter(f"invalid device cgroup rule format: '{text}'")
    kind, major, minor, access = match.groups()
    numbers = {"major": major, "minor": minor}
    if any(number != "*" and int(number) >= 1 << 32 for number in numbers.values()):
        raise InvalidParameter(f"invalid device cgroup rule format: '{text}': a number is out of range")
    given = {name: int(number) for name, number in numbers.items() if number != "*"}
    return {"allow": True, "type": kind, **given, "access": access}
