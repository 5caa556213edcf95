"""Bridges on a kernel without nf_tables: masquerade and isolation by the command `iptables-legacy` (iptables(8)).

Published ports are left to the proxies there. Drops stand in the mangle table, so that no accept in the filter table,
of labkit's or another's, comes before them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from labkit.errors import KernelError
from labkit.kernel.nft_rules import IPV4, IPV6
from labkit.kernel.other_firewalls import legacy
from labkit.plan import Context, Operation, Result

_COMMANDS = {IPV4: "iptables-legacy", IPV6: "ip6tables-legacy"}
_ANSWERS = "-m conntrack --ctstate RELATED,ESTABLISHED"


@dataclass(frozen=True, slots=True)
class AdmitBridgeLegacy(Operation):
    """What AdmitBridge does, with iptables rules: some for each bridge and family.

    `subnets` are its networks (CIDR), of which those in `masqueraded` leave with an address of the host's. Undone by
    taking the rules out.
    """

    name: str
    subnets: tuple[str, ...]
    internal: bool = False
    icc: bool = True
    masqueraded: tuple[str, ...] = ()
    man: ClassVar[str] = "iptables(8)"

    def run(self, context: Context) -> Result:
        self._take_out()  # what a killed daemon left would be there twice
        try:
            for family, words in self._rules():
                legacy(family, *words)
        except KernelError:
            self._take_out()
            raise
        return self.name

    def undo(self, result: Result, context: Context) -> None:
        self._take_out()

    def _take_out(self) -> None:
        for family, words in self._rules():
            rule = [word if word != "-A" else "-C" for word in words]
            while _succeeds(family, rule):
                legacy(family, *(word if word != "-A" else "-D" for word in words))

    def _rules(self) -> Iterator[tuple[int, list[str]]]:
        """The rules as arguments of iptables, with their families."""
        for subnet in self.masqueraded:
            words = f"-t nat -A POSTROUTING -s {subnet} ! -o {self.name} -j MASQUERADE"
            yield IPV6 if ":" in subnet else IPV4, words.split()
        for family in sorted({IPV6 if ":" in subnet else IPV4 for subnet in self.subnets}):
            for rule in self._forward():
                yield family, f"-t mangle -A FORWARD {rule}".split()

    def _forward(self) -> tuple[str, ...]:
        name = self.name
        within = f"-i {name} -o {name} -j {'ACCEPT' if self.icc else 'DROP'}"
        leaving = (f"-i {name} -j DROP",) if self.internal else ()
        return (f"-o {name} {_ANSWERS} -j ACCEPT", within, *leaving, f"-o {name} -j DROP")

    def describe(self) -> str:
        return f"admit the bridge {self.name} with iptables rules, for want of nf_tables"

    def shell(self) -> str:
        return "\n".join(" ".join([_COMMANDS[family], *words]) for family, words in self._rules())


@dataclass(frozen=True, slots=True)
class DismissBridgeLegacy(Operation):
    """Take out what AdmitBridgeLegacy with the same fields did."""

    name: str
    subnets: tuple[str, ...]
    internal: bool = False
    icc: bool = True
    masqueraded: tuple[str, ...] = ()
    man: ClassVar[str] = "iptables(8)"

    def run(self, context: Context) -> Result:
        admitted = AdmitBridgeLegacy(self.name, self.subnets, self.internal, self.icc, self.masqueraded)
        admitted.undo(None, context)
        return None

    def describe(self) -> str:
        return f"take the iptables rules of the bridge {self.name} out"


def _succeeds(family: int, words: list[str]) -> bool:
    try:
        legacy(family, *words)
    except KernelError:
        return False
    return True
