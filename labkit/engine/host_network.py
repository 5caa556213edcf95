"""What a daemon has on the host for its networks: bridges, its nf_tables table, forwarding, room in other firewalls.

At boot the kernel is brought to what the records say, whatever a daemon before this one has left: missing bridges are
made, bridges of ours that no record knows go, and the table is replaced whole. At an orderly end all of it goes.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable

from labkit.errors import LabkitError
from labkit.kernel import nft_messages
from labkit.kernel.links import DeleteLink, Link, find_link, read_links
from labkit.kernel.netlink import Netlink
from labkit.kernel.nftables import InstallTable, RemoveTable
from labkit.network import forwarding, planning
from labkit.network.models import NetworkRecord
from labkit.network.publishing import Binding
from labkit.plan import Context, Execution, Journal, Operation, recover

log = logging.getLogger("labkit.engine")


class HostNetwork:
    """One daemon's share of the host's network. `translates` says whether the kernel has nf_tables.

    Without it published ports are served by the proxy alone, and iptables has rules for the bridges.
    """

    def __init__(self, table: str, journals: str) -> None:
        self.table = table
        self.journals = journals
        self.translates = True
        self._watch = forwarding.Watch(self._admit)
        self._nftables: socket.socket | None = None

    def establish(self, records: list[NetworkRecord], bindings: Iterable[Binding]) -> None:
        """Bring the kernel to what the records say. `bindings` are the published ports of containers that run.

        A bridge that can't be made is logged: the daemon serves all else.
        """
        os.makedirs(self.journals, mode=0o700, exist_ok=True)
        for name in recover(self.journals, log.warning):
            log.warning("undid %s, which a killed daemon had left half done", name)
        self.translates = nft_messages.is_there()
        if not self.translates:
            log.warning("this kernel has no nf_tables: ports are served by the proxy, iptables does the rest")
        try:
            self._remove_orphans(records)
            if self.translates:
                self._install(records, bindings)
            for record in records:
                self._ensure_bridge(record)
        except LabkitError as error:
            log.error("containers have no networks but host and none: %s", error)
        self.forward(any(record.EnableIPv6 for record in records))
        self._watch.start()

    def _remove_orphans(self, records: list[NetworkRecord]) -> None:
        known = {record.Bridge: planning.mark(self.table, record.Id) for record in records}
        for link in _links():
            if link.alias.startswith(f"{self.table} ") and known.get(link.name) != link.alias:
                DeleteLink(link.name).run(Context())

    def _install(self, records: list[NetworkRecord], bindings: Iterable[Binding]) -> None:
        admitted = (planning.admit(record, self.table) for record in records)
        bridges = tuple((one.name, one.internal, one.icc, one.masquerade4, one.masquerade6) for one in admitted)
        ports = tuple(binding.published() for binding in bindings if binding.translatable)
        InstallTable(self.table, bridges, ports).run(Context())

    def _ensure_bridge(self, record: NetworkRecord) -> None:
        with Netlink() as netlink:
            link = find_link(netlink, record.Bridge)
        if link is None:
            admission = () if self.translates else self.admission(record)
            plan = planning.create_plan(record, self.table, planning.random_mac(), admission)
            journal = Journal(os.path.join(self.journals, record.Id))
            journal.open(plan.by("daemon"))
            try:
                Execution(plan.by("daemon"), journal=journal).run_or_undo()
            finally:
                journal.remove()
        elif link.alias != planning.mark(self.table, record.Id):
            log.error("network %s is unusable: the link %s is somebody else's", record.Name, link.name)

    def admission(self, record: NetworkRecord) -> tuple[Operation, ...]:
        """What admits a bridge to the firewall that this kernel has."""
        return (planning.admit(record, self.table) if self.translates else planning.admit_legacy(record),)

    def dismissal(self, record: NetworkRecord) -> Operation:
        """What takes a bridge out of it."""
        return planning.dismiss(record, self.table) if self.translates else planning.dismiss_legacy(record)

    def lend(self, context: Context) -> Context:
        """Give operations a socket to nf_tables that stays open: closing one after a deletion takes time."""
        if self.translates:
            self._nftables = self._nftables or nft_messages.connect()
            context.descriptors.setdefault("host-nftables", self._nftables.fileno())
        return context

    def forward(self, ipv6: bool) -> None:
        """Have the host forward between its links, and other firewalls let it. What is changed is said in the log."""
        for operation in forwarding.enable_operations(ipv6):
            log.info("%s, since containers need it; it is put back at the end", operation.describe())
            _attempt(operation)
        self._admit()

    def _admit(self) -> None:
        for operation in forwarding.admit_operations(self.table):
            log.info("%s", operation.describe())
            _attempt(operation)

    def dismantle(self, records: list[NetworkRecord]) -> None:
        """Take all that was made for networks off the machine; the records stay."""
        self.leave()
        ours = {link.name for link in _links() if link.alias.startswith(f"{self.table} ")}
        operations: list[Operation] = [DeleteLink(record.Bridge) for record in records if record.Bridge in ours]
        operations += forwarding.forget_operations(self.table)
        operations += (
            [RemoveTable(self.table)] if self.translates else [planning.dismiss_legacy(one) for one in records]
        )
        for operation in operations:
            _attempt(operation)
        for operation in forwarding.put_back_operations(self.table):
            _attempt(operation)

    def leave(self) -> None:
        """The daemon ends; what its containers need stays."""
        self._watch.stop()
        if self._nftables:
            self._nftables.close()
            self._nftables = None


def _links() -> list[Link]:
    with Netlink() as netlink:
        return read_links(netlink)


def _attempt(operation: Operation) -> None:
    """What can't be done here is logged: the rest may well work."""
    try:
        operation.run(Context())
    except LabkitError as error:
        log.warning("%s: %s", operation.describe(), error)
