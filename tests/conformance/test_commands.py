"""Nearly three hundred commands side by side: to Debian's dockerd (20.10) and to labkit, by the same client.

Output, exit codes and `inspect` must be the same. What may differ is listed with its reason; `docs/differences.md`
says it for people. A difference that isn't listed fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conformance.commands import GROUPS
from tests.conformance.side_by_side import Answer, differences, shown, told
from tests.support.daemon import Daemon
from tests.support.dockerd import dockerd, isolated

EXEC_FAILED = (
    "OCI runtime exec failed: exec failed: unable to start container process: "
    'exec: "nosuchprogram": executable file not found in $PATH: unknown\r\n'
)
BOUNDED = "runc fails where the machine lacks a capability, labkit gives those that there are"

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
Engines = tuple[Daemon, Daemon]


SMALL = "since 25 dockerd's errors begin with a small letter"
START = "since 23 dockerd says in which steps a start failed; labkit runs no runc"
PERMITTED = {
    r"run .*busybox (nosuchprogram|/etc|/etc/passwd)": ("failed to create task for container", START),
    r"run -d --name second .*": ("failed to set up container networking: driver failed", START),
    r"run .*--cpu-shares (1|300000) .*": ("failed to create task for container", START),
    r"update --cpu-shares 1 upd": (": the minimum allowed cpu-shares is 2", "labkit runs no runc"),
    r"run .*--cpus 99 .*": ("range of CPUs is from 0.01", SMALL),
    r"(un)?pause life|top life": ("container <id> is ", SMALL),
    r"exec life true": ("container <id> is ", SMALL),
    r"kill life": ("cannot kill container: life: container <id> is not running", SMALL),
    r"kill -s 99 life": ("cannot kill container: life: the linux daemon does not support signal 99", SMALL),
    r"kill -s USR1 nosuch": ("cannot kill container: nosuch: No such container: nosuch", SMALL),
    r"ps -a --filter (nosuch=1|status=nosuch|is-task=x)": ("invalid filter '", SMALL),
    r"ps -a --filter health=nosuch": ("unrecognized filter value for health: nosuch", SMALL),
    r"search --limit 500 x": ("limit 500 is outside", SMALL),
    r"rename other _bad": ("Error when allocating new name: Invalid container name (_bad)", "the name as it was given"),
    r"rm other": ('cannot remove container "/other": container is running', "since 25"),
    r"network rm lab": ("has active endpoints", "since 28 dockerd says which containers hold a network"),
    r"inspect --type image box|image inspect nosuch": ("No such image: ", "since 25 it is said once"),
    r"rmi busybox": ('reference "busybox:latest" (must force)', "labkit says which tag is meant"),
    r"save nosuch": ("No such image: nosuch:latest", "likewise"),
    r"load": ("does not contain a manifest.json", "dockerd names a file of its own"),
    r"run .*--log-driver nosuch .*": ('plugin "nosuch" not found: labkit has the drivers json-file', "more help"),
}
"""Lines whose message differs: what labkit's contains, and why. Exit status and output may not differ."""

NEWER = {
    r"exec box nosuchprogram": ("since 23 it is 127, as for run", Answer(127, EXEC_FAILED, "")),
    r"run .*--privileged .*": (BOUNDED, Answer(0, "CapEff:\t<set>\nSeccomp:\t0\n", "")),
    r"exec --privileged .*": (BOUNDED, Answer(0, "CapEff:\t<set>\n", "")),
}
"""Lines whose exit status differs from 20.10's too: why, and what it is."""

FIELDS = {
    r"/containers/[^/]+/(GraphDriver/.*|.*Path)": "where the engine keeps its files is its own affair",
    r"/containers/[^/]+/HostConfig/Runtime": "labkit's own way to run containers is a runtime too, and the default",
    r"/containers/[^/]+/HostConfig/MaskedPaths": "28 hides /proc/interrupts and powercap too",
    r"/containers/[^/]+/HostConfig/NetworkMode": "since 26 dockerd says `bridge` for `default`",
    r"/containers/mighty/Config/Hostname": "with --uts host the name is the host's",
    r"/containers/[^/]+/State/Pid": "the machine's",
    r"/containers/[^/]+/NetworkSettings/Sandbox(ID|Key)": "labkit names the namespace by its process",
    r"/containers/[^/]+/Mounts/\d/Source": "a volume's place is the engine's",
    r"/networks/[^/]+/EnableIPv4": "new in 28",
    r"/networks/[^/]+/IPAM/Config/\d/Gateway": "labkit shows the gateway that it chose itself",
}
"""Fields of inspect that may differ, and why."""


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    with isolated(tmp_path_factory.mktemp("ours")) as ours, dockerd(tmp_path_factory.mktemp("theirs")) as theirs:
        yield ours, theirs


def answers(engine: Daemon, lines: list[str]) -> list[Answer]:
    return [told(engine, line.removeprefix("!")) for line in lines]


def permitted(line: str, ours: Answer, theirs: Answer) -> bool:
    """Whether the answers are the same, or differ as they may."""
    if ours == theirs:
        return True
    for pattern, (_, answer) in NEWER.items():
        if re.fullmatch(pattern, line):
            return without_capabilities(ours) == answer
    same = (ours.status, ours.out) == (theirs.status, theirs.out)
    return same and any(words in ours.err and re.fullmatch(pattern, line) for pattern, (words, _) in PERMITTED.items())


def without_capabilities(answer: Answer) -> Answer:
    return Answer(answer.status, re.sub(r"CapEff:\t[0-9a-f]{16}", "CapEff:\t<set>", answer.out), answer.err)


@pytest.mark.parametrize("group", GROUPS)
def test_commands(engines: Engines, group: str) -> None:
    lines = GROUPS[group].strip().splitlines()
    with ThreadPoolExecutor(2) as pool:
        ours, theirs = pool.map(lambda engine: answers(engine, lines), engines)
        here, there = pool.map(shown_in_order, engines)
        wrong = [
            f"{line}\n  {one}\n  {other}"
            for line, one, other in zip(lines, ours, theirs, strict=True)
            if not line.startswith("!") and not permitted(line, one, other)
        ]
        wrong += [f"{path}: {one!r}, {other!r}" for path, one, other in differences(here, there) if not matches(path)]
        list(pool.map(cleared, engines))
    assert not wrong, "\n".join(wrong)


def shown_in_order(engine: Daemon) -> dict[str, Any]:
    """What there is, with mounts and binds by their place: dockerd has them in any order."""
    found = shown(engine)
    for container in found["containers"].values():
        container["HostConfig"]["Binds"] = sorted(container["HostConfig"]["Binds"] or [])
        container["Mounts"].sort(key=lambda mount: str(mount["Destination"]))
    return found


def matches(path: str) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in FIELDS)


def cleared(engine: Daemon) -> None:
    """The next group finds nothing."""
    engine.remove_all()
    if volumes := engine.out("volume", "ls", "-q").split():
        engine.docker("volume", "rm", *volumes)
    engine.docker("network", "prune", "-f")


def test_enough_commands() -> None:
    """And each permission is met by one of them."""
    lines = [line for group in GROUPS.values() for line in group.strip().splitlines()]
    assert len(lines) >= 250
    for pattern in (*PERMITTED, *NEWER):
        assert any(re.fullmatch(pattern, line) for line in lines), pattern
