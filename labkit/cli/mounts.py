"""`--volume` and `--mount`: what is mounted into a container, as words (docker/cli `opts.MountOpt`)."""

from __future__ import annotations

import os
from typing import Any

from labkit.cli.values import read_bool, read_bytes, read_csv
from labkit.errors import InvalidParameter


def volumes(texts: list[str]) -> tuple[list[str], dict[str, Any]]:
    """(Binds, Volumes): `SOURCE:TARGET[:MODE]` is a bind or named volume, `TARGET` alone an anonymous one."""
    binds: list[str] = []
    anonymous: dict[str, Any] = {}
    for text in texts:
        source, colon, target = text.partition(":")
        if len(text) <= 2 or len(_sections(text)) == 1:
            anonymous[text] = {}
        else:
            binds.append(f"{os.path.abspath(source) if source.startswith('.') else source}{colon}{target}")
    return binds, anonymous


def _sections(text: str) -> list[str]:
    """The parts between colons; the first colon may be that of a Windows drive (docker/cli `loader.ParseVolume`)."""
    drive = text[:2] if text[1] == ":" and text[0].isalpha() else ""
    first, *rest = text[len(drive) :].split(":")
    sections = [drive + first, *rest]
    for place, section in enumerate(sections):
        if not section:
            raise InvalidParameter(f"invalid spec: {text}: empty section between colons")
        if place == 2 and len(sections) > 3:
            raise InvalidParameter(f"invalid spec: {text}: too many colons")
    return sections


_TRUE_FLAGS = {"readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src"}


def mount(text: str) -> dict[str, Any]:
    """One `--mount` as the API's Mount."""
    result: dict[str, Any] = {"Type": "volume"}
    for item in read_csv(text):
        key, equals, value = item.partition("=")
        key = key.lower().strip()
        if not equals and key not in _TRUE_FLAGS:
            raise InvalidParameter(f"invalid field '{item}' must be a key=value pair")
        _set(result, key, value if equals else "true")
    if not result.get("Target"):
        raise InvalidParameter("target is required")
    kinds = {"BindOptions": "bind", "VolumeOptions": "volume", "TmpfsOptions": "tmpfs", "ImageOptions": "image"}
    for options, kind in kinds.items():
        if options in result and result["Type"] != kind:
            raise InvalidParameter(f"cannot mix '{kind}-*' options with mount type '{result['Type']}'")
    _check_recursion(result)
    if result["Type"] == "bind" and result.get("Source", "").startswith("."):
        result["Source"] = os.path.abspath(result["Source"])
    return result


def _check_recursion(result: dict[str, Any]) -> None:
    options = result.get("BindOptions", {})
    needs = "option 'bind-recursive={}' requires '{}' to be specified in conjunction"
    if options.get("ReadOnlyNonRecursive") and not result.get("ReadOnly"):
        raise InvalidParameter(needs.format("writable", "readonly"))
    if options.get("ReadOnlyForceRecursive"):
        if not result.get("ReadOnly"):
            raise InvalidParameter(needs.format("readonly", "readonly"))
        if options.get("Propagation") != "rprivate":
            raise InvalidParameter(needs.format("readonly", "bind-propagation=rprivate"))


def _set(result: dict[str, Any], key: str, value: str) -> None:
    plain = {"type": "Type", "source": "Source", "src": "Source", "consistency": "Consistency"}
    plain |= {"target": "Target", "dst": "Target", "destination": "Target"}
    nested = {
        "bind-propagation": ("BindOptions", "Propagation"),
        "volume-subpath": ("VolumeOptions", "Subpath"),
        "image-subpath": ("ImageOptions", "Subpath"),
    }
    flags = {
        "bind-nonrecursive": ("BindOptions", "NonRecursive"),
        "bind-create-src": ("BindOptions", "CreateMountpoint"),
        "volume-nocopy": ("VolumeOptions", "NoCopy"),
    }
    if key in plain:
        result[plain[key]] = value.lower() if key == "type" else value
    elif key in ("readonly", "ro"):
        result["ReadOnly"] = _flag(key, value)
    elif key in nested:
        section, field = nested[key]
        result.setdefault(section, {})[field] = value
    elif key in flags:
        section, field = flags[key]
        result.setdefault(section, {})[field] = _flag(key, value)
    else:
        _set_special(result, key, value)


def _set_special(result: dict[str, Any], key: str, value: str) -> None:
    if key == "bind-recursive":
        wanted = {"enabled": {}, "disabled": {"NonRecursive": True}, "writable": {"ReadOnlyNonRecursive": True}}
        wanted["readonly"] = {"ReadOnlyForceRecursive": True}
        if value not in wanted:
            raise InvalidParameter(
                f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or "readonly")'
            )
        result.setdefault("BindOptions", {}).update(wanted[value])
    elif key == "volume-label":
        result.setdefault("VolumeOptions", {}).setdefault("Labels", {}).update([value.partition("=")[::2]])
    elif key == "volume-driver":
        result.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})["Name"] = value
    elif key == "volume-opt":
        driver = result.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})
        driver.setdefault("Options", {}).update([value.partition("=")[::2]])
    elif key == "tmpfs-size":
        try:
            result.setdefault("TmpfsOptions", {})["SizeBytes"] = read_bytes(value)
        except ValueError as error:
            raise InvalidParameter(f"invalid value for {key}: {value}") from error
    elif key == "tmpfs-mode":
        try:
            result.setdefault("TmpfsOptions", {})["Mode"] = int(value, 8)
        except ValueError as error:
            raise InvalidParameter(f"invalid value for {key}: {value}") from error
    else:
        raise InvalidParameter(f"unexpected key '{key}' in '{key}={value}'")


def _flag(key: str, value: str) -> bool:
    try:
        return read_bool(value)
    except ValueError as error:
        raise InvalidParameter(f"invalid value for {key}: {value}") from error
