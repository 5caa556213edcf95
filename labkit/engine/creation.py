"""Create: from a request to a container's record and its directories (moby `daemon/create.go`)."""

from __future__ import annotations

import os
from typing import Any

from labkit.engine import clock, validation
from labkit.engine.models import Config, ContainerRecord, CreateBody, HostConfig, State, words
from labkit.engine.settings import Settings
from labkit.errors import InvalidParameter
from labkit.kernel.storage import MakeDirectory, WriteFile
from labkit.plan import Plan, Step

_CONFIG_FIELDS = Config.__struct_fields__


def make_record(
    identity: str, name: str, body: CreateBody, image: str, image_config: dict[str, Any]
) -> ContainerRecord:
    """The record of a new container: what was asked, filled up with what its image says."""
    config = Config(**{field: getattr(body, field) for field in _CONFIG_FIELDS})
    host = validation.default_host_config(body.HostConfig)
    validation.check_network_mode(config, host, body.NetworkingConfig)
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


def create_plan(record: ContainerRecord, settings: Settings, hosts: str, resolver: str) -> Plan:
    """The plan that gives a container its directories and files on disk."""
    directory = os.path.join(settings.containers, record.Id)
    operations = [
        MakeDirectory(directory, 0o710),
        MakeDirectory(f"{directory}/layer", 0o710),
        MakeDirectory(f"{directory}/layer/diff"),
        MakeDirectory(f"{directory}/layer/work", 0o710),
        WriteFile(f"{directory}/hostname", f"{record.Config.Hostname}\n"),
        WriteFile(f"{directory}/hosts", hosts),
        WriteFile(f"{directory}/resolv.conf", resolver),
    ]
    return Plan("create", tuple(Step("daemon", operation) for operation in operations))
