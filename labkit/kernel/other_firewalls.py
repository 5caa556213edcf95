"""Room in other firewalls: packets of labkit's bridges must pass the host's FORWARD chain too (iptables(8)).

An accept in one table doesn't overrule a drop in another, and dockerd and ufw drop what they don't know. So the chain
gets rules for all links whose names begin with `labkit`: by raw netlink where iptables stands on nf_tables, by the
command `iptables-legacy` where it stands on its old interface. A comment says whose the rules are.
"""

from __future__ import annotations

import errno
import shutil
import struct
import subprocess
from dataclasses import dataclass
from typing import ClassVar

from labkit.errors import KernelError
from labkit.kernel import nft_messages as nft
from labkit.kernel import nft_rules as rule
from labkit.kernel.netlink import DUMP, Message, attributes, text_attribute
from labkit.kernel.nft_rules import INPUT_LINK, IPV4, IPV6, OUTPUT_LINK, Piece
from labkit.plan import Context, Operation, Result

PREFIX = "labkit"
"""How the names of all of labkit's bridges begin."""

_TABLE = "filter"
_HOOKED, _OWN_OF_DOCKER = "FORWARD", "DOCKER-USER"
_GETCHAIN, _GETRULE, _DELRULE = (nft.SUBSYSTEM << 8 | kind for kind in (4, 7, 8))
_DROP_POLICY = 0
_COMMANDS = {IPV4: "iptables-legacy", IPV6: "ip6tables-legacy"}
_LEGACY_TABLES = {IPV4: "/proc/thread-self/net/ip_tables_names", IPV6: "/proc/thread-self/net/ip6_tables_names"}

# What goes to dockerd's containers is left to dockerd's rules; what comes to ours, to our own table.
_PATTERNS = (
    (PREFIX, "docker", "RETURN"),
    (PREFIX, "br-", "RETURN"),
    (PREFIX, "", "ACCEPT"),
    ("", PREFIX, "ACCEPT"),
)
_VERDICTS = {"RETURN": rule.RETURN, "ACCEPT": rule.ACCEPT}


def _pieces(source: str, target: str, verdict: str) -> tuple[Piece, ...]:
    links = [
        rule.link_begins(field, prefix) for field, prefix in ((INPUT_LINK, source), (OUTPUT_LINK, target)) if prefix
    ]
    return (*links, rule.COUNTER, _VERDICTS[verdict])


def _options(source: str, target: str, verdict: str, comment: str) -> list[str]:
    """The same for iptables(8)."""
    links = [word for option, prefix in (("-i", source), ("-o", target)) if prefix for word in (option, f"{prefix}+")]
    return [*links, "-m", "comment", "--comment", comment, "-j", verdict]


def chains(family: int, netns: str = "") -> dict[str, int]:
    """The chains of the table that iptables keeps in nf_tables, with their policies (-1: none); empty without one."""
    body = struct.pack(">BBH", family, 0, 0)
    try:
        answers = nft.ask(Message(_GETCHAIN, DUMP, body, ""), netns)
    except KernelError as error:
        if error.errno in (errno.ENOENT, *nft.ABSENT):
            return {}
        raise
    found = {}
    for answer in answers:
        fields = attributes(answer[4:])
        if fields[1] == _TABLE.encode() + b"\0":
            found[fields[3].rstrip(b"\0").decode()] = int.from_bytes(fields.get(5, b"\xff" * 4), "big", signed=True)
    return found


def rules_of(family: int, chain: str, comment: str) -> tuple[bytes, ...]:
    """The handles of the rules with this comment."""
    body = struct.pack(">BBH", family, 0, 0) + text_attribute(1, _TABLE) + text_attribute(2, chain)
    try:
        answers = nft.ask(Message(_GETRULE, DUMP, body, ""))
    except KernelError as error:
        if error.errno in (errno.ENOENT, *nft.ABSENT):
            return ()
        raise
    rules = [attributes(answer[4:]) for answer in answers]
    ours = [
        fields
        for fields in rules
        if fields[1].rstrip(b"\0").decode() == _TABLE
        and fields[2].rstrip(b"\0").decode() == chain
        and fields.get(7) == nft.comment_data(comment)
    ]
    return tuple(fields[3] for fields in ours)


