"""The log driver `journald` with Debian's systemd-journald: what is sent to it is read back as dockerd does."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.side_by_side import Answer, told
from tests.support.daemon import PATIENCE, processes
from tests.support.journal import Journaled, JournaledDockerd, journald, journaled

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
Engines = tuple[Journaled, Journaled]
DRIVER = "--network none --log-driver journald"

PAUSE = "sleep 0.3"  # what comes out of two pipes at once comes in any order
COMMANDS = rf"""
run --name one {DRIVER} busybox sh -c "echo one; {PAUSE}; echo two >&2; {PAUSE}; printf 'tab\there\n'; printf 'no end'"
logs one
logs --tail 2 one
logs --tail 0 one
logs -t one
logs --since 1h one
logs --until 1h one
logs -f --tail 1 one
run --name big {DRIVER} busybox sh -c "head -c 40000 /dev/zero | tr '\0' a; echo; echo after"
logs big
logs --tail 1 big
run -d --name live {DRIVER} busybox sh -c "for i in 1 2 3 4 5; do echo line $i; sleep 0.2; done; exit 3"
logs -f live
start -a live
logs live
run --name many {DRIVER} busybox sh -c "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; done"
logs many
logs --tail 3 many
run --rm -t {DRIVER} busybox echo attached
run --name silent {DRIVER} busybox true
logs silent
inspect -f "{{{{json .HostConfig.LogConfig}}}} {{{{.LogPath}}}}" one
"""


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    roots = [tmp_path_factory.mktemp(name) for name in ("journal", "ours", "theirs")]
    with (
        journald(roots[0]) as mounts,
        journaled(Journaled(roots[1]), mounts) as ours,
        journaled(JournaledDockerd(roots[2]), mounts) as theirs,
    ):
        yield ours, theirs


def test_what_is_read_back(engines: Engines) -> None:
    lines = COMMANDS.strip().splitlines()

    def answers(engine: Journaled) -> list[Answer]:
        return [told(engine, line) for line in lines]

    with ThreadPoolExecutor(2) as pool:
        ours, theirs = pool.map(answers, engines)
    assert [(line, *pair) for line, *pair in zip(lines, ours, theirs, strict=True) if pair[0] != pair[1]] == []
    assert theirs[lines.index("logs live")].out.count("line 5") == 2


def test_labels_and_variables_are_details(engines: Engines) -> None:
    """dockerd 20.10 has the image's name among them."""
    engine, _ = engines
    options = ["--log-opt", "labels=colour", "--log-opt", "env=A", "--log-opt", "tag={{.Name}}"]
    words = ["-l", "colour=red", "-e", "A=1", *options, "busybox", "echo", "hello"]
    engine.docker("run", "--name", "labelled", *DRIVER.split(), *words)
    assert engine.out("logs", "--details", "labelled") == "A=1,COLOUR=red hello"
    fields = engine.on_host("journalctl", "CONTAINER_NAME=labelled", "--output=verbose", "--no-pager")
    assert {"CONTAINER_TAG=labelled", "SYSLOG_IDENTIFIER=labelled", "IMAGE_NAME=busybox", "MESSAGE=hello"} <= {
        line.strip() for line in fields.splitlines()
    }


def test_an_empty_line_is_kept(engines: Engines) -> None:
    """And so are bytes that aren't UTF-8. dockerd 20.10 drops the empty line."""
    engine, _ = engines
    engine.docker("run", "--name", "empty", *DRIVER.split(), "busybox", "printf", r"a\n\n\377b\n")
    assert engine.docker("logs", "empty").stdout == b"a\n\n\xffb\n"


def test_a_daemon_that_comes_back_reads_and_sends_on(engines: Engines) -> None:
    engine, _ = engines
    script = "echo before; trap 'echo after; exit' TERM; while :; do sleep 0.05; done"
    engine.docker("run", "-d", "--name", "kept", *DRIVER.split(), "busybox", "sh", "-c", script)
    engine.kill()
    engine.start()
    engine.docker("stop", "kept", timeout=PATIENCE)
    assert engine.out("logs", "kept").split() == ["before", "after"]
    assert processes(f"CONTAINER_ID_FULL={engine.inspect('kept')['Id']}") == []
