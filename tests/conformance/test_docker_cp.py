"""`docker cp` and `docker diff` with the real command and the SDK, on containers that run, have ended, never ran."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import docker
import pytest

from tests.support.archives import Member, archive, content, names
from tests.support.daemon import Daemon

pytestmark = pytest.mark.root
CREATE = ("create", "--network", "none", "--name", "box")
SCRIPT = (
    "mkdir -p /t/dir/sub; echo file > /t/file; echo f > /t/dir/f; ln /t/dir/f /t/dir/g; ln -s dir /t/link; "
    "ln -s /etc/passwd /t/dir/abs; ln -s gone /t/broken; chmod 6755 /t/file; mkfifo /t/dir/fifo; "
)


@pytest.fixture(params=["running", "ended"])
def box(request: pytest.FixtureRequest, daemon: Daemon) -> Daemon:
    """A container with some files."""
    wait = "echo ready; exec sleep 1000" if request.param == "running" else ""
    daemon.docker(*CREATE, "busybox", "sh", "-c", SCRIPT + wait)
    daemon.docker("start", "box") if wait else daemon.docker("start", "-a", "box")
    if wait:
        with subprocess.Popen(["docker", "logs", "-f", "box"], env=daemon.environment(), stdout=-1) as logs:
            assert logs.stdout
            assert logs.stdout.readline() == b"ready\n"
            logs.kill()
    return daemon


def test_out_of_a_container(box: Daemon, tmp_path: Path) -> None:
    box.docker("cp", "box:/t/dir", str(tmp_path))
    assert sorted(os.listdir(tmp_path / "dir")) == ["abs", "f", "fifo", "g", "sub"]
    assert (tmp_path / "dir/f").samefile(tmp_path / "dir/g")
    assert os.readlink(tmp_path / "dir/abs") == "/etc/passwd"
    box.docker("cp", "box:/t/dir/.", str(tmp_path / "contents"))
    assert sorted(os.listdir(tmp_path / "contents")) == ["abs", "f", "fifo", "g", "sub"]
    box.docker("cp", "box:/t/file", str(tmp_path / "renamed"))
    assert ((tmp_path / "renamed").read_text(), os.stat(tmp_path / "renamed").st_mode & 0o7777) == ("file\n", 0o6755)
    box.docker("cp", "-L", "box:/t/link", str(tmp_path / "followed"))
    assert (tmp_path / "followed/f").read_text() == "f\n"
    box.docker("cp", "box:/t/link", str(tmp_path))
    assert os.readlink(tmp_path / "link") == "dir"


def test_into_a_container_and_back(box: Daemon, tmp_path: Path) -> None:
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "d/f").write_text("new")
    (tmp_path / "d/.wh.f").write_text("plain name")
    os.chown(tmp_path / "d/f", 12, 34)
    (tmp_path / "d/f").chmod(0o4711)
    box.docker("cp", str(tmp_path / "d"), "box:/t/copied")
    box.docker("cp", f"{tmp_path}/d/.", "box:/t/link")
    data = box.docker("cp", "box:/t", "-").stdout
    assert {"t/copied/f", "t/copied/.wh.f", "t/copied/sub", "t/dir/f", "t/dir/.wh.f"} <= set(names(data))
    assert content(data, "t/dir/f") == b"new"
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        entry = found.getmember("t/copied/f")
    assert (entry.uid, entry.gid, entry.mode) == (12, 34, 0o4711)


def test_archives_through_standard_streams(box: Daemon) -> None:
    box.docker("cp", "-", "box:/t", stdin=archive(Member("a/b", data=b"1", uid=7), Member("c")))
    assert {"t/a/b", "t/c"} <= set(names(box.docker("cp", "box:/t", "-").stdout))
    refused = box.docker("cp", "-", "box:/t/file", stdin=archive(Member("a")), check=False)
    assert refused.stderr == b'destination "box:/t/file" must be a directory\n'


def test_compressed_archives(box: Daemon) -> None:
    client = docker.DockerClient(base_url=box.host)
    try:
        container = client.containers.get("box")
        compressions: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress}
        compressions["xz"] = lzma.compress
        for name, compress in compressions.items():
            assert container.put_archive("/t", compress(archive(Member(f"of-{name}"))))
        chunks, found = container.get_archive("/t")
        assert {"t/of-gz", "t/of-bz2", "t/of-xz"} <= set(names(b"".join(chunks)))
        assert found
        assert (found["name"], found["linkTarget"], found["mode"]) == ("t", "", 1 << 31 | 0o755)
        link = container.get_archive("/t/link")[1]
        assert link
        assert link["linkTarget"] == "/t/dir"
    finally:
        client.close()


def test_messages(box: Daemon, tmp_path: Path) -> None:
    def fails(*arguments: str) -> str:
        done = box.docker("cp", *arguments, check=False)
        assert done.returncode == 1
        return done.stderr.decode().strip().removeprefix("Error response from daemon: ")

    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("")
    assert fails("box:/none", ".") == "Could not find the file /none in container box"
    assert fails(str(tmp_path / "f"), "box:/none/x") == "Could not find the file /none in container box"
    assert fails("nobody:/x", ".") == "No such container: nobody"
    assert fails(str(tmp_path / "d"), "box:/t/file").endswith("cannot copy directory")
    assert fails(str(tmp_path / "f"), "box:/t/none/").endswith("no such directory")
    (tmp_path / "dir").write_text("")
    message = 'cannot overwrite directory "/t/dir" with non-directory "/t"'
    assert fails(str(tmp_path / "dir"), "box:/t") == message
    (tmp_path / "hostname").write_text("")
    assert fails(str(tmp_path / "hostname"), "box:/etc/") == "unlinkat /etc/hostname: device or resource busy"


def test_what_the_engine_writes_is_seen(box: Daemon) -> None:
    name = box.inspect("box")["Config"]["Hostname"]
    assert content(box.docker("cp", "box:/etc/hostname", "-").stdout, "hostname") == f"{name}\n".encode()


def test_changes(box: Daemon) -> None:
    lines = box.out("diff", "box").splitlines()
    assert lines == [
        "A /t", "A /t/broken", "A /t/dir", "A /t/dir/abs", "A /t/dir/f", "A /t/dir/fifo", "A /t/dir/g", "A /t/dir/sub",
        "A /t/file", "A /t/link",
    ]  # fmt: skip


def test_the_user_of_the_container(daemon: Daemon, tmp_path: Path) -> None:
    daemon.docker(*CREATE, "--user", "bob", "busybox", "true")
    (tmp_path / "f").write_text("")
    os.chown(tmp_path / "f", 5, 6)
    daemon.docker("cp", str(tmp_path / "f"), "box:/tmp/kept")
    daemon.docker("cp", "-a", str(tmp_path / "f"), "box:/tmp/bobs")
    data = daemon.docker("cp", "box:/tmp", "-").stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        owners = {entry.name: (entry.uid, entry.gid) for entry in found}
    assert (owners["tmp/kept"], owners["tmp/bobs"]) == ((5, 6), (1000, 1000))


def test_files_for_a_program_that_has_not_begun(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("#!/bin/sh\necho copied\n")
    (tmp_path / "run").chmod(0o755)
    daemon.docker(*CREATE, "busybox", "/run")
    daemon.docker("cp", str(tmp_path / "run"), "box:/run")
    assert daemon.out("start", "-a", "box") == "copied"
    assert daemon.out("diff", "box") == "A /run"


def test_changes_and_deletions(daemon: Daemon) -> None:
    script = (
        "echo x >> /etc/passwd; rm /bin/awk; rm -r /root; mkdir /root; touch /root/x; chmod 700 /tmp; ln -sf y /bin/vi"
    )
    daemon.docker("run", "--network", "none", "--name", "box", "busybox", "sh", "-c", script)
    assert daemon.out("diff", "box").splitlines() == [
        "C /bin", "D /bin/awk", "C /bin/vi", "C /etc", "C /etc/passwd", "C /root", "A /root/x", "C /tmp",
    ]  # fmt: skip
    daemon.docker("create", "--name", "same", "busybox", "true")
    assert daemon.docker("diff", "same").stdout == b""
    assert daemon.request("GET", "/containers/same/changes") == (200, None)


def test_mounts_of_a_running_container(daemon: Daemon, tmp_path: Path) -> None:
    daemon.docker(*CREATE, "--tmpfs", "/scratch", "--read-only", "busybox", "sleep", "1000")
    daemon.docker("start", "box")
    (tmp_path / "f").write_text("in memory")
    daemon.docker("cp", str(tmp_path / "f"), "box:/scratch/f")
    assert daemon.out("exec", "box", "cat", "/scratch/f") == "in memory"
    assert content(daemon.docker("cp", "box:/scratch/f", "-").stdout, "f") == b"in memory"
    refused = daemon.docker("cp", str(tmp_path / "f"), "box:/tmp/f", check=False)
    assert refused.stderr == b"Error response from daemon: container rootfs is marked read-only\n"
    daemon.docker("kill", "box")
    refused = daemon.docker("cp", str(tmp_path / "f"), "box:/tmp/f", check=False)
    assert refused.stderr == b"Error response from daemon: container rootfs is marked read-only\n"


@pytest.mark.parametrize("state", ["created", "running"])
def test_volumes(daemon: Daemon, tmp_path: Path, state: str) -> None:
    """They are seen where the container has them, whether it runs or not, and what is copied there is in them."""
    (tmp_path / "host/deep").mkdir(parents=True)
    (tmp_path / "f").write_text("copied")
    kept = ("-v", "kept:/data", "-v", "kept:/data/again:ro", "-v", f"{tmp_path}/host:/srv/host")
    daemon.docker(*CREATE, *kept, "busybox", "sleep", "1000")
    if state == "running":
        daemon.docker("start", "box")
    daemon.docker("cp", str(tmp_path / "f"), "box:/data/f")
    daemon.docker("cp", str(tmp_path / "f"), "box:/srv/host/deep")
    assert (tmp_path / "host/deep/f").read_text() == "copied"
    assert content(daemon.docker("cp", "box:/data/again/f", "-").stdout, "f") == b"copied"
    assert {"srv/host/deep/f", "srv/host"} <= set(names(daemon.docker("cp", "box:/srv", "-").stdout))
    refused = daemon.docker("cp", str(tmp_path / "f"), "box:/data/again", check=False)
    assert refused.stderr == b"Error response from daemon: mounted volume is marked read-only\n"
    assert set(daemon.out("diff", "box").splitlines()) == {"A /data", "A /srv", "A /srv/host"}
    daemon.docker("rm", "-f", "box")
    assert daemon.out("run", "--rm", "--network", "none", "-v", "kept:/x", "busybox", "cat", "/x/f") == "copied"
    daemon.docker("volume", "rm", "kept")


def test_a_part_of_a_volume(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("copied")
    daemon.docker("run", "--rm", "--network", "none", "-v", "kept:/x", "busybox", "mkdir", "/x/part")
    daemon.docker(*CREATE, "--mount", "type=volume,src=kept,dst=/y,volume-subpath=part", "busybox", "cat", "/y/f")
    daemon.docker("cp", str(tmp_path / "f"), "box:/y")
    assert daemon.out("start", "-a", "box") == "copied"
    daemon.docker("rm", "box")
    daemon.docker("volume", "rm", "kept")


def test_the_kernel_s_files_are_left_out(daemon: Daemon, tmp_path: Path) -> None:
    daemon.docker(*CREATE, "--privileged", "busybox", "sleep", "1000")
    daemon.docker("start", "box")
    found = names(daemon.docker("cp", "box:/", "-").stdout)
    assert {"/proc", "/sys", "/dev", "/bin/busybox"} <= set(found)
    assert [name for name in found if name.startswith(("/proc/", "/sys/", "/dev/"))] == []
    (tmp_path / "f").write_text("")
    for path in ("/proc/sys/kernel", "/sys/kernel", "/proc", "/sys"):
        refused = daemon.docker("cp", str(tmp_path / "f"), f"box:{path}", check=False)
        assert refused.returncode == 1
        assert b"Could not find the file" in refused.stderr
    daemon.docker("cp", str(tmp_path / "f"), "box:/dev/shm/f")


def test_events_and_trace(box: Daemon) -> None:
    box.docker("cp", "box:/t/file", "-")
    box.docker("cp", "-", "box:/t", stdin=archive(Member("x")))
    status, trace = box.request("GET", "/labkit/traces/last")
    assert status == 200
    (plan,) = [plan for plan in trace["plans"] if plan["name"] == "copy"]
    assert plan["operations"][0]["name"] in ("TakeRoot", "MountRoot")
    assert "open_tree" in [call["name"] for call in plan["operations"][0]["calls"]]
    identity = box.inspect("box")["Id"]
    wanted = ("--since", "1m", "--until", str(int(time.time()) + 1), "-f", f"container={identity}")
    lines = box.out("events", *wanted, "--format", "{{json .}}")
    actions = [json.loads(line)["Action"] for line in lines.splitlines()]
    assert (actions.count("archive-path"), actions.count("extract-to-dir")) == (1, 1)


def test_a_container_with_a_name_that_begins_like_a_path(daemon: Daemon) -> None:
    identity = daemon.out(*CREATE, "busybox", "true")
    assert names(daemon.docker("cp", f"{identity[:12]}:etc/passwd", "-").stdout) == ["passwd"]
