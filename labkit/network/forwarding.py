"""The host forwards for containers: its ip_forward, and the other firewalls that a packet has to pass.

Docker sets `ip_forward` for good and owns the FORWARD chain (libnetwork `setupIPForwarding`). labkit lives beside other
firewalls: what it changes is said, remembered, and put back when the last daemon that needs it ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable

from labkit.errors import KernelError
from labkit.kernel import nft_messages as nft
from labkit.kernel.host_settings import PutBackSysctl, SetHostSysctl, read_sysctl
from labkit.kernel.netlink import DUMP, HEADER, Message, attributes, open_in
from labkit.kernel.nft_rules import INET, IPV4, IPV6
from labkit.kernel.other_firewalls import (
    PREFIX,
    AcceptForwarding,
    AcceptForwardingLegacy,
    DistrustInFirewalld,
    ForgetForwarding,
    ForgetForwardingLegacy,
    TrustInFirewalld,
    chain_for,
    chains,
    firewalld_trusts,
    has_firewalld,
    has_legacy,
    legacy_chain,
)
from labkit.plan import Operation

_LOG = logging.getLogger(__name__)
RECORDS = "/run/labkit-host"
"""Where found values are kept: one place for all daemons of the machine, since the last to end puts them back."""

_FAMILIES = (IPV4, IPV6)
_IP_FORWARD, _IPV6_FORWARD = "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"
_IPV6_LINKS = "/proc/sys/net/ipv6/conf"
_GETTABLE = nft.SUBSYSTEM << 8 | 1
_OF_DOCKER = "DOCKER-USER"
_NFTABLES_GROUP = 1 << 6  # NFNLGRP_NFTABLES
_NETFILTER = 12
_KIND = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
_NEWTABLE = nft.SUBSYSTEM << 8
_CHANGES = (3, 5, 8)  # NFT_MSG_NEWCHAIN, _DELCHAIN, _DELRULE
_ROOM = 1 << 16


def enable_operations(ipv6: bool, folder: str = RECORDS) -> list[Operation]:
    """What makes the host forward IPv4, and IPv6 if a network has it; nothing if it does already.

    A host that forwards IPv6 no longer listens to routers (accept_ra 1): links that did are told to go on.
    """
    operations: list[Operation] = []
    if read_sysctl(_IP_FORWARD) != "1":
        operations.append(SetHostSysctl(_IP_FORWARD, "1", folder))
    if ipv6 and os.path.isdir(_IPV6_LINKS) and read_sysctl(_IPV6_FORWARD) != "1":
        operations += [SetHostSysctl(f"net/ipv6/conf/{link}/accept_ra", "2", folder) for link in _listening_links()]
        operations.append(SetHostSysctl(_IPV6_FORWARD, "1", folder))
    return operations


def _listening_links() -> list[str]:
    """Links of the host that take addresses and routes from routers' advertisements."""
    links = [link for link in os.listdir(_IPV6_LINKS) if link not in ("all", "default", "lo")]
    keys = ("accept_ra", "forwarding")
    return sorted(
        link
        for link in links
        if not link.startswith((PREFIX, "veth"))
        and [read_sysctl(f"net/ipv6/conf/{link}/{key}") for key in keys] == ["1", "0"]
    )


def put_back_operations(table: str, folder: str = RECORDS) -> list[Operation]:
    """What gives the host its settings back; nothing while another daemon of labkit's or dockerd relies on them."""
    if not os.path.isdir(folder) or is_needed(table):
        return []
    keys = [name.replace("|", "/") for name in sorted(os.listdir(folder))]
    # Listening to routers is for a host that no longer forwards.
    keys.sort(key=lambda key: key.endswith("accept_ra"))
    return [PutBackSysctl(key, "2" if key.endswith("accept_ra") else "1", folder) for key in keys]


def is_needed(table: str) -> bool:
    """Whether someone else on this machine needs forwarding: another daemon with a table of its own, or dockerd."""
    docker = any(_OF_DOCKER in chains(family) for family in _FAMILIES)
    return _others(tables(INET), table) or docker or any(legacy_chain(family) == _OF_DOCKER for family in _FAMILIES)


def _others(present: tuple[str, ...], table: str) -> bool:
    """Whether another daemon of labkit's has its table here."""
    return any(name.startswith(PREFIX) and name != table for name in present)


