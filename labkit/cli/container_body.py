"""The options of `create` and `run` as the body of Engine API `ContainerCreate` (Config, HostConfig, endpoints).

What the words mean is settled here; whether an engine can do it is for the engine to say. Messages are
those of docker/cli.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from labkit.cli import mounts, ports
from labkit.cli.endpoint_options import endpoints_config
from labkit.cli.grammar import Invocation
from labkit.errors import InvalidParameter
from labkit.templates.quoting import go_quote

# Options whose value goes to one field as it is.
_CONFIG = {
    "domainname": "Domainname",
    "hostname": "Hostname",
    "stop-signal": "StopSignal",
    "stop-timeout": "StopTimeout",
    "user": "User",
    "workdir": "WorkingDir",
}
_HOST = {
    "blkio-weight": "BlkioWeight",
    "blkio-weight-device": "BlkioWeightDevice",
    "cgroup-parent": "CgroupParent",
    "cgroupns": "CgroupnsMode",
    "cidfile": "ContainerIDFile",
    "cpu-count": "CpuCount",
    "cpu-percent": "CpuPercent",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "cpus": "NanoCpus",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "device-cgroup-rule": "DeviceCgroupRules",
    "device-read-bps": "BlkioDeviceReadBps",
    "device-read-iops": "BlkioDeviceReadIOps",
    "device-write-bps": "BlkioDeviceWriteBps",
    "device-write-iops": "BlkioDeviceWriteIOps",
    "group-add": "GroupAdd",
    "init": "Init",
    "io-maxbandwidth": "IOMaximumBandwidth",
    "io-maxiops": "IOMaximumIOps",
    "ipc": "IpcMode",
    "isolation": "Isolation",
    "link": "Links",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "memory-swappiness": "MemorySwappiness",
    "oom-kill-disable": "OomKillDisable",
    "oom-score-adj": "OomScoreAdj",
    "pid": "PidMode",
    "pids-limit": "PidsLimit",
    "privileged": "Privileged",
    "publish-all": "PublishAllPorts",
    "read-only": "ReadonlyRootfs",
    "rm": "AutoRemove",
    "runtime": "Runtime",
    "shm-size": "ShmSize",
    "ulimit": "Ulimits",
    "userns": "UsernsMode",
    "uts": "UTSMode",
    "volume-driver": "VolumeDriver",
    "volumes-from": "VolumesFrom",
}
_MODES = {  # option: what Docker calls it, and the values it may have beside those of the form container:NAME
    "pid": ("PID", ("", "host", "private")),
    "uts": ("UTS", ("", "host")),
    "userns": ("USER", ("", "host")),
    "cgroupns": ("CGROUP", ("", "host", "private")),
}


def container_body(given: Invocation) -> dict[str, Any]:
    """The request's body. InvalidParameter, in docker/cli's words, if the options contradict each other."""
    image, *command = given.arguments
    _check(given)
    host = _host_config(given)
    config = _config(given, image, command)
    exposed, bindings = ports.published(given.all("publish"), given.all("expose"))
    config["ExposedPorts"] = exposed
    host["PortBindings"] = bindings
    binds, volumes = mounts.volumes(given.all("volume"))
    config["Volumes"] = volumes
    host["Binds"] = binds or None
    host["NetworkMode"], endpoints = endpoints_config(given)
    return {**config, "HostConfig": host, "NetworkingConfig": {"EndpointsConfig": endpoints}}


def _check(given: Invocation) -> None:
    swappiness = given.number("memory-swappiness")
    if swappiness is not None and swappiness != -1 and not 0 <= swappiness <= 100:
        raise InvalidParameter(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
    for option, (name, allowed) in _MODES.items():
        value = given.text(option)
        if value not in allowed and not (option == "pid" and value.startswith("container:")):
            raise InvalidParameter(f"--{option}: invalid {name} mode")
    if given.flag("rm") and given.text("restart", "no") not in ("no", ""):
        raise InvalidParameter("conflicting options: cannot specify both --restart and --rm")


def _config(given: Invocation, image: str, command: list[str]) -> dict[str, Any]:
    attach = given.all("attach")
    stdin = given.flag("interactive")
    config: dict[str, Any] = {
        "AttachStdin": stdin or "stdin" in attach,
        "AttachStdout": not attach or "stdout" in attach,
        "AttachStderr": not attach or "stderr" in attach,
        "OpenStdin": stdin,
        "Tty": given.flag("tty"),
        "Env": environment(given) or None,
        "Cmd": command or None,
        "Image": image,
        "Labels": _pairs(_read_files(given.all("label-file")) + given.all("label")),
    }
    config["StdinOnce"] = config["OpenStdin"] and config["AttachStdin"]
    if "entrypoint" in given.options:
        # An empty --entrypoint resets the image's: the API's way to say so is one empty string.
        config["Entrypoint"] = [given.text("entrypoint")]
    if health := _healthcheck(given):
        config["Healthcheck"] = health
    config.update({field: given.options[option] for option, field in _CONFIG.items() if option in given.options})
    return config


def _host_config(given: Invocation) -> dict[str, Any]:
    host: dict[str, Any] = {field: given.options[option] for option, field in _HOST.items() if option in given.options}
    host["CapAdd"], host["CapDrop"] = _capabilities(given.all("cap-add"), given.all("cap-drop"))
    for option in (
        "blkio-weight-device",
        "device-read-bps",
        "device-read-iops",
        "device-write-bps",
        "device-write-iops",
    ):
        host.setdefault(_HOST[option], [])
    host["Dns"] = given.all("dns")
    host["DnsOptions"] = given.all("dns-option")
    host["DnsSearch"] = given.all("dns-search")
    host["ExtraHosts"] = given.all("add-host") or None
    host["RestartPolicy"] = _restart_policy(given.text("restart", "no"))
    host["LogConfig"] = {"Type": given.text("log-driver"), "Config": _log_options(given)}
    host["Devices"] = [_device(text) for text in given.all("device")]
    host.get("Ulimits", []).sort(key=lambda limit: limit["Name"])
    listed: dict[str, Callable[[], Any]] = {
        "annotation": lambda: ("Annotations", _pairs(given.all("annotation"))),
        "gpus": lambda: ("DeviceRequests", [given.options["gpus"]]),
        "mount": lambda: ("Mounts", given.all("mount")),
        "storage-opt": lambda: ("StorageOpt", _options(given.all("storage-opt"), "--storage-opt")),
        "sysctl": lambda: ("Sysctls", _pairs(given.all("sysctl"))),
        "tmpfs": lambda: ("Tmpfs", dict(_split(text, ":") for text in given.all("tmpfs"))),
    }
    host.update(make() for option, make in listed.items() if option in given.options)
    host.update(_security(given.all("security-opt")))
    return host


def _capabilities(add: list[str], drop: list[str]) -> tuple[list[str] | None, list[str] | None]:
    """(CapAdd, CapDrop) under their kernel names; what is added isn't dropped, and ALL stands alone."""
    added, dropped = (
        {name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}" for name in map(str.upper, names)}
        for names in (add, drop)
    )
    dropped -= added - {"ALL"}
    results = (["ALL"] if "ALL" in names else sorted(names) or None for names in (added, dropped))
    return next(results), next(results)


