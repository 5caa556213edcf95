"""Create: from a request to a container's record and its directories (moby `daemon/create.go`)."""

from __future__ import annotations

import os
import re
from typing import Any

from labkit.engine import clock, validation
from labkit.engine.models import Config, ContainerRecord, CreateBody, HostConfig, State, words
from labkit.engine.settings import Settings
from labkit.errors import InvalidParameter
from labkit.kernel.storage import MakeDirectory, WriteFile
from labkit.plan import Plan, Step

_CONFIG_FIELDS = Config.__struct_fields__
_OCTAL = re.compile(r"\\([0-7]{3})")


def make_record(
    identity: str, name: str, body: CreateBody, image: str, image_config: dict[str, Any]
) -> ContainerRecord:
    """The record of a new container: what was asked, filled up with what its image says."""
    config = Config(**{field: getattr(body, field) for field in _CONFIG_FIELDS})
    host = validation.default_host_config(body.HostConfig)
    validation.merge_image(config, image_config)
    entrypoint, command = words(config.Entrypoint), words(config.Cmd)
    if entrypoint == [""]:
        entrypoint, config.Entrypoint = [], None
    argv = [*entrypoint, *command]
    if not argv or (not entrypoint and not argv[0]):
        raise InvalidParameter("no command specified")
    config.Hostname = config.Hostname or _hostname(identity, host)
    config.Labels = config.Labels or {}
    return ContainerRecord(
        Id=identity,
        Created=clock.now(),
        Path=argv[0],
        Args=argv[1:],
        State=State(),
        Image=image,
        Name=f"/{name}",
        Config=config,
        HostConfig=host,
    )


def _hostname(identity: str, host: HostConfig) -> str:
    if host.NetworkMode == "host" or host.UTSMode == "host":
        return os.uname().nodename
    return identity[:12]


def create_plan(record: ContainerRecord, settings: Settings, resolv_conf: str) -> Plan:
    """The plan that gives a container its directories and files on disk."""
    directory = os.path.join(settings.containers, record.Id)
    operations = [
        MakeDirectory(directory, 0o710),
        MakeDirectory(f"{directory}/layer", 0o710),
        MakeDirectory(f"{directory}/layer/diff"),
        MakeDirectory(f"{directory}/layer/work", 0o710),
        WriteFile(f"{directory}/hostname", f"{record.Config.Hostname}\n"),
        WriteFile(f"{directory}/hosts", hosts(record)),
        WriteFile(f"{directory}/resolv.conf", resolver(record.HostConfig, resolv_conf)),
    ]
    return Plan("create", tuple(Step("daemon", operation) for operation in operations))


_HOSTS = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def hosts(record: ContainerRecord) -> str:
    """/etc/hosts of a container (hosts(5)): Docker's own lines, then those of --add-host."""
    extra = ""
    for entry in record.HostConfig.ExtraHosts or []:
        name, sign, address = entry.partition("=" if "=" in entry else ":")
        if not sign or not name or not address:
            raise InvalidParameter(f'bad format for add-host: "{entry}"')
        extra += f"{address.strip('[]')}\t{name}\n"
    return _HOSTS + extra


def resolver(host: HostConfig, present: str) -> str:
    """/etc/resolv.conf of a container (resolv.conf(5)): the host's, with what --dns... changes."""
    if not (host.Dns or host.DnsSearch or host.DnsOptions):
        return present
    kept = _parse_resolver(present)
    chosen = {"nameserver": host.Dns, "search": host.DnsSearch, "options": host.DnsOptions}
    lines: list[str] = []
    for key, values in chosen.items():
        found = values or kept.get(key, [])
        lines += (
            [f"{key} {value}" for value in found]
            if key == "nameserver"
            else [f"{key} {' '.join(found)}"]
            if found
            else []
        )
    return "\n".join(lines) + "\n"


def _parse_resolver(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, *values = line.split() or [""]
        if key in ("nameserver", "search", "options"):
            found.setdefault(key, []).extend(values)
    return found


def host_resolver() -> str:
    """The host's /etc/resolv.conf; empty if it has none."""
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""
