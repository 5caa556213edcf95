"""Images under the real docker command, on a whole engine: what containers see of them, and what becomes of them."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.images.tars import config_of, docker_archive, member, tar
from tests.support.daemon import PATIENCE, Daemon, busybox

pytestmark = pytest.mark.root


def test_a_container_on_127_layers(daemon: Daemon) -> None:
    """As many as Docker allows: mount(2) takes one page of options."""
    layers = [busybox().read_bytes()]
    layers += [tar(member(f"layers/{number}", b"%d" % number), member("last", b"%d" % number)) for number in range(126)]
    daemon.docker("load", stdin=docker_archive(layers, ["deep"]))
    seen = daemon.out(
        "run",
        "--rm",
        "--network",
        "none",
        "deep",
        "sh",
        "-c",
        "ls layers | wc -l; cat last; grep -c lowerdir= /proc/mounts",
    )
    assert seen.split() == ["126", "1251"]
    daemon.docker("rmi", "deep")


@pytest.fixture
def changed(daemon: Daemon) -> Iterator[str]:
    """A container that has run, and has changed files of its image; the image that a test makes goes after it."""
    script = "echo hi > /new; rm /etc/passwd; mkdir /d; chmod 700 /root; rm -r /tmp; mkdir /tmp; ln /new /d/linked"
    daemon.docker("run", "--name", "changed", "--network", "none", "-e", "X=1", "busybox", "sh", "-c", script)
    yield "changed"
    daemon.docker("rm", "-f", "changed")
    daemon.docker("rmi", "-f", *daemon.out("images", "-q", "made").split(), check=False)


def test_commit(daemon: Daemon, changed: str) -> None:
    flags = ["-m", "why", "-a", "me <me@example.org>", "-c", "ENV Y=2", "-c", 'CMD ["cat","/new"]']
    identity = daemon.out("commit", *flags, changed, "made:1")
    assert daemon.out("run", "--rm", "--network", "none", "made:1") == "hi"
    seen = "env | grep -c [XY]=; ls /etc/passwd; ls /tmp | wc -l; stat -c %a%h /root /new; hostname | wc -c"
    assert daemon.out("run", "--rm", "--network", "none", "made:1", "sh", "-c", seen + "; true").split() == [
        "2",
        "0",
        "7001",
        "6442",
        "13",
    ]
    found = json.loads(daemon.out("image", "inspect", "made:1"))[0]
    container = daemon.inspect(changed)
    assert (found["Id"], found["Author"], found["Comment"]) == (identity, "me <me@example.org>", "why")
    assert found["Parent"] == container["Image"]
    assert found["Config"] == container["Config"] | {"Env": ["X=1", "Y=2"], "Cmd": ["cat", "/new"]}
    steps = daemon.out("history", "--no-trunc", "--format", "{{.ID}} {{.CreatedBy}} {{.Size}} {{.Comment}}", "made:1")
    assert steps.splitlines()[0] == f"{identity} sh -c {container['Config']['Cmd'][2]} 3B why"


def test_a_commit_of_nothing_has_no_layer(daemon: Daemon) -> None:
    daemon.docker("run", "--name", "idle", "--network", "none", "busybox", "true")
    daemon.docker("commit", "idle", "made:1")
    layers = [daemon.out("image", "inspect", "-f", "{{.RootFS.Layers}}", name) for name in ("busybox", "made:1")]
    assert layers[0] == layers[1]
    daemon.docker("rm", "idle")
    daemon.docker("rmi", "made:1")


def test_a_running_container_is_frozen_while_it_is_read(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "busy", "--network", "none", "busybox", "sleep", "1000")
    daemon.docker("commit", "busy", "made:1")
    daemon.docker("commit", "--pause=false", "busy", "made:2")
    assert daemon.inspect("busy")["State"]["Status"] == "running"
    until = ["--since", "1m", "--until", f"{time.time():.6f}"]
    events = daemon.out("events", *until, "-f", "container=busy", "--format", "{{.Action}}")
    assert events.splitlines()[-4:] == ["pause", "commit", "unpause", "commit"]
    daemon.docker("pause", "busy")
    daemon.docker("commit", "busy", "made:3")
    assert daemon.inspect("busy")["State"]["Status"] == "paused"
    daemon.docker("rm", "-f", "busy")
    daemon.docker("rmi", "made:1", "made:2", "made:3")


def test_what_commit_refuses(daemon: Daemon, changed: str) -> None:
    for words, message in {
        ("nosuch",): "No such container: nosuch",
        ("-c", "RUN x", changed): "run is not a valid change command",
    }.items():
        assert message in daemon.docker("commit", *words, check=False).stderr.decode()
    status, answer = daemon.request("POST", f"/commit?container={changed}&repo=BAD")
    assert (status, "must be lowercase" in answer["message"]) == (400, True)
    assert daemon.request("POST", f"/commit?container={changed}", "no object")[0] == 400


@pytest.mark.parametrize("state", ["exited", "running"])
def test_export(daemon: Daemon, changed: str, state: str, tmp_path: Path) -> None:
    """The same from a container that runs: what its own mounts cover stays out."""
    if state == "running":
        daemon.docker("commit", "-c", "CMD sleep 1000", changed, "made:2")
        daemon.docker("run", "-d", "--name", "running", "--network", "none", "made:2")
    name = "running" if state == "running" else changed
    daemon.docker("export", "-o", str(tmp_path / "out.tar"), name)
    with tarfile.open(tmp_path / "out.tar") as archive:
        members = {member.name: member for member in archive}
    assert {"bin/busybox", "bin/sh", "d", "d/linked", "new", "proc", "etc/hosts", "tmp"} <= members.keys()
    assert "etc/passwd" not in members
    assert not [found for found in members if found.startswith(("proc/", "sys/", "dev/"))]
    assert members["root"].mode == 0o700
    assert members["new"].islnk()
    assert members["bin/busybox"].size == Path("/bin/busybox").stat().st_size
    if state == "running":
        daemon.docker("rm", "-f", "running")
    imported = daemon.out("import", str(tmp_path / "out.tar"), "made:3")
    assert daemon.out("run", "--rm", "--network", "none", imported, "cat", "/new") == "hi"


def test_a_client_that_leaves_an_export(daemon: Daemon) -> None:
    daemon.docker("create", "--name", "left", "--network", "none", "busybox", "true")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(daemon.socket))
        client.sendall(b"GET /containers/left/export HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    assert daemon.request("GET", "/containers/nosuch/export") == (404, {"message": "No such container: nosuch"})
    daemon.docker("rm", "left")


def archive(name: str | None, *layers: bytes, created: str = "2024-01-02T03:04:05Z", **labels: str) -> bytes:
    """An image of these layers, to be loaded."""
    config = config_of(layers, created=created, config={"Cmd": ["sh"], "Labels": labels})
    return docker_archive(list(layers), [name] if name else None, config)


ONE, TWO, THREE = (tar(member(f"file{number}", bytes(number * 1000))) for number in (1, 2, 3))


@pytest.fixture
def clean(daemon: Daemon) -> Iterator[Daemon]:
    """Images that a test leaves go after it."""
    before = set(daemon.out("images", "-aq", "--no-trunc").split())
    yield daemon
    daemon.remove_all()
    if left := set(daemon.out("images", "-aq", "--no-trunc").split()) - before:
        daemon.docker("rmi", "-f", *left)


def pruned(daemon: Daemon, *flags: str, answer: bytes | None = None) -> list[str]:
    return daemon.docker("image", "prune", *flags, stdin=answer).stdout.decode().splitlines()


def test_prune_takes_what_has_no_name(clean: Daemon) -> None:
    for content in (archive("app:1", ONE), archive("app:1", ONE, TWO)):
        clean.docker("load", stdin=content)
    question = "WARNING! This will remove all dangling images."
    assert pruned(clean, answer=b"n\n") == [question, "Are you sure you want to continue? [y/N] "]
    nameless = clean.out("images", "-qf", "dangling=true", "--no-trunc")
    assert pruned(clean, answer=b"y\n") == [
        question,
        "Are you sure you want to continue? [y/N] Deleted Images:",
        f"deleted: {nameless}",
        "",
        "Total reclaimed space: 0B",  # its layer is the other's too
    ]
    assert pruned(clean, "-f") == ["Total reclaimed space: 0B"]


def test_prune_all(clean: Daemon) -> None:
    """But not what containers stand on, however they are."""
    for content in (
        archive("used:1", ONE),
        archive("app:1", TWO),
        archive("app:2", TWO),
        archive("kept:1", THREE, keep="1"),
    ):
        clean.docker("load", stdin=content)
    clean.docker("create", "--name", "user", "--network", "none", "used:1", "sh")
    clean.docker("create", "--name", "other", "--network", "none", "busybox", "sh")
    lines = pruned(clean, "-af", "--filter", "label!=keep")
    assert [line for line in lines if line.startswith("untagged")] == ["untagged: app:1", "untagged: app:2"]
    assert lines[-1] == "Total reclaimed space: 2kB"
    assert set(clean.out("images", "--format", "{{.Repository}}").split()) == {"busybox", "kept", "used"}
    until = f"{int(datetime(2024, 1, 2, tzinfo=UTC).timestamp())}"
    assert pruned(clean, "-af", "--filter", f"until={until}") == ["Total reclaimed space: 0B"]
    assert pruned(clean, "-af", "--filter", "until=24h")[-1] == "Total reclaimed space: 3kB"
    events = [
        "events",
        "--since",
        "1m",
        "--until",
        f"{time.time():.6f}",
        "-f",
        "event=prune",
        "--format",
        "{{json .Actor}}",
    ]
    assert json.loads(clean.out(*events).splitlines()[-1])["Attributes"] == {"reclaimed": "3000"}


def test_what_prune_refuses(clean: Daemon) -> None:
    for filters, message in {
        '{"color":["red"]}': "invalid filter 'color'",
        '{"until":["1h","2h"]}': "more than one until filter specified",
        '{"dangling":["maybe"]}': "invalid filter 'dangling=[maybe]'",
    }.items():
        assert clean.request("POST", f"/images/prune?filters={quote(filters)}") == (400, {"message": message})


def test_disk_usage(clean: Daemon) -> None:
    """A layer that two images have counts once, and is shared."""
    for content in (
        archive("app:1", ONE, TWO),
        archive("app:2", ONE, THREE),
        archive("alone:1", tar(member("x", b"abc"))),
    ):
        clean.docker("load", stdin=content)
    clean.docker(
        "run", "--name", "writer", "--network", "none", "busybox", "sh", "-c", "echo 12345 > /new; ln /new /too"
    )
    base = int(clean.out("image", "inspect", "-f", "{{.Size}}", "busybox"))
    status, usage = clean.request("GET", "/system/df")
    sizes = {
        image["RepoTags"][0]: (image["Size"], image["SharedSize"], image["Containers"]) for image in usage["Images"]
    }
    assert (status, usage["LayersSize"]) == (200, base + 6003)
    assert sizes == {
        "app:1": (3000, 1000, 0),
        "app:2": (4000, 1000, 0),
        "alone:1": (3, 0, 0),
        "busybox:latest": (base, 0, 1),
    }
    (container,) = usage["Containers"]
    assert (container["SizeRw"], container["SizeRootFs"]) == (6, base + 6)
    assert (usage["Volumes"], usage["BuildCache"]) == ([], [])
    rows = [line.split() for line in clean.out("system", "df").splitlines()]
    assert rows[1][:3] == ["Images", "4", "1"]
    assert rows[2][:6] == ["Containers", "1", "0", "6B", "6B", "(100%)"]
    found = clean.request("GET", "/system/df?type=container")[1]
    assert (found["Images"], found["Volumes"], len(found["Containers"])) == (None, None, 1)
    assert clean.request("GET", "/system/df?type=foo") == (400, {"message": "unknown object type: foo"})


def labkit(daemon: Daemon, *words: str) -> list[str]:
    command = [sys.executable, "-m", "labkit.cli.main", *words]
    done = subprocess.run(command, env=daemon.environment(), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def test_differences_and_waste(clean: Daemon) -> None:
    edit = tar(member("file1", bytes(999)), member("note", b"hello\n"), member(".wh.file2"))
    for content in (archive("app:1", ONE, TWO), archive("app:2", ONE, TWO, edit)):
        clean.docker("load", stdin=content)
    assert labkit(clean, "image", "diff", "--text", "note", "app:1", "app:2") == [
        "LAYER CHANGE PATH SIZE WHAT",
        "3 ~ /file1 1kB -> 999B content",
        "3 - /file2 2kB",
        "3 + /note 6B",
        "",
        "2 of the 3 layers of app:2 are those of app:1. 1 added (6B), 1 removed (2kB), 1 changed (999B).",
        "",
        "--- a/note",
        "+++ b/note",
        "@@ -0,0 +1 @@",
        "+hello",
    ]
    assert labkit(clean, "image", "waste", "app:2") == [
        "Efficiency: 25.1%",
        "Wasted: 3kB of 4.005kB (74.9%)",
        "",
        "COPIES WASTED PATH",
        "2 2kB /file2",
        "2 1kB /file1",
    ]
    assert clean.request("GET", "/labkit/images/diff?a=app:1&b=nosuch")[0] == 404
    assert (
        json.loads("".join(labkit(clean, "image", "diff", "--format", "json", "app:2", "app:1")[:1]))["Change"] in "+-~"
    )
