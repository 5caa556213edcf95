"""The files of a container that tell of names: /etc/hosts and /etc/resolv.conf (moby `libnetwork/sandbox_dns_unix.go`).

They lie in the container's directory and are mounted into it. They are written anew at each start, when the
addresses are known, and when the container's networks change.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from labkit.engine import legacy_links
from labkit.engine.models import ContainerRecord, HostConfig
from labkit.kernel.storage import OverwriteFile
from labkit.network import files
from labkit.plan import Operation

if TYPE_CHECKING:
    from labkit.engine.container import Container
    from labkit.engine.engine import Engine
    from labkit.engine.networks import Networks

_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")


def is_mac(text: str) -> bool:
    """Whether it is a MAC address as dockerd takes it."""
    return bool(_MAC.fullmatch(text))


def resolver_of(host: HostConfig) -> files.Resolver:
    """The name servers that a container's questions go to in the end, with search domains and options."""
    return files.host_resolver().overridden(host.Dns or (), host.DnsSearch or (), host.DnsOptions or ())


def resolver_text(record: ContainerRecord, has_names: bool) -> str:
    """/etc/resolv.conf of a container."""
    host = record.HostConfig
    found = resolver_of(host)
    if host.NetworkMode == "host":
        overridden = host.Dns or host.DnsSearch or host.DnsOptions
        return found.text() if overridden else files.read_host("/etc/resolv.conf")
    return (found.behind_names() if has_names else found.reachable()).text()


def hosts_text(record: ContainerRecord, gateways: tuple[str, ...], linked: list[tuple[str, str]]) -> str:
    """/etc/hosts of a container. `gateways` are what `host-gateway` stands for, `linked` the lines of `--link`."""
    config, host = record.Config, record.HostConfig
    extra = files.extra_hosts(host.ExtraHosts or (), gateways)
    if host.NetworkMode == "host":
        return files.read_host("/etc/hosts") + "".join(f"{address}\t{name}\n" for address, name in extra)
    known = f"{config.Hostname}.{config.Domainname} {config.Hostname}" if config.Domainname else config.Hostname
    own = [
        (address, known)
        for endpoint in record.Networks.values()
        for address in (endpoint.IPAddress, endpoint.GlobalIPv6Address)
        if address
    ]
    return files.hosts([*extra, *linked, *own])


def gateways(networks: Networks) -> tuple[str, ...]:
    """The host as containers reach it: the addresses of the default bridge."""
    return tuple(str(pool.gateway) for pool in networks.find("bridge").pools)


def file_operations(engine: Engine, container: Container, has_names: bool) -> list[Operation]:
    """What brings a container's files to what is true now."""
    record = container.record
    linked = legacy_links.hosts(engine, container)
    texts = {
        "hosts": hosts_text(record, gateways(engine.networks), linked),
        "resolv.conf": resolver_text(record, has_names),
    }
    return [OverwriteFile(os.path.join(container.directory, name), text) for name, text in texts.items()]