def chain_for(names: dict[str, int]) -> str:
    """The chain that takes the rules: the one that dockerd leaves to others, or the hooked one; empty if neither is."""
    return next((chain for chain in (_OWN_OF_DOCKER, _HOOKED) if chain in names and _HOOKED in names), "")


@dataclass(frozen=True, slots=True)
class AcceptForwarding(Operation):
    """Put labkit's rules in front of a chain of `ip filter` or `ip6 filter` (`family` 2 or 10), if they aren't there.

    Undone by taking out all rules with this comment.
    """

    family: int
    chain: str
    comment: str
    man: ClassVar[str] = "iptables-nft(8)"

    def stands(self) -> bool:
        """Whether it has been done."""
        return bool(rules_of(self.family, self.chain, self.comment))

    def run(self, context: Context) -> Result:
        if self.stands():
            return None
        nft.transact(*self._messages())
        return self.chain

    def undo(self, result: Result, context: Context) -> None:
        ForgetForwarding(self.family, self.chain, self.comment).run(context)

    def _messages(self) -> list[Message]:
        # Each goes in front, so the last comes first.
        return [
            nft.add_rule(self.family, _TABLE, self.chain, _pieces(*pattern), first=True, comment=self.comment)
            for pattern in reversed(_PATTERNS)
        ]

    def describe(self) -> str:
        return f"let the bridges pass the chain {self.chain} of the host's {nft.FAMILIES[self.family]} firewall"

    def shell(self) -> str:
        command = "ip6tables-nft" if self.family == IPV6 else "iptables-nft"
        lines = [
            " ".join([command, "-I", self.chain, *_options(*pattern, self.comment)]) for pattern in reversed(_PATTERNS)
        ]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class ForgetForwarding(Operation):
    """Take the rules with this comment out of a chain; none, or no chain, is fine."""

    family: int
    chain: str
    comment: str
    man: ClassVar[str] = "iptables-nft(8)"

    def run(self, context: Context) -> Result:
        handles = rules_of(self.family, self.chain, self.comment)
        if handles:
            nft.transact(*(nft.delete_rule(self.family, _TABLE, self.chain, handle) for handle in handles))
        return len(handles)

    def describe(self) -> str:
        return f"take labkit's rules out of the chain {self.chain} of the host's {nft.FAMILIES[self.family]} firewall"


@dataclass(frozen=True, slots=True)
class AcceptForwardingLegacy(Operation):
    """AcceptForwarding for the tables of the old interface, by the command `iptables-legacy`."""

    family: int
    chain: str
    comment: str
    man: ClassVar[str] = "iptables(8)"

    def stands(self) -> bool:
        """Whether it has been done."""
        return bool(legacy_rules(self.family, self.chain, self.comment))

    def run(self, context: Context) -> Result:
        if self.stands():
            return None
        for pattern in reversed(_PATTERNS):
            legacy(self.family, "-I", self.chain, *_options(*pattern, self.comment))
        return self.chain

    def undo(self, result: Result, context: Context) -> None:
        ForgetForwardingLegacy(self.family, self.comment).run(context)

    def describe(self) -> str:
        return f"let the bridges pass the chain {self.chain} of the host's iptables-legacy"

    def shell(self) -> str:
        command = _COMMANDS[self.family]
        lines = [
            " ".join([command, "-I", self.chain, *_options(*pattern, self.comment)]) for pattern in reversed(_PATTERNS)
        ]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class ForgetForwardingLegacy(Operation):
    """Take the rules with this comment out of all chains of the old interface."""

    family: int
    comment: str
    man: ClassVar[str] = "iptables(8)"

    def run(self, context: Context) -> Result:
        for chain in (_OWN_OF_DOCKER, _HOOKED):
            for options in legacy_rules(self.family, chain, self.comment):
                legacy(self.family, "-D", chain, *options)
        return None

    def describe(self) -> str:
        return "take labkit's rules out of the host's iptables-legacy"


