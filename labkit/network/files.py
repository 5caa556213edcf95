"""The files by which a container knows names: hosts(5), resolv.conf(5) (moby `libnetwork/internal/resolvconf`)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from labkit.errors import InvalidParameter
from labkit.kernel.resolver import ADDRESS

HOST_GATEWAY = "host-gateway"
FALLBACK = ("8.8.8.8", "8.8.4.4")
"""dockerd's name servers for a container whose host has only some at loopback addresses."""

_HOSTS = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
_RESOLVER = "# Made by labkit from the host's /etc/resolv.conf and the --dns options, at each start.\n\n"


def hosts(names: Iterable[tuple[str, str]]) -> str:
    """/etc/hosts: the loopback's lines, then one for each pair of an address and its names."""
    return _HOSTS + "".join(f"{address}\t{known}\n" for address, known in names)


def extra_hosts(entries: Sequence[str], gateways: Sequence[str]) -> list[tuple[str, str]]:
    """The lines of `--add-host name:address`; `host-gateway` stands for the host as containers reach it."""
    found = []
    for entry in entries:
        name, sign, address = entry.partition("=" if "=" in entry else ":")
        address = address.strip("[]")
        if not sign or not name or not address:
            raise InvalidParameter(f'bad format for add-host: "{entry}"')
        if address == HOST_GATEWAY:
            found += [(gateway, name) for gateway in gateways]
        else:
            _check_address(address)
            found.append((address, name))
    return found


def _check_address(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidParameter(f'invalid IP address in add-host: "{text}"') from error


@dataclass(frozen=True, slots=True)
class Resolver:
    """What resolv.conf(5) says."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def overridden(self, servers: Sequence[str], search: Sequence[str], options: Sequence[str]) -> Resolver:
        """The same with what `--dns`, `--dns-search` and `--dns-option` say; a search of `.` is none."""
        wanted = () if list(search) == ["."] else tuple(search) or self.search
        return Resolver(tuple(servers) or self.servers, wanted, tuple(options) or self.options)

    def reachable(self) -> Resolver:
        """The same without servers at loopback addresses, out of a container's reach; some others if none is left."""
        kept = tuple(server for server in self.servers if not _is_loopback(server))
        return Resolver(kept or FALLBACK, self.search, self.options)

    def behind_names(self) -> Resolver:
        """What a container with a name server of its own gets: that one, which asks the others."""
        options = self.options if any(one.startswith("ndots:") for one in self.options) else (*self.options, "ndots:0")
        return Resolver((ADDRESS,), self.search, options)

    def text(self) -> str:
        lines = [f"nameserver {server}" for server in self.servers]
        lines += [f"search {' '.join(self.search)}"] if self.search else []
        lines += [f"options {' '.join(self.options)}"] if self.options else []
        return _RESOLVER + "".join(f"{line}\n" for line in lines)


@lru_cache(maxsize=64)
def _is_loopback(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.split("%")[0]).is_loopback
    except ValueError:
        return True


@dataclass(slots=True)
class _Read:
    servers: list[str] = field(default_factory=list)
    search: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)


@lru_cache(maxsize=8)
def parse_resolver(text: str) -> Resolver:
    """What a resolv.conf says; of several `search` lines the last counts (resolv.conf(5))."""
    found = _Read()
    for line in text.splitlines():
        key, *values = line.split() or [""]
        if key == "nameserver":
            found.servers += values[:1]
        elif key in ("search", "domain"):
            found.search = values
        elif key == "options":
            found.options += values
    return Resolver(tuple(found.servers), tuple(found.search), tuple(found.options))


def read_host(path: str) -> str:
    """One of the host's files; empty if it has none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def host_resolver() -> Resolver:
    """The host's own; behind systemd-resolved's stub the servers that it asks, as dockerd does it."""
    found = parse_resolver(read_host("/etc/resolv.conf"))
    if found.servers == ("127.0.0.53",):
        behind = parse_resolver(read_host("/run/systemd/resolve/resolv.conf"))
        return behind if behind.servers else found
    return found