def tables(family: int) -> tuple[str, ...]:
    """The nf_tables tables of a family; none where there is no nf_tables."""
    try:
        answers = nft.ask(Message(_GETTABLE, DUMP, struct.pack(">BBH", family, 0, 0), ""))
    except KernelError as error:
        if error.errno in nft.ABSENT:
            return ()
        raise
    return tuple(attributes(answer[4:])[1].rstrip(b"\0").decode() for answer in answers if answer[0] == family)


def admit_operations(table: str) -> list[Operation]:
    """What lets the bridges' packets pass the firewalls that are there at this moment, as far as it isn't done."""
    operations: list[Operation] = []
    for family in _FAMILIES:
        operations += _admit_nftables(family, table)
        operations += _admit_legacy(family, table)
    if has_firewalld(tables(INET)) and not firewalld_trusts():
        operations.append(TrustInFirewalld())
    return operations


def _admit_nftables(family: int, table: str) -> list[Operation]:
    chain = chain_for(chains(family))
    if not chain:
        return []
    accept = AcceptForwarding(family, chain, table)
    return [] if accept.stands() else [accept]


def _admit_legacy(family: int, table: str) -> list[Operation]:
    chain = legacy_chain(family)
    if not chain:
        return []
    accept = AcceptForwardingLegacy(family, chain, table)
    return [] if accept.stands() else [accept]


def forget_operations(table: str) -> list[Operation]:
    """What takes this daemon's rules out of the other firewalls."""
    operations: list[Operation] = []
    for family in _FAMILIES:
        for chain in chains(family).keys() & {_OF_DOCKER, "FORWARD"}:
            operations.append(ForgetForwarding(family, chain, table))
        if has_legacy(family):
            operations.append(ForgetForwardingLegacy(family, table))
    present = tables(INET)
    if has_firewalld(present) and not _others(present, table) and firewalld_trusts():
        operations.append(DistrustInFirewalld())
    return operations


class Watch:
    """Calls back when another firewall has changed what it keeps in nf_tables, as when dockerd or firewalld starts.

    Of the network namespace behind the path `netns`, or of this one. The old interface of iptables tells nobody: where
    `has_legacy`, ask `admit_operations` again before containers start.
    """

    def __init__(self, changed: Callable[[], None], netns: str = "") -> None:
        self._changed = changed
        self._netns = netns
        self._sock: socket.socket | None = None

    def start(self) -> None:
        """Listen on the running event loop; without nf_tables there is nothing to hear."""
        try:
            sock = open_in(self._netns, socket.AF_NETLINK, _KIND, _NETFILTER)
        except OSError as error:
            _LOG.info("no nf_tables to watch: %s", error)
            return
        try:
            sock.bind((0, _NFTABLES_GROUP))
        except OSError as error:
            sock.close()
            _LOG.info("nf_tables can't be watched: %s", error)
            return
        self._sock = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._hear)

    def stop(self) -> None:
        if self._sock:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def _hear(self) -> None:
        """Take all that waits; one call back for it."""
        assert self._sock is not None
        concerned = False
        while True:
            try:
                concerned = concerns_us(self._sock.recv(_ROOM)) or concerned
            except BlockingIOError:
                break
            except OSError as error:  # ENOBUFS: more came than fitted, and what was lost may concern us
                _LOG.debug("nf_tables events lost: %s", error)
                concerned = True
        if concerned:
            self._changed()


def concerns_us(events: bytes) -> bool:
    """Whether one of these netlink messages is about another firewall.

    That is: about a chain of `ip filter` or `ip6 filter`, a rule gone from there, or a table of firewalld's.
    """
    place = 0
    while place + HEADER.size + 4 <= len(events):
        length, kind, *_ = HEADER.unpack_from(events, place)
        if length < HEADER.size + 4:
            return False
        table = attributes(events[place + HEADER.size + 4 : place + length]).get(1)
        family = events[place + HEADER.size]
        filtering = kind >> 8 == nft.SUBSYSTEM and kind & 0xFF in _CHANGES and family in _FAMILIES
        if (filtering and table == b"filter\0") or (kind == _NEWTABLE and table == b"firewalld\0"):
            return True
        place += (length + 3) & ~3
    return False