def _split(text: str, separator: str) -> tuple[str, str]:
    first, _, rest = text.partition(separator)
    return first, rest


def _pairs(texts: Iterable[str]) -> dict[str, str]:
    return dict(_split(text, "=") for text in texts)


def environment(given: Invocation) -> list[str]:
    """`--env-file` and `--env`; a bare name takes its value from the command's own environment, if it has one."""
    texts = [*_read_files(given.all("env-file")), *given.all("env")]
    return [
        text if "=" in text else f"{text}={os.environ[text]}" for text in texts if "=" in text or text in os.environ
    ]


def _read_files(paths: Sequence[str]) -> list[str]:
    """The lines of the files that say something; `#` begins a comment."""
    lines: list[str] = []
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                texts = [line.lstrip().rstrip("\r\n") for line in file]
        except OSError as error:
            raise InvalidParameter(f"open {path}: {(error.strerror or '').lower()}") from error
        for text in texts:
            if text and not text.startswith("#"):
                name = text.partition("=")[0]
                if not name or any(space in name for space in " \t"):
                    raise InvalidParameter(f"invalid env file ({path}): variable '{name}' contains whitespaces")
                lines.append(text)
    return lines


def _healthcheck(given: Invocation) -> dict[str, Any]:
    fields = {
        "health-interval": "Interval",
        "health-timeout": "Timeout",
        "health-start-period": "StartPeriod",
        "health-start-interval": "StartInterval",
        "health-retries": "Retries",
    }
    check: dict[str, Any] = {
        field: given.options[option] for option, field in fields.items() if given.options.get(option)
    }
    for option, field in fields.items():
        if check.get(field, 0) < 0:
            raise InvalidParameter(f"--{option} cannot be negative")
    if given.text("health-cmd"):
        check["Test"] = ["CMD-SHELL", given.text("health-cmd")]
    if given.flag("no-healthcheck"):
        if check:
            raise InvalidParameter("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    return check


def update_body(given: Invocation) -> dict[str, Any]:
    """The body of `docker update`: the limits that were given, and the restart policy."""
    body = {field: given.options[name] for name, field in _HOST.items() if name in given.options}
    if given.text("restart"):
        body["RestartPolicy"] = _restart_policy(given.text("restart"))
    return body


def _restart_policy(text: str) -> dict[str, Any]:
    name, colon, count = text.partition(":")
    if not name and count:
        raise InvalidParameter("invalid restart policy format: no policy provided before colon")
    if colon and not count.isdigit():
        raise InvalidParameter("invalid restart policy format: maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def _log_options(given: Invocation) -> dict[str, str]:
    options = given.all("log-opt")
    if given.text("log-driver") == "none" and options:
        raise InvalidParameter("invalid logging opts for driver none")
    return _pairs(options)


def _options(texts: list[str], option: str) -> dict[str, str]:
    if any("=" not in text for text in texts):
        raise InvalidParameter("invalid storage option")
    return _pairs(texts)


def _device(text: str) -> dict[str, str]:
    """`/dev/sda[:/dev/xvdc][:rwm]`."""
    parts = text.split(":")
    if not parts[0].startswith("/") or len(parts) > 3:
        raise InvalidParameter(f"bad format for path: {text}")
    permissions = parts.pop() if len(parts) > 1 and set(parts[-1]) <= set("rwm") and parts[-1] else "rwm"
    if len(parts) > 2:
        raise InvalidParameter(f"bad mode specified: {parts[-1]}")
    return {"PathOnHost": parts[0], "PathInContainer": parts[-1], "CgroupPermissions": permissions}


def _security(options: list[str]) -> dict[str, Any]:
    """`--security-opt`, profiles read from their files, `systempaths=unconfined` taken for what it does."""
    fields: dict[str, Any] = {}
    kept: list[str] = []
    for option in options:
        name, separator, value = option.partition("=") if "=" in option else option.partition(":")
        if not separator and name != "no-new-privileges":
            raise InvalidParameter(f"Invalid --security-opt: {go_quote(option)}")
        if name == "systempaths" and value == "unconfined":
            fields.update(MaskedPaths=[], ReadonlyPaths=[])
        elif name == "seccomp" and value not in ("unconfined", "builtin"):
            kept.append(f"seccomp={_profile(value)}")
        else:
            kept.append(option)
    return {**fields, "SecurityOpt": kept or None}


def _profile(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return json.dumps(json.load(file), separators=(",", ":"))
    except OSError as error:
        raise InvalidParameter(f"opening seccomp profile ({path}) failed: {error.strerror}") from error
    except ValueError as error:
        raise InvalidParameter(f"compacting json for seccomp profile ({path}) failed: {error}") from error