@dataclass(frozen=True, slots=True)
class TrustInFirewalld(Operation):
    """Have firewalld count all of labkit's bridges to its zone `trusted`, until it is started anew.

    Its rules reject what comes from links that it doesn't know. Undone by taking them out of the zone.
    """

    man: ClassVar[str] = "firewall-cmd(1)"

    def run(self, context: Context) -> Result:
        _firewalld("--add-interface")
        return "trusted"

    def undo(self, result: Result, context: Context) -> None:
        if firewalld_trusts():
            DistrustInFirewalld().run(context)

    def describe(self) -> str:
        return "have firewalld trust the bridges"

    def shell(self) -> str:
        return f"firewall-cmd --zone=trusted --add-interface={PREFIX}+"


@dataclass(frozen=True, slots=True)
class DistrustInFirewalld(Operation):
    """Take the bridges out of firewalld's zone `trusted` again."""

    man: ClassVar[str] = "firewall-cmd(1)"

    def run(self, context: Context) -> Result:
        _firewalld("--remove-interface")
        return None

    def describe(self) -> str:
        return "have firewalld trust the bridges no longer"

    def shell(self) -> str:
        return f"firewall-cmd --zone=trusted --remove-interface={PREFIX}+"


def has_firewalld(tables: tuple[str, ...]) -> bool:
    """Whether firewalld is at work: it has a table of its name in nf_tables (of the family inet)."""
    return "firewalld" in tables and _program("firewall-cmd") is not None


def firewalld_trusts() -> bool:
    """Whether TrustInFirewalld has been done."""
    command = [_program("firewall-cmd") or "firewall-cmd", "--zone=trusted", f"--query-interface={PREFIX}+"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _firewalld(action: str) -> None:
    command = ["firewall-cmd", "--quiet", "--zone=trusted", f"{action}={PREFIX}+"]
    done = subprocess.run([_program(command[0]) or "", *command[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelError(" ".join(command), errno.EINVAL, done.stderr.strip())


def _program(name: str) -> str | None:
    return shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin")


def has_legacy(family: int, table: str = _TABLE) -> bool:
    """Whether the old interface has this table in use. Asking iptables-legacy itself would create it."""
    try:
        with open(_LEGACY_TABLES[family], encoding="ascii") as file:
            return table in file.read().split()
    except OSError:  # no such module; or not ours to see
        return False


def legacy(family: int, *arguments: str) -> str:
    """Run iptables-legacy. Raises KernelError with what it says."""
    command = _program(_COMMANDS[family])
    if command is None:
        raise KernelError(f"{_COMMANDS[family]} {' '.join(arguments)}", errno.ENOENT, "install iptables")
    done = subprocess.run([command, "-w", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        shown = f"{_COMMANDS[family]} {' '.join(arguments)}"
        raise KernelError(shown, errno.EINVAL, done.stderr.strip().splitlines()[0] if done.stderr else "")
    return done.stdout


def legacy_chain(family: int) -> str:
    """The chain that takes the rules, or nothing if the table is not in use."""
    if not has_legacy(family):
        return ""
    declared = legacy(family, "-S").splitlines()
    return _OWN_OF_DOCKER if f"-N {_OWN_OF_DOCKER}" in declared else _HOOKED


def legacy_rules(family: int, chain: str, comment: str) -> list[list[str]]:
    """The rules with this comment, as options that -D takes."""
    try:
        lines = legacy(family, "-S", chain).splitlines()
    except KernelError:
        return []  # no such chain
    words = [line.split()[2:] for line in lines if line.startswith("-A ")]
    return [options for options in words if ["--comment", comment] == options[-4:-2]]
