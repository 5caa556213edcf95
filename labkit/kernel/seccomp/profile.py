"""Docker's seccomp profiles (`--security-opt seccomp=FILE`) to what the OCI runtime-spec calls `linux.seccomp`.

A profile says for which capabilities, architectures and kernels each rule is meant; a container's configuration has
only the rules that are left (moby `profiles/seccomp`, runtime-spec `config-linux.md`, "Seccomp").
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from labkit.errors import InvalidParameter, NotImplementedByLabkit

# uname(2)'s machine to the profile's two names for it: libseccomp's constant, and Go's architecture.
ARCHITECTURES = {"x86_64": ("SCMP_ARCH_X86_64", "amd64"), "aarch64": ("SCMP_ARCH_AARCH64", "arm64")}

ABI_OF = {
    "SCMP_ARCH_X86_64": "x86_64",
    "SCMP_ARCH_X86": "i386",
    "SCMP_ARCH_X32": "x32",
    "SCMP_ARCH_AARCH64": "aarch64",
    "SCMP_ARCH_ARM": "arm",
}
"""libseccomp's names of the architectures that labkit knows, to those of `labkit.kernel.numbers`."""

_RULE_FIELDS = ("action", "errnoRet")
_KERNEL = re.compile(r"(\d+)\.(\d+)(?:$|[.-])")


def to_oci(
    profile: dict[str, Any], capabilities: Collection[str], kernel: tuple[int, int], arch: str
) -> dict[str, Any]:
    """`linux.seccomp` for a container with these capabilities (its bounding set), on this kernel and machine.

    A profile without default action and without rules means no filter at all, as for dockerd.
    """
    checked(profile, "the profile")
    rules = listed(profile, "syscalls")
    if not profile.get("defaultAction") and not rules:
        return {"defaultAction": "SCMP_ACT_ALLOW"}
    wanted = [_rule(rule) for rule in rules if _applies(rule, frozenset(capabilities), kernel, arch)]
    oci: dict[str, Any] = {"defaultAction": profile.get("defaultAction", "")}
    for name in ("defaultErrnoRet", "flags", "listenerPath", "listenerMetadata"):
        if profile.get(name) is not None:
            oci[name] = profile[name]
    architectures = _architectures(profile, arch)
    if architectures:
        oci["architectures"] = architectures
    oci["syscalls"] = wanted
    return oci


def machine(arch: str) -> tuple[str, str]:
    """What profiles call a machine (uname -m)."""
    if arch not in ARCHITECTURES:
        raise NotImplementedByLabkit(f"labkit has no system call numbers for {arch}: run with seccomp=unconfined")
    return ARCHITECTURES[arch]


def checked(value: object, what: str) -> dict[str, Any]:
    """A JSON object, or the error that the profile has none where one is due."""
    if not isinstance(value, dict):
        raise InvalidParameter(f"Decoding seccomp profile failed: {what} is not an object")
    return value


def listed(holder: dict[str, Any], name: str) -> list[Any]:
    """A list out of a JSON object; an absent or null one is empty."""
    value = holder.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidParameter(f"Decoding seccomp profile failed: {name} is not a list")
    return value


def _architectures(profile: dict[str, Any], arch: str) -> list[str]:
    architectures, mapped = listed(profile, "architectures"), listed(profile, "archMap")
    if architectures and mapped:
        raise InvalidParameter(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, "
            "use either 'architectures' or 'archMap'"
        )
    for entry in mapped:
        if checked(entry, "an entry of archMap").get("architecture") == machine(arch)[0]:
            return [entry["architecture"], *listed(entry, "subArchitectures")]
    return architectures


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    """The rule without what decided whether it applies, and without empty fields."""
    oci: dict[str, Any] = {"names": _names(rule)}
    oci |= {name: rule[name] for name in _RULE_FIELDS if rule.get(name) is not None}
    if arguments := listed(rule, "args"):
        oci["args"] = arguments
    return oci


def _names(rule: dict[str, Any]) -> list[str]:
    if rule.get("name") and listed(rule, "names"):
        raise InvalidParameter(
            "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'"
        )
    return [rule["name"]] if rule.get("name") else listed(rule, "names")


def _applies(rule: dict[str, Any], capabilities: frozenset[str], kernel: tuple[int, int], arch: str) -> bool:
    """Whether a rule is meant for this container: all of `includes`, and none of `excludes`."""
    go_arch = machine(arch)[1]
    excludes, includes = (checked(checked(rule, "a rule").get(name) or {}, name) for name in ("excludes", "includes"))
    if go_arch in listed(excludes, "arches") or capabilities.intersection(listed(excludes, "caps")):
        return False
    if excludes.get("minKernel") and kernel >= _kernel(excludes["minKernel"]):
        return False
    if listed(includes, "arches") and go_arch not in includes["arches"]:
        return False
    if not capabilities.issuperset(listed(includes, "caps")):
        return False
    return not includes.get("minKernel") or kernel >= _kernel(includes["minKernel"])


def _kernel(text: object) -> tuple[int, int]:
    match = _KERNEL.match(str(text))
    if match is None:
        raise InvalidParameter(f'invalid kernel version: "{text}", expected as in "4.8"')
    return int(match[1]), int(match[2])
